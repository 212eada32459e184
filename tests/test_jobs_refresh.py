"""Copying Dagster's word into the platform's tables, beside others who change them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, cast

import pytest

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


@pytest.mark.parametrize(
    ("pipeline", "advice"), [({"nodes": [], "edges": []}, "retry the job"), (None, "re-execute its run in the Dagster UI")]
)
def test_a_job_that_a_stop_of_the_platform_ended_says_how_it_goes_on(tmp_path: Path, pipeline: dict[str, Any] | None, advice: str) -> None:
    """A job that was launched in the Dagster UI cannot be retried over REST."""
    database = Database(f"sqlite:///{tmp_path / 'platform.db'}")
    accepted, _ = database.accept("r", dagster_run_id="first", digest="d", pipeline={})
    node = {"agent_name": "train", "agent_class": "TrainingAgent", "status": "cancelled", "attempts": 1}
    at = {"started_at": now(), "ended_at": now()}
    row = {**accepted, "pipeline": pipeline, "status": "failed", "error": None, **at}
    found = jobs.view(cast(Any, row), cast(Any, [{**node, **at, "result": None, "error": None}]), [])
    assert found.result is not None and found.result.error is not None
    assert found.result.error.message.startswith("The platform was stopped while 'train' ran") and advice in found.result.error.message
    database.close()
