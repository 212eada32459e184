"""Datasets: upload, list, look at."""

from __future__ import annotations

from anyio import to_thread
from fastapi import APIRouter, Request

from api.deps import DatasetRow, PageDep, PreviewLimit, ServicesDep, UploadSlot
from api.multipart import received
from llm_platform import datasets
from llm_platform.specs.resources import Dataset, DatasetUploaded, Page, Preview

router = APIRouter(prefix="/datasets", tags=["datasets"])

_FORM = {
    "type": "object",
    "required": ["file"],
    "properties": {
        "file": {"type": "string", "format": "binary", "description": "Dataset file (CSV, JSON, JSONL, Parquet, TXT)."},
        "format": {"type": "string", "enum": ["csv", "json", "jsonl", "parquet", "txt"], "description": "Detected if not given."},
    },
}


@router.post("/upload", openapi_extra={"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": _FORM}}}})
async def upload(request: Request, services: ServicesDep, _slot: UploadSlot) -> DatasetUploaded:
    """Uploads a dataset file, as the form field `file`."""
    settings = services.settings
    async with received(request, settings.work / "uploads", settings.max_upload_bytes) as file:
        made = await to_thread.run_sync(datasets.ingest, file, settings, services.database, services.storage, limiter=services.conversions)
    services.kick()
    return made


@router.get("")
def list_datasets(services: ServicesDep, page: PageDep) -> Page[Dataset]:
    """Datasets, newest first."""
    rows, total = services.database.list_datasets(page.limit, page.offset)
    return Page(items=[datasets.view(row) for row in rows], **page.bounds(total))


@router.get("/{dataset_id}")
def get(row: DatasetRow) -> Dataset:
    """What is known about a dataset."""
    return datasets.view(row)


@router.get("/{dataset_id}/preview")
def preview(row: DatasetRow, services: ServicesDep, limit: PreviewLimit = 10) -> Preview:
    """The dataset's first rows."""
    return datasets.preview(row, limit, services.settings, services.storage)
