"""A trainer that is killed at any moment, and started again in a new process, ends with the very bits of one that was not killed.

`LLM_PLATFORM_TEST_KILLS` says how often the test at random moments kills it (20 if unset; `make soak`: 100).
"""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import pytest

from llm_platform.specs import TrainingConfig
from llm_platform.training import checkpoint
from tests.tiny_models import same_tensors, tensors
from tests.training import children
from tests.training.runs import config, run, weights_file

METHODS = ["lora", "dora", "qlora", "full"]
KILLS = int(os.environ.get("LLM_PLATFORM_TEST_KILLS", "20"))
STEPS = 20


def made(method: str, **changes: Any) -> TrainingConfig:
    return config(method, **{"epochs": 2, "checkpoint_every": 3, "evaluate_every": 7, "keep": "best", **changes})


@pytest.fixture(scope="module")
def processes() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(children.PRELOAD)
    return context


class Trainer:
    """Trains in one process after the other, in one folder."""

    def __init__(self, processes: ForkServerContext, config: TrainingConfig, base: Path, splits: Path, folder: Path) -> None:
        self.processes, self.config, self.base, self.splits, self.folder = processes, config, base, splits, folder
        self.steps: list[int] = []
        """What the newest process logged, as far as it was read."""

    def start(self, cut: int | None = None, limit: int = 0) -> None:
        """A new process; `cut` and `limit` kill it in the middle of writing, see `children.Telling`."""
        self.folder.mkdir(exist_ok=True)
        self.steps = []
        self.connection, theirs = multiprocessing.Pipe(duplex=False)
        arguments = (self.config.model_dump(mode="json"), self.base, self.splits, self.folder, theirs, cut, limit)
        self.process = self.processes.Process(target=children.train_here, args=arguments)
        self.process.start()
        theirs.close()

    def read(self, most: int) -> None:
        """Waits for as many steps, or for the end of the process."""
        try:
            while len(self.steps) < most:
                self.steps.append(self.connection.recv())
        except EOFError:
            pass

    def end(self) -> int:
        """Waits for the process to end, reads what it still logged, and gives its exit code."""
        self.read(STEPS * 10)
        self.connection.close()
        self.process.join()
        assert self.process.exitcode is not None
        return self.process.exitcode

    def saved(self) -> int | None:
        """The step of the newest whole checkpoint."""
        found = checkpoint.folders(self.folder / "work" / "checkpoints")
        return int(found[-1].name.removeprefix("step_")) if found else None

    def finish(self) -> None:
        """Starts once more and waits for the end. The first step logged is the one behind the newest checkpoint."""
        saved = self.saved()
        self.start()
        assert self.end() == 0
        assert self.steps[:1] == ([(saved or 0) + 1] if saved != STEPS else [])


@pytest.mark.parametrize("method", METHODS)
def test_killed_in_the_middle_of_writing_a_checkpoint(
    method: str, processes: ForkServerContext, base: Path, splits: Path, tmp_path: Path
) -> None:
    run(made(method), base, splits, tmp_path / "unbroken")
    written = next(tmp_path.glob("unbroken/work/checkpoints/*/tensors.safetensors")).stat().st_size
    trainer = Trainer(processes, made(method), base, splits, tmp_path / "killed")
    for cut in (5, 11):  # before the checkpoints of the steps 6 and 12 (or 7 and 14, if the validation loss is the lowest there)
        trainer.start(cut, written // 2)
        assert trainer.end() == -signal.SIGXFSZ
        (partial,) = (trainer.folder / "work" / "checkpoints").glob("*.tmp")
        assert [path.stat().st_size < written for path in partial.iterdir()] == [True]
        saved = trainer.saved()
        assert saved is not None and saved < trainer.steps[-1]
    trainer.finish()
    assert trainer.steps[0] > 6
    assert not list(trainer.folder.rglob("*.tmp"))
    assert same_tensors(*(tensors(tmp_path / name / "out", weights_file(method)) for name in ("unbroken", "killed")))


def test_an_early_stop_is_not_forgotten(processes: ForkServerContext, base: Path, splits: Path, tmp_path: Path) -> None:
    stopping = made("lora", epochs=4, evaluate_every=3, early_stopping_patience=2, learning_rate=3e-2, checkpoint_every=1)
    expected, _ = run(stopping, base, splits, tmp_path / "unbroken")
    assert expected.stopped_early
    trainer = Trainer(processes, stopping, base, splits, tmp_path / "killed")
    trainer.start(cut=expected.steps - 2, limit=1000)  # between the last two validations
    assert trainer.end() == -signal.SIGXFSZ
    result, _ = run(stopping, base, splits, trainer.folder)
    assert result.resumed_from == expected.steps - 3
    assert (result.steps, result.stopped_early, result.kept_step) == (expected.steps, True, expected.kept_step)
    assert result.validation_losses == expected.validation_losses and result.losses == expected.losses
    again, _ = run(stopping, base, splits, trainer.folder)
    assert again.resumed_from == again.steps == expected.steps
    assert same_tensors(*(tensors(tmp_path / name / "out") for name in ("unbroken", "killed")))


def test_killed_at_random_moments(processes: ForkServerContext, base: Path, splits: Path, tmp_path: Path) -> None:
    """Of each method in turn, until it was killed often enough; a run that ended unharmed starts anew."""
    drawn = random.Random(20)
    trainers = {method: Trainer(processes, made(method, checkpoint_every=1), base, splits, tmp_path / method) for method in METHODS}
    for method, trainer in trainers.items():
        run(trainer.config, base, splits, tmp_path / f"{method} unbroken")
    killed = resumed = 0
    while killed < KILLS:
        method, trainer = list(trainers.items())[killed % len(METHODS)]
        saved = trainer.saved()
        trainer.start()
        trainer.read(drawn.randrange(8))
        trainer.process.join(drawn.uniform(0.0, 0.05))  # into a step, or into the writing of a checkpoint
        trainer.process.kill()
        code = trainer.end()
        if trainer.steps:
            assert trainer.steps[0] == (saved or 0) + 1
            resumed += saved is not None
        if code == 0:
            compare(method, tmp_path)
            shutil.rmtree(trainer.folder)
        else:
            assert code == -signal.SIGKILL
            killed += 1
    assert resumed > KILLS / 4
    for method, trainer in trainers.items():
        trainer.finish()
        compare(method, tmp_path)


def compare(method: str, folder: Path) -> None:
    assert same_tensors(*(tensors(folder / name / "out", weights_file(method)) for name in (method, f"{method} unbroken")))
