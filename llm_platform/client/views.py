"""A job as the platform described it: what `Job` of both clients have in common."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from llm_platform.client.display import card
from llm_platform.errors import PlatformError, from_body
from llm_platform.specs import resources
from llm_platform.specs.resources import JobCreated, JobNode, JobStatus

FINAL: tuple[JobStatus, ...] = ("completed", "failed", "cancelled")
FIRST_POLL = 0.5
SLOWEST_POLL = 5.0
"""A waiting client asks every few seconds: far below any rate limit, and soon enough for a person."""


class JobView:
    """What is known of a job since the platform was last asked."""

    def __init__(self, seen: JobCreated | resources.Job) -> None:
        self._seen = seen

    @property
    def job_id(self) -> str:
        return self._seen.job_id

    @property
    def run_id(self) -> str:
        return self._seen.run_id

    @property
    def status(self) -> JobStatus:
        return self._seen.status

    @property
    def created_at(self) -> datetime:
        return self._seen.created_at

    @property
    def done(self) -> bool:
        """Whether the job has come to an end, good or bad."""
        return self.status in FINAL

    def shown(self) -> dict[str, Any]:
        """What a list of jobs shows."""
        seen = self._seen
        found: dict[str, Any] = {"job_id": seen.job_id, "status": seen.status, "created_at": seen.created_at}
        if isinstance(seen, resources.Job):
            progress = f"{len(seen.progress.completed_agents)} of {seen.progress.total_agents}"
            found |= {"progress": progress, "agent": seen.progress.current_agent, "model_id": seen.model_id, "ended_at": seen.ended_at}
        return found

    def __repr__(self) -> str:
        return f"{type(self).__name__}(job_id={self.job_id!r}, status={self.status!r})"

    def _repr_html_(self) -> str:
        """The job, for notebooks; asks the platform nothing."""
        shown = self.shown()
        if isinstance(self._seen, resources.Job):
            shown |= {f"node {node.agent_name}": _shown(node) for node in self._seen.nodes}
            if result := self._seen.result:
                shown |= {f"metrics of {name}": figures for name, figures in result.metrics.items()}
                shown["error"] = result.error.message if result.error else None
        return card("Job", shown)


def _shown(node: JobNode) -> str:
    took = f" after {(node.ended_at - node.started_at).total_seconds():.1f} s" if node.started_at and node.ended_at else ""
    return f"{node.status}{took}" + (f", attempt {node.attempts}" if node.attempts > 1 else "")


def error_of(job: resources.Job) -> PlatformError | None:
    result = job.result
    return from_body(result.error.model_dump()) if result is not None and result.error is not None else None


class Waiting:
    """The pauses of somebody who waits for a job to end."""

    def __init__(self, timeout: float | None, started: float) -> None:
        self._timeout = timeout
        self._started = started
        self._pause = FIRST_POLL

    def next(self, job: JobView, now: float) -> float:
        """Seconds until the next look. Raises TimeoutError when there is no time left."""
        left = None if self._timeout is None else self._timeout - (now - self._started)
        if left is not None and left <= 0:
            raise TimeoutError(f"{job.job_id} is still {job.status} after {self._timeout:g} seconds")
        pause, self._pause = self._pause, min(SLOWEST_POLL, self._pause * 1.5)
        return pause if left is None else min(pause, left)
