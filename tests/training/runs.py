"""Training runs of a few steps on the tiny model, by method, for several test modules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from llm_platform.reporting import ListReporter
from llm_platform.specs import TrainingConfig
from llm_platform.training import methods
from llm_platform.training.adapter import causal_model
from llm_platform.training.device import pick_device
from llm_platform.training.estimate import model_shape
from llm_platform.training.loop import Loop
from llm_platform.training.result import TrainingResult
from llm_platform.training.rows import read_rows
from llm_platform.training.train import train
from tests.tiny_models import make_rows

METHODS: dict[str, dict[str, Any]] = {
    "lora": {},
    "dora": {"use_dora": True},
    "rslora": {"use_rslora": True},
    "loraplus": {"loraplus_ratio": 16.0},
    "qlora": {"method": "qlora"},
    "qdora": {"method": "qlora", "use_dora": True},
    "full": {"method": "full"},
}
ADAPTERS = [name for name in METHODS if name != "full"]


def config(method: str, **changes: Any) -> TrainingConfig:
    common: dict[str, Any] = {"batch_size": 4, "learning_rate": 1e-2, "lora_r": 4, "epochs": 1}
    if method == "full":
        common = {"batch_size": 4, "learning_rate": 2e-3, "epochs": 1}
    return TrainingConfig(**{**common, **METHODS[method], **changes})


def run(
    made: TrainingConfig, base: Path, splits: Path, folder: Path, reporter: ListReporter | None = None
) -> tuple[TrainingResult, ListReporter]:
    """A whole call of `train`, into `folder / "out"` with checkpoints in `folder / "work"`."""
    reporter = reporter or ListReporter()
    return train(made, base, splits, folder / "out", folder / "work", reporter, base_name="org/base", threads=1), reporter


def loop(made: TrainingConfig, base: Path, splits: Path) -> Loop:
    """A run in memory, before its first step."""
    device, dtype = pick_device(1, made.dtype)
    model = methods.build(made, base, "org/base", device, dtype)
    rows, validation = read_rows(splits / "train.parquet"), read_rows(splits / "validation.parquet")
    return Loop(made, model, rows, validation, device, dtype, ListReporter(), model_shape(base))


@torch.no_grad()
def logits(model: Any, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Logits [8, 8, V] of some rows, computed as in training."""
    device = next(model.parameters()).device
    ids = torch.tensor([row["input_ids"][:8] for row in make_rows(8, 11)], device=device)
    with torch.autocast(device.type, dtype=dtype, enabled=dtype is not torch.float32):
        return causal_model(model.eval())(input_ids=ids).logits.float().cpu()


def weights_file(method: str) -> str:
    return "model.safetensors" if method == "full" else "adapter_model.safetensors"
