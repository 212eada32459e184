"""What the API needs of an orchestrator. Importing this does not import Dagster, which takes seconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol

from sqlalchemy.engine import RowMapping

from llm_platform.errors import PlatformError
from llm_platform.specs import Pipeline

RunStatus = Literal["pending", "running", "completed", "failed", "cancelled"]


@dataclass(frozen=True)
class RunState:
    """What Dagster says about one run."""

    dagster_run_id: str
    status: RunStatus
    started_at: datetime | None
    ended_at: datetime | None
    error: PlatformError | None = None
    """Why it failed, where that was not the fault of one of its nodes."""


@dataclass(frozen=True)
class UiRun:
    """A run of our job that no submission knows."""

    run_id: str
    dagster_run_id: str
    created_at: datetime


class Orchestrator(Protocol):
    """What the API needs of Dagster; tests of the routes use a fake of this interface."""

    def submit(self, run_id: str, dagster_run_id: str, pipeline: Pipeline) -> None:
        """Makes the Dagster run and queues it. Doing it again for the same id changes nothing."""
        ...

    def states(self, dagster_run_ids: Sequence[str]) -> dict[str, RunState]:
        """The state of each run that Dagster knows."""
        ...

    def cancel(self, dagster_run_id: str) -> None:
        """Stops a run in whatever state it is; returns when Dagster has it as cancelled or cancelling."""
        ...

    def ui_runs(self, since: datetime) -> list[UiRun]:
        """Runs of our job created since then, whoever launched them."""
        ...

    def record_dataset(self, row: RowMapping) -> None:
        """Materializes an uploaded dataset in the asset catalog."""
        ...

    def healthy(self) -> bool:
        """Whether the daemon beats and the code location answers; within 2 s."""
        ...

    def close(self) -> None: ...
