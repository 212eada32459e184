"""Cells of a canonical table: by safe column names, as text, as JSON, and whether there is anything in them."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from llm_platform.errors import DatasetError


def schema(table: Path) -> tuple[pa.Schema, int]:
    """The columns of a canonical table and its number of rows. Raises DatasetError if it cannot be read."""
    try:
        with pq.ParquetFile(table) as file:
            return file.schema_arrow, file.metadata.num_rows
    except (OSError, pa.ArrowException) as error:
        raise DatasetError("the dataset's table is missing or is not readable Parquet") from error


def scan(table: Path) -> tuple[pl.LazyFrame, list[str]]:
    """The table with its columns renamed to c0, c1, ..., and their true names.

    Polars takes names like "*" and "^a.*$" for patterns, so no name of a user may reach an expression.
    """
    names = schema(table)[0].names
    return pl.scan_parquet(table, glob=False).rename({name: f"c{index}" for index, name in enumerate(names)}), names


def collect(frame: pl.LazyFrame) -> pl.DataFrame:
    """The result of a query that never holds the whole table."""
    return frame.collect(engine="streaming")


def empty(column: str, kind: pl.DataType) -> pl.Expr:
    """Whether a cell is null, or a text of nothing but white space."""
    cell = pl.col(column)
    return (~cell.str.contains(r"\S")).fill_null(True) if kind == pl.String else cell.is_null()


def as_text(column: str, kind: pl.DataType) -> pl.Expr:
    """The cell as it is written in a prompt: whole floats without ".0", durations in seconds, lists and structs as JSON, null as it is."""
    cell = pl.col(column)
    if kind == pl.Duration:  # which polars does not cast to text
        cell, kind = cell.dt.total_microseconds() / 1_000_000, pl.Float64()
    if kind == pl.String:
        return cell
    if kind.is_float():
        whole = cell.is_finite() & (cell == cell.floor()) & (cell.abs() < 1e15)
        return pl.when(whole).then(pl.when(whole).then(cell).cast(pl.Int64).cast(pl.String)).otherwise(cell.cast(pl.String))
    if kind.is_nested():
        return cell.map_batches(_json_texts, return_dtype=pl.String)
    return cell.cast(pl.String)


def _json_texts(cells: pl.Series) -> pl.Series:
    texts = [None if cell is None else json.dumps(json_safe(cell), ensure_ascii=False) for cell in cells.to_list()]
    return pl.Series(cells.name, texts, dtype=pl.String)


def json_safe(value: Any, longest: int | None = None) -> Any:
    """The value in JSON's own types: dates as ISO 8601, durations in seconds, NaN and infinity as null, bytes as base64.

    Texts of more than `longest` characters are cut and end in an ellipsis.
    """
    if isinstance(value, str):
        return value if longest is None or len(value) <= longest else value[:longest] + "…"
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, Mapping):
        return {str(key): json_safe(item, longest) for key, item in value.items()}
    if isinstance(value, (datetime, date, time)):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, bytes):
        return json_safe(base64.b64encode(value).decode("ascii"), longest)
    if isinstance(value, (Sequence, pl.Series)):
        return [json_safe(item, longest) for item in value]
    return json_safe(str(value), longest)
