"""Reading gives back what was written, in every format, dialect and encoding, with types that hold over the whole file."""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_platform.data.canonical import Source
from llm_platform.data.json_text import _quickly, _strictly  # pyright: ignore[reportPrivateUsage]
from llm_platform.data.read import detect_format, to_parquet
from llm_platform.errors import DatasetError

CHARACTERS = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
TEXTS = st.text(CHARACTERS, max_size=30)
NAMES = st.lists(st.from_regex(r"\A[a-zà-ü_.*^]{1,8}\Z"), min_size=2, max_size=4, unique=True)
PACKED = st.booleans()


def read(content: bytes, name: str) -> pa.Table:
    with tempfile.TemporaryDirectory() as folder:
        path, out = Path(folder, "upload"), Path(folder, "out.parquet")
        path.write_bytes(content)
        to_parquet(path, detect_format(path, name, None), out, name)
        return pq.read_table(out)


def packed(content: bytes, name: str, pack: bool) -> pa.Table:
    return read(gzip.compress(content, 1), f"{name}.gz") if pack else read(content, name)


ODD_CELLS = [
    *("1", "-2", "0.5", "1.0", "007", "true", "1e5", "", '"', '""', "a\r\nb", ",", ";", "\t", "\n", "\r\n", "=cmd|' /C calc'!A0"),
]
CELLS = st.one_of(TEXTS, st.sampled_from(ODD_CELLS))
ENCODINGS = st.sampled_from(["utf-8", "utf-8-sig", "utf-16"])


@given(NAMES, st.data(), st.sampled_from(",;\t|"), st.sampled_from(["\n", "\r\n"]), ENCODINGS, PACKED)
@settings(deadline=None)
def test_csv(names: list[str], data: st.DataObject, delimiter: str, end: str, encoding: str, pack: bool) -> None:
    rows = data.draw(st.lists(st.lists(CELLS, min_size=len(names), max_size=len(names)), min_size=1, max_size=12))
    out = io.StringIO()
    # As many names as cells in the first line are what tells the delimiter, so everything is quoted but plain names.
    writer = csv.writer(out, delimiter=delimiter, lineterminator=end, quoting=csv.QUOTE_ALL)
    out.write(delimiter.join(names) + end)
    writer.writerows(rows)
    table = packed(out.getvalue().encode(encoding), "data.csv", pack)
    assert table.column_names == names
    for index, column in enumerate(table.columns):
        cells = [row[index] for row in rows]
        # No text is read as a number that would be written in another way, but for whole ones beside fractions.
        whole = column.type == pa.float64()
        assert [_written(value, whole) for value in column.to_pylist()] == [cell.removesuffix(".0") if whole else cell for cell in cells]


def _written(value: Any, whole: bool) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text.removesuffix(".0") if whole else text


VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.integers(-9, 9), st.floats(allow_nan=False, allow_infinity=False), TEXTS
)
NESTED = st.recursive(VALUES, lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXTS, inner, max_size=3)), max_leaves=6)
ROWS = NAMES.flatmap(
    lambda names: st.lists(st.dictionaries(st.sampled_from(names), NESTED, min_size=1, max_size=len(names)), min_size=1, max_size=12)
)


