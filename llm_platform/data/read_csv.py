"""CSV to canonical Parquet: Arrow's parser for speed, an exact scanner of its own to find what is wrong and where.

Values keep their letters. A column is a number or a boolean only if writing its values gives the text of the file again:
007, 1.10, 1e5, +5, and digit strings of 16 digits or more stay text. An unquoted empty cell is null.
"""

from __future__ import annotations

import io
import itertools
import mmap
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.csv as arrow_csv

from llm_platform.data.canonical import MAX_CELL_BYTES, Source, Table, cell_too_long, check_columns, pc, writer
from llm_platform.data.text import TextProblem, count_lines
from llm_platform.errors import DatasetError

DELIMITERS = b",;\t|"
SAMPLE_BYTES = 256 * 2**10
BLOCK_BYTES = 2**19
ROW_BYTES = 32 * 2**20
"""Arrow reads 32 blocks ahead, and a row must fit into one. Where it does not, longer blocks are tried, up to the longest row."""

_PATTERNS: dict[pa.DataType, str] = {
    pa.bool_(): "^(true|false)$",
    pa.int64(): "^(0|-?[1-9][0-9]{0,14})$",
    pa.float64(): r"^(0|-?[1-9][0-9]{0,14}|-?(0|[1-9][0-9]*)\.(0|0{0,3}[1-9]([0-9]*[1-9])?))$",
}
"""Narrowest first. No pattern admits a text that the type would write in another way, given at most 16 characters."""


@dataclass(frozen=True)
class Record:
    """One CSV record: where it starts, the spans of its cells (quotes included), and whether its last quote never closes."""

    start: int
    end: int
    cells: list[tuple[int, int]]
    unclosed: bool


def records(data: bytes | mmap.mmap, start: int, delimiter: bytes) -> Iterator[Record]:
    """The records from `start` on, exactly, without the blank lines. Holds nothing but the spans of one record."""
    other = b"[^" + re.escape(delimiter) + rb"\r\n]*+"
    cell = re.compile(rb'(?:"(?>[^"]+|"")*+("?)' + other + b"|" + other + b")(" + re.escape(delimiter) + rb"|\r\n|\n|\r|\Z)")
    begin, cells, unclosed, position = start, list[tuple[int, int]](), False, start
    while True:
        found = cell.match(data, position)
        if found is None:  # cannot be: the pattern matches any bytes
            raise AssertionError("the CSV pattern must match everywhere")
        cells.append((position, found.start(2)))
        unclosed = unclosed or found[1] == b""
        position = found.end()
        if found[2] != delimiter:
            if len(cells) > 1 or cells[0][0] < cells[0][1]:
                yield Record(begin, position, cells, unclosed)
            if not found[2]:
                return
            begin, cells, unclosed = position, [], False


def sniff(sample: bytes, *, whole: bool) -> tuple[bytes, int, float]:
    """(delimiter, columns, share of the sample's records that have as many cells as the first).

    `whole` says that the sample is the whole file; otherwise its last record counts for nothing.
    """
    best = (b",", 1, 1.0)
    for code in DELIMITERS:
        delimiter = bytes([code])
        widths = [len(record.cells) for record in records(sample, 0, delimiter)]
        if not whole and len(widths) > 1:
            widths.pop()
        if widths and widths[0] > 1:
            candidate = (delimiter, widths[0], widths.count(widths[0]) / len(widths))
            if best[1] == 1 or (candidate[2], candidate[1]) > (best[2], best[1]):
                best = candidate
    return best


class _Wider(Exception):
    """A later batch needs wider types than the first; the types seen are complete now."""


@dataclass
class _Types:
    """What each column can still be, and whether it has a value."""

    possible: list[list[pa.DataType]]
    filled: list[bool]

    def narrow(self, batch: pa.RecordBatch) -> None:
        for index, column in enumerate(batch.columns):
            if self.possible[index]:
                values = column.drop_null()
                self.filled[index] = self.filled[index] or len(values) > 0
                self.possible[index] = [kind for kind in self.possible[index] if _all_match(values, _PATTERNS[kind])]

    def schema(self, names: list[str]) -> pa.Schema:
        kinds = [kinds[0] if kinds and some else pa.string() for kinds, some in zip(self.possible, self.filled, strict=True)]
        return pa.schema(list(zip(names, kinds, strict=True)))


def read_csv(file: BinaryIO, problem: TextProblem | None, source: Source, out: Path) -> Table:
    """Writes the canonical table. `file` is UTF-8 and stands behind its byte order mark; `problem` was found in it."""
    start = file.tell()
    sample = file.read(SAMPLE_BYTES)
    delimiter, _, _ = sniff(sample, whole=len(sample) < SAMPLE_BYTES)
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if problem:
            raise _text_error(data, file, start, delimiter, problem, source)
        header = next(records(data, start, delimiter))
        if header.end - header.start > ROW_BYTES:
            raise source.error("the header line is too long", row=0, line=1)
        names = [_name(data[begin:end], position) for position, (begin, end) in enumerate(header.cells, start=1)]
        check_columns(names, source)
        if next(records(data, header.end, delimiter), None) is None:
            raise source.error("it has a header but no rows", rows=0)
        types = _Types([list(_PATTERNS) for _ in names], [False] * len(names))
        block = BLOCK_BYTES
        while True:
            try:
                return _write(_batches(file, header.end, names, delimiter, block), types, names, data, header.end, delimiter, source, out)
            except _Wider:
                continue
            except pa.ArrowInvalid as error:
                if block < ROW_BYTES and "straddl" in str(error):  # a row that is longer than a block
                    block = min(ROW_BYTES, 8 * block)
                    continue
                raise _locate(data, file, header, delimiter, len(names), source) from error


