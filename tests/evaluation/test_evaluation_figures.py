"""Intervals against known distributions, and figures that follow from a table of answers."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest

from llm_platform.evaluation.bootstrap import Figure, intervals, resampled_sums
from llm_platform.evaluation.figures import columns_of, confusion_of, figures_of
from llm_platform.specs.agents import METRICS


def shares(right: int, rows: int) -> Figure:
    return Figure.mean((np.arange(rows) < right).astype(np.float64))


def table(answers: list[str], references: list[str]) -> pl.DataFrame:
    made = pl.DataFrame({"reference": references})
    return made.with_columns(**columns_of(answers, [answer != "" for answer in answers], references, "tuned"))


def test_of_a_share_it_is_that_of_the_binomial_distribution() -> None:
    """30 of 100: a resample's share is binomial, whose 2.5% and 97.5% quantiles are 21 and 39."""
    found = intervals({"x": shares(30, 100)})["x"]
    assert found.low == pytest.approx(0.21, abs=0.0101) and found.high == pytest.approx(0.39, abs=0.0101)
    assert found.count == 100


def test_of_a_mean_it_shrinks_with_the_root_of_the_rows() -> None:
    values = np.random.default_rng(5).normal(size=6400)
    few, many = (intervals({"x": Figure.mean(values[:rows])})["x"] for rows in (400, 6400))
    assert (few.high - few.low) / (many.high - many.low) == pytest.approx(4, rel=0.15)
    assert many.high - many.low == pytest.approx(2 * 1.96 / 80, rel=0.1)


def test_the_same_rows_give_the_same_interval_and_without_spread_there_is_none() -> None:
    assert intervals({"x": shares(3, 10)}) == intervals({"x": shares(3, 10)})
    assert intervals({"x": shares(3, 10)}, seed=1, resamples=50) != intervals({"x": shares(3, 10)}, seed=2, resamples=50)
    sure = intervals({"x": shares(10, 10)})["x"]
    assert (sure.low, sure.high) == (1.0, 1.0)
    assert intervals({}) == {}


def test_many_rows_are_resampled_piece_by_piece() -> None:
    sums = resampled_sums(np.ones((3_000_000, 1)), resamples=3)
    assert sums.tolist() == [[3e6]] * 3


def test_a_difference_is_paired() -> None:
    values = np.random.default_rng(5).normal(size=200)
    found = intervals({"gain": Figure.mean(values + 0.25).minus(Figure.mean(values)), "alone": Figure.mean(values)})
    assert found["gain"].low == pytest.approx(0.25) and found["gain"].high == pytest.approx(0.25)
    assert found["alone"].high - found["alone"].low > 0.2


def test_figures_of_labels() -> None:
    references = ["a", "b", "c", "a", "b", "c", "a", "a"]
    answers = ["a", "b", "it is c", "b", "b", "c or a", "", "a"]
    rows = table(answers, references)
    figures = figures_of(rows, "tuned", METRICS)
    assert figures["label_accuracy"].measured == 5 / 8 and figures["accuracy"].measured == 4 / 8
    # a: 2 hits, named 2, wanted 4; b: 2, 3, 2; c: 1, 1, 2
    assert figures["macro_f1"].measured == pytest.approx((4 / 6 + 4 / 5 + 2 / 3) / 3)
    assert figures["eos_rate"].measured == 7 / 8
    confusion = confusion_of(rows, "tuned")
    assert confusion is not None and confusion.labels == ["a", "b", "c"]
    assert confusion.rows == [[2, 1, 0, 1], [0, 2, 0, 0], [0, 0, 1, 1]]
    bounds = intervals(figures)
    assert bounds["macro_f1"].low < figures["macro_f1"].measured < bounds["macro_f1"].high


def test_a_label_that_a_resample_lacks_does_not_count() -> None:
    figure = figures_of(table(["a"] * 9 + ["b"], ["a"] * 9 + ["b"]), "tuned", ["macro_f1"])["macro_f1"]
    bounds = intervals({"x": figure})["x"]
    assert (bounds.low, bounds.high) == (1.0, 1.0)


def test_figures_stand_on_the_rows_that_they_are_about() -> None:
    rows = table(["1", "2", "3", "z", "u"], ["1", "2", "4", "y", "x"])
    figures = figures_of(rows, "tuned", METRICS)
    assert figures["numeric_match"].measured == 2 / 3 and figures["numeric_match"].count == 3
    assert intervals(figures)["numeric_match"].count == 3 and intervals(figures)["accuracy"].count == 5
    assert "label_accuracy" not in figures and confusion_of(rows, "tuned") is None
    assert "numeric_match" not in figures_of(table(["x"], ["x"]), "tuned", METRICS)


def test_the_loss_of_a_sample_is_per_token_not_per_row() -> None:
    rows = pl.DataFrame({"reference": ["x", "y"], "tuned_loss": [8.0, 1.0], "tokens": [2, 1]})
    figures = figures_of(rows, "tuned", ["loss", "perplexity", "f1"])
    assert figures.keys() == {"loss", "perplexity"}
    assert figures["loss"].measured == 3.0 and figures["perplexity"].measured == pytest.approx(math.exp(3))
    bounds = intervals(figures)
    assert (bounds["loss"].low, bounds["loss"].high) == (1.0, 4.0)
    assert bounds["perplexity"].high == pytest.approx(math.exp(4))
