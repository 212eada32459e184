"""Every bad file of the list: a DatasetError that says what and where, and nothing left behind."""

from __future__ import annotations

import json
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llm_platform.data import read_csv
from llm_platform.data.read import MAX_CELL_BYTES, MAX_COLUMNS, detect_format, to_parquet
from llm_platform.errors import DatasetError

Refused = Callable[..., DatasetError]


@pytest.fixture
def refused(tmp_path: Path) -> Refused:
    """The error for a file of this name and content."""

    def run(content: str | bytes, name: str) -> DatasetError:
        folder = tmp_path / "secret-place"
        folder.mkdir(exist_ok=True)
        path = folder / "upload"
        path.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
        with pytest.raises(DatasetError) as caught:
            to_parquet(path, detect_format(path, name, None), folder / "out.parquet", name)
        assert caught.value.message.startswith(name)
        assert "secret-place" not in str(caught.value.body())
        json.dumps(caught.value.body())
        assert [item.name for item in folder.iterdir()] == ["upload"]
        return caught.value

    return run


@pytest.mark.parametrize("name", ["a.csv", "a.json", "a.jsonl", "a.txt", "a.parquet", "a"])
@pytest.mark.parametrize(
    "content", [b"", b"  \n\n", b"\xef\xbb\xbf", b"\xff\xfe", b"\xff\xfe\n\x00"], ids=["0", "blank", "bom", "bom16", "blank16"]
)
def test_empty_files(refused: Refused, name: str, content: bytes) -> None:
    assert "empty" in refused(content, name).message


@pytest.mark.parametrize(
    ("content", "name"),
    [
        ("a,b\n", "a.csv"),
        ("a,b", "a.csv"),
        ("a,b\n\n\n", "a.csv"),
        ("[]", "a.json"),
        ('{"data": []}', "a.json"),
    ],
)
def test_no_rows(refused: Refused, content: str, name: str) -> None:
    assert "no rows" in refused(content, name).message


def test_objects_without_members(refused: Refused) -> None:
    assert refused("{}", "a.json").metadata["row"] == 1
    assert refused("{}\n{}\n", "a.jsonl").metadata["row"] == 1


