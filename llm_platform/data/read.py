"""Reading a dataset: which format a file has, and its rows as canonical Parquet."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa

from llm_platform.data.canonical import MAX_CELL_BYTES, MAX_COLUMNS, Source, Table, writer
from llm_platform.data.detect import detect_format
from llm_platform.data.packed import MAX_UNPACKED_BYTES, unpacked
from llm_platform.data.profile import Profiler
from llm_platform.data.read_csv import read_csv
from llm_platform.data.read_json import read_json
from llm_platform.data.read_parquet import read_parquet
from llm_platform.data.text import TextProblem, count_lines, is_blank, utf8, whole_lines
from llm_platform.reporting import Reporter
from llm_platform.specs import Format

__all__ = ["MAX_CELL_BYTES", "MAX_COLUMNS", "Table", "detect_format", "to_parquet"]


def to_parquet(
    path: Path,
    format: Format,
    out: Path,
    filename: str,
    *,
    on_rows: Callable[[int], None] | None = None,
    reporter: Reporter | None = None,
    profiler: Profiler | None = None,
    max_unpacked_bytes: int = MAX_UNPACKED_BYTES,
) -> Table:
    """Reads `path` as `format`, unpacked if it is gzip, and writes its rows to `out` as zstd Parquet whose types hold over the
    whole file.

    `filename` is the name that messages show. `on_rows` is told the rows read so far, after each batch, and `profiler` sees the
    rows on their way. Memory does not grow with the file. Raises DatasetError, with `row` (from 1, the header not counted),
    `line` and `column` in its metadata where they are known, and then leaves nothing at `out`.
    """
    source = Source(filename, on_rows, reporter, profiler)
    with unpacked(path, source, out.with_name(f"{out.name}.unpacked"), max_unpacked_bytes) as plain:
        return _read(plain, format, source, out)


def _read(path: Path, format: Format, source: Source, out: Path) -> Table:
    if format == "parquet":
        return read_parquet(path, source, out)
    with utf8(path, source, out.parent) as (file, problem):
        if not problem and is_blank(file):
            raise source.error("it is empty", rows=0)
        if format == "csv":
            return read_csv(file, problem, source, out)
        if format == "txt":
            return _read_txt(file, problem, source, out)
        return read_json(file, problem, source, out, by_line=format == "jsonl")


def _read_txt(file: BinaryIO, problem: TextProblem | None, source: Source, out: Path) -> Table:
    """One row per line, in the column `text`."""
    if problem:
        line = count_lines(file, problem.offset)
        raise source.error(f"row {line:,} {problem.what}", row=line, line=line)
    schema = pa.schema([("text", pa.string())])
    with writer(out, schema, source) as table:
        for chunk in whole_lines(file, source, MAX_CELL_BYTES):
            table.write(pa.record_batch([_line_array(chunk)], schema=schema))
    return Table(table.rows, ["text"])


def _line_array(chunk: bytes) -> pa.Array:
    """The lines of a text in which every line ends in a newline, without their ends."""
    if b"\r" in chunk:
        chunk = chunk.replace(b"\r\n", b"\n")
    ends = np.flatnonzero(np.frombuffer(chunk, np.uint8) == ord("\n"))
    offsets = np.zeros(len(ends) + 1, np.int32)
    offsets[1:] = ends - np.arange(len(ends))  # so many newlines before it are gone
    return pa.StringArray.from_buffers(len(ends), pa.py_buffer(offsets), pa.py_buffer(chunk.replace(b"\n", b"")))
