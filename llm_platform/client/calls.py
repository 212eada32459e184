"""Every request of the SDK: method, path, what is sent, and how the answer is read. `Client` and `AsyncClient` only send them."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel

from llm_platform.client.display import Comparison
from llm_platform.client.pages import Page
from llm_platform.errors import NotFound
from llm_platform.specs import resources
from llm_platform.specs.agents import Format
from llm_platform.specs.audit import AuditAction, AuditEntry
from llm_platform.specs.keys import Key, KeyCreated, Scope
from llm_platform.specs.notebooks import JobNotebook, Notebook, NotebookFormat
from llm_platform.specs.preflight import Preflight
from llm_platform.specs.resources import (
    ArtifactsDeleted,
    Dataset,
    DatasetUploaded,
    Health,
    JobCancelled,
    JobCreated,
    JobStatus,
    Level,
    LogHistory,
    ModelFiles,
    ModelList,
    ModelSummary,
    Preview,
    Profile,
    Usage,
)

ResultT = TypeVar("ResultT")
ItemT = TypeVar("ItemT", bound=BaseModel)
ModelT = TypeVar("ModelT", bound=BaseModel)
Export = Literal["adapter", "merged", "gguf"]
Metrics = Mapping[str, float]


@dataclass(frozen=True)
class Call(Generic[ResultT]):
    """One request. `repeat` says whether it may reach the platform twice (by default a GET may), `accept` which errors are answers."""

    method: str
    path: str
    read: Callable[[httpx.Response], ResultT]
    options: Mapping[str, Any] = field(default_factory=dict)
    repeat: bool | None = None
    accept: tuple[int, ...] = ()


Pages = Callable[[int], Call[Page[ItemT]]]
"""The call for a list's page, by its offset."""


def health() -> Call[Health]:
    return Call("GET", "/health", _parsed(Health), accept=(503,))


def usage() -> Call[Usage]:
    return Call("GET", "/usage", _parsed(Usage))


def preflight(given: Mapping[str, Any], rows: Sequence[int], sample_rows: int) -> Call[Preflight]:
    body = {name: value for name, value in given.items() if value is not None}
    # It changes nothing, so it may be repeated.
    return Call("POST", "/preflight", _parsed(Preflight), {"json": {**body, "rows": list(rows), "sample_rows": sample_rows}}, repeat=True)


def upload(name: str, file: Any, format: Format | None) -> Call[DatasetUploaded]:
    options = {
        "data": {} if format is None else {"format": format},
        "files": {"file": (name, file, "application/octet-stream")},
        # One dataset, also when the answer was lost and the file is sent again.
        "headers": {"Idempotency-Key": secrets.token_hex(16)},
    }
    return Call("POST", "/datasets/upload", _parsed(DatasetUploaded), options, repeat=True)


def dataset(dataset_id: str) -> Call[Dataset]:
    return Call("GET", _path("datasets", dataset_id), _parsed(Dataset))


def preview(dataset_id: str, limit: int) -> Call[Preview]:
    return Call("GET", _path("datasets", dataset_id, "preview"), _parsed(Preview), _query(limit=limit))


def profile(dataset_id: str, tokenizer: str | None) -> Call[Profile]:
    return Call("GET", _path("datasets", dataset_id, "profile"), _parsed(Profile), _query(tokenizer=tokenizer))


def datasets(limit: int) -> Pages[Dataset]:
    return _pages("/datasets", Dataset, limit)


def submit(pipeline_config: Mapping[str, Any]) -> Call[JobCreated]:
    """A body as POST /jobs takes it, or what is inside its `pipeline_config`. With a run id it can be repeated and stays one job."""
    inner = pipeline_config.get("pipeline_config", pipeline_config)
    body: dict[str, Any] = dict(pipeline_config) if inner is not pipeline_config else {}
    if isinstance(inner, Mapping):
        inner = {**inner, "run_id": inner.get("run_id") or secrets.token_hex(8)}
    return Call("POST", "/jobs", _parsed(JobCreated), {"json": {**body, "pipeline_config": inner}}, repeat=True)


def job(job_id: str) -> Call[resources.Job]:
    return Call("GET", _path("jobs", job_id), _parsed(resources.Job))


def jobs(limit: int, status: JobStatus | None, after: datetime | None, before: datetime | None) -> Pages[resources.Job]:
    times = {"created_after": after and after.astimezone().isoformat(), "created_before": before and before.astimezone().isoformat()}
    return _pages("/jobs", resources.Job, limit, status=status, **times)


def cancel(job_id: str, keep: bool) -> Call[JobCancelled]:
    return Call("DELETE", _path("jobs", job_id), _parsed(JobCancelled), _query(keep=keep or None), repeat=True)


def retry(job_id: str) -> Call[JobCreated]:
    return Call("POST", _path("jobs", job_id, "retry"), _parsed(JobCreated))


def delete_artifacts(job_id: str, models: bool) -> Call[ArtifactsDeleted]:
    return Call("DELETE", _path("jobs", job_id, "artifacts"), _parsed(ArtifactsDeleted), _query(models=models or None), repeat=True)