CASES: dict[str, tuple[str | bytes, str, dict[str, Any], str]] = {
    "utf8 csv": (b"a,b\n1,2\n3,\xff\n", "a.csv", {"row": 2, "line": 3}, "UTF-8"),
    "utf8 csv after quoted newlines": (b'a,b\n"1\n\n",2\n3,\xff\n', "a.csv", {"row": 2, "line": 5}, "UTF-8"),
    "utf8 csv header": (b"a,\xff\n1,2\n", "a.csv", {"row": 0, "line": 1}, "header"),
    "utf8 csv cut at the end": (b"a,b\n1,2\n3,\xc3", "a.csv", {"row": 2}, "UTF-8"),
    "utf8 jsonl": (b'{"a": 1}\n\n{"a": "\xc3("}\n', "a.jsonl", {"row": 2, "line": 3}, "UTF-8"),
    "utf8 json": (b'[{"a": 1},\n{"a": "\xff"}]', "a.json", {"row": 2, "line": 2}, "UTF-8"),
    "utf8 txt": (b"one\ntwo\n\xe9\n", "a.txt", {"row": 3}, "UTF-8"),
    "utf8 surrogate": (b"one\n\xed\xa0\x80\n", "a.txt", {"row": 2}, "UTF-8"),
    "utf16 cut": (b"\xff\xfe" + "a,b\n1,2\n".encode("utf-16-le") + b"x", "a.csv", {"row": 2}, "UTF-16"),
    "utf16 surrogate": (b"\xff\xfe" + "one\ntwo\n".encode("utf-16-le") + b"\x00\xd8\n\x00", "a.txt", {"row": 3}, "UTF-16"),
    "utf16 nothing valid": (b"\xff\xfe\x00\xd8\x00\x00", "a.csv", {"row": 0}, "UTF-16"),
    "utf32": ("a,b\n1,2\n".encode("utf-32"), "a.csv", {}, "UTF-32"),
    "nul csv": (b"a,b\n1,2\n3,x\0y\n", "a.csv", {"row": 2, "line": 3}, "NUL"),
    "nul jsonl": (b'{"a": 1}\n{"a": "\0"}\n', "a.jsonl", {"row": 2}, "NUL"),
    "nul escaped in jsonl": ('{"a": "x"}\n{"a": "\\u0000"}\n', "a.jsonl", {"row": 2, "column": "a"}, "NUL"),
    "nul txt": (b"one\n\0\n", "a.txt", {"row": 2}, "NUL"),
    "surrogate jsonl": ('{"a": "x"}\n{"a": "\\ud800"}\n', "a.jsonl", {"row": 2, "column": "a"}, "surrogate"),
    "surrogate json": ('[{"a": "x"}, {"a": "x", "b": ["\\udfff"]}]', "a.json", {"row": 2, "column": "b"}, "surrogate"),
    "surrogate key": ('{"\\ud800": "x"}\n{"a": 1}', "a.jsonl", {"column": "?"}, "surrogate"),
    "ragged long": ("a,b\n1,2\n3,4,5\n6,7\n", "a.csv", {"row": 2, "line": 3, "cells": 3, "expected": 2}, "3 cells"),
    "ragged short": ('a,b\n"x\ny",2\n3\n', "a.csv", {"row": 2, "line": 4, "cells": 1}, "1 cells"),
    "ragged last": ("a,b\n" + "1,2\n" * 50_000 + "3\n", "a.csv", {"row": 50_001}, "1 cells"),
    "open quote": ('a,b\n1,2\n3,"open\n5,6\n', "a.csv", {"row": 2}, "never closed"),
    "open quote swallows the width": ('a,b\n1,2\n"open,4\n5,6\n', "a.csv", {"row": 2, "line": 3}, "never closed"),
    "open empty quote": ('a,b\n1,"', "a.csv", {"row": 1}, "never closed"),
    "duplicate columns": ("a,b,a\n1,2,3\n", "a.csv", {"column": "a", "row": 0}, "more than once"),
    "duplicate keys": ('{"a": 1}\n{"a": 1, "a": 2}\n', "a.jsonl", {"row": 2}, "twice"),
    "duplicate keys json": ('{"data": [{"a": 1}], "data": [{"a": 1}]}', "a.json", {}, "once"),
    "broken line": ('{"a": 1}\n{"a": 2\n{"a": 3}\n', "a.jsonl", {"row": 2, "line": 2}, "broken JSON"),
    "broken first line": ('{"a": }\n{"a": 2}\n', "a.jsonl", {"row": 1, "line": 1}, "broken JSON"),
    "text among objects": ('{"a": 1}\n\noops\n', "a.jsonl", {"row": 2, "line": 3}, "broken JSON"),
    "two objects in a line": ('{"a": 1}\n{"a": 2} {"a": 3}\n', "a.jsonl", {"row": 2}, "broken JSON"),
    "scalar line": ('{"a": 1}\n42\n', "a.jsonl", {"row": 2}, "a number"),
    "broken json": ('[{"a": 1},\n{"a": 2,}]', "a.json", {"row": 2, "line": 2}, "broken JSON"),
    "truncated json": ('[{"a": 1}, {"a": "xy', "a.json", {"row": 2}, "broken JSON"),
    "json without end": ('[{"a": 1}', "a.json", {"row": 1}, "end of the file"),
    "json with a tail": ('[{"a": 1}]\nmore', "a.json", {"line": 2}, "after the end"),
    "list of lists": ("[[1, 2], [3, 4]]", "a.json", {"row": 1}, "a list"),
    "list of texts": ('["a", "b"]', "a.json", {"row": 1}, "a text"),
    "mixed list": ('[{"a": 1}, null]', "a.json", {"row": 2}, "null"),
    "lines of lists": ("[1, 2]\n[3, 4]\n", "a.jsonl", {"row": 1}, "a list"),
    "two lists": ('{"train": [{"a": 1}], "test": [{"a": 2}]}', "a.json", {}, "two lists"),
    "nan": ('{"a": 1.5}\n{"a": NaN}\n', "a.jsonl", {"row": 2}, "NaN"),
    "infinity": ('[{"a": 1.5}, {"a": -Infinity}]', "a.json", {"row": 2}, "Infinity"),
    "overflow": ('{"a": 1e999}\n', "a.jsonl", {"row": 1}, "too large"),
    "endless number": ('{"a": ' + "9" * 5_000 + "}\n", "a.jsonl", {"row": 1}, "digits"),
    "deep list": ("[" * 1_000_000, "a.json", {"row": 1}, "nested too deeply"),
    "deep list closed": ("[" * 1_000_000 + "]" * 1_000_000, "a.json", {"row": 1}, "nested too deeply"),
    "deep object": ('{"a":' * 1_000_000 + "1" + "}" * 1_000_000, "a.json", {}, "nested too deeply"),
    "deep line": ('{"a": 1}\n{"a": ' + "[" * 1_000_000 + "]" * 1_000_000 + "}\n", "a.jsonl", {"row": 2}, "nested too deeply"),
    "many columns": (",".join(f"c{n}" for n in range(MAX_COLUMNS + 1)) + "\n1\n", "a.csv", {"columns": MAX_COLUMNS + 1}, "columns"),
    "many keys": (json.dumps({f"c{n}": n for n in range(MAX_COLUMNS + 1)}) + "\n", "a.jsonl", {}, "columns"),
    "endless name": ("a" * 2_000 + ",b\n1,2\n", "a.csv", {"position": 1}, "name"),
    "not parquet after all": (b"PAR1" + b"garbage" * 100 + b"PAR1", "a.parquet", {}, "not a readable Parquet"),
    "encrypted parquet": (b"PARE" + b"garbage" * 100 + b"PARE", "a.parquet", {}, "not a readable Parquet"),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_file(refused: Refused, case: str) -> None:
    content, name, where, words = CASES[case]
    error = refused(content, name)
    assert words in error.message
    assert {key: error.metadata.get(key) for key in where} == where


LONG = b"x" * (MAX_CELL_BYTES + 1)


@pytest.mark.parametrize(
    ("before", "after", "name"),
    [
        (b'a,b\n1,2\n3,"', b'"\n5,6\n', "a.csv"),
        (b"a,b\n1,2\n3,", b"\n5,6\n", "a.csv"),
        (b'{"a": 1}\n{"a": "', b'"}\n', "a.jsonl"),
        (b'[{"a": 1},\n{"a": "', b'"}]', "a.json"),
        (b"one\n", b"\nthree\n", "a.txt"),
    ],
    ids=["quoted csv", "csv", "jsonl", "json", "txt"],
)
@pytest.mark.parametrize("times", [1, 7], ids=["just over", "over 100 MB"])
def test_overlong_cell_names_its_row(refused: Refused, before: bytes, after: bytes, name: str, times: int) -> None:
    error = refused(before + LONG * times + after, name)
    assert error.metadata["row"] == 2
    assert "MiB" in error.message


def test_an_attempt_that_was_given_up_takes_nothing_from_the_next(tmp_path: Path) -> None:
    """Of a row that is longer than a block, or a column that is no number after all, another attempt is made, while Arrow reads ahead."""
    path = tmp_path / "x"
    path.write_bytes(b"a,b\n" + b"1,two\n" * 200_000)
    with path.open("rb") as file:
        first = read_csv._batches(file, 4, ["a", "b"], b",", 2**12)
        rows = len(next(first))
        assert sum(map(len, read_csv._batches(file, 4, ["a", "b"], b",", 2**16))) == 200_000
        assert rows + sum(map(len, first)) == 200_000


def test_longest_cell_allowed(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"a,b\n1," + LONG[:-1] + b"\n")
    assert to_parquet(path, "csv", tmp_path / "out.parquet", "x.csv").rows == 1


def test_deep_nesting_in_a_thread(refused: Refused) -> None:
    """Threads have smaller stacks than the main one."""
    found: list[DatasetError] = []
    thread = threading.Thread(target=lambda: found.append(refused("[" * 1_000_000, "a.json")))
    thread.start()
    thread.join()
    assert "nested" in found[0].message


def parquet(tmp_path: Path, table: pa.Table, **options: Any) -> bytes:
    path = tmp_path / "made.parquet"
    pq.write_table(table, path, **options)
    return path.read_bytes()


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9, 0.999])
def test_truncated_parquet(refused: Refused, tmp_path: Path, kept: float) -> None:
    content = parquet(tmp_path, pa.table({"a": [str(number) for number in range(10_000)]}))
    assert "truncated, corrupt" in refused(content[: int(len(content) * kept)], "a.parquet").message


