"""What is known of a figure beside its value, and how models compare on the same examples."""

from __future__ import annotations

from pydantic import Field

from llm_platform.specs.base import Resource


class Interval(Resource):
    """A 95% bootstrap interval over rows, and how many rows the figure stands on."""

    low: float
    high: float
    count: int


class Confusion(Resource):
    """`rows[i][j]` answers of label `labels[i]` named label j; the last column counts those that named none or several."""

    labels: list[str]
    rows: list[list[int]]


class Cost(Resource):
    """What a model costs; None where it was not measured."""

    parameters: int | None = Field(default=None, description="Weights, those of an adapter included.")
    adapter_parameters: int | None = Field(default=None, description="Weights of the adapter alone; none for a whole model.")
    weights_mb: float | None = Field(default=None, description="Memory of the weights as they were loaded, in MiB.")
    peak_memory_mb: float | None = Field(default=None, description="Highest memory while it was scored, in MiB; of a GPU only.")
    scoring_seconds: float | None = Field(default=None, description="Generating the answers and measuring the loss.")
    train_seconds: float | None = Field(default=None, description="Training it.")


class Flip(Resource):
    """An example that one of two models answered right. Long prompts are cut at their beginning."""

    row: int
    prompt: str
    reference: str
    baseline_answer: str
    answer: str


class ComparedModel(Resource):
    """One model's figures on the common examples."""

    model_id: str = Field(description="A model id, or the name of a base model.")
    metrics: dict[str, float]
    intervals: dict[str, Interval]
    cost: Cost


class Difference(Resource):
    """A model against the baseline, example by example."""

    model_id: str
    differences: dict[str, float] = Field(description="The model's figure minus the baseline's.")
    intervals: dict[str, Interval] = Field(description="Paired: both models on the same resampled rows.")
    to_right: int | None = Field(description="Examples that the baseline answered wrong and the model right; None without answers.")
    to_wrong: int | None = Field(description="Examples that the baseline answered right and the model wrong; None without answers.")
    right_examples: list[Flip] = Field(description="The first of them.")
    wrong_examples: list[Flip]


class Comparison(Resource):
    """Models on the same examples, each against the baseline."""

    baseline: str
    examples: int
    models: list[ComparedModel]
    differences: list[Difference]


class Promotion(Resource):
    """What the gate decided of the best model."""

    model_id: str
    against: str | None = Field(description="The champion until now, or the base model; None if neither could be compared.")
    metric: str
    gain: float | None = Field(description="How much better it is in the metric; of a loss or perplexity, how much lower.")
    regressions: int | None = Field(description="Examples that it turned wrong.")
    holds: bool
    promoted: bool = Field(description="Whether the alias champion was set.")
    reasons: list[str] = Field(description="Why the gate does not hold, or why the alias was not set.")
