"""What is in a dataset: the figures, the histogram and the example rows that a person looks at first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from llm_platform.data import charts
from llm_platform.data.canonical import is_text
from llm_platform.data.cells import empty, json_safe, schema
from llm_platform.data.figures import Distinct, Lengths, histogram, stats
from llm_platform.data.language import languages
from llm_platform.data.layout import Columns, conversation, detect_layout
from llm_platform.errors import InvalidConfig
from llm_platform.specs.resources import Analysis, DetectedLayout, Profile, TokenLengths, Turns

PREVIEW_CHARACTERS = 100_000
EXAMPLE_CHARACTERS = 500
LANGUAGE_ROWS = 200
TOKEN_ROWS = 10_000
TOKEN_CHARACTERS = 20_000_000
_SAMPLED_GROUPS = 20


class Profiler:
    """Makes the profile of a table while it is written: `begin`, `add` for each part of its rows, then `profile` with its path.

    Memory is bounded; row hashes that are too many go to a temporary file in `folder`.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._distinct = Distinct(folder)
        self.begin(pa.schema([]))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._distinct.close()

    def begin(self, schema: pa.Schema) -> None:
        """Forgets what it saw; the next rows have this schema."""
        self._distinct.close()
        self._distinct = Distinct(self._folder)
        self._names = schema.names
        self._columns = detect_layout(schema.names)
        self._rows = 0
        self._empty = np.zeros(len(schema), np.int64)
        self._lengths = {i: Lengths() for i, field in enumerate(schema) if is_text(field.type)}
        self._turns: Counter[int] = Counter()
        self._conversations = Lengths()

    def add(self, rows: pa.Table) -> None:
        # Polars takes names like "*" for patterns, so no name of a user may reach an expression.
        frame = pl.DataFrame(rows.rename_columns([f"c{i}" for i in range(rows.num_columns)]))
        found = frame.select(
            pl.struct(pl.all()).hash().alias("hash"),
            *(empty(name, kind).alias(f"empty {name}") for name, kind in frame.schema.items()),
            *(pl.col(f"c{i}").str.len_chars().cast(pl.Int64).alias(f"length {i}") for i in self._lengths),
        )
        self._distinct.add(found["hash"].to_numpy())
        self._empty += np.array([found[f"empty c{i}"].sum() for i in range(rows.num_columns)], np.int64)
        for i, lengths in self._lengths.items():
            self._add_lengths(lengths, found[f"length {i}"])
        if self._columns.messages is not None:
            cells = frame.to_series(self._names.index(self._columns.messages))
            self._add_lengths(self._conversations, self._conversation_lengths(cells))
        self._rows += rows.num_rows

    def _add_lengths(self, to: Lengths, lengths: pl.Series) -> None:
        to.add(lengths.drop_nulls().to_numpy(), self._rows + np.flatnonzero(lengths.is_not_null().to_numpy()))

    def profile(self, table: Path) -> Profile:
        """The profile of what was added; `table` holds the same rows."""
        columns, text, measured = self._measured()
        turns = stats(self._turns) if self._turns else None
        return Profile(
            analysis=Analysis(
                rows=self._rows,
                columns=self._names,
                text_column=text,
                stats=None if text is None else stats(measured.counts),
            ),
            layout=DetectedLayout(name=columns.layout, columns=columns.by_slot()),
            histogram=histogram(measured.counts),
            nulls=dict(zip(self._names, self._empty.tolist(), strict=True)),
            duplicates=self._rows - self._distinct.count(),
            languages={} if text is None else languages(_sample(table, columns, text, LANGUAGE_ROWS)),
            turns=turns
            and Turns(mean=turns.avg_length, min=turns.min_length, max=turns.max_length, unusable=self._rows - self._turns.total()),
            shortest=None if text is None else _row(table, measured.shortest),
            longest=None if text is None else _row(table, measured.longest),
        )

    def _measured(self) -> tuple[Columns, str | None, Lengths]:
        """(Layout, text column, its lengths). A column that is named like one of conversations and holds none is like any other."""
        columns = self._columns
        if columns.messages is not None:
            if self._turns:
                return columns, columns.messages, self._conversations
            columns = detect_layout([name for name in self._names if name != columns.messages])
        means = {i: lengths.mean() for i, lengths in self._lengths.items() if lengths.counts}
        text = max(means, key=lambda i: means[i], default=None)
        return (columns, None, Lengths()) if text is None else (columns, self._names[text], self._lengths[text])

    def _conversation_lengths(self, cells: pl.Series) -> pl.Series:
        """Characters of all turns together; null where there is no usable conversation."""
        lengths: list[int | None] = []
        for cell in cells.to_list():
            turns, problem = conversation(cell)
            if problem is None:
                self._turns[len(turns)] += 1
            lengths.append(sum(len(content) for _, content in turns) if problem is None else None)
        return pl.Series(lengths, dtype=pl.Int64)