class _From(io.RawIOBase):
    """A file from some byte on, with a place of its own: for an attempt that was given up, Arrow may still be reading ahead."""

    def __init__(self, file: BinaryIO, at: int) -> None:
        super().__init__()
        self._descriptor, self._at = file.fileno(), at

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        data = os.pread(self._descriptor, size, self._at)
        self._at += len(data)
        return data


def _batches(file: BinaryIO, at: int, names: list[str], delimiter: bytes, block: int) -> Iterator[pa.RecordBatch]:
    """The rows from that byte on, with every column as text."""
    reader = arrow_csv.open_csv(
        pa.PythonFile(_From(file, at), mode="r"),
        read_options=arrow_csv.ReadOptions(block_size=block, column_names=names, use_threads=False),
        parse_options=arrow_csv.ParseOptions(delimiter=delimiter.decode(), newlines_in_values=True),
        convert_options=arrow_csv.ConvertOptions(
            column_types={name: pa.string() for name in names},
            strings_can_be_null=True,
            null_values=[""],
            quoted_strings_can_be_null=False,
            check_utf8=False,
        ),
    )
    yield from reader


def _write(
    batches: Iterator[pa.RecordBatch],
    types: _Types,
    names: list[str],
    data: mmap.mmap,
    start: int,
    delimiter: bytes,
    source: Source,
    out: Path,
) -> Table:
    """One pass over the rows, with the narrowest types that hold for what was seen. Raises _Wider if later rows need wider ones."""
    first = next(batches)
    types.narrow(first)
    schema = types.schema(names)
    settled, last = True, None
    with writer(out, schema, source) as table:
        for batch in itertools.chain([first], batches):
            types.narrow(batch)
            settled = settled and types.schema(names) == schema
            if settled:
                table.write(batch.cast(schema))
            else:
                source.rows_done(table.rows)
            last = batch.column(len(names) - 1)[-1].as_py() if batch.num_rows else last
        if not settled:
            raise _Wider
        _check_last_quote(data, start, last, delimiter, table.rows, names[-1], source)
    return Table(table.rows, names)


def _name(cell: bytes, position: int) -> str:
    """A column's name; a column without one (pandas writes its index so) is named by its position."""
    text = cell.decode("utf-8")
    if text.startswith('"'):
        text = text[1:].removesuffix('"').replace('""', '"')
    return text.strip() or f"column_{position}"


def _all_match(values: pa.Array, pattern: str) -> bool:
    for part in (values.slice(0, 64), values):  # most text columns show what they are at once
        if not pc.all(pc.match_substring_regex(part, pattern), min_count=0).as_py():
            return False
    return pc.all(pc.less_equal(pc.binary_length(values), 16), min_count=0).as_py()


def _check_last_quote(data: mmap.mmap, start: int, last: str | None, delimiter: bytes, rows: int, name: str, source: Source) -> None:
    """Arrow takes a quote that never closes as if it closed at the end of the file; only the last cell can be so."""
    if last is None:
        return
    cell = b'"' + last.encode("utf-8").replace(b'"', b'""')
    if data[-len(cell) :] != cell:
        return
    # It looks so; a cell of nothing but a line end looks the same.
    if any(record.unclosed for record in records(data, start, delimiter)):
        raise source.error(f"row {rows:,}: a quote is opened and never closed", row=rows, column=name)


def _locate(data: mmap.mmap, file: BinaryIO, header: Record, delimiter: bytes, width: int, source: Source) -> DatasetError:
    """The first row that Arrow cannot have read, found by the exact scanner."""
    for row, record in enumerate(records(data, header.end, delimiter), start=1):
        longest = max(end - begin for begin, end in record.cells)
        if not (record.unclosed or len(record.cells) != width or longest > MAX_CELL_BYTES or record.end - record.start > ROW_BYTES):
            continue
        line = count_lines(file, record.start)
        if record.unclosed:
            return source.error(f"row {row:,} (line {line:,}): a quote is opened and never closed", row=row, line=line)
        if len(record.cells) != width:
            message = f"row {row:,} (line {line:,}) has {len(record.cells):,} cells, the header has {width:,}"
            return source.error(message, row=row, line=line, cells=len(record.cells), expected=width)
        if longest > MAX_CELL_BYTES:
            return cell_too_long(source, row, None)
        return source.error(f"row {row:,} (line {line:,}) is longer than {ROW_BYTES // 2**20} MiB", row=row, line=line)
    return source.error("it cannot be read as CSV")


def _text_error(data: mmap.mmap, file: BinaryIO, start: int, delimiter: bytes, problem: TextProblem, source: Source) -> DatasetError:
    """The error for a broken byte: the row is the number of records that start before it, less the header."""
    row = sum(1 for _ in itertools.takewhile(lambda record: record.end <= problem.offset, records(data, start, delimiter)))
    line = count_lines(file, problem.offset)
    where = f"row {row:,} (line {line:,})" if row else "the header"
    return source.error(f"{where} {problem.what}", row=row, line=line)
