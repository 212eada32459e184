"""What handlers ask for, by names that read as sentences.

What asks no database is a coroutine: FastAPI sends every plain function to a thread and back, which costs more than what these do.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Annotated, Any

import anyio
from fastapi import Depends, Header, Path, Query, Request
from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, StringConstraints
from sqlalchemy.engine import RowMapping

from api.body import read_json
from api.limits import holder
from api.services import Services
from llm_platform import audit, runlog
from llm_platform.comparisons import check_ids
from llm_platform.errors import InvalidInput, NotFound, RateLimited
from llm_platform.keys import Caller
from llm_platform.models import registered
from llm_platform.registry import RegisteredModel
from llm_platform.specs.audit import AuditAction
from llm_platform.specs.base import NAME
from llm_platform.specs.resources import JobStatus, Level

_RUN_ID = re.compile(NAME)
_DATASET_ID = re.compile(r"ds_[A-Za-z0-9]{1,64}")
_MODEL_ID = re.compile(r"model_[A-Za-z0-9][A-Za-z0-9_-]{0,63}(?:\.[A-Za-z0-9][A-Za-z0-9_-]{0,63})?")


def _in_path(description: str) -> Any:
    """An id in a path. What ids look like is for who reads the OpenAPI document: of what is none there is nothing, which is for the
    handlers to say (404)."""
    return Path(description=description, json_schema_extra={"pattern": "^[A-Za-z0-9_.-]{1,140}$"})


JobId = Annotated[str, _in_path("The job's id: `job_` and its run id.")]
JobOrRunId = Annotated[str, _in_path("The job's id, or its run id.")]
RunId = Annotated[str, _in_path("The run's id; of a job, its id without `job_`.")]
DatasetId = Annotated[str, _in_path("The dataset's id, such as ds_xyz789.")]
ModelId = Annotated[str, _in_path("The model's id, such as model_abc123.")]
KeyId = Annotated[str, _in_path("The key's id, which its list shows.")]
NodeName = Annotated[str, _in_path("The node's name in the pipeline.")]


async def get_services(request: Request) -> Services:
    return request.app.state.services


async def get_caller(request: Request) -> Caller:
    return request.state.caller


ServicesDep = Annotated[Services, Depends(get_services)]
CallerDep = Annotated[Caller, Depends(get_caller)]


Auditor = Callable[[AuditAction, str], None]
"""Writes down that the caller did something, to what."""


async def admin(caller: CallerDep) -> None:
    """Raises Forbidden for everybody else."""
    caller.need("admin")


async def scraper(request: Request, services: ServicesDep) -> None:
    """Raises Forbidden for who may not see the platform's figures."""
    if not services.settings.metrics_open:
        await admin(await get_caller(request))


async def auditor(request: Request, services: ServicesDep, caller: CallerDep) -> Auditor:
    client = request.client.host if request.client else None
    return lambda action, target: audit.record(services.database, caller, action, target, client)


async def json_body(request: Request, services: ServicesDep) -> Any:
    return await read_json(request, services.settings.max_body_bytes)


async def upload_slot(request: Request, services: ServicesDep, caller: CallerDep) -> AsyncIterator[None]:
    """Bounds how many uploads are received and read at once, by one client and by all. Raises RateLimited."""
    client = holder(caller.owner, request.client and request.client.host)
    most, going_on = services.settings.max_uploads_per_client, services.uploads_of
    if going_on[client] >= most:
        raise RateLimited(f"At most {most} uploads of one client may go on at once; try again in a moment", limit=most)
    slot = object()
    try:
        services.uploads.acquire_on_behalf_of_nowait(slot)
    except anyio.WouldBlock:
        raise RateLimited("Too many uploads are going on; try again in a moment", limit=int(services.uploads.total_tokens)) from None
    going_on[client] += 1
    try:
        yield
    finally:
        services.uploads.release_on_behalf_of(slot)
        going_on[client] -= 1
        if not going_on[client]:
            del going_on[client]


