"""What the REST API answers with, field by field as the specification has it."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Generic, Literal, TypeVar

from pydantic import Field

from llm_platform.specs.agents import Format
from llm_platform.specs.base import Resource

JobStatus = Literal["pending", "running", "completed", "failed", "cancelled"]
NodeStatus = Literal["pending", "running", "completed", "failed", "cancelled"]
Level = Literal["INFO", "WARN", "ERROR", "METRIC"]
ServiceStatus = Literal["healthy", "unhealthy", "disabled"]
ItemT = TypeVar("ItemT")


class ErrorBody(Resource):
    error: str
    message: str
    metadata: dict[str, Any] = {}


class Page(Resource, Generic[ItemT]):
    items: list[ItemT]
    total: int
    limit: int
    offset: int
    has_more: bool


class LengthStats(Resource):
    """Lengths of the text column's cells, in characters."""

    avg_length: float
    min_length: int
    max_length: int


class Analysis(Resource):
    rows: int
    columns: list[str]
    text_column: str | None
    stats: LengthStats | None


class DatasetUploaded(Resource):
    dataset_id: str
    filename: str
    size_bytes: int
    s3_path: str
    analysis: Analysis


class Dataset(Resource):
    dataset_id: str
    filename: str
    format: Format
    rows: int
    columns: list[str]
    created_at: datetime
    s3_path: str


class Preview(Resource):
    dataset_id: str
    samples: list[dict[str, Any]]
    total_rows: int


class Progress(Resource):
    completed_agents: list[str]
    current_agent: str | None
    total_agents: int


class JobResult(Resource):
    """What came out of a job, as far as it got; `error` is there when it failed."""

    models: list[str] = Field(default=[], description="Model ids.")
    datasets: list[str] = Field(default=[], description="Dataset ids, or addresses, that went in.")
    artifacts: dict[str, str] = Field(default={}, description="Address of each artifact, by node and kind.")
    metrics: dict[str, dict[str, float]] = Field(default={}, description="Figures of each node that has any.")
    error: ErrorBody | None = None


class JobCreated(Resource):
    job_id: str
    run_id: str
    status: JobStatus
    created_at: datetime


class Job(Resource):
    job_id: str
    run_id: str
    model_id: str | None
    status: JobStatus
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    progress: Progress
    result: JobResult | None


class JobCancelled(Resource):
    job_id: str
    status: Literal["cancelled"]


class ModelSummary(Resource):
    model_id: str
    run_id: str
    model_name: str
    base_model: str
    created_at: datetime
    metrics: dict[str, float]
    exports: list[str]


class ModelList(Resource):
    models: list[ModelSummary]
    total: int
    limit: int
    offset: int
    has_more: bool


class Model(Resource):
    model_id: str
    run_id: str
    model_name: str
    base_model: str
    dataset_id: str | None
    training_config: dict[str, Any]
    metrics: dict[str, float]
    exports: dict[str, str]
    created_at: datetime


class LogLine(Resource):
    """One line of a run's log. METRIC lines carry `step`, `epoch` and their figures beside the message."""

    run_id: str
    timestamp: datetime
    agent: str | None
    agent_name: str | None
    level: Level
    message: str

    model_config = Resource.model_config | {"extra": "allow"}


class LogHistory(Resource):
    run_id: str
    logs: list[LogLine]
    total: int
    next_cursor: str | None = Field(default=None, description="Pass it as `after` to read on.")


class Health(Resource):
    status: Literal["healthy", "unhealthy"]
    version: str
    services: dict[str, ServiceStatus]
