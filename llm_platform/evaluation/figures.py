"""From a table of answers to figures: `columns_of` scores each row, `figures_of` says what follows from the rows. Needs no torch."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import polars as pl

from llm_platform.evaluation.bootstrap import Array, Figure
from llm_platform.evaluation.score import is_correct, is_exact, label_of, labels_of, normalise, numeric_match, rouge_l, token_f1
from llm_platform.specs.comparison import Confusion

MEANS = {"accuracy": "correct", "exact_match": "exact", "f1": "f1", "rouge_l": "rouge_l", "numeric_match": "numeric"}
"""Figures that are the mean of a column."""
GENERATED = (*MEANS, "label_accuracy", "macro_f1")
"""Figures that need generated answers."""


def columns_of(answers: Sequence[str], stopped: Sequence[bool], references: Sequence[str], name: str) -> dict[str, pl.Series]:
    """The answers of the model `name` and each row's scores, as columns `<name>_answer`, `<name>_correct` and so on."""
    pairs = list(zip(answers, references, strict=True))
    labels = labels_of(references)
    return {
        f"{name}_answer": pl.Series(answers, dtype=pl.String),
        f"{name}_correct": pl.Series([is_correct(*pair) for pair in pairs], dtype=pl.Boolean),
        f"{name}_exact": pl.Series([is_exact(*pair) for pair in pairs], dtype=pl.Boolean),
        f"{name}_f1": pl.Series([token_f1(*pair) for pair in pairs], dtype=pl.Float64),
        f"{name}_rouge_l": pl.Series([rouge_l(*pair) for pair in pairs], dtype=pl.Float64),
        f"{name}_numeric": pl.Series([numeric_match(*pair) for pair in pairs], dtype=pl.Boolean),
        f"{name}_label": pl.Series([label_of(answer, labels) if labels else None for answer in answers], dtype=pl.String),
        f"{name}_stopped": pl.Series(stopped, dtype=pl.Boolean),
    }


def figures_of(table: pl.DataFrame, name: str, metrics: Collection[str]) -> dict[str, Figure]:
    """Those of `metrics` that the columns of the model `name` tell, and `eos_rate` where it generated.

    `numeric_match` is of the rows whose reference ends with a number, `label_accuracy` and `macro_f1` are there only if the
    references are labels (`score.labels_of`).
    """
    found: dict[str, Figure] = {}
    for metric, column in MEANS.items():
        if metric in metrics and f"{name}_{column}" in table.columns:
            figure = Figure.mean(_numbers(table[f"{name}_{column}"]))
            if figure.count:
                found[metric] = figure
    labels = labels_of(table["reference"].to_list())
    if labels and {"label_accuracy", "macro_f1"} & set(metrics) and f"{name}_label" in table.columns:
        hits, said, wanted = _by_label(table, name, labels)
        if "label_accuracy" in metrics:
            found["label_accuracy"] = Figure.mean(hits.sum(axis=1))
        if "macro_f1" in metrics:
            found["macro_f1"] = Figure(np.concatenate([hits, said + wanted], axis=1), _macro_f1, table.height)
    if f"{name}_stopped" in table.columns:
        found["eos_rate"] = Figure.mean(_numbers(table[f"{name}_stopped"]))
    if f"{name}_loss" in table.columns:
        columns = np.stack([_numbers(table[f"{name}_loss"]), _numbers(table["tokens"])], axis=1)
        if "loss" in metrics:
            found["loss"] = Figure(columns, _loss, table.height)
        if "perplexity" in metrics:
            found["perplexity"] = Figure(columns, _perplexity, table.height)
    return found


def confusion_of(table: pl.DataFrame, name: str) -> Confusion | None:
    """Which label was answered for which; None if the references are no labels or there are no answers."""
    labels = labels_of(table["reference"].to_list())
    if labels is None or f"{name}_label" not in table.columns:
        return None
    places = {label: place for place, label in enumerate(labels)}
    rows = [[0] * (len(labels) + 1) for _ in labels]
    for reference, said in zip(table["reference"], table[f"{name}_label"], strict=True):
        rows[places[normalise(reference)]][len(labels) if said is None else places[said]] += 1
    return Confusion(labels=labels, rows=rows)


def _numbers(column: pl.Series) -> Array:
    """The values [N], NaN for null."""
    return column.cast(pl.Float64).fill_null(float("nan")).to_numpy().astype(np.float64)


def _by_label(table: pl.DataFrame, name: str, labels: list[str]) -> tuple[Array, Array, Array]:
    """Per row and label [N, L]: named rightly, named, and wanted."""
    order = np.asarray(labels)
    wanted = np.asarray([normalise(text) for text in table["reference"]])[:, None] == order
    said = np.asarray(table[f"{name}_label"].fill_null("").to_list())[:, None] == order
    return (wanted & said).astype(np.float64), said.astype(np.float64), wanted.astype(np.float64)


def _loss(sums: Array) -> Array:
    """Nats per token [...], from sums [..., 2]: nats and tokens."""
    return sums[..., 0] / sums[..., 1]


def _perplexity(sums: Array) -> Array:
    with np.errstate(over="ignore"):
        return np.exp(_loss(sums))


def _macro_f1(sums: Array) -> Array:
    """Mean F1 [...] of the labels that occur, from sums [..., 2L]: hits, and named plus wanted."""
    half = sums.shape[-1] // 2
    hits, both = sums[..., :half], sums[..., half:]
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.nanmean(np.where(both > 0, 2 * hits / both, np.nan), axis=-1)
