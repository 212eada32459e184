"""What a training run does that is asked for a checkpoint, or to stop and keep what it has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llm_platform.errors import Cancelled
from llm_platform.reporting import ListReporter
from llm_platform.training import checkpoint
from llm_platform.training.control import Asked
from llm_platform.training.result import TrainingResult
from llm_platform.training.train import train
from tests.tiny_models import same_tensors, tensors
from tests.training.runs import config, run

STEPS: dict[str, Any] = {"batch_size": 5, "max_steps": 12, "checkpoint_every": 100, "evaluate_every": 5}


class Asking(ListReporter):
    """Asks `what` when step `at` has been logged, so that it is heard at the step behind it, or before the first step for 0."""

    def __init__(self, what: Asked, at: int) -> None:
        super().__init__()
        self.what, self.at = what, at
        self.now = what if at == 0 else Asked.NOTHING
        self.answers = 0

    def metric(self, message: str, *, step: int, epoch: float, **values: float) -> None:
        super().metric(message, step=step, epoch=epoch, **values)
        if step == self.at and "loss" in values:
            self.now = self.what

    def asked(self) -> Asked:
        return self.now

    def saved(self) -> None:
        self.answers += 1
        self.now = Asked.NOTHING


def asked_run(base: Path, splits: Path, folder: Path, asking: Asking, **changes: Any) -> TrainingResult:
    made = config("lora", **STEPS, **changes)
    arguments = (made, base, splits, folder / "out", folder / "work", asking)
    return train(*arguments, base_name="org/base", threads=1, control=asking)


def steps_of(folder: Path) -> list[int]:
    return [int(path.name.removeprefix("step_")) for path in checkpoint.folders(folder / "work" / "checkpoints")]


@pytest.mark.parametrize(
    "spread",
    [
        pytest.param({}, id="one"),
        pytest.param({"devices": 2}, id="two"),
        pytest.param({"devices": 2, "sharding": "full"}, id="sharded", marks=pytest.mark.slow),
    ],
)
def test_stopped_it_keeps_the_weights_of_the_step(spread: dict[str, Any], base: Path, splits: Path, tmp_path: Path) -> None:
    asking = Asking(Asked.STOP, at=3)
    stopped = asked_run(base, splits, tmp_path / "stopped", asking, lr_scheduler="constant", **spread)
    assert (stopped.steps, stopped.kept_step, stopped.stopped_on_request, stopped.stopped_early) == (4, 4, True, False)
    assert [step for step, _ in stopped.losses] == [1, 2, 3, 4]
    assert [step for step, _ in stopped.validation_losses] == [4] and stopped.validation_loss == stopped.validation_losses[0][1]
    assert steps_of(tmp_path / "stopped") == [4]
    assert ("INFO", "Stopped on request after step 4 of 12", {"step": 4}) in asking.lines

    run(config("lora", **{**STEPS, "max_steps": 4}, lr_scheduler="constant", **spread), base, splits, tmp_path / "short")
    assert same_tensors(*(tensors(tmp_path / name / "out") for name in ("stopped", "short"))), "what is kept is what four steps learn"


@pytest.mark.parametrize("devices", [1, 2])
def test_a_checkpoint_on_request_changes_nothing_else(devices: int, base: Path, splits: Path, tmp_path: Path) -> None:
    asking = Asking(Asked.CHECKPOINT, at=6)
    asked = asked_run(base, splits, tmp_path / "asked", asking, devices=devices, checkpoints_kept=10)
    assert asking.answers == 1
    assert ("INFO", "Checkpoint of step 7 written, as requested", {"step": 7}) in asking.lines
    assert 7 in steps_of(tmp_path / "asked")
    plain, _ = run(config("lora", **STEPS, devices=devices), base, splits, tmp_path / "plain")
    assert asked.losses == plain.losses and not asked.stopped_on_request
    assert same_tensors(*(tensors(tmp_path / name / "out") for name in ("asked", "plain")))


@pytest.mark.parametrize("devices", [1, 2])
def test_before_the_first_step_there_is_nothing_to_keep(devices: int, base: Path, splits: Path, tmp_path: Path) -> None:
    asking = Asking(Asked.STOP, at=0)
    with pytest.raises(Cancelled):
        asked_run(base, splits, tmp_path, asking, devices=devices)
    assert ("WARN", "Stopped before the first step: there is nothing to keep", {}) in asking.lines
    assert not (tmp_path / "out").exists() and steps_of(tmp_path) == []


@pytest.mark.parametrize("resume", [True, False])
def test_killed_after_it_was_asked_it_keeps_the_last_checkpoint(resume: bool, base: Path, splits: Path, tmp_path: Path) -> None:
    """The next process is still asked, and takes no step."""
    with pytest.raises(Cancelled):
        run(config("lora", **{**STEPS, "checkpoint_every": 2}), base, splits, tmp_path, ListReporter(cancel_after=5))
    asking = Asking(Asked.STOP, at=0)
    kept = asked_run(base, splits, tmp_path, asking, resume=resume)
    assert (kept.resumed_from, kept.steps, kept.stopped_on_request) == (4, 4, True)
    assert not any(level == "METRIC" for level, _, _ in asking.lines)
    assert tensors(tmp_path / "out")


def test_the_best_weights_are_kept_where_the_config_says_so(base: Path, splits: Path, tmp_path: Path) -> None:
    unstable = {"learning_rate": 0.5, "keep": "best", "evaluate_every": 1}
    made = config("lora", **{**STEPS, **unstable})
    asking = Asking(Asked.STOP, at=5)
    stopped = train(made, base, splits, tmp_path / "out", tmp_path / "work", asking, base_name="org/base", threads=1, control=asking)
    losses = dict(stopped.validation_losses)
    assert stopped.steps == 6 and stopped.kept_step == min(losses, key=lambda step: losses[step]) < 6
    assert stopped.validation_loss == min(losses.values())


def test_asked_to_stop_at_the_last_step_it_is_finished(base: Path, splits: Path, tmp_path: Path) -> None:
    result = asked_run(base, splits, tmp_path, Asking(Asked.STOP, at=11))
    assert (result.steps, result.stopped_on_request) == (12, False)


def test_the_first_checkpoint_is_early(base: Path, splits: Path, tmp_path: Path) -> None:
    with pytest.raises(Cancelled):
        run(config("lora", **{**STEPS, "evaluate_every": 100}), base, splits, tmp_path, ListReporter(cancel_after=11))
    assert steps_of(tmp_path) == [10]
