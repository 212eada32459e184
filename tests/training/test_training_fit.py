"""What the estimate of memory says for several devices, and what is decided from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from llm_platform.specs import TrainingConfig
from llm_platform.specs.preflight import MemoryEstimate, Method
from llm_platform.training import estimate, fit
from llm_platform.training.estimate import ModelShape, model_shape
from llm_platform.training.rows import read_rows

LAYER = {"q_proj": (4096, 4096), "k_proj": (1024, 4096), "v_proj": (1024, 4096), "o_proj": (4096, 4096)}
LAYER |= {"gate_proj": (14336, 4096), "up_proj": (14336, 4096), "down_proj": (4096, 14336)}
LLAMA_8B = ModelShape(
    parameters=8_030_261_248,
    linear={f"model.layers.{layer}.{name}.weight": size for layer in range(32) for name, size in LAYER.items()},
    hidden=4096,
    layers=32,
    vocabulary=128_256,
)
GIB = 2**30


def need(method: Method, tokens: int = 4096, **options: Any) -> MemoryEstimate:
    made = TrainingConfig(method=method, **options)
    return estimate.memory(LLAMA_8B, made, tokens=tokens, labels=tokens, gpu=True)[method]


def test_sharding_divides_what_is_kept_and_adds_what_is_gathered() -> None:
    whole, parts = need("full"), need("full", devices=8, sharding="full")
    assert whole.weights == 4 * LLAMA_8B.parameters and whole.total > 120 * GIB
    assert parts.optimizer == pytest.approx(whole.optimizer / 8)
    assert parts.activations == whole.activations, "each device has its own rows"
    gathered = parts.weights - whole.weights / 8
    # The two embeddings of 128,256 by 4,096 and two layers of 218 million weights, in float32, with their gradients.
    assert gathered == pytest.approx(2 * 4 * (2 * 128_256 * 4096 + 2 * 218_103_808), rel=0.01)
    assert parts.total < 80 * GIB, "fits where it did not"
    assert need("full", devices=8).total == whole.total, "without sharding each device has everything"


def test_an_adapter_on_a_sharded_base() -> None:
    whole, parts = need("lora"), need("lora", devices=4, sharding="full")
    assert parts.weights < 0.6 * whole.weights
    assert parts.optimizer == pytest.approx(whole.optimizer / 4, abs=1)
    made = TrainingConfig(devices=4, sharding="full")
    both = [estimate.memory(LLAMA_8B, config, tokens=1, labels=1, gpu=True)["qlora"] for config in (made, TrainingConfig())]
    assert both[0] == both[1], "a base in 4 bits is not spread"


def test_logits_in_parts_do_not_grow_with_the_batch() -> None:
    def logits(labels: int, shape: ModelShape) -> int:
        with_them, without = (estimate.memory(shape, TrainingConfig(), tokens=8192, labels=n, gpu=True)["lora"] for n in (labels, 0))
        return with_them.activations - without.activations

    in_parts = logits(8192, LLAMA_8B)
    assert in_parts < 0.7 * GIB and in_parts == logits(4096, LLAMA_8B)
    capped = ModelShape(**{**vars(LLAMA_8B), "head_is_last": False})
    assert logits(8192, capped) == 8192 * 128_256 * 10


def decided(base: Path, splits: Path, room: int, monkeypatch: pytest.MonkeyPatch, **options: Any) -> tuple[str, str]:
    monkeypatch.setattr(fit, "available", lambda _: room)
    rows = read_rows(splits / "train.parquet")
    found = fit.decide(TrainingConfig(**options), base, rows, torch.device("cuda"))
    return found.sharding, found.gradient_checkpointing


def test_checkpointing_comes_before_sharding(base: Path, splits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first of these that fits: as it is, with checkpointing, sharded, both; the last where none does."""
    shape, rows = model_shape(base), read_rows(splits / "train.parquet")
    tokens, labels = 4 * int(rows.lengths.max()), int(rows.labels.max()) * 4
    many: dict[str, Any] = {"method": "full", "devices": 64, "batch_size": 256}

    def needs(sharding: str, checkpointing: str) -> int:
        made = TrainingConfig(**many).model_copy(update={"sharding": sharding, "gradient_checkpointing": checkpointing})
        return fit.needed(shape, made, tokens=tokens, labels=labels, device=torch.device("cuda"))

    assert needs("none", "off") > needs("none", "on") > needs("full", "off") > needs("full", "on")
    found = [decided(base, splits, room, monkeypatch, **many) for room in (2**40, needs("none", "on"), needs("full", "off"), 1)]
    assert found == [("none", "off"), ("none", "on"), ("full", "off"), ("full", "on")]
    assert decided(base, splits, 1, monkeypatch) == ("none", "on"), "one device has nothing to share"
    assert decided(base, splits, 1, monkeypatch, method="qlora", devices=2) == ("none", "on")
    assert decided(base, splits, 1, monkeypatch, **many, sharding="none", gradient_checkpointing="off") == ("none", "off")


@pytest.mark.parametrize(("options", "advice"), [({"sharding": "none"}, "set sharding to full"), ({"sharding": "full"}, "raise devices")])
def test_what_to_do_where_several_devices_have_too_little(options: dict[str, Any], advice: str) -> None:
    batch: dict[str, Any] = {"tokens": 100, "labels": 10, "device": torch.device("cpu")}
    assert advice in fit.remedy(LLAMA_8B, TrainingConfig(devices=2, **options), **batch)
    assert "sharding" not in fit.remedy(LLAMA_8B, TrainingConfig(), **batch)