def profile(table: Path) -> Profile:
    """Profiles a canonical table. Raises DatasetError if it is unreadable."""
    columns, _ = schema(table)
    with Profiler(table.parent) as profiler, pq.ParquetFile(table) as file:
        profiler.begin(columns)
        for group in range(file.num_row_groups):
            profiler.add(file.read_row_group(group))
        return profiler.profile(table)


def _opened(table: Path) -> pq.ParquetFile:
    """For a few rows, to be read without threads too: with read-ahead they would take tens of MB, in the API's process."""
    return pq.ParquetFile(table, pre_buffer=False)


def token_lengths(table: Path, found: Profile, tokenizer_folder: Path, name: str) -> TokenLengths | None:
    """Lengths in tokens of the texts that `found` has measured, at most TOKEN_ROWS; None if there is no text.

    `name` is what the tokenizer is called. Raises InvalidConfig if the folder has no usable tokenizer.json.
    """
    from tokenizers import Tokenizer

    text = found.analysis.text_column
    if text is None:
        return None
    try:
        tokenizer = Tokenizer.from_file(str(tokenizer_folder / "tokenizer.json"))
    except Exception as error:  # tokenizers raises bare Exception for a file that it cannot read
        raise InvalidConfig(f"The tokenizer of '{name}' cannot be read", field="tokenizer") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    counts: Counter[int] = Counter()
    columns = Columns(found.layout.name, **found.layout.columns)
    for part in _bounded(_sample(table, columns, text, TOKEN_ROWS)):
        counts.update(len(encoding.ids) for encoding in tokenizer.encode_batch_fast(part, add_special_tokens=False))
    return TokenLengths(tokenizer=name, rows=counts.total(), stats=stats(counts), histogram=histogram(counts)) if counts else None


def _bounded(texts: list[str], rows: int = 500) -> Iterator[list[str]]:
    left = TOKEN_CHARACTERS
    for start in range(0, len(texts), rows):
        part = texts[start : start + rows]
        yield part
        left -= sum(map(len, part))
        if left < 0:
            return


def _sample(table: Path, columns: Columns, text: str, rows: int) -> list[str]:
    """About so many texts, evenly from the whole table; of a conversation, the contents of its turns."""
    found: list[str] = []
    with _opened(table) as file:
        count = file.metadata.num_row_groups
        groups = sorted({round(place) for place in np.linspace(0, count - 1, min(count, _SAMPLED_GROUPS))}) if count else []
        for group in groups:
            cells = file.read_row_group(group, columns=[text], use_threads=False).column(text)
            step = max(1, len(cells) * len(groups) // rows)
            found += [_text(cell, columns) for cell in cells.take(np.arange(0, len(cells), step)).to_pylist()]
    return [text for text in found if text.strip()]


def _text(cell: Any, columns: Columns) -> str:
    return (cell or "") if columns.messages is None else "\n".join(content for _, content in conversation(cell)[0])


def _row(table: Path, place: int) -> dict[str, Any]:
    """One row, from 0, with long cells cut."""
    with _opened(table) as file:
        for group in range(file.metadata.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            if place < rows:
                (row,) = file.read_row_group(group, use_threads=False).slice(place, 1).to_pylist()
                return {name: json_safe(cell, EXAMPLE_CHARACTERS) for name, cell in row.items()}
            place -= rows
    raise AssertionError("the table has fewer rows than were profiled")


def preview(table: Path, limit: int) -> list[dict[str, Any]]:
    """The first `limit` rows, in JSON's types; texts are cut after PREVIEW_CHARACTERS."""
    rows: list[dict[str, Any]] = []
    with _opened(table) as file:
        for batch in file.iter_batches(batch_size=max(1, min(limit, 1_000)), use_threads=False):
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
