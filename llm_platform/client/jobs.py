"""`client.jobs`: submit pipelines, follow them, cancel them, try them again."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any
from urllib.parse import quote

from llm_platform.client.notebooks import Notebooks
from llm_platform.client.pages import Page
from llm_platform.client.transport import Transport, parse
from llm_platform.errors import PlatformError, from_body
from llm_platform.specs import resources
from llm_platform.specs.notebooks import JobNotebook
from llm_platform.specs.resources import JobCancelled, JobCreated, JobResult, JobStatus, Progress

FINAL: tuple[JobStatus, ...] = ("completed", "failed", "cancelled")
FIRST_POLL = 0.5
SLOWEST_POLL = 5.0
"""A waiting client asks every few seconds: far below any rate limit, and soon enough for a person."""


class Job:
    """A job as it was when the platform was last asked; `refresh()` asks again.

    What the answer to a submission does not yet say (`progress`, `result`, `model_id`, ...) is fetched when it is read.
    """

    def __init__(self, transport: Transport, seen: JobCreated | resources.Job) -> None:
        self._transport = transport
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

    @property
    def model_id(self) -> str | None:
        """The (first) model that the job trained; asks the platform as long as there is none. None if there is none (yet)."""
        if self._details.model_id is None and not self.done:
            self.refresh()
        return self._details.model_id

    @property
    def started_at(self) -> datetime | None:
        return self._details.started_at

    @property
    def ended_at(self) -> datetime | None:
        return self._details.ended_at

    @property
    def progress(self) -> Progress:
        return self._details.progress

    @property
    def result(self) -> JobResult | None:
        return self._details.result

    @property
    def error(self) -> PlatformError | None:
        """Why the job failed, as an exception to raise or to read."""
        result = self._details.result
        return from_body(result.error.model_dump()) if result is not None and result.error is not None else None

    def refresh(self) -> Job:
        """Asks the platform how the job is now, and returns the same object."""
        self._seen = _get(self._transport, self.job_id)
        return self

    @property
    def _details(self) -> resources.Job:
        if isinstance(self._seen, JobCreated):
            self._seen = _get(self._transport, self.job_id)
        return self._seen

    def __repr__(self) -> str:
        return f"Job(job_id={self.job_id!r}, status={self.status!r})"


class Jobs:
    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(self, pipeline_config: Mapping[str, Any]) -> Job:
        """Submits a pipeline: a body as POST /jobs takes it, or what is inside its `pipeline_config`.

        Without a `run_id` one is made here, so that a submission whose answer was lost can be repeated and stays one job.
        """
        inner = pipeline_config.get("pipeline_config", pipeline_config)
        body: dict[str, Any] = dict(pipeline_config) if inner is not pipeline_config else {}
        if isinstance(inner, Mapping):
            inner = {**inner, "run_id": inner.get("run_id") or secrets.token_hex(8)}
        response = self._transport.request("POST", "/jobs", json={**body, "pipeline_config": inner}, repeat=True)
        return Job(self._transport, parse(JobCreated, response))

    def get(self, job_id: str) -> Job:
        return Job(self._transport, _get(self._transport, job_id))

    def list(self, *, limit: int = 20, offset: int = 0, status: JobStatus | None = None) -> Page[Job]:
        """Newest first."""
        params: dict[str, Any] = {"limit": limit, "offset": offset} | ({} if status is None else {"status": status})
        page = parse(resources.Page[resources.Job], self._transport.request("GET", "/jobs", params=params))
        jobs = [Job(self._transport, item) for item in page.items]
        return Page(jobs, page.total, page.limit, page.offset, page.has_more)

    def cancel(self, job: Job | str, *, keep: bool = False) -> JobCancelled:
        """Asks a job to stop. Raises Conflict when it had already completed or failed.

        With `keep` a training that runs leaves a model of what it has learned so far; `keeps` of the answer names its node.
        """
        params = {"keep": "true"} if keep else {}
        return parse(JobCancelled, self._transport.request("DELETE", _path(_id(job)), params=params, repeat=True))

    def retry(self, job: Job | str) -> Job:
        """Tries a failed or cancelled job again; nodes that had finished are reused. Raises Conflict for any other job."""
        return Job(self._transport, parse(JobCreated, self._transport.request("POST", f"{_path(_id(job))}/retry")))

    def notebooks(self, job: Job | str, *, limit: int = 20, offset: int = 0) -> Page[JobNotebook]:
        """The notebooks of a job (or of a run, by its id) that have started; `client.notebooks.download` fetches one."""
        return Notebooks(self._transport).of_job(_id(job), limit=limit, offset=offset)

    def wait(self, job: Job | str, *, timeout: float | None = None, on_update: Callable[[Job], None] | None = None) -> Job:
        """The job when it has ended, whichever way: look at its `status` and `error`.

        `on_update` is called with every new look at the job. Raises TimeoutError after `timeout` seconds; the job goes on.
        """
        started = time.monotonic()
        job = job.refresh() if isinstance(job, Job) else self.get(job)
        pause = FIRST_POLL
        while True:
            if on_update is not None:
                on_update(job)
            if job.done:
                return job
            left = None if timeout is None else timeout - (time.monotonic() - started)
            if left is not None and left <= 0:
                raise TimeoutError(f"{job.job_id} is still {job.status} after {timeout:g} seconds")
            time.sleep(pause if left is None else min(pause, left))
            pause = min(SLOWEST_POLL, pause * 1.5)
            job.refresh()


def _id(job: Job | str) -> str:
    return job.job_id if isinstance(job, Job) else job


def _path(job_id: str) -> str:
    return f"/jobs/{quote(job_id, safe='')}"


def _get(transport: Transport, job_id: str) -> resources.Job:
    return parse(resources.Job, transport.request("GET", _path(job_id)))
