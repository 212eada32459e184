"""The canonical table: zstd Parquet whose cells were checked, written whole or not at all."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from llm_platform.errors import DatasetError
from llm_platform.reporting import Reporter

if TYPE_CHECKING:
    from llm_platform.data.profile import Profiler

pc: Any = importlib.import_module("pyarrow.compute")  # its functions are made at import, so no type checker sees them

MAX_CELL_BYTES = 16 * 2**20
MAX_COLUMNS = 2_000
MAX_NAME_LENGTH = 1_000
GROUP_BYTES = 4 * 2**20
GROUP_ROWS = 131_072
"""A row group ends at whichever comes first, so that every later reader is bounded in memory too."""


@dataclass(frozen=True)
class Table:
    rows: int
    columns: list[str]


@dataclass
class Source:
    """The file that is read, by the name a person knows it by, and who wants to hear how far the reading is or to see the rows."""

    filename: str
    on_rows: Callable[[int], None] | None = None
    reporter: Reporter | None = None
    profiler: Profiler | None = None

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
    """Gathers batches of one schema into row groups, which are compressed in a thread beside the reading.

    Raises DatasetError, naming row and column, for a cell that is too long, has a NUL byte, or is not valid UTF-8.
    """

    file: pq.ParquetWriter
    source: Source
    thread: ThreadPoolExecutor
    rows: int = 0
    _waiting: list[pa.RecordBatch] = field(default_factory=list)
    _waiting_bytes: int = 0
    _waiting_rows: int = 0
    _written: Future[None] | None = None

    def write(self, batch: pa.RecordBatch) -> None:
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            _check_cells(column, name, self.rows, self.source)
        self.rows += batch.num_rows
        self._waiting.append(batch)
        self._waiting_bytes += batch.nbytes
        self._waiting_rows += batch.num_rows
        if self._waiting_bytes >= GROUP_BYTES or self._waiting_rows >= GROUP_ROWS:
            self._flush()
        self.source.rows_done(self.rows)

    def finish(self) -> None:
        """Waits until everything is in the file."""
        self._flush()
        self._await()

    def _flush(self) -> None:
        if self._waiting:
            table = pa.Table.from_batches(self._waiting)
            self._waiting, self._waiting_bytes, self._waiting_rows = [], 0, 0
            pa.default_memory_pool().release_unused()  # Arrow would keep as much again for later
            if self.source.profiler:
                self.source.profiler.add(table)
            self._await()  # at most one group waits, so that memory is bounded
            self._written = self.thread.submit(self.file.write_table, table, table.num_rows)

    def _await(self) -> None:
        if self._written:
            self._written.result()
            self._written = None


@contextlib.contextmanager
def writer(out: Path, schema: pa.Schema, source: Source) -> Iterator[Writer]:
    """A writer to `out`; the file appears when the block ends well, and nothing is left behind when it does not."""
    part = out.with_name(f"{out.name}.part")
    if source.profiler:
        source.profiler.begin(schema)
    try:
        with pq.ParquetWriter(part, schema, compression="zstd") as file, ThreadPoolExecutor(1, "parquet") as thread:
            result = Writer(file, source, thread)
            yield result
            result.finish()
        if not result.rows:
            raise source.error("it has no rows", rows=0)
        part.replace(out)
    finally:
        part.unlink(missing_ok=True)


def _check_cells(column: pa.Array, name: str, before: int, source: Source) -> None:
    """Checks the cells of one column, the texts in nested ones too; `before` rows came before this batch."""
    try:
        column.validate(full=True)
    except pa.ArrowInvalid as error:
        row = before + 1 + _first(column, lambda part: not _valid(part))
        raise source.error(f"row {row:,}, column {shown(name)}: the text is not valid UTF-8", row=row, column=name) from error
    if any(_too_long(text) for text in texts(column)):
        row = before + 1 + _first(column, lambda part: any(_too_long(text) for text in texts(part)))
        raise cell_too_long(source, row, name)
    if any(_has_nul(text) for text in texts(column)):
        row = before + 1 + _first(column, lambda part: any(_has_nul(text) for text in texts(part)))
        raise source.error(f"row {row:,}, column {shown(name)}: the text has a NUL byte", row=row, column=name)


def cell_too_long(source: Source, row: int, name: str | None) -> DatasetError:
    where = f"row {row:,}" + (f", column {shown(name)}" if name else "")
    return source.error(f"{where}: a cell may have at most {MAX_CELL_BYTES // 2**20} MiB", row=row, column=name)


def is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def texts(column: pa.Array) -> Iterator[pa.Array]:
    """The text arrays in a column: itself, or what lies in its lists, structs and maps."""
    kind = column.type
    if is_text(kind):
        yield column
    elif pa.types.is_dictionary(kind):
        yield from texts(column.dictionary)
    elif pa.types.is_map(kind):
        whole = pa.concat_arrays([column])  # keys and items do not heed the offset of a slice
        yield from texts(whole.keys)
        yield from texts(whole.items)
    elif pa.types.is_struct(kind):
        for child in column.flatten():
            yield from texts(child)
    elif pa.types.is_nested(kind):
        yield from texts(column.flatten())


def _too_long(column: pa.Array) -> bool:
    return (pc.max(pc.binary_length(column)).as_py() or 0) > MAX_CELL_BYTES


def _has_nul(column: pa.Array) -> bool:
    if pa.types.is_string(column.type):  # a look at all bytes at once is enough for nearly every column
        _, offsets, data = column.buffers()
        if data is None:
            return False
        places = np.frombuffer(offsets, np.int32)[column.offset : column.offset + len(column) + 1]
        found = np.frombuffer(data, np.uint8)[places[0] : places[-1]]
        if not found.size or found.min() > 0:
            return False
    return bool(pc.any(pc.match_substring(column, "\0")).as_py())


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
