"""Models beside each other: paired differences, which examples flipped, and the gate."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest

from llm_platform.errors import InvalidConfig
from llm_platform.evaluation.charts import comparison_png
from llm_platform.evaluation.compare import EXAMPLES, Evaluated, best, compare, judge
from llm_platform.evaluation.figures import columns_of
from llm_platform.specs.comparison import Cost

ROWS = 100


def model(name: str, right: list[int], *, loss: float = 2.0, rows: int = ROWS, **changes: Any) -> Evaluated:
    """A model that answers the rows `right` as the reference has it, each with its row's number, and is wrong on the others."""
    references = [f"r {row}" for row in range(rows)]
    answers = [reference if row in right else "no" for row, reference in enumerate(references)]
    columns: dict[str, Any] = {"row": list(range(rows)), "prompt": ["p" * 1000] * rows, "reference": references, "tokens": [2] * rows}
    table = pl.DataFrame(columns | {"x_loss": [loss * 2] * rows} | changes)
    return Evaluated(name, table.with_columns(**columns_of(answers, [True] * rows, references, "x")), "x", Cost(parameters=len(name)))


OLD = model("old", list(range(50)))
NEW = model("new", list(range(5, 80)), loss=1.5)


def test_what_flipped_and_by_how_much() -> None:
    found = compare([OLD, NEW], "old")
    assert (found.baseline, found.examples) == ("old", ROWS)
    assert [item.model_id for item in found.models] == ["old", "new"]
    assert [item.metrics["accuracy"] for item in found.models] == [0.5, 0.75]
    assert found.models[1].cost.parameters == 3
    (item,) = found.differences
    assert (item.model_id, item.to_right, item.to_wrong) == ("new", 30, 5)
    assert item.differences["accuracy"] == pytest.approx(0.25) and item.differences["loss"] == pytest.approx(-0.5)
    assert len(item.right_examples) == EXAMPLES and item.right_examples[0].row == 50
    assert [flip.row for flip in item.wrong_examples] == [0, 1, 2, 3, 4]
    flip = item.wrong_examples[0]
    assert (flip.reference, flip.baseline_answer, flip.answer, len(flip.prompt)) == ("r 0", "r 0", "no", 400)


def test_the_interval_is_that_of_the_paired_differences() -> None:
    """30 of 100 rows are +1 and 5 are -1: the standard error of their mean is 0.0536."""
    bound = compare([OLD, NEW], "old").differences[0].intervals["accuracy"]
    error = np.sqrt((0.35 - 0.25**2) / ROWS)
    assert bound.low == pytest.approx(0.25 - 1.96 * error, abs=0.012)
    assert bound.high == pytest.approx(0.25 + 1.96 * error, abs=0.012)
    same = compare([OLD, Evaluated("copy", OLD.table, "x", Cost())], "old").differences[0]
    assert (same.intervals["accuracy"].low, same.intervals["accuracy"].high, same.to_right, same.to_wrong) == (0, 0, 0, 0)


@pytest.mark.parametrize(
    "other",
    [
        model("other", [1], rows=ROWS - 1),
        model("other", [1], prompt=["another"] * ROWS),
        model("other", [1], row=list(range(1, ROWS + 1))),
    ],
    ids=["fewer", "prompts", "rows"],
)
def test_other_examples_are_refused(other: Evaluated) -> None:
    with pytest.raises(InvalidConfig, match="'other' and 'old' were not evaluated on the same examples"):
        compare([OLD, NEW, other], "old")


def test_another_template_of_the_same_rows_is_compared() -> None:
    other = model("other", list(range(60)), prompt=["another"] * ROWS)
    one, two = (replace(item, source="ds_1") for item in (OLD, other))
    assert compare([one, two], "old").differences[0].to_right == 10
    with pytest.raises(InvalidConfig, match="same examples"):
        compare([one, replace(other, source="ds_2")], "old")
    with pytest.raises(InvalidConfig, match="same examples"):
        compare([one, replace(model("other", [], reference=["x"] * ROWS), source="ds_1")], "old")


def test_the_best_is_by_the_metric() -> None:
    cheap = model("cheap", list(range(60)), loss=1.0)
    assert (best([OLD, NEW, cheap], "accuracy") or OLD).model_id == "new"
    assert (best([OLD, NEW, cheap], "loss") or OLD).model_id == "cheap"
    assert (best([OLD, Evaluated("copy", OLD.table, "x", Cost())], "f1") or NEW).model_id == "old"
    assert best([OLD], "label_accuracy") is None


def test_a_gate_that_holds() -> None:
    found = judge(compare([OLD, NEW], "old"), "new", "accuracy", 0.25, 5)
    assert found.holds and found.reasons == [] and not found.promoted
    assert (found.against, found.gain, found.regressions) == ("old", pytest.approx(0.25), 5)
    assert judge(compare([OLD, NEW], "old"), "new", "loss", 0.4, None).gain == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"min_gain": 0.3}, ["gain in accuracy over 'old' is 0.25 (95% interval 0.1", "below min_gain 0.3"]),
        ({"max_regressions": 4}, ["5 examples went from right to wrong, more than max_regressions 4"]),
        ({"min_gain": 0.3, "max_regressions": 0}, ["min_gain", "max_regressions"]),
        ({"metric": "numeric_match", "min_gain": 0.3}, ["numeric_match over 'old' is 0.25"]),
        ({"metric": "macro_f1"}, ["macro_f1 was not measured for both"]),
    ],
)
def test_a_gate_that_does_not_hold_says_why(changes: dict[str, Any], words: list[str]) -> None:
    wanted: dict[str, Any] = {"metric": "accuracy", "min_gain": 0.0, "max_regressions": None} | changes
    found = judge(compare([OLD, NEW], "old"), "new", **wanted)
    assert not found.holds
    assert all(word in "; ".join(found.reasons) for word in words), found.reasons


def test_no_gain_is_none_and_neither_is_a_loss() -> None:
    copy = Evaluated("copy", OLD.table, "x", Cost())
    assert judge(compare([OLD, copy], "old"), "copy", "loss", 0.0, None).reasons == [
        "The gain in loss over 'old' is 0 (95% interval 0 to 0): it is not better"
    ]
    assert "is -0.25 (95% interval" in judge(compare([NEW, OLD], "new"), "old", "accuracy", 0.0, None).reasons[0]


def test_without_answers_regressions_cannot_be_counted() -> None:
    columns = ["row", "prompt", "reference", "tokens", "x_loss"]
    silent = [Evaluated(item.model_id, item.table.select(columns), "x", Cost()) for item in (OLD, NEW)]
    found = compare(silent, "old")
    assert found.differences[0].to_wrong is None and found.differences[0].right_examples == []
    assert judge(found, "new", "loss", 0.1, None).holds
    assert "regressions cannot be counted" in judge(found, "new", "loss", 0.1, 0).reasons[0]


def test_the_chart_is_a_picture() -> None:
    png = comparison_png(compare([OLD, NEW, model("llm-platform/" + "long$name" * 5, [1])], "old"), "accuracy")
    assert png.startswith(b"\x89PNG") and len(png) > 5_000
