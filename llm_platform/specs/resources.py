"""What the REST API answers with, field by field as the specification has it."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Generic, Literal, TypeVar

from pydantic import Field

from llm_platform.specs.agents import Format
from llm_platform.specs.base import Resource
from llm_platform.specs.gate import GateResult

JobStatus = Literal["pending", "running", "completed", "failed", "cancelled"]
NodeStatus = Literal["pending", "running", "completed", "failed", "cancelled"]
Level = Literal["INFO", "WARN", "ERROR", "METRIC"]
ServiceStatus = Literal["healthy", "unhealthy", "disabled"]
Layout = Literal["messages", "conversations", "instruction", "prompt_completion", "question_answer", "text_label", "text", "unknown"]
"""OpenAI's chat messages, ShareGPT's conversations, and tables of the named columns."""

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
    """Lengths of texts: of the text column's cells in characters, if nothing else is said."""

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


class HistogramBin(Resource):
    """`count` texts have `low` to `high` characters (or tokens), both included."""

    low: int
    high: int
    count: int


class DetectedLayout(Resource):
    """What the columns of a dataset are for."""

    name: Layout
    columns: dict[str, str] = Field(description="The column of each slot: messages, or instruction, input, output, system.")


class Turns(Resource):
    """The turns of a dataset of conversations. `unusable` rows hold none that could be trained on; the figures are of the others."""

    mean: float
    min: int
    max: int
    unusable: int


class TokenLengths(Resource):
    """Lengths in tokens of `rows` rows, taken evenly from the whole dataset."""

    tokenizer: str
    rows: int
    stats: LengthStats
    histogram: list[HistogramBin]


class Profile(Resource):
    """What a person looks for in a dataset first.

    Lengths are of the analysis's text column; of conversations, they are of the contents of all turns together.
    """

    analysis: Analysis
    layout: DetectedLayout = DetectedLayout(name="unknown", columns={})
    histogram: list[HistogramBin]
    nulls: dict[str, int] = Field(description="Per column, the cells that are null or blank.")
    duplicates: int = Field(description="Rows that repeat an earlier row exactly.")
    languages: dict[str, float] = Field(
        default={}, description="Share of a sample's texts in each language (ISO 639-1; und: too short or unclear), the largest first."
    )
    turns: Turns | None = None
    shortest: dict[str, Any] | None = Field(description="The row with the shortest text, long cells cut.")
    longest: dict[str, Any] | None
    tokens: TokenLengths | None = Field(default=None, description="There if a tokenizer was named.")


class Progress(Resource):
    completed_agents: list[str]
    current_agent: str | None
    total_agents: int


class JobNode(Resource):
    """How far a node of a job's pipeline is; `pending` until it starts, which in a job that failed or was cancelled it may never do."""

    agent_name: str
    agent_class: str
    status: JobStatus
    attempts: int = Field(description="How often it was started; a retry adds to it, unless what the node had made is used again.")
    started_at: datetime | None = Field(description="When it was last started.")
    ended_at: datetime | None


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
    nodes: list[JobNode] = Field(default=[], description="Each node of the pipeline, in the pipeline's order.")


class JobCancelled(Resource):
    job_id: str
    status: Literal["cancelled"]
    keeps: list[str] | None = Field(
        default=None,
        description="With `keep`: the training nodes that leave a model, or will as soon as they have ended. Empty: nothing to keep.",
    )


class KeptArtifact(Resource):
    """What was not deleted, and who needs it."""

    address: str
    reason: str


class ArtifactsDeleted(Resource):
    job_id: str
    deleted: list[str] = Field(description="Addresses of the artifacts that are gone.")
    kept: list[KeptArtifact]
    models: list[str] = Field(description="Models that are gone too.")
    freed_bytes: int


class ModelSummary(Resource):
    model_id: str
    run_id: str
    model_name: str
    base_model: str
    created_at: datetime
    metrics: dict[str, float]
    exports: list[str]
    aliases: list[str] = Field(default=[], description="Those of its version in MLflow, such as champion.")


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
    aliases: list[str] = Field(default=[], description="Those of its version in MLflow, such as champion.")
    gates: dict[str, GateResult] = Field(default={}, description="What the gate found, by export, and of GGUF by file (`gguf.q8_0`).")


class ModelFile(Resource):
    path: str = Field(description="Name within the export, with '/'.")
    size_bytes: int
    sha256: str | None = Field(description="None for a file that the platform did not store.")
    url: str | None = Field(description="A presigned address: whoever has it can read the file; None where files lie in a folder.")


class ModelFiles(Resource):
    """The files of one export, for clients that fetch them from the object store themselves."""

    model_id: str
    format: Literal["adapter", "merged", "gguf"]
    address: str
    files: list[ModelFile]
    expires_at: datetime | None = Field(description="When the addresses stop working; None if there are none.")


class LogLine(Resource):
    """One line of a run's log. METRIC lines carry `step`, `epoch` and their figures beside the message, comments `type` and `author`."""

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


class Quota(Resource):
    used: int
    limit: int | None = Field(description="Null where there is no quota.")


class Usage(Resource):
    """What a user has at the moment."""

    owner: str | None
    dataset_bytes: Quota = Field(description="Sizes of the files that the user uploaded.")
    open_jobs: Quota = Field(description="Jobs that wait or run.")


class Health(Resource):
    status: Literal["healthy", "unhealthy"]
    version: str
    services: dict[str, ServiceStatus]
