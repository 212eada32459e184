"""Jobs: submit, list, watch, cancel, try again."""

from __future__ import annotations

from fastapi import APIRouter

from api.deps import Audit, CallerDep, DeleteModels, IdempotencyKey, JsonBody, KeepModel, PageDep, ServicesDep, StatusFilter, Submission
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


@router.get("")
def list_jobs(services: ServicesDep, caller: CallerDep, page: PageDep, status: StatusFilter = None) -> Page[Job]:
    """Jobs, newest first."""
    services.refresh(services.database.open_submissions())
    rows, total = services.database.list_submissions(page.limit, page.offset, status, owner=caller.sees)
    return Page(items=jobs.views(services.database, rows), **page.bounds(total))


@router.get("/{job_id}")
def get(row: Submission, services: ServicesDep) -> Job:
    """A job's state, progress and result."""
    return jobs.views(services.database, [row])[0]


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
