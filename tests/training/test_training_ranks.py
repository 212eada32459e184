"""Several processes train as one does: real ranks over gloo, on the CPU."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from safetensors.torch import load_file

from llm_platform.errors import Cancelled, TrainingError
from llm_platform.reporting import ListReporter
from llm_platform.specs import TrainingConfig
from llm_platform.training import checkpoint
from tests.tiny_models import make_rows, write_split
from tests.training.runs import config, run, weights_file

STEPS: dict[str, Any] = {"batch_size": 5, "gradient_accumulation_steps": 2, "max_steps": 4, "checkpoint_every": 2}


def beside() -> list[int]:
    """Processes beside rank 0."""
    return [int(child.pid or 0) for child in multiprocessing.active_children()]


def no_children() -> bool:
    return not beside()


@pytest.mark.parametrize(("method", "packing"), [("lora", False), ("lora", True), ("full", False)])
def test_two_processes_take_the_steps_of_one(method: str, packing: bool, base: Path, splits: Path, tmp_path: Path) -> None:
    options = STEPS | {"packing": packing} | ({} if method == "full" else {"lora_dropout": 0.0})
    one, _ = run(config(method, **options), base, splits, tmp_path / "one")
    two, reporter = run(config(method, **options, devices=2), base, splits, tmp_path / "two")
    assert two.tokens == one.tokens and two.steps == one.steps == 4
    np.testing.assert_allclose([loss for _, loss in two.losses], [loss for _, loss in one.losses], rtol=1e-4)
    assert two.validation_loss == pytest.approx(one.validation_loss, rel=1e-4)
    found, expected = (load_file(tmp_path / name / "out" / weights_file(method)) for name in ("two", "one"))
    assert found.keys() == expected.keys()
    for name in found:
        np.testing.assert_allclose(found[name].float(), expected[name].float(), rtol=2e-2, atol=2e-4)
    assert sum(level == "METRIC" and "loss" in data for level, _, data in reporter.lines) == 4, "rank 0 alone reports"
    assert no_children()


def test_a_run_of_two_goes_on_as_if_it_had_never_stopped(base: Path, splits: Path, tmp_path: Path) -> None:
    """With dropout: each process's random numbers go on too."""
    made = config("lora", **STEPS, devices=2)
    run(made, base, splits, tmp_path / "whole")
    with pytest.raises(Cancelled):
        run(made, base, splits, tmp_path / "parts", ListReporter(cancel_after=3))
    assert no_children()
    assert [folder.name for folder in checkpoint.folders(tmp_path / "parts" / "work" / "checkpoints")] == ["step_0000000002"]
    again, _ = run(made, base, splits, tmp_path / "parts")
    assert again.resumed_from == 2
    whole, parts = (load_file(tmp_path / name / "out" / weights_file("lora")) for name in ("whole", "parts"))
    for name in whole:
        assert whole[name].equal(parts[name]), name


def test_a_process_that_dies_ends_the_run(base: Path, splits: Path, tmp_path: Path) -> None:
    class Killing(ListReporter):
        """Kills the other process after the first step."""

        def metric(self, message: str, *, step: int, epoch: float, **values: float) -> None:
            if step == 1:
                (child,) = beside()
                os.kill(child, signal.SIGKILL)

    with pytest.raises(TrainingError, match="process of this training"):
        run(config("lora", **STEPS, devices=2), base, splits, tmp_path, Killing())
    assert no_children()


def test_an_error_of_all_is_told_once(base: Path, splits: Path, tmp_path: Path) -> None:
    other = tmp_path / "splits"
    other.mkdir()
    rows = make_rows(12, 1)
    rows[3]["loss_mask"] = [False] * len(rows[3]["input_ids"])
    for name in ("train", "validation", "test"):
        write_split(other / f"{name}.parquet", rows)
    with pytest.raises(Exception, match="no trained token"):
        run(config("lora", **STEPS, devices=2), base, other, tmp_path)
    assert no_children()


def test_more_devices_than_rows_in_a_batch_are_refused() -> None:
    with pytest.raises(ValidationError, match="raise batch_size, or lower devices"):
        TrainingConfig(batch_size=2, devices=3)
