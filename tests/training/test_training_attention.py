"""Which attention a packed training gets, and that FlexAttention keeps packed rows apart just as the mask does."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from llm_platform.training.adapter import causal_model
from llm_platform.training.attention import BLOCKS, FLASH, FLEX, choose
from llm_platform.training.base_model import load
from llm_platform.training.batches import pack
from llm_platform.training.loss import token_losses
from llm_platform.training.rows import read_rows
from tests.training.runs import config, loop

GPU, CPU = torch.device("cuda"), torch.device("cpu")
THERE: dict[str, Any] = {"packing": True, "device": GPU, "dtype": torch.bfloat16, "flash": True, "flex": True}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, FLASH),
        ({"flash": False}, FLEX),
        ({"dtype": torch.float32}, FLEX),
        ({"flash": False, "flex": False}, "sdpa"),
        ({"device": CPU}, "sdpa"),
        ({"device": CPU, "packing": False}, "sdpa"),
        ({"device": CPU, "packing": False, "dtype": torch.float32}, BLOCKS),
        ({"packing": False}, "sdpa"),
    ],
)
def test_packed_rows_on_a_gpu_get_a_kernel_that_skips_what_they_may_not_see(changes: dict[str, Any], expected: str, base: Path) -> None:
    assert choose(load(base, torch.float32), **{**THERE, **changes}) == expected


def made(kind: str, **options: Any) -> PreTrainedModel:
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 64, **options}
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes))


def test_a_model_gets_no_kernel_that_it_does_not_support() -> None:
    dropping = made("llama", intermediate_size=32, attention_dropout=0.1)
    assert choose(dropping, **{**THERE, "flash": False}) == "sdpa", "FlexAttention cannot drop attention weights"
    assert choose(dropping, **THERE) == FLASH
    without = made("bloom", n_layer=1)
    assert choose(without, **THERE) == without.config._attn_implementation
    capped = made("llama", intermediate_size=32, attn_implementation="eager")
    assert choose(capped, **THERE) == "eager", "what was loaded with eager attention needs it"


def test_training_on_a_cpu_packs_by_the_mask(base: Path, splits: Path) -> None:
    packed = loop(config("lora", packing=True), base, splits)
    assert causal_model(packed.model).config._attn_implementation == "sdpa"


def test_flex_attention_keeps_packed_rows_apart(base: Path, splits: Path) -> None:
    """Its forward pass, which is all that a CPU has of it: the kernel's reference form, with the block mask of the packed positions."""
    model, rows = load(base, torch.float32), read_rows(splits / "train.parquet")
    batch = pack(rows, list(range(8)), CPU)
    assert batch.input_ids.shape[1] > 128, "more than one block of the mask"
    with torch.no_grad(), torch.compiler.set_stance("force_eager"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="flex_attention called without torch.compile")
        warnings.simplefilter("ignore", DeprecationWarning)  # of torch's own, in transformers and in torch
        expected = token_losses(model, batch)
        model.set_attn_implementation(FLEX)
        found = token_losses(model, batch)
        assert found.allclose(expected, rtol=1e-4, atol=1e-5)
        model.set_attn_implementation("sdpa")
        leaking = token_losses(model, replace(batch, position_ids=None))
        assert not leaking.allclose(expected, rtol=1e-2), "rows that see each other have other losses"
