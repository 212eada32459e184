"""What the tests that kill a trainer run in a process of its own; forked from one that has imported everything, so it starts at once."""

from __future__ import annotations

import resource
import signal
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from llm_platform.reporting import ListReporter
from llm_platform.specs import TrainingConfig
from llm_platform.training.train import train

PRELOAD = ["llm_platform.training.train", "transformers.models.llama.modeling_llama", "bitsandbytes", "tests.training.children"]


class Telling(ListReporter):
    """Sends the number of every step at once. After step `cut` it limits the size of files to `limit` bytes."""

    def __init__(self, steps: Connection, cut: int | None, limit: int) -> None:
        super().__init__()
        self.steps, self.cut, self.limit = steps, cut, limit

    def metric(self, message: str, *, step: int, epoch: float, **values: float) -> None:
        if "loss" in values:
            self.steps.send(step)
            if step == self.cut:
                # A write beyond the limit kills the process, in the middle of the file that it writes.
                signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
                resource.setrlimit(resource.RLIMIT_FSIZE, (self.limit, self.limit))


def train_here(
    config: dict[str, Any], base: Path, splits: Path, folder: Path, steps: Connection, cut: int | None = None, limit: int = 0
) -> None:
    """`train` into `folder / "out"`; the numbers of its steps go to `steps`."""
    made, reporter = TrainingConfig.model_validate(config), Telling(steps, cut, limit)
    train(made, base, splits, folder / "out", folder / "work", reporter, base_name="org/base", threads=1)