def expected(rows: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], dict[str, pa.DataType]]:
    """The rows with every column in its type, by the rules that the reader states."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    kinds: dict[str, pa.DataType] = {}
    made: list[dict[str, Any]] = [{} for _ in rows]
    for name in names:
        values = [row.get(name) for row in rows]
        found = {type(value) for value in values if value is not None}
        whole = [abs(value) for value in values if type(value) is int]
        if found == {bool}:
            kind, convert = pa.bool_(), bool
        elif found == {int} and max(whole) < 2**63:
            kind, convert = pa.int64(), int
        elif found and found <= {int, float} and float in found and max(whole, default=0) <= 2**53:
            kind, convert = pa.float64(), float
        else:
            kind, convert = pa.string(), lambda value: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        kinds[name] = kind
        for row, value in zip(made, values, strict=True):
            row[name] = None if value is None else convert(value)
    return made, kinds


@given(ROWS, st.booleans(), st.booleans(), ENCODINGS, PACKED)
@settings(deadline=None)
def test_json_and_jsonl(rows: list[dict[str, Any]], by_line: bool, ascii: bool, encoding: str, pack: bool) -> None:
    lines = [json.dumps(row, ensure_ascii=ascii) for row in rows]
    content = "\n".join(lines) if by_line else f"[{', '.join(lines)}]"
    try:
        content.encode(encoding)
        table = packed(content.encode(encoding), "data.jsonl" if by_line else "data.json", pack)
    except DatasetError as error:
        # One row on one line is JSON and JSONL; a NUL that is escaped is still one.
        assert "NUL" in error.message and "\\u0000" in content
        return
    found, kinds = expected(rows)
    assert {field.name: field.type for field in table.schema} == kinds
    assert table.to_pylist() == found


MEMBERS = st.tuples(
    st.sampled_from(["a", "b", "\\u0061", "a\\\\", 'a\\"']), st.sampled_from(["1", '"x"', '"\\\\"', '"\\""', "[]", "{}", "null"])
)
ODD_LINES = [
    *("", "  ", "{}", "null", '{"a": NaN}', '{"a": 1e999}', '{"a": 18446744073709551616}', '{"a": -9223372036854775809}', '{"a": -0}'),
    *('{"a": "\\ud800"}', '{"a": 1} {"b": 2}', '{"a": 1},{"b": 2}', '{"a": [1', "2]}", '{"a": {"b": 1, "b": 2}}', '{"a": 01}'),
    "[" * 2_000,
]
LINES = st.one_of(
    NESTED.map(json.dumps),
    st.dictionaries(TEXTS, NESTED, max_size=3).map(lambda row: json.dumps(row, ensure_ascii=False)),
    st.lists(MEMBERS, max_size=4).map(lambda members: "{" + ", ".join(f'"{name}" : {value}' for name, value in members) + "}"),
    st.sampled_from(ODD_LINES),
)


@given(st.lists(LINES, min_size=1, max_size=5))
@settings(deadline=None, max_examples=300)
def test_the_fast_way_reads_lines_as_the_strict_one(lines: list[str]) -> None:
    content = [line.encode() for line in lines]
    quick = _quickly(b"".join(line + b"\n" for line in content), content)
    if quick is not None:
        strict = list(_strictly(content, 0, 0, Source("x")))
        assert repr(quick) == repr(strict)


@pytest.mark.parametrize(
    "line", ['{"a": 1, "b": "x\\\\", "c": "\\"", "d": [{"e": ["f"]}, 1.5, null]}', '{"role": "user", "content": "\\\\frac"}']
)
def test_the_fast_way_is_taken(line: str) -> None:
    assert _quickly(line.encode() + b"\n", [line.encode()]) == [json.loads(line)]


ARROW = {
    pa.int64(): st.integers(-(2**63), 2**63 - 1),
    pa.float64(): st.floats(allow_nan=False),
    pa.bool_(): st.booleans(),
    pa.string(): TEXTS,
    pa.large_string(): TEXTS,
    pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())])): st.lists(
        st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant"]), "content": st.one_of(st.none(), TEXTS)}), max_size=3
    ),
    pa.list_(pa.large_string()): st.lists(TEXTS, max_size=3),
    pa.dictionary(pa.int32(), pa.string()): st.sampled_from(["x", "y"]),
}


@given(NAMES, st.data(), st.sampled_from(["snappy", "zstd", "none"]), st.booleans(), st.integers(1, 8), PACKED)
@settings(deadline=None)
def test_parquet(names: list[str], data: st.DataObject, compression: str, dictionary: bool, group: int, pack: bool) -> None:
    kinds = [data.draw(st.sampled_from(list(ARROW))) for _ in names]
    count = data.draw(st.integers(1, 20))
    columns = [data.draw(st.lists(st.one_of(st.none(), ARROW[kind]), min_size=count, max_size=count)) for kind in kinds]
    table = pa.table([pa.array(values, kind) for values, kind in zip(columns, kinds, strict=True)], names=names)
    out = io.BytesIO()
    pq.write_table(table, out, compression=compression, use_dictionary=dictionary, row_group_size=group)
    found = packed(out.getvalue(), "data.parquet", pack)
    assert found.to_pylist() == table.to_pylist()
    assert not any(pa.types.is_dictionary(kind) or pa.types.is_large_string(kind) for kind in found.schema.types)


@pytest.mark.parametrize("value", [0.1, 1 / 3, 5e-324, 1.7976931348623157e308, -0.0, 123456789.123456789])
def test_floats_are_read_exactly(value: float) -> None:
    (found,) = read(json.dumps({"a": value}).encode(), "data.jsonl")["a"].to_pylist()
    assert found == value and math.copysign(1, found) == math.copysign(1, value)
