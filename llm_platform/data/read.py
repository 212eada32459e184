"""Reading a dataset: which format a file has, and its rows as canonical Parquet."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa

from llm_platform.data.canonical import MAX_CELL_BYTES, MAX_COLUMNS, Source, Table, writer
from llm_platform.data.detect import detect_format
from llm_platform.data.read_csv import read_csv
from llm_platform.data.read_json import read_json
from llm_platform.data.read_parquet import read_parquet
from llm_platform.data.text import TextProblem, count_lines, is_blank, lines, utf8
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
) -> Table:
    """Reads `path` as `format` and writes its rows to `out` as zstd Parquet whose types hold over the whole file.

    `filename` is the name that messages show. `on_rows` is told the rows read so far, after each batch. Memory does not grow
    with the file. Raises DatasetError, with `row` (from 1, the header not counted), `line` and `column` in its metadata where
    they are known, and then leaves nothing at `out`.
    """
    source = Source(filename, on_rows, reporter)
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
        for batch in lines(file, source, MAX_CELL_BYTES):
            table.write(pa.record_batch([pa.array(batch, pa.binary()).cast(pa.string())], schema=schema))
    return Table(table.rows, ["text"])