def known_submission(job_id: str, services: Services, caller: Caller) -> RowMapping:
    """The job's row, with the state that was last copied from Dagster. Raises NotFound, also for another's."""
    run_id = job_id.removeprefix("job_")
    row = services.database.submission(run_id) if job_id.startswith("job_") and _RUN_ID.fullmatch(run_id) else None
    if row is None or not caller.may_see(row["owner"]):
        raise NotFound(f"There is no job '{job_id[:100]}'", job_id=job_id[:100])
    return row


def submission(job_id: JobId, services: ServicesDep, caller: CallerDep) -> RowMapping:
    """The job's row as it is now. Raises NotFound, also for another's."""
    return services.refresh([known_submission(job_id, services, caller)])[0]


def dataset(dataset_id: DatasetId, services: ServicesDep, caller: CallerDep) -> RowMapping:
    """The dataset's row. Raises NotFound, also for another's."""
    return found_dataset(services.database.dataset, dataset_id, caller)


def found_dataset(find: Callable[[str], RowMapping | None], dataset_id: str, caller: Caller) -> RowMapping:
    """What `find` finds. Raises NotFound, also for another's."""
    row = find(dataset_id) if _DATASET_ID.fullmatch(dataset_id) else None
    if row is None or not caller.may_see(row["owner"]):
        raise NotFound(f"There is no dataset '{dataset_id[:100]}'", dataset_id=dataset_id[:100])
    return row


def model(model_id: ModelId, services: ServicesDep, caller: CallerDep) -> RegisteredModel:
    """The model as the registry has it. Raises NotFound, also for another's."""
    found = registered(model_id, services.registry) if _MODEL_ID.fullmatch(model_id) else None
    # A model belongs to whom its job belongs.
    if found is None or not caller.may_see(services.database.owner_of_run(found.run_id)):
        raise NotFound(f"There is no model '{model_id[:100]}'", model_id=model_id[:100])
    return found


def compared_models(
    ids: Annotated[str, Query(max_length=4096, description="Model ids with commas between them; the first is the baseline.")],
    services: ServicesDep,
    caller: CallerDep,
) -> list[RegisteredModel]:
    """The models of a comparison. Raises InvalidInput for ids that none can be made of, NotFound as for a single model."""
    wanted = [model_id.strip() for model_id in ids.split(",")]
    check_ids(wanted)
    return [model(model_id, services, caller) for model_id in wanted]


def logged_run(run_id: RunId, services: ServicesDep, caller: CallerDep) -> str:
    """A run id that stands for a job, or has log lines (a run of the Dagster UI has them before it is a job).

    Raises NotFound, also for another's.
    """
    row = services.database.submission(run_id) if _RUN_ID.fullmatch(run_id) else None
    there = row is not None or (_RUN_ID.fullmatch(run_id) and runlog.last_seq(services.database, run_id))
    if there and caller.may_see(row["owner"] if row else None):
        return run_id
    raise NotFound(f"There is no run '{run_id[:100]}'", run_id=run_id[:100])


AgentText = Annotated[str, StringConstraints(pattern=NAME)]
LoggedRun = Annotated[str, Depends(logged_run)]


def stream_cursor(
    run_id: LoggedRun,
    services: ServicesDep,
    last_event_id: Annotated[str | None, Header(description="The `id` of an event; the stream goes on behind it.")] = None,
) -> int:
    """The sequence number after which a stream goes on; 0 at the run's first line. Raises InvalidInput."""
    return cursor_of(services, run_id, last_event_id, "Last-Event-ID")


def history_cursor(
    run_id: LoggedRun,
    services: ServicesDep,
    after: Annotated[str | None, Query(description="The `next_cursor` of an earlier answer.")] = None,
) -> int:
    return cursor_of(services, run_id, after, "after")


