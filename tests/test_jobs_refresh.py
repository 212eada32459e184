"""Copying Dagster's word into the platform's tables, beside others who change them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from llm_platform import jobs
from llm_platform.database import Database, now
from llm_platform.errors import PlatformError
from llm_platform.specs.resources import JobStatus


@dataclass
class Seen:
    status: JobStatus
    started_at: datetime | None = None
    ended_at: datetime | None = None
    error: PlatformError | None = None


class Running:
    """Dagster as it was a moment ago: every run goes on."""

    def states(self, dagster_run_ids: Sequence[str]) -> Mapping[str, Seen]:
        return {name: Seen("running") for name in dagster_run_ids}

    def cancel(self, dagster_run_id: str) -> None:
        raise AssertionError("nothing is cancelled here")


def test_what_was_seen_of_an_earlier_run_says_nothing_of_the_newer_one(tmp_path: Path) -> None:
    """Else a job that is tried again would count as running, and never be handed to Dagster."""
    database = Database(f"sqlite:///{tmp_path / 'platform.db'}")
    stale, _ = database.accept("r", dagster_run_id="first", digest="d", pipeline={})
    database.update_submission("r", submitted=True)
    stale = database.submission("r") or stale
    database.finish("r", "first", "failed", started_at=None, ended_at=now())
    assert database.retry("r", dagster_run_id="second", instead_of="first")
    (row,) = jobs.refresh(database, Running(), [stale])
    assert (row["dagster_run_id"], row["status"], row["submitted"]) == ("second", "pending", False)
    assert [claimed["run_id"] for claimed in database.claim(10, 60)] == ["r"]
    database.close()
