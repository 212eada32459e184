"""The base model in 4 bits (QLoRA): nf4 with double quantization, by bitsandbytes, on a GPU or the CPU."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import BitsAndBytesConfig, PreTrainedModel

from llm_platform.training.base_model import load

SCHEME = {"bits": 4, "type": "nf4", "double_quantization": True}
"""What an adapter's training.json says about the base that it was trained on."""


def load_4bit(folder: Path, dtype: torch.dtype, device: torch.device) -> PreTrainedModel:
    """The model on `device`, its linear layers in 4 bits and computing in `dtype`, norms in float32, all frozen.

    Embeddings and the output head stay in `dtype`: in float32 they would take more memory than 4 bits save in a small model.
    Raises InvalidConfig if the model cannot be loaded whole.
    """
    from bitsandbytes.nn.modules import Linear4bit

    scheme = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype)
    model = load(folder, dtype, quantization_config=scheme, device_map={"": device})
    for module in model.modules():
        if isinstance(module, Linear4bit):
            # The fast path on some CPUs repacks the weights at the first validation; from then on no gradient passes through them.
            module.support_avx512bf16_for_cpu = False
    model.requires_grad_(False)
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.data = parameter.data.float()
    return model


def count(parameter: torch.Tensor) -> int:
    """Weights in a parameter; a 4-bit one holds two a byte."""
    state = getattr(parameter, "quant_state", None)
    return parameter.numel() if state is None else state.shape.numel()