@pytest.mark.parametrize("place", range(8))
def test_corrupt_parquet(refused: Refused, tmp_path: Path, place: int) -> None:
    content = bytearray(parquet(tmp_path, pa.table({"a": [f"text {number * 7919}" for number in range(10_000)]})))
    start = 8 + place * (len(content) - 600) // 8
    content[start : start + 40] = b"\xa5" * 40
    refused(bytes(content), "a.parquet")


def test_footer_that_claims_gigabytes(refused: Refused) -> None:
    refused(b"PAR1" + b"x" * 100 + struct.pack("<I", 2**31 - 1) + b"PAR1", "a.parquet")


def test_parquet_without_rows_or_with_bytes_or_duplicates(refused: Refused, tmp_path: Path) -> None:
    assert "no rows" in refused(parquet(tmp_path, pa.table({"a": pa.array([], pa.string())})), "a.parquet").message
    assert refused(parquet(tmp_path, pa.table({"a": [b"\xff"]})), "a.parquet").metadata["column"] == "a"
    nested = pa.table({"image": [{"bytes": b"\xff", "path": "a.png"}]})
    assert "holds bytes" in refused(parquet(tmp_path, nested), "a.parquet").message
    twice = pa.Table.from_arrays([pa.array(["x"]), pa.array(["y"])], names=["a", "a"])
    assert "more than once" in refused(parquet(tmp_path, twice), "a.parquet").message


