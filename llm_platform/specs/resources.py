"""What the REST API answers with, field by field as the specification has it."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Generic, Literal, TypeVar

from pydantic import ConfigDict, Field

from llm_platform.specs import examples
from llm_platform.specs.agents import Format
from llm_platform.specs.base import Resource, shown
from llm_platform.specs.gate import GateResult

JobStatus = Literal["pending", "running", "completed", "failed", "cancelled"]
NodeStatus = Literal["pending", "running", "completed", "failed", "cancelled"]
Level = Literal["INFO", "WARN", "ERROR", "METRIC"]
ServiceStatus = Literal["healthy", "unhealthy", "disabled"]
Layout = Literal["messages", "conversations", "instruction", "prompt_completion", "question_answer", "text_label", "text", "unknown"]
"""OpenAI's chat messages, ShareGPT's conversations, and tables of the named columns."""

ItemT = TypeVar("ItemT")


class ErrorBody(Resource):
    model_config = shown(examples.ERROR)

    error: str = Field(description="The error's code, such as NOT_FOUND.")
    message: str = Field(description="What is wrong, for a person to read.")
    metadata: dict[str, Any] = Field(
        default={}, description="What a program may want to know of the error; for refused input its `errors`, one for each field."
    )


def _shown_page(schema: dict[str, Any], page: type[Any]) -> None:
    """Gives a list the example of its items."""
    (item,) = page.__pydantic_generic_metadata__["args"] or (None,)
    if item is not None:
        items = item.model_config["json_schema_extra"]["examples"]
        schema["examples"] = [{"items": items, "total": len(items), "limit": 20, "offset": 0, "has_more": False}]


class Page(Resource, Generic[ItemT]):
    model_config = ConfigDict(json_schema_extra=_shown_page)

    items: list[ItemT] = Field(description="This part of the list.")
    total: int = Field(description="Number of items of the whole list.")
    limit: int = Field(description="Most items that were asked for, 1 to 100.")
    offset: int = Field(description="Number of items that were skipped.")
    has_more: bool = Field(description="Whether there are items behind these.")


class LengthStats(Resource):
    """Lengths of texts: of the text column's cells in characters, if nothing else is said."""

    avg_length: float = Field(description="Mean length.")
    min_length: int = Field(description="Least length.")
    max_length: int = Field(description="Greatest length.")


class Analysis(Resource):
    rows: int = Field(description="Number of rows.")
    columns: list[str] = Field(description="Names of the columns, in the file's order.")
    text_column: str | None = Field(description="The column whose texts are looked at; null if there is none.")
    stats: LengthStats | None = Field(description="Lengths of the text column's cells; null without such a column.")


class DatasetUploaded(Resource):
    model_config = shown(examples.DATASET_UPLOADED)

    dataset_id: str = Field(description="The dataset's id, by which pipelines name it.")
    filename: str = Field(description="Name of the file as it was sent.")
    size_bytes: int = Field(description="Size of the file as it was sent, in bytes.")
    s3_path: str = Field(description="Address of the stored file.")
    analysis: Analysis = Field(description="What was found in it.")


class Dataset(Resource):
    model_config = shown(examples.DATASET)

    dataset_id: str = Field(description="The dataset's id, by which pipelines name it.")
    filename: str = Field(description="Name of the file as it was sent.")
    format: Format = Field(description="The file's format, without a compression.")
    rows: int = Field(description="Number of rows.")
    columns: list[str] = Field(description="Names of the columns, in the file's order.")
    created_at: datetime = Field(description="When it was uploaded.")
    s3_path: str = Field(description="Address of the stored file.")


class Preview(Resource):
    model_config = shown(examples.PREVIEW)

    dataset_id: str = Field(description="The dataset's id.")
    samples: list[dict[str, Any]] = Field(description="The first rows, each with its cells by column.")
    total_rows: int = Field(description="Number of rows of the whole dataset.")


class HistogramBin(Resource):
    """`count` texts have `low` to `high` characters (or tokens), both included."""

    low: int = Field(description="Least length that is counted here.")
    high: int = Field(description="Greatest length that is counted here.")
    count: int = Field(description="Number of texts.")


class DetectedLayout(Resource):
    """What the columns of a dataset are for."""

    name: Layout = Field(description="What kind of dataset the columns' names make it; `unknown` if they fit none.")
    columns: dict[str, str] = Field(description="The column of each slot: messages, or instruction, input, output, system.")


class Turns(Resource):
    """The turns of a dataset of conversations. `unusable` rows hold none that could be trained on; the figures are of the others."""

    mean: float = Field(description="Mean number of turns of a conversation.")
    min: int = Field(description="Fewest turns.")
    max: int = Field(description="Most turns.")
    unusable: int = Field(description="Rows that hold no conversation to train on.")


