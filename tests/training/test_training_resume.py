"""A run that was stopped, however, ends with the very bits of one that was not; checkpoints are whole or not there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from llm_platform.errors import Cancelled, StorageError
from llm_platform.reporting import ListReporter
from llm_platform.specs import TrainingConfig
from llm_platform.training import checkpoint
from llm_platform.training.checkpoint import Checkpoint
from llm_platform.training.result import TrainingResult
from llm_platform.training.train import train
from tests.tiny_models import make_rows, make_splits, same_tensors, tensors, write_split

CONFIG = TrainingConfig(batch_size=4, gradient_accumulation_steps=2, learning_rate=1e-2, lora_r=4, epochs=3, checkpoint_every=2)
STEPS = 15


def run(base: Path, splits: Path, folder: Path, reporter: ListReporter, config: TrainingConfig = CONFIG) -> TrainingResult:
    return train(config, base, splits, folder / "out", folder / "work", reporter, base_name="org/base", threads=1)


def first_step(reporter: ListReporter) -> int:
    return next(data["step"] for level, _, data in reporter.lines if level == "METRIC")


@pytest.fixture(scope="module")
def unbroken(base: Path, splits: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainingResult, Path]:
    folder = tmp_path_factory.mktemp("unbroken")
    return run(base, splits, folder, ListReporter()), folder


@pytest.mark.parametrize("checks", [1, 3, 6, 14])
def test_cancelled_and_resumed_equals_unbroken(
    checks: int, unbroken: tuple[TrainingResult, Path], base: Path, splits: Path, tmp_path: Path
) -> None:
    expected, folder = unbroken
    with pytest.raises(Cancelled):
        run(base, splits, tmp_path, ListReporter(cancel_after=checks))
    reporter = ListReporter()
    result = run(base, splits, tmp_path, reporter)
    assert same_tensors(tensors(tmp_path / "out"), tensors(folder / "out"))
    assert (result.losses, result.validation_losses, result.final_loss) == (
        expected.losses,
        expected.validation_losses,
        expected.final_loss,
    )
    assert result.tokens == expected.tokens
    if checks == 1:
        assert result.resumed_from is None and first_step(reporter) == 1
    else:
        assert result.resumed_from is not None and first_step(reporter) == result.resumed_from + 1
        assert any(
            level == "INFO" and f"Resuming from the checkpoint of step {result.resumed_from}" in text for level, text, _ in reporter.lines
        )


CHILD = """
import sys
from pathlib import Path
from llm_platform.reporting import ListReporter
from llm_platform.specs import TrainingConfig
from llm_platform.training.train import train

class Printing(ListReporter):
    def progress(self, done, total, what):
        print(what, done, flush=True)

base, splits, folder, config = sys.argv[1:]
folder = Path(folder)
config = TrainingConfig.model_validate_json(config)
train(config, Path(base), Path(splits), folder / "out", folder / "work", Printing(), base_name="org/base", threads=1)
"""


def test_killed_and_resumed_equals_unbroken(unbroken: tuple[TrainingResult, Path], base: Path, splits: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", CHILD, str(base), str(splits), str(tmp_path), CONFIG.model_dump_json()]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as child:
        assert child.stdout is not None
        assert any(line == "steps 7\n" for line in child.stdout)
        os.kill(child.pid, signal.SIGKILL)
    assert child.returncode == -signal.SIGKILL and not (tmp_path / "out").exists()
    reporter = ListReporter()
    result = run(base, splits, tmp_path, reporter)
    assert result.resumed_from is not None and result.resumed_from >= 4 and first_step(reporter) > 4
    assert same_tensors(tensors(tmp_path / "out"), tensors(unbroken[1] / "out"))


def test_a_finished_run_is_not_trained_again(unbroken: tuple[TrainingResult, Path], base: Path, splits: Path, tmp_path: Path) -> None:
    expected = run(base, splits, tmp_path, ListReporter())
    (tmp_path / "out").rename(tmp_path / "first")
    reporter = ListReporter()
    result = run(base, splits, tmp_path, reporter)
    assert result.resumed_from == STEPS and not [line for line in reporter.lines if line[0] == "METRIC"]
    assert same_tensors(tensors(tmp_path / "out"), tensors(tmp_path / "first"))
    assert result.losses == expected.losses


@pytest.mark.parametrize("change", ["config", "data"])
def test_another_run_s_checkpoints_are_not_used(change: str, base: Path, splits: Path, tmp_path: Path) -> None:
    run(base, splits, tmp_path, ListReporter())
    config = CONFIG.model_copy(update={"learning_rate": 2e-2}) if change == "config" else CONFIG
    if change == "data":
        splits = make_splits(tmp_path / "splits")
        write_split(splits / "train.parquet", make_rows(40, 99))
    reporter = ListReporter()
    assert run(base, splits, tmp_path, reporter, config).resumed_from is None
    assert [text for level, text, _ in reporter.lines if level == "WARN"] == [
        f"The checkpoints here are of another {change}; training starts anew"
    ]


def test_a_new_name_or_interval_is_still_the_same_run(base: Path, splits: Path, tmp_path: Path) -> None:
    run(base, splits, tmp_path, ListReporter())
    config = CONFIG.model_copy(update={"model_name": "other", "checkpoint_every": 50})
    assert run(base, splits, tmp_path, ListReporter(), config).resumed_from == STEPS


def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    base: Path, splits: Path, tmp_path: Path, unbroken: tuple[TrainingResult, Path]
) -> None:
    with pytest.raises(Cancelled):
        run(base, splits, tmp_path, ListReporter(cancel_after=9))
    newest = checkpoint.folders(tmp_path / "work" / "checkpoints")[-1]
    content = (newest / "tensors.safetensors").read_bytes()
    (newest / "tensors.safetensors").write_bytes(content[:-1] + bytes([255 - content[-1]]))
    result = run(base, splits, tmp_path, ListReporter())
    assert result.resumed_from is not None and result.resumed_from < checkpoint_step(newest)
    assert same_tensors(tensors(tmp_path / "out"), tensors(unbroken[1] / "out"))


def checkpoint_step(folder: Path) -> int:
    return int(folder.name.removeprefix("step_"))


def made(step: int, validation_loss: float | None = None, **state: Any) -> Checkpoint:
    return Checkpoint(step, {"validation_loss": validation_loss, **state}, {"x": torch.arange(3) + step})


def test_what_was_written_is_read(tmp_path: Path) -> None:
    checkpoint.write(tmp_path, made(5, 1.5, digests={"a": "b"}), keep=2, verify=True)
    found = checkpoint.latest(tmp_path)
    assert found is not None and (found.step, found.state) == (5, {"validation_loss": 1.5, "digests": {"a": "b"}})
    assert torch.equal(found.tensors["x"], torch.tensor([5, 6, 7]))


def alter_what_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that keeps other bytes than it was given: the last one of the tensors is another as soon as it is written."""
    save = checkpoint.save_file

    def altering(written: dict[str, torch.Tensor], path: Path) -> None:
        save(written, path)
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))

    monkeypatch.setattr(checkpoint, "save_file", altering)