def cursor_of(services: Services, run_id: str, text: str | None, field: str) -> int:
    """The sequence number that a cursor stands for; 0 without one. Raises InvalidInput, which names the field."""
    if text is None:
        return 0
    try:
        seq = runlog.parse_cursor(run_id, text)
        if seq <= runlog.last_seq(services.database, run_id):
            return seq
        message = "the log does not reach so far"
    except InvalidInput as error:
        message = error.metadata["errors"][0]["message"]
    raise InvalidInput(f"Not a position in this run's log: {message}", errors=[{"field": field, "agent": None, "message": message}])


async def line_filter(
    level: Annotated[list[Level] | None, Query(description="Only lines of this level; give it again for more of them.")] = None,
    agent: Annotated[
        list[AgentText] | None, Query(max_length=100, description="Only lines of this agent class or node; give it again for more of them.")
    ] = None,
) -> runlog.LineFilter:
    return runlog.LineFilter(frozenset(level or ()), frozenset(agent or ()))


PageLimit = Annotated[int, Query(ge=1, le=100, description="Most items of the answer, 1 to 100.")]
PageOffset = Annotated[int, Query(ge=0, lt=2**63, description="Number of items to skip, from 0.")]


class PageQuery(BaseModel):
    """Which part of a list: at most `limit` items behind the first `offset`."""

    limit: PageLimit = 20
    offset: PageOffset = 0

    def bounds(self, total: int) -> dict[str, Any]:
        """The fields beside the items that every list answers with."""
        more = self.offset + self.limit < total
        return {"total": total, "limit": self.limit, "offset": self.offset, "has_more": more}


async def page(limit: PageLimit = 20, offset: PageOffset = 0) -> PageQuery:
    return PageQuery(limit=limit, offset=offset)


def _in_utc(at: datetime) -> datetime:
    try:
        return at.astimezone(UTC)
    except OverflowError:
        raise ValueError("this time is before or after all that there are in UTC") from None


def _no_number(value: object) -> object:
    """Pydantic would take a number for seconds since 1970."""
    if isinstance(value, str) and value.lstrip("+-").replace(".", "", 1).isdigit():
        raise ValueError("a date and a time with its zone are expected: 2026-01-31T12:00:00Z")
    return value


Moment = Annotated[AwareDatetime, BeforeValidator(_no_number), AfterValidator(_in_utc)]
"""A date and time with its zone."""
Audit = Annotated[Auditor, Depends(auditor)]
JsonBody = Annotated[Any, Depends(json_body)]
UploadSlot = Annotated[None, Depends(upload_slot)]
Submission = Annotated[RowMapping, Depends(submission)]
DatasetRow = Annotated[RowMapping, Depends(dataset)]
TrainedModel = Annotated[RegisteredModel, Depends(model)]
ComparedModels = Annotated[list[RegisteredModel], Depends(compared_models)]
StreamCursor = Annotated[int, Depends(stream_cursor)]
HistoryCursor = Annotated[int, Depends(history_cursor)]
LineFilterDep = Annotated[runlog.LineFilter, Depends(line_filter)]
PageDep = Annotated[PageQuery, Depends(page)]
PreviewLimit = Annotated[int, Query(ge=1, le=100, description="Number of rows, 1 to 100.")]
HistoryLimit = Annotated[int, Query(ge=1, le=1000, description="Most lines of the answer, 1 to 1000.")]
IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        description="Any text of the client's; the same body with the same key is one job or dataset, however often it is sent.",
    ),
]
KeepModel = Annotated[
    bool, Query(description="Stop and keep: a training that runs ends after its current step and leaves a model of what it has learned.")
]
DeleteModels = Annotated[bool, Query(description="Whether the models that the job trained go too, from the registry as well.")]
StatusFilter = Annotated[JobStatus | None, Query(description="Only jobs in this state.")]
CreatedAfter = Annotated[Moment | None, Query(description="Only jobs created at this time or later, with its zone: 2026-01-31T12:00:00Z.")]
CreatedBefore = Annotated[Moment | None, Query(description="Only jobs created before this time, with its zone: 2026-01-31T12:00:00Z.")]
BaseModelFilter = Annotated[str | None, Query(max_length=1024, description="Only models fine-tuned from this base model.")]
