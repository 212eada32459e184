"""Exact deduplication of rows that are equal but for case and white space."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl


def normalized(column: str) -> pl.Expr:
    """The text in lower case, with every run of white space as one space and none at the ends; null counts as empty."""
    return pl.col(column).fill_null("").str.to_lowercase().str.replace_all(r"\s+", " ").str.strip_chars()


def dedup(frame: pl.DataFrame, columns: Sequence[str]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Keeps the first of the rows that are equal in `columns` once normalised.

    `frame` has a column `row`, the number of each row. Returns what is kept, in order, and a frame (`row`, `kept_row`) that
    says for every row dropped which row stands for it.
    """
    keys = frame.select("row", *(normalized(column).alias(f"key_{column}") for column in columns))
    first = keys.select("row", kept_row=pl.col("row").first().over([f"key_{column}" for column in columns]))
    dropped = first.filter(pl.col("row") != pl.col("kept_row"))
    return frame.filter(first["row"] == first["kept_row"]), dropped
