"""What is known of a figure beside its value, and how models compare on the same examples."""

from __future__ import annotations

from pydantic import Field

from llm_platform.specs.base import Resource, shown


class Interval(Resource):
    """A 95% bootstrap interval over rows, and how many rows the figure stands on."""

    low: float = Field(description="Lower end.")
    high: float = Field(description="Upper end.")
    count: int = Field(description="Number of rows.")


class Confusion(Resource):
    """`rows[i][j]` answers of label `labels[i]` named label j; the last column counts those that named none or several."""

    labels: list[str] = Field(description="The labels, in the order of rows and columns.")
    rows: list[list[int]] = Field(description="Number of answers, by the right label and by the one that was named.")


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

    row: int = Field(description="The example's row in the data, from 0.")
    prompt: str = Field(description="What the models were asked, its end if it is long.")
    reference: str = Field(description="The right answer.")
    baseline_answer: str = Field(description="What the baseline answered.")
    answer: str = Field(description="What the model answered.")


class ComparedModel(Resource):
    """One model's figures on the common examples."""

    model_id: str = Field(description="A model id, or the name of a base model.")
    metrics: dict[str, float] = Field(description="Its figures by name.")
    intervals: dict[str, Interval] = Field(description="How sure each figure is, by the same names.")
    cost: Cost = Field(description="What the model costs.")


class Difference(Resource):
    """A model against the baseline, example by example."""

    model_id: str = Field(description="The model that is held against the baseline.")
    differences: dict[str, float] = Field(description="The model's figure minus the baseline's.")
    intervals: dict[str, Interval] = Field(description="Paired: both models on the same resampled rows.")
    to_right: int | None = Field(description="Examples that the baseline answered wrong and the model right; None without answers.")
    to_wrong: int | None = Field(description="Examples that the baseline answered right and the model wrong; None without answers.")
    right_examples: list[Flip] = Field(description="The first of them.")
    wrong_examples: list[Flip] = Field(description="The first of the others: those that the model turned wrong.")


_COST = {
    "parameters": 6_746_804_224,
    "adapter_parameters": 8_388_608,
    "weights_mb": 12_868.5,
    "peak_memory_mb": 14_203.1,
    "scoring_seconds": 38.2,
    "train_seconds": 512.4,
}


class Comparison(Resource):
    """Models on the same examples, each against the baseline."""

    model_config = shown(
        {
            "baseline": "model_abc123",
            "examples": 200,
            "models": [
                {
                    "model_id": "model_abc123",
                    "metrics": {"accuracy": 0.92},
                    "intervals": {"accuracy": {"low": 0.88, "high": 0.955, "count": 200}},
                    "cost": _COST,
                },
                {
                    "model_id": "model_def456",
                    "metrics": {"accuracy": 0.915},
                    "intervals": {"accuracy": {"low": 0.875, "high": 0.95, "count": 200}},
                    "cost": _COST,
                },
            ],
            "differences": [
                {
                    "model_id": "model_def456",
                    "differences": {"accuracy": -0.005},
                    "intervals": {"accuracy": {"low": -0.015, "high": 0.0, "count": 200}},
                    "to_right": 0,
                    "to_wrong": 1,
                    "right_examples": [],
                    "wrong_examples": [
                        {
                            "row": 17,
                            "prompt": "What is 17 plus 1?",
                            "reference": "18",
                            "baseline_answer": "18",
                            "answer": "19",
                        }
                    ],
                }
            ],
        }
    )

    baseline: str = Field(description="The model that the others are held against.")
    examples: int = Field(description="Number of examples that all models answered.")
    models: list[ComparedModel] = Field(description="Each model, the baseline too.")
    differences: list[Difference] = Field(description="Each model but the baseline.")


class Promotion(Resource):
    """What the gate decided of the best model."""

    model_id: str = Field(description="The best model.")
    against: str | None = Field(description="The champion until now, or the base model; None if neither could be compared.")
    metric: str = Field(description="The metric that decides.")
    gain: float | None = Field(description="How much better it is in the metric; of a loss or perplexity, how much lower.")
    regressions: int | None = Field(description="Examples that it turned wrong.")
    holds: bool = Field(description="Whether the gate holds.")
    promoted: bool = Field(description="Whether the alias champion was set.")
    reasons: list[str] = Field(description="Why the gate does not hold, or why the alias was not set.")
