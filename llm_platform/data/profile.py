"""What is in a dataset: the figures, the histogram and the example rows that a person looks at first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from llm_platform.data import charts
from llm_platform.data.cells import collect, empty, json_safe, scan
from llm_platform.specs.base import Resource
from llm_platform.specs.resources import Analysis, LengthStats

BINS = 20
PREVIEW_CHARACTERS = 100_000
EXAMPLE_CHARACTERS = 500


class HistogramBin(Resource):
    """`count` texts have `low` to `high` characters, both included."""

    low: int
    high: int
    count: int


class Profile(Resource):
    """`nulls` counts, per column, cells that are null or blank; `duplicates` counts rows that repeat an earlier row exactly.

    Lengths are those of the text column, in characters; null cells have none.
    """

    analysis: Analysis
    histogram: list[HistogramBin]
    nulls: dict[str, int]
    duplicates: int
    shortest: dict[str, Any] | None
    longest: dict[str, Any] | None


def profile(table: Path) -> Profile:
    """Profiles a canonical table in bounded memory (8 bytes a row, for the duplicates). Raises DatasetError if unreadable."""
    frame, names = scan(table)
    kinds = frame.collect_schema()
    texts = [column for column, kind in kinds.items() if kind == pl.String]
    figures = collect(
        frame.select(
            pl.len().alias("rows"),
            pl.struct(pl.all()).hash().n_unique().alias("different"),
            *(empty(column, kind).sum().alias(f"empty {column}") for column, kind in kinds.items()),
            *(
                getattr(pl.col(column).str.len_chars(), figure)().alias(f"{figure} {column}")
                for column in texts
                for figure in ("mean", "min", "max")
            ),
        )
    ).row(0, named=True)
    means = {column: figures[f"mean {column}"] for column in texts if figures[f"mean {column}"] is not None}
    text = max(means, key=lambda column: means[column], default=None)
    analysis = Analysis(rows=figures["rows"], columns=names, text_column=None, stats=None)
    histogram: list[HistogramBin] = []
    shortest = longest = None
    if text is not None:
        low, high = figures[f"min {text}"], figures[f"max {text}"]
        stats = LengthStats(avg_length=round(means[text], 2), min_length=low, max_length=high)
        analysis = analysis.model_copy(update={"text_column": names[int(text[1:])], "stats": stats})
        histogram = _histogram(frame, text, low, high)
        shortest, longest = _examples(frame, names, text)
    return Profile(
        analysis=analysis,
        histogram=histogram,
        nulls={name: figures[f"empty c{index}"] for index, name in enumerate(names)},
        duplicates=figures["rows"] - figures["different"],
        shortest=shortest,
        longest=longest,
    )


def _histogram(frame: pl.LazyFrame, text: str, low: int, high: int) -> list[HistogramBin]:
    width = -(-(high - low + 1) // BINS)
    place = ((pl.col(text).str.len_chars().cast(pl.Int64) - low) // width).alias("bin")
    counted = dict(collect(frame.select(place).drop_nulls().group_by("bin").len()).iter_rows())
    bins = range(-(-(high - low + 1) // width))
    return [HistogramBin(low=low + bin * width, high=low + (bin + 1) * width - 1, count=counted.get(bin, 0)) for bin in bins]


def _examples(frame: pl.LazyFrame, names: list[str], text: str) -> tuple[dict[str, Any], dict[str, Any]]:
    length = pl.col(text).str.len_chars()
    places = collect(frame.select(length.arg_min().alias("shortest"), length.arg_max().alias("longest"))).row(0)
    rows = [collect(frame.slice(place, 1)).row(0) for place in places]
    shortest, longest = ({name: json_safe(cell, EXAMPLE_CHARACTERS) for name, cell in zip(names, row, strict=True)} for row in rows)
    return shortest, longest


def preview(table: Path, limit: int) -> list[dict[str, Any]]:
    """The first `limit` rows, in JSON's types; texts are cut after PREVIEW_CHARACTERS."""
    rows: list[dict[str, Any]] = []
    with pq.ParquetFile(table) as file:
        for batch in file.iter_batches(batch_size=max(1, min(limit, 1_000))):
            rows += _json_rows(batch, limit - len(rows))
            if len(rows) >= limit:
                break
    return rows


def _json_rows(batch: pa.RecordBatch, limit: int) -> list[dict[str, Any]]:
    return [{name: json_safe(cell, PREVIEW_CHARACTERS) for name, cell in row.items()} for row in batch.slice(0, limit).to_pylist()]


def histogram_png(profile: Profile) -> bytes:
    """The histogram of the text column's lengths as a small PNG."""
    bins = profile.histogram
    column = profile.analysis.text_column
    title = f"Length of “{column}”, {profile.analysis.rows:,} rows" if column else "No text column"
    return charts.bars(
        [(bin.low + bin.high) / 2 for bin in bins],
        [bin.count for bin in bins],
        width=bins[0].high - bins[0].low + 1 if bins else 1,
        title=title,
        x_label="characters",
        y_label="rows",
    )