def test_parquet_texts_are_checked(refused: Refused, tmp_path: Path) -> None:
    texts = pa.array(["fine"] * 1_000 + ["no\0no"] + ["fine"] * 10)
    assert refused(parquet(tmp_path, pa.table({"a": texts})), "a.parquet").metadata == {"row": 1_001, "column": "a"}
    offsets = pa.py_buffer(struct.pack("<3i", 0, 1, 2))
    broken = pa.Array.from_buffers(pa.string(), 2, [None, offsets, pa.py_buffer(b"a\xff")])
    assert refused(parquet(tmp_path, pa.table({"a": broken})), "a.parquet").metadata == {"row": 2, "column": "a"}
    long = pa.array(["x", "y" * (MAX_CELL_BYTES + 1)])
    assert refused(parquet(tmp_path, pa.table({"a": long})), "a.parquet").metadata == {"row": 2, "column": "a"}


@pytest.mark.parametrize("kind", [pa.int64(), pa.list_(pa.int64())], ids=str)
def test_parquet_bomb_of_overlapping_row_groups(refused: Refused, tmp_path: Path, kind: pa.DataType) -> None:
    """A footer that names the same row group a thousand times."""
    rows = 1_000_000
    values = pa.array([0], pa.int64()).take(pa.array([0]).take(pa.array([0] * rows)))
    if pa.types.is_list(kind):
        values = pa.ListArray.from_arrays(pa.array([0, rows], pa.int32()), values)
    path = tmp_path / "made.parquet"
    pq.write_table(pa.table({"a": values}), path)
    metadata, single = pq.read_metadata(path), pq.read_metadata(path)
    for _ in range(999):
        metadata.append_row_groups(single)
    footer = tmp_path / "footer.parquet"
    metadata.write_metadata_file(footer)
    content = path.read_bytes()[: -8 - single.serialized_size] + footer.read_bytes()[4:]
    assert len(content) < 2**20
    assert "bytes in memory" in refused(content, "a.parquet").message


def test_parquet_of_too_many_columns(refused: Refused, tmp_path: Path) -> None:
    wide = pa.table({f"c{number}": [1] for number in range(MAX_COLUMNS + 1)})
    assert refused(parquet(tmp_path, wide), "a.parquet").metadata["columns"] == MAX_COLUMNS + 1
