"""Checkpoints: everything that a run needs to go on as if it had never stopped, and never half of it.

A checkpoint is a folder `step_0000000100` with `tensors.safetensors` (trainable weights, optimizer moments, random number
generators; no pickles) and `state.json` (position, config, digests, the figures so far, the tensors' SHA-256). It is written
under a temporary name and renamed, so that a kill at any moment leaves the checkpoints before it.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from llm_platform.errors import StorageError
from llm_platform.training.folders import PARTIAL, sha256, whole_folder

TENSORS = "tensors.safetensors"
STATE = "state.json"


@dataclass(frozen=True)
class Checkpoint:
    """`state` is JSON; `tensors` are on the CPU."""

    step: int
    state: dict[str, Any]
    tensors: dict[str, torch.Tensor]


def path_of(work: Path, step: int) -> Path:
    """The folder of a step's checkpoint."""
    return work / f"step_{step:010d}"


def write(work: Path, checkpoint: Checkpoint, *, keep: int, verify: bool = False) -> Path:
    """Writes a checkpoint and prunes older ones (see `prune`). `verify` reads it back and compares. Raises StorageError."""
    folder = path_of(work, checkpoint.step)
    with whole_folder(folder) as partial:
        save_file(checkpoint.tensors, partial / TENSORS)
        digest = sha256(partial / TENSORS)
        state = {"step": checkpoint.step, "sha256": digest, "state": checkpoint.state}
        (partial / STATE).write_text(json.dumps(state, allow_nan=False), "utf-8")
        if verify and not _equal(read(partial), checkpoint):
            raise StorageError("A checkpoint read back is not what was written; the disk under the work folder cannot be trusted")
    prune(work, keep)
    return folder


def _equal(one: Checkpoint, other: Checkpoint) -> bool:
    return (
        one.step == other.step
        and one.state == json.loads(json.dumps(other.state))
        and one.tensors.keys() == other.tensors.keys()
        and all(torch.equal(one.tensors[name], other.tensors[name]) for name in one.tensors)
    )


def read(folder: Path) -> Checkpoint:
    """Raises StorageError if a file is missing, or its bytes are not those that were written."""
    try:
        stored = json.loads((folder / STATE).read_text("utf-8"))
        if sha256(folder / TENSORS) != stored["sha256"]:
            raise StorageError(f"Checkpoint {folder.name} is damaged")
        return Checkpoint(stored["step"], stored["state"], load_file(folder / TENSORS))
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise StorageError(f"Checkpoint {folder.name} cannot be read") from error


def folders(work: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    return sorted(path for path in work.glob("step_*") if not path.name.endswith(PARTIAL))


def latest(work: Path) -> Checkpoint | None:
    """The newest checkpoint that can be read; damaged newer ones are removed. Partial folders of a killed run are swept."""
    for partial in work.glob(f"*{PARTIAL}"):
        shutil.rmtree(partial, ignore_errors=True)
    for folder in reversed(folders(work)):
        try:
            return read(folder)
        except StorageError:
            shutil.rmtree(folder, ignore_errors=True)
    return None


def prune(work: Path, keep: int) -> None:
    """Keeps the last `keep`, and the one with the lowest validation loss."""
    found = folders(work)
    losses = {folder: _validation_loss(folder) for folder in found}
    best = min((folder for folder in found if losses[folder] is not None), key=lambda folder: losses[folder] or 0.0, default=None)
    for folder in found[:-keep]:
        if folder != best:
            shutil.rmtree(folder, ignore_errors=True)


def _validation_loss(folder: Path) -> float | None:
    try:
        return json.loads((folder / STATE).read_text("utf-8"))["state"]["validation_loss"]
    except (OSError, ValueError, KeyError):
        return None
