"""`client.jobs`: submit pipelines, follow them, cancel them, try them again."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from llm_platform.client import calls
from llm_platform.client.pages import Page
from llm_platform.client.progress import JobBar
from llm_platform.client.transport import Transport
from llm_platform.client.views import JobView, Waiting, error_of
from llm_platform.errors import PlatformError
from llm_platform.specs import resources
from llm_platform.specs.notebooks import JobNotebook
from llm_platform.specs.resources import ArtifactsDeleted, JobCancelled, JobCreated, JobNode, JobResult, JobStatus, Progress


class Job(JobView):
    """A job as it was when the platform was last asked; `refresh()` asks again.

    What the answer to a submission does not yet say (`progress`, `nodes`, `result`, `model_id`, ...) is fetched when it is read.
    """

    def __init__(self, transport: Transport, seen: JobCreated | resources.Job) -> None:
        super().__init__(seen)
        self._transport = transport

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
    def nodes(self) -> list[JobNode]:
        """Each node of the pipeline: its status, how often it was started, and when."""
        return self._details.nodes

    @property
    def result(self) -> JobResult | None:
        return self._details.result

    @property
    def error(self) -> PlatformError | None:
        """Why the job failed, as an exception to raise or to read."""
        return error_of(self._details)

    def refresh(self) -> Job:
        """Asks the platform how the job is now, and returns the same object."""
        self._seen = self._transport.run(calls.job(self.job_id))
        return self

    def wait(self, *, timeout: float | None = None, on_update: Callable[[Job], None] | None = None) -> Job:
        """See `Jobs.wait`."""
        return Jobs(self._transport).wait(self, timeout=timeout, on_update=on_update)

    def cancel(self, *, keep: bool = False) -> JobCancelled:
        """See `Jobs.cancel`."""
        return Jobs(self._transport).cancel(self, keep=keep)

    @property
    def _details(self) -> resources.Job:
        if isinstance(self._seen, JobCreated):
            self.refresh()
        assert isinstance(self._seen, resources.Job)
        return self._seen


class Jobs:
    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(self, pipeline_config: Mapping[str, Any]) -> Job:
        """Submits a pipeline: a body as POST /jobs takes it, or what is inside its `pipeline_config`.

        Without a `run_id` one is made here, so that a submission whose answer was lost can be repeated and stays one job.
        """
        return Job(self._transport, self._transport.run(calls.submit(pipeline_config)))

    def get(self, job_id: str) -> Job:
        return Job(self._transport, self._transport.run(calls.job(job_id)))

    def list(
        self,
        *,
        limit: int = 20,
        offset: int = 0,
        status: JobStatus | None = None,
        created_after: datetime | None = None,
        created_before: datetime | None = None,
    ) -> Page[Job]:
        """Newest first; of jobs created at `created_after` or later, and before `created_before` (local time where it has no zone)."""
        pages = calls.jobs(limit, status, created_after, created_before)

        def page(at: int) -> Page[Job]:
            return self._transport.run(pages(at)).with_items(lambda item: Job(self._transport, item))

        return replace(page(offset), turn=page)

    def cancel(self, job: Job | str, *, keep: bool = False) -> JobCancelled:
        """Asks a job to stop. Raises Conflict when it had already completed or failed.

        With `keep` a training that runs leaves a model of what it has learned so far; `keeps` of the answer names its node.
        """
        return self._transport.run(calls.cancel(_id(job), keep))

    def retry(self, job: Job | str) -> Job:
        """Tries a failed or cancelled job again; nodes that had finished are reused. Raises Conflict for any other job."""
        return Job(self._transport, self._transport.run(calls.retry(_id(job))))

    def delete_artifacts(self, job: Job | str, *, models: bool = False) -> ArtifactsDeleted:
        """Deletes what an ended job left in the object store, with `models` also what it trained. What others need stays, and is named."""
        return self._transport.run(calls.delete_artifacts(_id(job), models))

    def notebooks(self, job: Job | str, *, limit: int = 20, offset: int = 0) -> Page[JobNotebook]:
        """The notebooks of a job (or of a run, by its id) that have started; `client.notebooks.download` fetches one."""
        return self._transport.page(calls.notebooks_of(_id(job), limit), offset)

    def wait(self, job: Job | str, *, timeout: float | None = None, on_update: Callable[[Job], None] | None = None) -> Job:
        """The job when it has ended, whichever way: look at its `status` and `error`.

        `on_update` is called with every new look at the job; without it a terminal or notebook shows a bar. Raises TimeoutError
        after `timeout` seconds; the job goes on.
        """
        bar = JobBar()
        waiting = Waiting(timeout, time.monotonic())
        job = job.refresh() if isinstance(job, Job) else self.get(job)
        while True:
            if on_update is None:
                bar.show(job._details)
            else:
                on_update(job)
            if job.done:
                return job
            time.sleep(waiting.next(job, time.monotonic()))
            job.refresh()


def _id(job: Job | str) -> str:
    return job.job_id if isinstance(job, Job) else job
