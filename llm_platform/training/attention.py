"""Which attention a model is trained with: on a CPU one in blocks, where rows are packed on a GPU one that skips what packed rows may
not see.

PyTorch's own attention takes packed rows apart by a mask of all tokens against all, which is computed in full: right, and fine for a
CPU, but for 32,000 packed tokens it is a gigabyte. FlashAttention takes each row by its length and FlexAttention leaves out the blocks
of a mask that are empty; transformers tells both where rows begin by their positions, as it does for the mask.
"""

from __future__ import annotations

import torch
from transformers import PreTrainedModel
from transformers.utils.import_utils import is_flash_attn_2_available, is_torch_flex_attn_available

from llm_platform.training.block_attention import NAME as BLOCKS

FLASH, FLEX = "flash_attention_2", "flex_attention"


def choose(model: PreTrainedModel, *, packing: bool, device: torch.device, dtype: torch.dtype, flash: bool, flex: bool) -> str:
    """transformers' name of the attention to train `model` with; `flash` and `flex` say which packages are there.

    On a CPU that is attention in blocks, for float32 and rows that are not packed. On a GPU it is another one than the model was
    loaded with where rows are packed (FlexAttention has no backward pass on a CPU). Models that were loaded with eager attention keep
    it, because they need more than a fused kernel gives.
    """
    loaded = model.config._attn_implementation or "eager"
    if device.type == "cpu":
        return BLOCKS if loaded == "sdpa" and dtype == torch.float32 and not packing else loaded
    if not packing or device.type != "cuda" or loaded == "eager":
        return loaded
    if flash and model._supports_flash_attn and dtype in (torch.bfloat16, torch.float16):
        return FLASH
    if flex and model._supports_flex_attn and not _drops_out(model):
        return FLEX
    return loaded


def set_for_training(model: PreTrainedModel, *, packing: bool, device: torch.device, dtype: torch.dtype) -> None:
    """Gives `model` the attention that `choose` names on this machine."""
    flash, flex = is_flash_attn_2_available(), is_torch_flex_attn_available()
    chosen = choose(model, packing=packing, device=device, dtype=dtype, flash=flash, flex=flex)
    if chosen != model.config._attn_implementation:
        model.set_attn_implementation(chosen)


def _drops_out(model: PreTrainedModel) -> bool:
    """Whether attention weights are dropped at random, which FlexAttention cannot."""
    return any(getattr(model.config, name, None) for name in ("attention_dropout", "attn_pdrop", "attention_probs_dropout_prob"))
