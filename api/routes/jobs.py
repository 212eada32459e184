"""Jobs: submit, list, watch, cancel, try again."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from api.deps import (
    Audit,
    CallerDep,
    CreatedAfter,
    CreatedBefore,
    DeleteModels,
    IdempotencyKey,
    JobId,
    JsonBody,
    KeepModel,
    PageDep,
    ServicesDep,
    StatusFilter,
    Submission,
    known_submission,
)
from api.reads import Refresh
from llm_platform import artifacts, jobs
from llm_platform.specs import JobRequest
from llm_platform.specs.resources import ArtifactsDeleted, Job, JobCancelled, JobCreated, Page

router = APIRouter(prefix="/jobs", tags=["jobs"])

# The body is read by `JsonBody`, stricter than FastAPI would; this only describes it.
_BODY = {"required": True, "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{JobRequest.__name__}"}}}}


@router.post("", openapi_extra={"requestBody": _BODY})
def create(body: JsonBody, services: ServicesDep, caller: CallerDep, audit: Audit, key: IdempotencyKey = None) -> JobCreated:
    """Submits a pipeline. The same body with the same `run_id`, or without one and with the same `Idempotency-Key`, is the same job."""
    created = jobs.accept(body, services.settings, services.database, services.storage, caller, key)
    audit("job.submit", created.job_id)
    services.kick()
    return created


@router.get("", response_model=Page[Job])
async def list_jobs(
    request: Request,
    services: ServicesDep,
    caller: CallerDep,
    page: PageDep,
    status: StatusFilter = None,
    created_after: CreatedAfter = None,
    created_before: CreatedBefore = None,
) -> Response:
    """Jobs, newest first."""
    wanted = {"after": created_after, "before": created_before, "owner": caller.sees}

    def read(refresh: Refresh) -> Page[Job]:
        refresh(services.database.open_submissions())
        with services.database.read():
            rows, total = services.database.list_submissions(page.limit, page.offset, status, **wanted)
            return Page(items=jobs.views(services.database, rows), **page.bounds(total))

    return await services.reads.answered(request, read)


@router.get("/{job_id}", response_model=Job)
async def get(request: Request, job_id: JobId, services: ServicesDep, caller: CallerDep) -> Response:
    """A job's state, progress and result."""

    def read(refresh: Refresh) -> Job:
        return jobs.views(services.database, refresh([known_submission(job_id, services, caller)]))[0]

    return await services.reads.answered(request, read)


@router.delete("/{job_id}", response_model_exclude_none=True)
def cancel(row: Submission, services: ServicesDep, audit: Audit, keep: KeepModel = False) -> JobCancelled:
    """Cancels a job; one that has completed or failed cannot be cancelled any more."""
    cancelled = jobs.cancel(row["run_id"], services.database, services.orchestrator, keep=keep)
    audit("job.cancel", cancelled.job_id)
    services.kick()
    return cancelled


@router.delete("/{job_id}/artifacts")
def delete_artifacts(row: Submission, services: ServicesDep, audit: Audit, models: DeleteModels = False) -> ArtifactsDeleted:
    """Deletes what an ended job left in the object store. Its models stay unless they are asked for, and so does what others need."""
    deleted = artifacts.delete(row, services.settings, services.database, services.storage, services.registry, models=models)
    audit("job.delete_artifacts", deleted.job_id)
    return deleted


@router.post("/{job_id}/retry")
def retry(row: Submission, services: ServicesDep, audit: Audit) -> JobCreated:
    """Tries a failed or cancelled job again, in a new run that reuses the nodes that had finished."""
    created = jobs.retry(row, services.settings, services.database)
    audit("job.retry", created.job_id)
    services.kick()
    return created
