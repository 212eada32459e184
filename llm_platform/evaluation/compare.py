"""Models on the same examples: `compare(models)`, and the gate that a promotion has to pass: `judge(...)`. Needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from llm_platform.errors import InvalidConfig
from llm_platform.evaluation.bootstrap import Figure, intervals
from llm_platform.evaluation.figures import figures_of
from llm_platform.specs.agents import LOWER_IS_BETTER, METRICS, Metric
from llm_platform.specs.comparison import ComparedModel, Comparison, Cost, Difference, Flip, Interval, Promotion

EXAMPLES = 20
"""Most flipped examples that are shown, of each kind."""
TAIL = 400
"""Characters of a prompt that an example shows."""
KEY = ("row", "prompt", "reference")


@dataclass(frozen=True)
class Evaluated:
    """The per-example results of one model: those of the columns `<part>_...` of a table that `evaluate` wrote."""

    model_id: str
    table: pl.DataFrame
    part: str
    cost: Cost
    source: str | None = None
    """What the rows are numbered in: a dataset id, or digests of files. None if that is not known."""

    def figures(self) -> dict[str, Figure]:
        return figures_of(self.table, self.part, METRICS)

    def same_examples(self, other: Evaluated) -> bool:
        """Whether rows and references are the same, and either the prompts too or, for another template, what the rows are of."""
        columns = KEY if self.source is None or self.source != other.source else ("row", "reference")
        return self.table.select(columns).equals(other.table.select(columns))


def compare(models: Sequence[Evaluated], baseline: str) -> Comparison:
    """Each model's figures, and each one against the model `baseline`, paired example by example.

    Raises InvalidConfig if two were not evaluated on the same examples.
    """
    (first,) = (model for model in models if model.model_id == baseline)
    for model in models:
        if not model.same_examples(first):
            raise InvalidConfig(
                f"'{model.model_id}' and '{baseline}' were not evaluated on the same examples; "
                "evaluate both on one dataset_id, with one max_samples",
                models=[baseline, model.model_id],
            )
    figures = {model.model_id: model.figures() for model in models}
    return Comparison(
        baseline=baseline,
        examples=first.table.height,
        models=[
            ComparedModel(
                model_id=model.model_id,
                metrics={name: figure.measured for name, figure in figures[model.model_id].items()},
                intervals=intervals(figures[model.model_id]),
                cost=model.cost,
            )
            for model in models
        ],
        differences=[_difference(model, first, figures) for model in models if model is not first],
    )


def _difference(model: Evaluated, first: Evaluated, figures: dict[str, dict[str, Figure]]) -> Difference:
    mine, theirs = figures[model.model_id], figures[first.model_id]
    paired = {name: figure.minus(theirs[name]) for name, figure in mine.items() if name in theirs}
    to_right = _flips(model, first, right=True)
    to_wrong = _flips(model, first, right=False)
    return Difference(
        model_id=model.model_id,
        differences={name: figure.measured for name, figure in paired.items()},
        intervals=intervals(paired),
        to_right=None if to_right is None else to_right.height,
        to_wrong=None if to_wrong is None else to_wrong.height,
        right_examples=_examples(to_right),
        wrong_examples=_examples(to_wrong),
    )


def _flips(model: Evaluated, first: Evaluated, *, right: bool) -> pl.DataFrame | None:
    """The examples that one of both alone answered right: the model, or else the baseline. None where one gave no answers."""
    if f"{model.part}_correct" not in model.table.columns or f"{first.part}_correct" not in first.table.columns:
        return None
    both = model.table.select(
        *KEY,
        baseline_answer=first.table[f"{first.part}_answer"],
        answer=pl.col(f"{model.part}_answer"),
        was=first.table[f"{first.part}_correct"],
        now=pl.col(f"{model.part}_correct"),
    )
    return both.filter((pl.col("was") != right) & (pl.col("now") == right))


def _examples(flips: pl.DataFrame | None) -> list[Flip]:
    if flips is None:
        return []
    rows = flips.head(EXAMPLES).select(*KEY, "baseline_answer", "answer").to_dicts()
    return [Flip(**{**row, "prompt": row["prompt"][-TAIL:]}) for row in rows]


def gain(metric: Metric, difference: float) -> float:
    """By how much a difference is better."""
    return 0.0 - difference if metric in LOWER_IS_BETTER else difference


def best(models: Sequence[Evaluated], metric: Metric) -> Evaluated | None:
    """The model that is best in the metric, the first of equals; None if none of them has it."""
    known = [(model, figure.measured) for model in models if (figure := model.figures().get(metric))]
    return max(known, key=lambda item: gain(metric, item[1]))[0] if known else None


def judge(comparison: Comparison, model_id: str, metric: Metric, min_gain: float, max_regressions: int | None) -> Promotion:
    """Whether a model is enough better than the comparison's baseline, and if not, why. Nothing is promoted here."""
    (found,) = (item for item in comparison.differences if item.model_id == model_id)
    reasons: list[str] = []
    measured = gain(metric, found.differences[metric]) if metric in found.differences else None
    if measured is None:
        reasons.append(f"{metric} was not measured for both '{model_id}' and '{comparison.baseline}'")
    else:
        shown = f"The gain in {metric} over '{comparison.baseline}' is {measured:.4g} ({_shown(metric, found.intervals[metric])})"
        if measured < min_gain:
            reasons.append(f"{shown}, below min_gain {min_gain:g}")
        elif measured <= 0:
            reasons.append(f"{shown}: it is not better")
    if max_regressions is not None and found.to_wrong is None:
        reasons.append(f"'{model_id}' and '{comparison.baseline}' did not both answer, so regressions cannot be counted")
    elif max_regressions is not None and found.to_wrong is not None and found.to_wrong > max_regressions:
        reasons.append(f"{found.to_wrong} examples went from right to wrong, more than max_regressions {max_regressions}")
    return Promotion(
        model_id=model_id,
        against=comparison.baseline,
        metric=metric,
        gain=measured,
        regressions=found.to_wrong,
        holds=not reasons,
        promoted=False,
        reasons=reasons,
    )


def _shown(metric: Metric, interval: Interval) -> str:
    low, high = sorted((gain(metric, interval.low), gain(metric, interval.high)))
    return f"95% interval {low:.3g} to {high:.3g}"