class TokenLengths(Resource):
    """Lengths in tokens of `rows` rows, taken evenly from the whole dataset."""

    tokenizer: str = Field(description="The base model whose tokenizer counted.")
    rows: int = Field(description="Number of rows that were counted.")
    stats: LengthStats = Field(description="Their lengths in tokens.")
    histogram: list[HistogramBin] = Field(description="The same by ranges of length.")


class Profile(Resource):
    """What a person looks for in a dataset first.

    Lengths are of the analysis's text column; of conversations, they are of the contents of all turns together.
    """

    model_config = shown(examples.PROFILE)

    analysis: Analysis = Field(description="Rows, columns and lengths.")
    layout: DetectedLayout = Field(default=DetectedLayout(name="unknown", columns={}), description="What the columns are for.")
    histogram: list[HistogramBin] = Field(description="Lengths of the texts, by ranges in characters.")
    nulls: dict[str, int] = Field(description="Per column, the cells that are null or blank.")
    duplicates: int = Field(description="Rows that repeat an earlier row exactly.")
    languages: dict[str, float] = Field(
        default={}, description="Share of a sample's texts in each language (ISO 639-1; und: too short or unclear), the largest first."
    )
    turns: Turns | None = Field(default=None, description="Turns of conversations; null for other layouts.")
    shortest: dict[str, Any] | None = Field(description="The row with the shortest text, long cells cut.")
    longest: dict[str, Any] | None = Field(description="The row with the longest text, long cells cut.")
    tokens: TokenLengths | None = Field(default=None, description="There if a tokenizer was named.")


class Progress(Resource):
    completed_agents: list[str] = Field(description="Nodes that have completed, by name.")
    current_agent: str | None = Field(description="A node that runs now; null if none does.")
    total_agents: int = Field(description="Number of nodes of the pipeline.")


class JobNode(Resource):
    """How far a node of a job's pipeline is; `pending` until it starts, which in a job that failed or was cancelled it may never do."""

    agent_name: str = Field(description="The node's name in the pipeline.")
    agent_class: str = Field(description="What the node does, such as TrainingAgent.")
    status: JobStatus = Field(description="How far it is.")
    attempts: int = Field(description="How often it was started; a retry adds to it, unless what the node had made is used again.")
    started_at: datetime | None = Field(description="When it was last started.")
    ended_at: datetime | None = Field(description="When it ended; null before that.")


class JobResult(Resource):
    """What came out of a job, as far as it got; `error` is there when it failed."""

    models: list[str] = Field(default=[], description="Model ids.")
    datasets: list[str] = Field(default=[], description="Dataset ids, or addresses, that went in.")
    artifacts: dict[str, str] = Field(default={}, description="Address of each artifact, by node and kind.")
    metrics: dict[str, dict[str, float]] = Field(default={}, description="Figures of each node that has any.")
    error: ErrorBody | None = Field(default=None, description="Why the job failed; null if it did not.")


class JobCreated(Resource):
    model_config = shown(examples.JOB_CREATED)

    job_id: str = Field(description="The job's id: `job_` and its run id.")
    run_id: str = Field(description="The run's id, under which its log and its artifacts are.")
    status: JobStatus = Field(description="The job's state, `pending` if it is new.")
    created_at: datetime = Field(description="When it was accepted.")


class Job(Resource):
    model_config = shown(examples.JOB)

    job_id: str = Field(description="The job's id: `job_` and its run id.")
    run_id: str = Field(description="The run's id, under which its log and its artifacts are.")
    model_id: str | None = Field(description="The model that the job trained, the first of several; null while there is none.")
    status: JobStatus = Field(description="The job's state.")
    created_at: datetime = Field(description="When it was accepted.")
    started_at: datetime | None = Field(description="When it started to run; null before that.")
    ended_at: datetime | None = Field(description="When it completed, failed or was cancelled; null before that.")
    progress: Progress = Field(description="How many of its nodes are done.")
    result: JobResult | None = Field(description="What came out of it; null until the job has ended.")
    nodes: list[JobNode] = Field(default=[], description="Each node of the pipeline, in the pipeline's order.")


class JobCancelled(Resource):
    model_config = shown(examples.JOB_CANCELLED, examples.JOB_KEPT)

    job_id: str = Field(description="The job's id: `job_` and its run id.")
    status: Literal["cancelled"] = Field(description="The job's state from now on.")
    keeps: list[str] | None = Field(
        default=None,
        description="With `keep`: the training nodes that leave a model, or will as soon as they have ended. Empty: nothing to keep.",
    )


class KeptArtifact(Resource):
    """What was not deleted, and who needs it."""

    address: str = Field(description="Address of the artifact.")
    reason: str = Field(description="Who needs it.")


