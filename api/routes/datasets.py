"""Datasets: upload, list, look at."""

from __future__ import annotations

from time import perf_counter
from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, Query, Request, Response

from api.deps import Audit, CallerDep, DatasetId, DatasetRow, IdempotencyKey, PageDep, PreviewLimit, ServicesDep, UploadSlot, found_dataset
from api.multipart import received
from api.reads import Refresh
from llm_platform import datasets, disk, quotas
from llm_platform.specs.resources import Dataset, DatasetUploaded, Page, Preview, Profile

router = APIRouter(prefix="/datasets", tags=["datasets"])

_FORM = {
    "type": "object",
    "required": ["file"],
    "properties": {
        "file": {"type": "string", "format": "binary", "description": "Dataset file (CSV, JSON, JSONL, Parquet, TXT; each also gzip)."},
        "format": {"type": "string", "enum": ["csv", "json", "jsonl", "parquet", "txt"], "description": "Detected if not given."},
    },
    "examples": [{"file": "text,label\nSample text 1,positive\nSample text 2,negative\n", "format": "csv"}],
}


@router.post("/upload", openapi_extra={"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": _FORM}}}})
async def upload(
    request: Request,
    response: Response,
    services: ServicesDep,
    caller: CallerDep,
    audit: Audit,
    _slot: UploadSlot,
    key: IdempotencyKey = None,
) -> DatasetUploaded:
    """Uploads a dataset file, as the form field `file`. The header `Server-Timing` says how long receiving it, hashed and down
    to the disk, and reading it took. The same file with the same `Idempotency-Key` is one dataset, however often it is sent."""
    settings = services.settings
    started = perf_counter()
    disk.check(settings)
    room = await to_thread.run_sync(quotas.room, caller.owner, settings, services.database)
    limit, refusal = settings.max_upload_bytes, None
    if room is not None and room < limit:
        limit, refusal = room, quotas.no_room(settings.max_dataset_bytes_per_owner)
    async with received(request, settings.work / "uploads", limit, refusal) as file:
        arrived = perf_counter()
        services.metrics.upload_bytes.inc(file.size_bytes)
        arguments = (file, settings, services.database, services.storage, caller.owner, key)
        made = await to_thread.run_sync(datasets.ingest, *arguments, limiter=services.conversions)
    response.headers["Server-Timing"] = f"receive;dur={1000 * (arrived - started):.1f}, read;dur={1000 * (perf_counter() - arrived):.1f}"
    await to_thread.run_sync(audit, "dataset.upload", made.dataset_id)
    services.kick()
    return made


@router.get("", response_model=Page[Dataset])
async def list_datasets(request: Request, services: ServicesDep, caller: CallerDep, page: PageDep) -> Response:
    """Datasets, newest first."""

    def read(_: Refresh) -> Page[Dataset]:
        rows, total = services.database.list_datasets(page.limit, page.offset, owner=caller.sees)
        return Page(items=[datasets.view(row) for row in rows], **page.bounds(total))

    return await services.reads.answered(request, read)


@router.get("/{dataset_id}", response_model=Dataset)
async def get(request: Request, dataset_id: DatasetId, services: ServicesDep, caller: CallerDep) -> Response:
    """What is known about a dataset."""

    def read(_: Refresh) -> Dataset:
        return datasets.view(found_dataset(services.database.dataset_shown, dataset_id, caller))

    return await services.reads.answered(request, read)


@router.get("/{dataset_id}/preview")
def preview(row: DatasetRow, services: ServicesDep, limit: PreviewLimit = 10) -> Preview:
    """The dataset's first rows."""
    return datasets.preview(row, limit, services.settings, services.storage)


@router.get("/{dataset_id}/profile")
async def profile(
    row: DatasetRow,
    services: ServicesDep,
    tokenizer: Annotated[str | None, Query(min_length=1, max_length=1024, description="Base model whose tokens are counted too.")] = None,
) -> Profile:
    """What a person looks for in a dataset: its layout, lengths, empty cells, duplicates, languages, and examples."""
    return await to_thread.run_sync(datasets.profile, row, tokenizer, services.settings, services.storage, limiter=services.conversions)