def history(run_id: str, limit: int, after: str | None, level: Sequence[Level], agent: Sequence[str]) -> Call[LogHistory]:
    query = _query(limit=limit, after=after, level=list(level), agent=list(agent))
    return Call("GET", _path("logs", "history", run_id), _parsed(LogHistory), query)


def log_stream(run_id: str, after: str | None, level: Sequence[Level], agent: Sequence[str], timeout: httpx.Timeout) -> Call[None]:
    headers = {"Accept": "text/event-stream"} | ({} if after is None else {"Last-Event-ID": after})
    options = {**_query(level=list(level), agent=list(agent)), "headers": headers, "timeout": timeout}
    return Call("GET", _path("logs", "stream", run_id), _nothing, options)


def models(
    limit: int,
    *,
    base_model: str | None,
    name: str | None,
    alias: str | None,
    min_metric: Metrics | None,
    max_metric: Metrics | None,
    sort: str | None,
) -> Pages[ModelSummary]:
    thresholds = {"min_metric": min_metric, "max_metric": max_metric}
    given = {field: [f"{metric}:{value}" for metric, value in known.items()] for field, known in thresholds.items() if known is not None}
    query = _query(limit=limit, base_model=base_model, name=name, alias=alias, sort=sort, **given)

    def read(response: httpx.Response) -> Page[ModelSummary]:
        found = parse(ModelList, response)
        return Page(found.models, found.total, found.limit, found.offset, found.has_more)

    return lambda offset: Call("GET", "/models", read, {"params": {**query["params"], "offset": offset}})


def model(model_id: str | None, kind: type[ModelT]) -> Call[ModelT]:
    return Call("GET", _model(model_id), _parsed(kind))


def compare(model_ids: Sequence[str]) -> Call[Comparison]:
    return Call("GET", "/models/compare", _parsed(Comparison), _query(ids=",".join(model_ids)))


def model_card(model_id: str) -> Call[str]:
    return Call("GET", _model(model_id, "card"), lambda response: response.text)


def model_files(model_id: str, format: Export) -> Call[ModelFiles]:
    return Call("GET", _model(model_id, "files"), _parsed(ModelFiles), _query(format=format))


def model_download(model_id: str, format: Export) -> Call[None]:
    return Call("GET", _model(model_id, "download"), _nothing, _query(format=format))


def notebooks(limit: int) -> Pages[Notebook]:
    return _pages("/notebooks", Notebook, limit)


def notebooks_of(job_id: str, limit: int) -> Pages[JobNotebook]:
    return _pages(_path("jobs", job_id, "notebooks"), JobNotebook, limit)


def notebook_download(job_id: str, agent_name: str, format: NotebookFormat) -> Call[None]:
    return Call("GET", _path("jobs", job_id, "notebooks", agent_name), _nothing, _query(format=format))


def create_key(owner: str, scope: Scope, expires_in_days: int | None) -> Call[KeyCreated]:
    body = {"owner": owner, "scope": scope, "expires_in_days": expires_in_days}
    return Call("POST", "/keys", _parsed(KeyCreated), {"json": body})


def keys(limit: int) -> Pages[Key]:
    return _pages("/keys", Key, limit)


def revoke_key(key_id: str) -> Call[Key]:
    return Call("DELETE", _path("keys", key_id), _parsed(Key), repeat=True)


def audit(limit: int, actor: str | None, action: AuditAction | None, since: datetime | None) -> Pages[AuditEntry]:
    return _pages("/audit", AuditEntry, limit, actor=actor, action=action, since=None if since is None else since.astimezone().isoformat())


def file_name(response: httpx.Response) -> str | None:
    """The last part of the name in Content-Disposition: the platform does not choose folders on this machine."""
    for part in response.headers.get("content-disposition", "").split(";"):
        key, _, value = part.strip().partition("=")
        if key.lower() == "filename":
            name = Path(value.strip('"').replace("\\", "/")).name
            return name if name not in ("", ".", "..") else None
    return None


def parse(kind: type[ModelT], response: httpx.Response) -> ModelT:
    """The typed result in a response. Fields that a newer platform adds are passed over."""
    return kind.model_validate_json(response.content, extra="ignore")


def _parsed(kind: type[ModelT]) -> Callable[[httpx.Response], ModelT]:
    return lambda response: parse(kind, response)


def _nothing(_: httpx.Response) -> None:
    return None


def _pages(path: str, kind: type[ItemT], limit: int, **filters: Any) -> Pages[ItemT]:
    query = _query(limit=limit, **filters)["params"]

    def read(response: httpx.Response) -> Page[ItemT]:
        found = parse(resources.Page[kind], response)
        return Page(found.items, found.total, found.limit, found.offset, found.has_more)

    return lambda offset: Call("GET", path, read, {"params": {**query, "offset": offset}})


def _query(**values: Any) -> dict[str, dict[str, Any]]:
    return {"params": {name: value for name, value in values.items() if value is not None}}


def _path(*parts: str) -> str:
    return "".join(f"/{quote(part, safe='')}" for part in parts)


def _model(model_id: str | None, *parts: str) -> str:
    if model_id is None:
        raise NotFound("There is no model id: the job has registered no model (yet)")
    return _path("models", model_id, *parts)
