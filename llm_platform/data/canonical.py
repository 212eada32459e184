"""The canonical table: zstd Parquet whose cells were checked, written whole or not at all."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from llm_platform.errors import DatasetError
from llm_platform.reporting import Reporter

pc: Any = importlib.import_module("pyarrow.compute")  # its functions are made at import, so no type checker sees them

MAX_CELL_BYTES = 16 * 2**20
MAX_COLUMNS = 2_000
MAX_NAME_LENGTH = 1_000
GROUP_BYTES = 32 * 2**20
GROUP_ROWS = 131_072
"""A row group ends at whichever comes first, so that every later reader is bounded in memory too."""


@dataclass(frozen=True)
class Table:
    rows: int
    columns: list[str]


@dataclass
class Source:
    """The file that is read, by the name a person knows it by, and who wants to hear how far the reading is."""

    filename: str
    on_rows: Callable[[int], None] | None = None
    reporter: Reporter | None = None

    def error(self, message: str, **metadata: object) -> DatasetError:
        """An error whose message starts with the file's name. `row` counts data rows from 1, `line` lines of the file from 1."""
        return DatasetError(f"{self.filename}: {message}", **metadata)

    def rows_done(self, rows: int) -> None:
        if self.on_rows:
            self.on_rows(rows)
        if self.reporter:
            self.reporter.check_cancelled()


def check_columns(names: Sequence[str], source: Source) -> None:
    """Raises DatasetError for no columns, too many, two of one name, or a name that is empty or overlong."""
    if not names:
        raise source.error("it has no columns")
    if len(names) > MAX_COLUMNS:
        raise source.error(f"it has {len(names):,} columns; at most {MAX_COLUMNS:,} are allowed", columns=len(names))
    seen: set[str] = set()
    for position, name in enumerate(names, start=1):
        if name in seen:
            raise source.error(f"the column name {shown(name)} is used more than once; names must be unique", row=0, column=name)
        if not name or len(name) > MAX_NAME_LENGTH:
            raise source.error(f"column {position} needs a name of 1 to {MAX_NAME_LENGTH:,} characters", row=0, position=position)
        if "\0" in name:
            raise source.error(f"the name of column {position} has a NUL byte", row=0, position=position)
        seen.add(name)


def shown(text: str, most: int = 80) -> str:
    """A text in quotes, cut for a message."""
    return repr(text if len(text) <= most else text[:most] + "…")


@dataclass
class Writer:
    """Gathers batches of one schema into row groups. Raises DatasetError, naming row and column, for a cell that is too
    long, has a NUL byte, or is not valid UTF-8."""

    file: pq.ParquetWriter
    source: Source
    rows: int = 0
    _waiting: list[pa.RecordBatch] = field(default_factory=list)
    _waiting_bytes: int = 0

    def write(self, batch: pa.RecordBatch) -> None:
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            _check_cells(column, name, self.rows, self.source)
        self.rows += batch.num_rows
        self._waiting.append(batch)
        self._waiting_bytes += batch.nbytes
        if self._waiting_bytes >= GROUP_BYTES or sum(waiting.num_rows for waiting in self._waiting) >= GROUP_ROWS:
            self.flush()
        self.source.rows_done(self.rows)

    def flush(self) -> None:
        if self._waiting:
            table = pa.Table.from_batches(self._waiting)
            self._waiting, self._waiting_bytes = [], 0
            self.file.write_table(table, row_group_size=max(1, table.num_rows))


@contextlib.contextmanager
def writer(out: Path, schema: pa.Schema, source: Source) -> Iterator[Writer]:
    """A writer to `out`; the file appears when the block ends well, and nothing is left behind when it does not."""
    part = out.with_name(f"{out.name}.part")
    try:
        with pq.ParquetWriter(part, schema, compression="zstd") as file:
            result = Writer(file, source)
            yield result
            result.flush()
        if not result.rows:
            raise source.error("it has no rows", rows=0)
        part.replace(out)
    finally:
        part.unlink(missing_ok=True)


def _check_cells(column: pa.Array, name: str, before: int, source: Source) -> None:
    """Checks the text cells of one column; `before` rows came before this batch."""
    try:
        column.validate(full=True)
    except pa.ArrowInvalid as error:
        row = before + 1 + _first(column, lambda part: not _valid(part))
        raise source.error(f"row {row:,}, column {shown(name)}: the text is not valid UTF-8", row=row, column=name) from error
    if not _is_text(column.type):
        return
    longest = pc.max(pc.binary_length(column)).as_py()
    if longest is not None and longest > MAX_CELL_BYTES:
        row = before + 1 + pc.index(pc.greater(pc.binary_length(column), MAX_CELL_BYTES), True).as_py()
        raise cell_too_long(source, row, name)
    nul = pc.match_substring(column, "\0")
    if pc.any(nul).as_py():
        row = before + 1 + pc.index(nul, True).as_py()
        raise source.error(f"row {row:,}, column {shown(name)}: the text has a NUL byte", row=row, column=name)


def cell_too_long(source: Source, row: int, name: str | None) -> DatasetError:
    where = f"row {row:,}" + (f", column {shown(name)}" if name else "")
    return source.error(f"{where}: a cell may have at most {MAX_CELL_BYTES // 2**20} MiB", row=row, column=name)


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _valid(column: pa.Array) -> bool:
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _first(column: pa.Array, wrong: Callable[[pa.Array], bool]) -> int:
    """Index of the first cell for which `wrong` holds, by halving; there is one."""
    low, high = 0, len(column)
    while high - low > 1:
        middle = (low + high) // 2
        # A slice keeps its parent's buffers, and validation looks at the slice only.
        low, high = (low, middle) if wrong(column.slice(low, middle - low)) else (middle, high)
    return low
