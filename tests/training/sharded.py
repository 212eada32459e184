"""What the test of sharding runs in each of its processes."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import patch

import torch

from llm_platform.reporting import ListReporter
from llm_platform.training import loss, methods
from llm_platform.training.adapter import causal_model
from llm_platform.training.estimate import model_shape
from llm_platform.training.loop import Loop
from llm_platform.training.ranks import Ranks
from llm_platform.training.rows import read_rows
from llm_platform.training.sharding import spread
from tests.training.runs import config


def figures_in_parts(ranks: Ranks, base: Path, splits: Path) -> list[tuple[float, float]]:
    """(loss, gradient norm) of two steps whose logits are made three tokens at a time; of a model spread over the ranks, if several."""
    torch.set_num_threads(1)
    sharding = {"devices": ranks.size, "sharding": "full"} if ranks.size > 1 else {"sharding": "none"}
    made, device, dtype, reporter = config("full", max_steps=2, **sharding), torch.device("cpu"), torch.float32, ListReporter()
    model = methods.build(made, base, "org/base", device, dtype)
    if ranks.size > 1:
        spread(causal_model(model), ranks, device)
    rows, none = read_rows(splits / "train.parquet"), read_rows(splits / "validation.parquet")
    with patch.object(loss, "CHUNK_BYTES", 3 * 256 * 4):
        loop = Loop(made, model, rows, none, device, dtype, reporter, model_shape(base), ranks)
        assert loop.chunked
        loop.run(lambda _: None)
    return [(data["loss"], data["grad_norm"]) for level, _, data in reporter.lines if level == "METRIC" and "loss" in data]