NOT_WHAT_WAS_WRITTEN = "A checkpoint read back is not what was written"


def test_what_is_read_back_otherwise_than_written_is_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint.write(tmp_path, made(1), keep=2, verify=True)
    alter_what_is_written(monkeypatch)
    with pytest.raises(StorageError, match=NOT_WHAT_WAS_WRITTEN):
        checkpoint.write(tmp_path, made(2), keep=2, verify=True)
    assert [path.name for path in tmp_path.iterdir()] == ["step_0000000001"], "a resumed run would go on from it"


def test_the_first_checkpoint_of_a_run_is_read_back(
    base: Path, splits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unbroken: tuple[TrainingResult, Path]
) -> None:
    with monkeypatch.context() as patch:
        alter_what_is_written(patch)
        with pytest.raises(StorageError, match=NOT_WHAT_WAS_WRITTEN):
            run(base, splits, tmp_path, ListReporter())
    assert not (tmp_path / "out").exists()
    assert run(base, splits, tmp_path, ListReporter()).resumed_from is None
    assert same_tensors(tensors(tmp_path / "out"), tensors(unbroken[1] / "out"))


class Interrupting(dict[str, torch.Tensor]):
    """Tensors whose reading is interrupted, as by a signal in the middle of a write."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(x=torch.zeros(3))
        self.error = error

    def items(self) -> Any:
        def interrupted() -> Iterator[tuple[str, torch.Tensor]]:
            yield "x", torch.zeros(3)
            raise self.error

        return interrupted()


@pytest.mark.parametrize("error", [Cancelled(), KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_an_interrupted_write_leaves_the_checkpoint_before_it(error: BaseException, tmp_path: Path) -> None:
    checkpoint.write(tmp_path, made(1), keep=2)
    expected = StorageError if isinstance(error, OSError) else type(error)
    with pytest.raises(expected) as caught:
        checkpoint.write(tmp_path, Checkpoint(2, {}, Interrupting(error)), keep=2)
    assert str(tmp_path) not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["step_0000000001"]
    found = checkpoint.latest(tmp_path)
    assert found is not None and found.step == 1


def test_what_cannot_be_written_as_json_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        checkpoint.write(tmp_path, made(1, float("nan")), keep=2)
    assert list(tmp_path.iterdir()) == []


def test_partial_folders_of_a_killed_run_are_swept(tmp_path: Path) -> None:
    checkpoint.write(tmp_path, made(1), keep=2)
    (tmp_path / "step_0000000002.tmp").mkdir()
    (tmp_path / "step_0000000002.tmp" / "tensors.safetensors").write_bytes(b"half")
    found = checkpoint.latest(tmp_path)
    assert found is not None and found.step == 1
    assert [path.name for path in tmp_path.iterdir()] == ["step_0000000001"]


def test_the_last_two_and_the_best_are_kept(tmp_path: Path) -> None:
    for step, loss in enumerate([3.0, 1.0, None, 2.0, None], start=1):
        checkpoint.write(tmp_path, made(step, loss), keep=2)
    assert [checkpoint_step(folder) for folder in checkpoint.folders(tmp_path)] == [2, 4, 5]
