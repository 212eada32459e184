"""CSV to canonical Parquet: Arrow's parser for speed, an exact scanner of its own to find what is wrong and where.

Values keep their letters. A column is a number or a boolean only if writing its values gives the text of the file again:
007, 1.10, 1e5, +5, and digit strings of 16 digits or more stay text. An unquoted empty cell is null.
"""

from __future__ import annotations

import itertools
import mmap
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.csv as arrow_csv
import pyarrow.parquet as pq

from llm_platform.data.canonical import MAX_CELL_BYTES, Source, Table, cell_too_long, check_columns, pc, writer
from llm_platform.data.text import TextProblem, count_lines
from llm_platform.errors import DatasetError

DELIMITERS = b",;\t|"
SAMPLE_BYTES = 256 * 2**10
BLOCK_BYTES = 32 * 2**20
"""A row must fit into a block, so this is the longest row too."""

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


def read_csv(file: BinaryIO, problem: TextProblem | None, source: Source, out: Path) -> Table:
    """Writes the canonical table. `file` is UTF-8 and stands behind its byte order mark; `problem` was found in it."""
    start = file.tell()
    sample = file.read(SAMPLE_BYTES)
    delimiter, _, _ = sniff(sample, whole=len(sample) < SAMPLE_BYTES)
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if problem:
            raise _text_error(data, file, start, delimiter, problem, source)
        header = next(records(data, start, delimiter))
        if header.end - header.start > BLOCK_BYTES:
            raise source.error("the header line is too long", row=0, line=1)
        names = [_name(data[begin:end], position) for position, (begin, end) in enumerate(header.cells, start=1)]
        check_columns(names, source)
        if next(records(data, header.end, delimiter), None) is None:
            raise source.error("it has a header but no rows", rows=0)
        file.seek(header.end)
        raw = out.with_name(f"{out.name}.text")
        try:
            rows, types = _to_text_columns(file, names, delimiter, source, raw)
            _check_last_quote(data, raw, names, delimiter, rows, source)
            _cast(raw, out, types, source)
        except pa.ArrowInvalid as error:
            raise _locate(data, file, header, delimiter, len(names), source) from error
        finally:
            raw.unlink(missing_ok=True)
    return Table(rows, names)


def _name(cell: bytes, position: int) -> str:
    """A column's name; a column without one (pandas writes its index so) is named by its position."""
    text = cell.decode("utf-8")
    if text.startswith('"'):
        text = text[1:].removesuffix('"').replace('""', '"')
    return text.strip() or f"column_{position}"


def _to_text_columns(file: BinaryIO, names: list[str], delimiter: bytes, source: Source, raw: Path) -> tuple[int, list[pa.DataType]]:
    """Writes every column as text, and finds the narrowest type that holds each over the whole file."""
    schema = pa.schema([(name, pa.string()) for name in names])
    reader = arrow_csv.open_csv(
        pa.PythonFile(file, mode="r"),
        read_options=arrow_csv.ReadOptions(block_size=BLOCK_BYTES, column_names=names),
        parse_options=arrow_csv.ParseOptions(delimiter=delimiter.decode(), newlines_in_values=True),
        convert_options=arrow_csv.ConvertOptions(
            column_types=schema, strings_can_be_null=True, null_values=[""], quoted_strings_can_be_null=False, check_utf8=False
        ),
    )
    possible = [list(_PATTERNS) for _ in names]
    filled = [False] * len(names)
    with writer(raw, schema, source) as table:
        for batch in reader:
            for index, column in enumerate(batch.columns):
                if possible[index]:
                    values = column.drop_null()
                    filled[index] = filled[index] or len(values) > 0
                    possible[index] = [kind for kind in possible[index] if _all_match(values, _PATTERNS[kind])]
            table.write(batch)
    return table.rows, [kinds[0] if kinds and some else pa.string() for kinds, some in zip(possible, filled, strict=True)]


def _all_match(values: pa.Array, pattern: str) -> bool:
    for part in (values.slice(0, 64), values):  # most text columns show what they are at once
        if not pc.all(pc.match_substring_regex(part, pattern), min_count=0).as_py():
            return False
    return pc.all(pc.less_equal(pc.binary_length(values), 16), min_count=0).as_py()


def _cast(raw: Path, out: Path, types: list[pa.DataType], source: Source) -> None:
    """Turns the table of texts into one of the types found."""
    if all(pa.types.is_string(kind) for kind in types):
        raw.replace(out)
        return
    with pq.ParquetFile(raw) as file, writer(out, _typed(file.schema_arrow, types), replace(source, on_rows=None)) as table:
        for batch in file.iter_batches(batch_size=65_536):
            table.write(batch.cast(_typed(batch.schema, types)))


def _typed(schema: pa.Schema, types: list[pa.DataType]) -> pa.Schema:
    return pa.schema([(name, kind) for name, kind in zip(schema.names, types, strict=True)])


def _check_last_quote(data: mmap.mmap, raw: Path, names: list[str], delimiter: bytes, rows: int, source: Source) -> None:
    """Arrow takes a quote that never closes as if it closed at the end of the file; only the last cell can be so."""
    with pq.ParquetFile(raw) as file:
        last: Any = file.read_row_group(file.num_row_groups - 1, columns=names[-1:]).column(0)[-1].as_py()
    if last is not None:
        cell = b'"' + last.encode("utf-8").replace(b'"', b'""')
        before = len(data) - len(cell) - 1
        if before >= 0 and data[before : before + 1] in (delimiter, b"\n", b"\r") and data[before + 1 :] == cell:
            raise source.error(f"row {rows:,}: a quote is opened and never closed", row=rows, column=names[-1])


def _locate(data: mmap.mmap, file: BinaryIO, header: Record, delimiter: bytes, width: int, source: Source) -> DatasetError:
    """The first row that Arrow cannot have read, found by the exact scanner."""
    for row, record in enumerate(records(data, header.end, delimiter), start=1):
        longest = max(end - begin for begin, end in record.cells)
        if not (record.unclosed or len(record.cells) != width or longest > MAX_CELL_BYTES or record.end - record.start > BLOCK_BYTES):
            continue
        line = count_lines(file, record.start)
        if record.unclosed:
            return source.error(f"row {row:,} (line {line:,}): a quote is opened and never closed", row=row, line=line)
        if len(record.cells) != width:
            message = f"row {row:,} (line {line:,}) has {len(record.cells):,} cells, the header has {width:,}"
            return source.error(message, row=row, line=line, cells=len(record.cells), expected=width)
        if longest > MAX_CELL_BYTES:
            return cell_too_long(source, row, None)
        return source.error(f"row {row:,} (line {line:,}) is longer than {BLOCK_BYTES // 2**20} MiB", row=row, line=line)
    return source.error("it cannot be read as CSV")


def _text_error(data: mmap.mmap, file: BinaryIO, start: int, delimiter: bytes, problem: TextProblem, source: Source) -> DatasetError:
    """The error for a broken byte: the row is the number of records that start before it, less the header."""
    row = sum(1 for _ in itertools.takewhile(lambda record: record.end <= problem.offset, records(data, start, delimiter)))
    line = count_lines(file, problem.offset)
    where = f"row {row:,} (line {line:,})" if row else "the header"
    return source.error(f"{where} {problem.what}", row=row, line=line)
