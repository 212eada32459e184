"""What POST /preflight is asked and answers: what a pipeline would do to its rows, before any GPU is asked for."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from llm_platform.specs import examples
from llm_platform.specs.agents import PreprocessingConfig, TrainingConfig
from llm_platform.specs.base import Resource, Spec, shown
from llm_platform.specs.pipeline import PipelineConfig
from llm_platform.specs.resources import ErrorBody

Method = Literal["lora", "qlora", "full"]


class PreflightRequest(Spec):
    """Either a whole pipeline, or a dataset with the config of its preprocessing (and of a training)."""

    model_config = shown(
        {"pipeline_config": examples.PIPELINE},
        {
            "dataset_id": "ds_xyz789",
            "config": {**examples.PREPROCESSING, "clean": {"html": True}},
            "training": {"method": "qlora", "lora_r": 16},
            "sample_rows": 1000,
            "rows": [0],
        },
    )

    pipeline_config: PipelineConfig | None = Field(default=None, description="A whole pipeline, as a job has it.")
    dataset_id: str | None = Field(
        default=None, pattern=r"^ds_[A-Za-z0-9]{1,64}$", description="An uploaded dataset, instead of a pipeline."
    )
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
    id: int = Field(description="The token's number in the vocabulary.")
    text: str = Field(description="The text that it stands for.")
    trained: bool = Field(description="Whether it counts in the loss.")


class ShownRow(Resource):
    """A row as it will be trained on: its text is that of its tokens, one after the other."""

    row: int = Field(description="Number of the row, from 0.")
    tokens: list[ShownToken] = Field(description="Its tokens, one by one.")
    dropped: str | None = Field(default=None, description="Why the row would not be trained on; then it has no tokens.")


class TokenStatistics(Resource):
    """Over the rows that fit, in tokens."""

    rows: int = Field(description="Number of rows.")
    total: int = Field(description="Tokens of all rows.")
    trained: int = Field(description="Tokens that count in the loss.")
    masked_share: float = Field(description="Share of the tokens that are not trained.")
    mean: float = Field(description="Mean length of a row.")
    median: float = Field(description="Median length of a row.")
    p95: float = Field(description="Length that 95% of the rows do not exceed.")
    max: int = Field(description="Length of the longest row.")
    eos_rows: int = Field(description="Rows that end with the end-of-sequence token.")


class PreflightNode(Resource):
    """A preprocessing node, run for real on the first rows of its inputs."""

    agent_name: str = Field(description="The node's name in the pipeline.")
    rows_total: int = Field(description="Rows of its inputs, about.")
    rows_seen: int = Field(description="Rows that were looked at.")
    funnel: dict[str, int] = Field(description="Rows left after each stage, in order.")
    report: dict[str, Any] = Field(description="The preprocessing report of the rows seen.")
    tokens: TokenStatistics | None = Field(description="Lengths of the rows that are left.")
    truncated: int = Field(description="Rows that would be cut to max_length.")
    no_trainable_token: int = Field(description="Rows that would be dropped since nothing in them is trained.")
    shown: list[ShownRow] = Field(description="The rows that were asked for.")


class MemoryEstimate(Resource):
    """In bytes."""

    weights: int = Field(description="The model's weights.")
    trainable: int = Field(description="Weights that are trained and lie beside the model's.")
    optimizer: int = Field(description="Gradients and the optimizer's moments.")
    activations: int = Field(description="What a forward pass keeps for the backward pass, with the logits.")
    total: int = Field(description="All of it, with what allocators take on top.")


class PreflightTraining(Resource):
    """What a training node would take. Figures beyond the rows seen are in proportion."""

    agent_name: str = Field(description="The node's name in the pipeline.")
    method: Method = Field(description="How it trains.")
    train_rows: int = Field(description="Rows of the train split.")
    steps: int = Field(description="Optimizer steps.")
    tokens: int = Field(description="Tokens of the train split, over all epochs.")
    trainable_parameters: int = Field(description="Weights that are trained.")
    gpu_memory: dict[Method, MemoryEstimate] = Field(description="Memory on each GPU, by method.")
    cpu_memory: MemoryEstimate = Field(description="Memory on a CPU, with this method.")
    seconds: dict[str, float] = Field(description="By device: this machine's CPU as measured, GPUs by their data sheets.")


_WARNING = {
    "agent": "preprocessing",
    "error": "DATASET_ERROR",
    "message": "2 of 1,000 rows have more than 1,024 tokens and would be dropped",
    "metadata": {"rows": 2},
}


class PreflightProblem(ErrorBody):
    """What would make the job fail, or a reason to look twice."""

    model_config = shown(_WARNING)

    agent: str = Field(description="The node's name in the pipeline.")


def _memory(weights: int, trainable: int, optimizer: int, activations: int) -> dict[str, int]:
    parts = {"weights": weights, "trainable": trainable, "optimizer": optimizer, "activations": activations}
    return {**parts, "total": round(1.1 * sum(parts.values()))}


_EXAMPLE = {
    "ok": True,
    "nodes": [
        {
            "agent_name": "preprocessing",
            "rows_total": 10000,
            "rows_seen": 1000,
            "funnel": {"in": 1000, "cleaned": 999, "deduplicated": 990, "fitting": 988, "train": 790, "validation": 99, "test": 99},
            "report": {"layout": "question_answer", "rows_in": 1000, "duplicates": 9, "too_long": 2},
            "tokens": {
                "rows": 988,
                "total": 82004,
                "trained": 24601,
                "masked_share": 0.7,
                "mean": 83.0,
                "median": 74.0,
                "p95": 190.0,
                "max": 1011,
                "eos_rows": 988,
            },
            "truncated": 0,
            "no_trainable_token": 0,
            "shown": [
                {
                    "row": 0,
                    "tokens": [{"id": 673, "text": "### Response:\n", "trained": False}, {"id": 29896, "text": "1", "trained": True}],
                    "dropped": None,
                }
            ],
        }
    ],
    "trainings": [
        {
            "agent_name": "training",
            "method": "qlora",
            "train_rows": 7900,
            "steps": 988,
            "tokens": 655700,
            "trainable_parameters": 39_976_960,
            "gpu_memory": {
                "lora": _memory(13_476_831_232, 159_907_840, 479_723_520, 9_126_805_504),
                "qlora": _memory(3_865_470_566, 159_907_840, 479_723_520, 9_126_805_504),
                "full": _memory(26_953_662_464, 0, 80_860_987_392, 9_126_805_504),
            },
            "cpu_memory": _memory(7_731_052_134, 159_907_840, 479_723_520, 18_253_611_008),
            "seconds": {"cpu": 86400.0, "A100": 141.6, "H100": 44.7, "H200": 44.7},
        }
    ],
    "warnings": [_WARNING],
    "errors": [],
}


class Preflight(Resource):
    """`ok` says that nothing was found that would make the job fail."""

    model_config = shown(_EXAMPLE)

    ok: bool = Field(description="Whether nothing was found that would make the job fail.")
    nodes: list[PreflightNode] = Field(description="The preprocessing nodes that could be tried.")
    trainings: list[PreflightTraining] = Field(description="What each training node would take.")
    warnings: list[PreflightProblem] = Field(description="Reasons to look twice.")
    errors: list[PreflightProblem] = Field(description="What would make the job fail.")
