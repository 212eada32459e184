"""What POST /preflight is asked and answers: what a pipeline would do to its rows, before any GPU is asked for."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from llm_platform.specs.agents import PreprocessingConfig, TrainingConfig
from llm_platform.specs.base import Resource, Spec
from llm_platform.specs.pipeline import PipelineConfig
from llm_platform.specs.resources import ErrorBody

Method = Literal["lora", "qlora", "full"]


class PreflightRequest(Spec):
    """Either a whole pipeline, or a dataset with the config of its preprocessing (and of a training)."""

    pipeline_config: PipelineConfig | None = None
    dataset_id: str | None = Field(default=None, pattern=r"^ds_[A-Za-z0-9]{1,64}$")
    config: PreprocessingConfig | None = Field(default=None, description="Of the preprocessing, with dataset_id.")
    training: TrainingConfig | None = Field(default=None, description="Of the training, with dataset_id; its defaults if not given.")
    sample_rows: int = Field(default=10_000, ge=1, le=100_000, description="First rows of each dataset that are looked at.")
    rows: list[int] = Field(default=[0, 1, 2], max_length=20, description="Rows, from 0, whose tokens are shown one by one.")

    @model_validator(mode="after")
    def _one_form(self) -> PreflightRequest:
        alone = self.dataset_id is not None and self.config is not None
        if (self.pipeline_config is None) != alone or (
            self.pipeline_config is not None and (self.dataset_id or self.config or self.training)
        ):
            raise ValueError("give either pipeline_config, or dataset_id and config (and training)")
        if any(row < 0 for row in self.rows):
            raise ValueError("rows count from 0")
        return self


class ShownToken(Resource):
    id: int
    text: str
    trained: bool


class ShownRow(Resource):
    """A row as it will be trained on: its text is that of its tokens, one after the other."""

    row: int
    tokens: list[ShownToken]
    dropped: str | None = Field(default=None, description="Why the row would not be trained on; then it has no tokens.")


class TokenStatistics(Resource):
    """Over the rows that fit, in tokens."""

    rows: int
    total: int
    trained: int
    masked_share: float = Field(description="Share of the tokens that are not trained.")
    mean: float
    median: float
    p95: float
    max: int
    eos_rows: int = Field(description="Rows that end with the end-of-sequence token.")


class PreflightNode(Resource):
    """A preprocessing node, run for real on the first rows of its inputs."""

    agent_name: str
    rows_total: int
    rows_seen: int
    funnel: dict[str, int]
    report: dict[str, Any] = Field(description="The preprocessing report of the rows seen.")
    tokens: TokenStatistics | None
    truncated: int
    no_trainable_token: int
    shown: list[ShownRow]


class MemoryEstimate(Resource):
    """In bytes."""

    weights: int
    trainable: int
    optimizer: int
    activations: int
    total: int


class PreflightTraining(Resource):
    """What a training node would take. Figures beyond the rows seen are in proportion."""

    agent_name: str
    method: Method
    train_rows: int
    steps: int
    tokens: int
    trainable_parameters: int
    gpu_memory: dict[Method, MemoryEstimate]
    cpu_memory: MemoryEstimate
    seconds: dict[str, float] = Field(description="By device: this machine's CPU as measured, GPUs by their data sheets.")


class PreflightProblem(ErrorBody):
    """What would make the job fail, or a reason to look twice."""

    agent: str


class Preflight(Resource):
    """`ok` says that nothing was found that would make the job fail."""

    ok: bool
    nodes: list[PreflightNode]
    trainings: list[PreflightTraining]
    warnings: list[PreflightProblem]
    errors: list[PreflightProblem]
