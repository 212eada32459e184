"""JSON and JSONL to canonical Parquet, with types that hold over the whole file.

A column is boolean, integer, floating point or text; nested values, and columns of mixed types, become text (JSON text for
what was not text). Integers beside fractions make a column of floats.
"""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

from llm_platform.data.canonical import Source, Table, check_columns, shown, writer
from llm_platform.data.json_text import JsonText, Row, jsonl_rows
from llm_platform.data.text import TextProblem, count_lines
from llm_platform.errors import DatasetError

_EXACT = 2**53  # a float holds every integer up to here
Kinds = dict[str, set[str]]


class _Wider(Exception):
    """A later batch needs wider types than the first; the kinds seen are complete now."""


def read_json(file: BinaryIO, problem: TextProblem | None, source: Source, out: Path, *, by_line: bool) -> Table:
    """Writes the canonical table. `file` is UTF-8 and stands behind its byte order mark; `problem` was found in it."""
    start = file.tell()

    def batches() -> Iterator[list[Row]]:
        file.seek(start)
        return jsonl_rows(file, source) if by_line else JsonText(file, source).rows()

    if problem:
        raise _text_error(file, start, problem, source, by_line=by_line)
    kinds: Kinds = {}
    try:
        return _write(batches, kinds, source, out)
    except _Wider:
        return _write(batches, kinds, source, out)


def _write(batches: Callable[[], Iterator[list[Row]]], kinds: Kinds, source: Source, out: Path) -> Table:
    """One pass over the rows. Types are those of `kinds`, to which the rows' kinds are added. Raises _Wider if they change."""
    iterator = batches()
    first = next(iterator, None)
    if first is None:
        raise source.error("it has no rows", rows=0)
    columns = _columns(kinds, first, 0, source)
    schema = _schema(kinds)
    settled = True
    with writer(out, schema, source) as table:
        while True:
            settled = settled and _schema(kinds) == schema
            if settled:
                table.write(_batch(columns, schema, table.rows, source))
            else:
                source.rows_done(table.rows)
            batch = next(iterator, None)
            if batch is None:
                break
            columns = _columns(kinds, batch, table.rows, source)
        if not settled:
            raise _Wider
    return Table(table.rows, schema.names)


def _columns(kinds: Kinds, batch: list[Row], before: int, source: Source) -> dict[str, list[Any]]:
    """The batch's values by column, with None where a row has none. Adds their kinds to `kinds`."""
    names = dict.fromkeys(itertools.chain.from_iterable(batch))
    if not kinds.keys() >= names.keys():
        check_columns([*dict.fromkeys([*kinds, *names])], source)
        for name in names:
            _check_encodable(name, "the name of a column", 0, name, source)
    elif not kinds:
        raise source.error(f"row {before + 1:,}: an object without members is no row", row=before + 1)
    columns = {name: [row.get(name) for row in batch] for name in dict.fromkeys([*kinds, *names])}
    for name in names:
        kinds.setdefault(name, set()).update(_kinds(columns[name]))
    return columns


def _kinds(values: list[Any]) -> set[str]:
    found = {kind.__name__ for kind in set(map(type, values))} - {"NoneType"}
    if "int" in found:
        largest = max(abs(value) for value in values if type(value) is int)
        if largest > _EXACT:
            found.add("long" if largest < 2**63 else "huge")
    return found


def _schema(kinds: Kinds) -> pa.Schema:
    return pa.schema([(name, _type(found)) for name, found in kinds.items()])


def _type(kinds: set[str]) -> pa.DataType:
    if kinds == {"bool"}:
        return pa.bool_()
    if kinds and kinds <= {"int", "long"}:
        return pa.int64()
    if kinds and kinds <= {"int", "float"}:
        return pa.float64()
    return pa.string()


def _batch(columns: dict[str, list[Any]], schema: pa.Schema, before: int, source: Source) -> pa.RecordBatch:
    return pa.record_batch([_column(columns[field.name], field, before, source) for field in schema], schema=schema)


def _column(values: list[Any], field: pa.Field, before: int, source: Source) -> pa.Array:
    if not pa.types.is_string(field.type):
        return pa.array(values, field.type)
    try:
        if not set(map(type, values)) <= {str, type(None)}:
            values = [value if value is None or type(value) is str else json.dumps(value, ensure_ascii=False) for value in values]
        return pa.array(values, pa.string())
    except RecursionError:
        raise source.error(f"column {shown(field.name)}: a value is nested too deeply", column=field.name) from None
    except UnicodeEncodeError:
        for row, value in enumerate(values, start=before + 1):
            _check_encodable(value, f"row {row:,}, column {shown(field.name)}", row, field.name, source)
        raise


def _check_encodable(text: str | None, where: str, row: int, column: str, source: Source) -> None:
    try:
        (text or "").encode("utf-8")
    except UnicodeEncodeError:
        name = column.encode("utf-8", "replace").decode("utf-8")
        where = where.encode("utf-8", "replace").decode("utf-8")
        raise source.error(f"{where} has a lone surrogate, half of a character (\\ud800 to \\udfff)", row=row, column=name) from None


def _text_error(file: BinaryIO, start: int, problem: TextProblem, source: Source, *, by_line: bool) -> DatasetError:
    """The error for a broken byte; its row is found by reading the rows up to there."""
    line = count_lines(file, problem.offset)
    file.seek(start)
    if by_line:
        row = sum(bool(text.strip()) for text in itertools.islice(file, line))
    else:
        text = JsonText(file, Source(source.filename), limit=problem.offset)
        with contextlib.suppress(DatasetError):
            for _ in text.rows():
                pass
        row = text.row
    return source.error(f"row {row:,} (line {line:,}) {problem.what}", row=row, line=line)