class ArtifactsDeleted(Resource):
    model_config = shown(examples.ARTIFACTS_DELETED)

    job_id: str = Field(description="The job's id: `job_` and its run id.")
    deleted: list[str] = Field(description="Addresses of the artifacts that are gone.")
    kept: list[KeptArtifact] = Field(description="What stays, and why.")
    models: list[str] = Field(description="Models that are gone too.")
    freed_bytes: int = Field(description="Bytes that the object store has free again.")


class ModelSummary(Resource):
    model_id: str = Field(description="The model's id.")
    run_id: str = Field(description="The run that trained it.")
    model_name: str = Field(description="Name of the registered model that it is a version of.")
    base_model: str = Field(description="The model that was fine-tuned.")
    created_at: datetime = Field(description="When it was registered.")
    metrics: dict[str, float] = Field(description="Its figures by name, such as accuracy.")
    exports: list[str] = Field(description="Formats in which it was exported.")
    aliases: list[str] = Field(default=[], description="Those of its version in MLflow, such as champion.")


class ModelList(Resource):
    model_config = shown(examples.MODEL_LIST)

    models: list[ModelSummary] = Field(description="This part of the list.")
    total: int = Field(description="Number of models of the whole list.")
    limit: int = Field(description="Most models that were asked for, 1 to 100.")
    offset: int = Field(description="Number of models that were skipped.")
    has_more: bool = Field(description="Whether there are models behind these.")


class Model(Resource):
    model_config = shown(examples.MODEL)

    model_id: str = Field(description="The model's id.")
    run_id: str = Field(description="The run that trained it.")
    model_name: str = Field(description="Name of the registered model that it is a version of.")
    base_model: str = Field(description="The model that was fine-tuned.")
    dataset_id: str | None = Field(
        description="The first uploaded dataset that it was trained on; null if it was a file of another origin."
    )
    training_config: dict[str, Any] = Field(description="Configuration of its training.")
    metrics: dict[str, float] = Field(description="Its figures by name, such as accuracy.")
    exports: dict[str, str] = Field(description="Address of each export, by format.")
    created_at: datetime = Field(description="When it was registered.")
    aliases: list[str] = Field(default=[], description="Those of its version in MLflow, such as champion.")
    gates: dict[str, GateResult] = Field(default={}, description="What the gate found, by export, and of GGUF by file (`gguf.q8_0`).")


class ModelFile(Resource):
    path: str = Field(description="Name within the export, with '/'.")
    size_bytes: int = Field(description="Size in bytes.")
    sha256: str | None = Field(description="None for a file that the platform did not store.")
    url: str | None = Field(description="A presigned address: whoever has it can read the file; None where files lie in a folder.")


class ModelFiles(Resource):
    """The files of one export, for clients that fetch them from the object store themselves."""

    model_config = shown(examples.MODEL_FILES)

    model_id: str = Field(description="The model's id.")
    format: Literal["adapter", "merged", "gguf"] = Field(description="The export's format.")
    address: str = Field(description="Address of the export's folder.")
    files: list[ModelFile] = Field(description="Every file of it.")
    expires_at: datetime | None = Field(description="When the addresses stop working; None if there are none.")


class LogLine(Resource):
    """One line of a run's log. METRIC lines carry `step`, `epoch` and their figures beside the message, comments `type` and `author`."""

    model_config = shown(examples.LOG_LINE) | {"extra": "allow"}

    run_id: str = Field(description="The run whose log this is.")
    timestamp: datetime = Field(description="When it was written.")
    agent: str | None = Field(description="Class of the agent that wrote it; null for the platform itself.")
    agent_name: str | None = Field(description="The node that wrote it; null for the platform itself.")
    level: Level = Field(description="INFO, WARN, ERROR, or METRIC for figures of a training.")
    message: str = Field(description="The text, for a person to read.")


class LogHistory(Resource):
    model_config = shown(examples.LOG_HISTORY)

    run_id: str = Field(description="The run whose log this is.")
    logs: list[LogLine] = Field(description="Lines, oldest first.")
    total: int = Field(description="Number of lines that fit what was asked for, on all pages.")
    next_cursor: str | None = Field(default=None, description="Pass it as `after` to read on.")


class Quota(Resource):
    used: int = Field(description="How much the user has now.")
    limit: int | None = Field(description="Null where there is no quota.")


class Usage(Resource):
    """What a user has at the moment."""

    model_config = shown(examples.USAGE)

    owner: str | None = Field(description="The user; null without authentication.")
    dataset_bytes: Quota = Field(description="Sizes of the files that the user uploaded.")
    open_jobs: Quota = Field(description="Jobs that wait or run.")


class Health(Resource):
    model_config = shown(examples.HEALTH)

    status: Literal["healthy", "unhealthy"] = Field(description="`healthy` if no service is unhealthy.")
    version: str = Field(description="The platform's version.")
    services: dict[str, ServiceStatus] = Field(description="State of each service; `disabled` if it is not configured.")
