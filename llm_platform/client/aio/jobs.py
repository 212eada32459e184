"""`client.jobs` of `AsyncClient`."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

import anyio

from llm_platform.client import calls
from llm_platform.client.aio.pages import AsyncListing
from llm_platform.client.aio.transport import AsyncTransport
from llm_platform.client.pages import Page
from llm_platform.client.progress import JobBar
from llm_platform.client.views import JobView, Waiting, error_of
from llm_platform.errors import PlatformError
from llm_platform.specs import resources
from llm_platform.specs.notebooks import JobNotebook
from llm_platform.specs.resources import ArtifactsDeleted, JobCancelled, JobCreated, JobNode, JobResult, JobStatus, Progress


class AsyncJob(JobView):
    """A job as it was when the platform was last asked; `await job.refresh()` asks again.

    `model_id`, `progress`, `result` and the times are None until the answer to a submission has been refreshed.
    """

    def __init__(self, transport: AsyncTransport, seen: JobCreated | resources.Job) -> None:
        super().__init__(seen)
        self._transport = transport

    @property
    def model_id(self) -> str | None:
        """The (first) model that the job trained."""
        return None if self._details is None else self._details.model_id

    @property
    def started_at(self) -> datetime | None:
        return None if self._details is None else self._details.started_at

    @property
    def ended_at(self) -> datetime | None:
        return None if self._details is None else self._details.ended_at

    @property
    def progress(self) -> Progress | None:
        return None if self._details is None else self._details.progress

    @property
    def nodes(self) -> list[JobNode] | None:
        """Each node of the pipeline: its status, how often it was started, and when."""
        return None if self._details is None else self._details.nodes

    @property
    def result(self) -> JobResult | None:
        return None if self._details is None else self._details.result

    @property
    def error(self) -> PlatformError | None:
        """Why the job failed, as an exception to raise or to read."""
        return None if self._details is None else error_of(self._details)

    async def refresh(self) -> AsyncJob:
        """Asks the platform how the job is now, and returns the same object."""
        self._seen = await self._transport.run(calls.job(self.job_id))
        return self

    async def wait(self, *, timeout: float | None = None, on_update: Callable[[AsyncJob], None] | None = None) -> AsyncJob:
        """See `Jobs.wait`."""
        return await AsyncJobs(self._transport).wait(self, timeout=timeout, on_update=on_update)

    async def cancel(self, *, keep: bool = False) -> JobCancelled:
        """See `Jobs.cancel`."""
        return await AsyncJobs(self._transport).cancel(self, keep=keep)

    @property
    def _details(self) -> resources.Job | None:
        return self._seen if isinstance(self._seen, resources.Job) else None


class AsyncJobs:
    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    async def create(self, pipeline_config: Mapping[str, Any]) -> AsyncJob:
        """See `Jobs.create`."""
        return AsyncJob(self._transport, await self._transport.run(calls.submit(pipeline_config)))

    async def get(self, job_id: str) -> AsyncJob:
        return AsyncJob(self._transport, await self._transport.run(calls.job(job_id)))

    def list(
        self,
        *,
        limit: int = 20,
        offset: int = 0,
        status: JobStatus | None = None,
        created_after: datetime | None = None,
        created_before: datetime | None = None,
    ) -> AsyncListing[AsyncJob]:
        """See `Jobs.list`."""
        pages = calls.jobs(limit, status, created_after, created_before)

        async def page(at: int) -> Page[AsyncJob]:
            found = await self._transport.run(pages(at))
            return found.with_items(lambda item: AsyncJob(self._transport, item))

        return AsyncListing(offset, page)

    async def cancel(self, job: AsyncJob | str, *, keep: bool = False) -> JobCancelled:
        """See `Jobs.cancel`."""
        return await self._transport.run(calls.cancel(_id(job), keep))

    async def retry(self, job: AsyncJob | str) -> AsyncJob:
        """See `Jobs.retry`."""
        return AsyncJob(self._transport, await self._transport.run(calls.retry(_id(job))))

    async def delete_artifacts(self, job: AsyncJob | str, *, models: bool = False) -> ArtifactsDeleted:
        """See `Jobs.delete_artifacts`."""
        return await self._transport.run(calls.delete_artifacts(_id(job), models))

    def notebooks(self, job: AsyncJob | str, *, limit: int = 20, offset: int = 0) -> AsyncListing[JobNotebook]:
        """See `Jobs.notebooks`."""
        return self._transport.listing(calls.notebooks_of(_id(job), limit), offset)

    async def wait(
        self, job: AsyncJob | str, *, timeout: float | None = None, on_update: Callable[[AsyncJob], None] | None = None
    ) -> AsyncJob:
        """See `Jobs.wait`."""
        bar = JobBar()
        waiting = Waiting(timeout, time.monotonic())
        job = await job.refresh() if isinstance(job, AsyncJob) else await self.get(job)
        while True:
            if on_update is not None:
                on_update(job)
            elif job._details is not None:
                bar.show(job._details)
            if job.done:
                return job
            await anyio.sleep(waiting.next(job, time.monotonic()))
            await job.refresh()


def _id(job: AsyncJob | str) -> str:
    return job.job_id if isinstance(job, AsyncJob) else job
