"""What is read, read right: formats, encodings, dialects, types."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llm_platform.data.read import Table, detect_format, to_parquet
from llm_platform.errors import Cancelled, DatasetError
from llm_platform.reporting import ListReporter
from llm_platform.specs import Format

Read = Callable[..., pa.Table]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Writes the content to a file of this name, detects its format, and reads it."""

    def run(content: str | bytes, name: str, claimed: Format | None = None) -> pa.Table:
        path = tmp_path / "upload"
        path.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
        out = tmp_path / "out.parquet"
        found = to_parquet(path, detect_format(path, name, claimed), out, name)
        table = pq.read_table(out)
        assert found == Table(table.num_rows, table.column_names)
        assert pq.ParquetFile(out).metadata.row_group(0).column(0).compression == "ZSTD"
        assert sorted(item.name for item in tmp_path.iterdir()) == ["out.parquet", "upload"]
        return table

    return run


CSV = "question,answer\nWhat is 2+2?,4\nCapital of France?,Paris\n"
ROWS = [{"question": "What is 2+2?", "answer": "4"}, {"question": "Capital of France?", "answer": "Paris"}]


@pytest.mark.parametrize(
    "content",
    [
        CSV,
        CSV.replace("\n", "\r\n"),
        CSV.rstrip("\n"),
        CSV.replace(",", ";"),
        CSV.replace(",", "\t"),
        CSV.replace(",", "|"),
        "\ufeff" + CSV,
        b"\xff\xfe" + CSV.encode("utf-16-le"),
        b"\xfe\xff" + CSV.encode("utf-16-be"),
        CSV.replace("\nCapital", "\n\nCapital"),
        '"question","answer"\n"What is 2+2?","4"\n"Capital of France?","Paris"\n',
    ],
    ids=["plain", "crlf", "no-last-newline", "semicolon", "tab", "pipe", "bom", "utf16le", "utf16be", "blank-line", "quoted"],
)
def test_csv_dialects_and_encodings(read: Read, content: str | bytes) -> None:
    assert read(content, "data.csv").to_pylist() == ROWS


def test_quoted_newlines_quotes_and_delimiters(read: Read) -> None:
    content = 'a,b\n"line 1\nline 2","say ""hi"", ok"\n"x\r\ny",z\n'
    assert read(content, "data.csv").to_pylist() == [{"a": "line 1\nline 2", "b": 'say "hi", ok'}, {"a": "x\r\ny", "b": "z"}]


def test_quoted_newline_at_the_very_end_is_no_open_quote(read: Read) -> None:
    assert read('a\n"x\n"\n', "data.csv").to_pylist() == [{"a": "x\n"}]
    assert read('a,b\n1,""', "data.csv").to_pylist() == [{"a": 1, "b": ""}]
    assert read('a\n"""q"""', "data.csv").to_pylist() == [{"a": '"q"'}]


def test_empty_cells_are_null_and_quoted_empty_cells_are_texts(read: Read) -> None:
    assert read('a,b\n,""\nx,y\n', "data.csv").to_pylist() == [{"a": None, "b": ""}, {"a": "x", "b": "y"}]


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        (["1", "-20", "0", "999999999999999"], pa.int64()),
        (["0.5", "-1.25", "2.0"], pa.float64()),
        (["1", "2.5"], pa.float64()),
        (["true", "false"], pa.bool_()),
        (["1", "x"], pa.string()),
        (["007", "1"], pa.string()),
        (["1.10", "1.2"], pa.string()),
        (["1e5"], pa.string()),
        (["+5"], pa.string()),
        (["0.00001"], pa.string()),
        (["1234567890123456"], pa.string()),
        (["0.12345678901234567"], pa.string()),
        ([" 1"], pa.string()),
        (["True", "False"], pa.string()),
        (["NaN", "1.5"], pa.string()),
        (["=cmd|' /C calc'!A0", "@SUM(1+1)", "-2+3", "'"], pa.string()),
        (["2024-01-31"], pa.string()),
        (["null", "NA"], pa.string()),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else str(value),
)
def test_csv_types_never_change_the_letters(read: Read, cells: list[str], kind: pa.DataType) -> None:
    table = read("id,cell\n" + "".join(f"a,{cell}\n" for cell in cells), "data.csv")
    assert table.schema.field("cell").type == kind
    values = table["cell"].to_pylist()
    assert values == (cells if kind == pa.string() else [json.loads(cell) for cell in cells])


def test_csv_types_hold_over_the_whole_file(read: Read) -> None:
    content = "id,cell\n" + "".join(f"{number},{number}\n" for number in range(300_000)) + "300000,last\n"
    table = read(content, "data.csv")
    assert table.schema.types == [pa.int64(), pa.string()]
    assert table["cell"][0].as_py() == "0"
    assert table["cell"][-1].as_py() == "last"


def test_csv_of_one_column_and_without_names(read: Read) -> None:
    assert read("text\nhello\nworld\n", "data.csv").to_pylist() == [{"text": "hello"}, {"text": "world"}]
    assert read(",a\n0,x\n1,y\n", "data.csv").column_names == ["column_1", "a"]


def test_txt_is_one_row_per_line_to_the_letter(read: Read) -> None:
    assert read("one\r\n\n  two, 3;4\nfünf", "notes.txt")["text"].to_pylist() == ["one", "", "  two, 3;4", "fünf"]
    assert read('{"a": 1}\n', "notes.txt").to_pylist() == [{"text": '{"a": 1}'}]


JSON_ROWS = [{"a": "x", "b": 1}, {"a": "ü\n", "b": None}]


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (json.dumps(JSON_ROWS), "data.json"),
        (json.dumps(JSON_ROWS, indent=2), "data.json"),
        (json.dumps({"data": JSON_ROWS}), "data.json"),
        (json.dumps({"version": "1", "data": JSON_ROWS, "extra": [1]}, indent=1), "data.json"),
        ("\ufeff" + json.dumps(JSON_ROWS, ensure_ascii=False), "data.json"),
        (b"\xff\xfe" + json.dumps(JSON_ROWS).encode("utf-16-le"), "data.json"),
        ("".join(json.dumps(row) + "\n" for row in JSON_ROWS), "data.jsonl"),
        ("\r\n\r\n".join(json.dumps(row) for row in JSON_ROWS), "data.ndjson"),
        ('{"a": "x", "b": 1}\n{"a": "ü\\n"}\n', "data.jsonl"),
    ],
    ids=["list", "indented", "wrapped", "wrapped-more", "bom", "utf16", "jsonl", "jsonl-blank-crlf", "missing-key"],
)
def test_json_and_jsonl(read: Read, content: str | bytes, name: str) -> None:
    assert read(content, name).to_pylist() == JSON_ROWS


def test_json_of_one_object_is_one_row(read: Read) -> None:
    assert read('{"a": "x", "b": [1, 2]}', "data.json").to_pylist() == [{"a": "x", "b": "[1, 2]"}]


def test_json_reader_is_told_what_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text('{"version": 1, "rows": [{"a": 1}]}')
    reporter = ListReporter()
    to_parquet(path, "json", tmp_path / "out.parquet", "x.json", reporter=reporter)
    assert "'version'" in reporter.lines[0][1]


@pytest.mark.parametrize(
    ("values", "kind", "read_as"),
    [
        ([1, 2], pa.int64(), [1, 2]),
        ([1, 2.5], pa.float64(), [1.0, 2.5]),
        ([True, None], pa.bool_(), [True, None]),
        ([2**53 + 1, 1], pa.int64(), [2**53 + 1, 1]),
        ([2**53 + 1, 1.5], pa.string(), ["9007199254740993", "1.5"]),
        ([2**70], pa.string(), ["1180591620717411303424"]),
        ([1, "x", True, None, {"k": ["ü"]}], pa.string(), ["1", "x", "true", None, '{"k": ["ü"]}']),
        ([[1, 2], [3]], pa.string(), ["[1, 2]", "[3]"]),
        ([None, None], pa.string(), [None, None]),
        (["2024-01-31", "007"], pa.string(), ["2024-01-31", "007"]),
    ],
    ids=str,
)
@pytest.mark.parametrize("by_line", [True, False], ids=["jsonl", "json"])
def test_json_types(read: Read, values: list[Any], kind: pa.DataType, read_as: list[Any], by_line: bool) -> None:
    rows = [{"id": "a", "cell": value} for value in values]
    content = "\n".join(json.dumps(row) for row in rows) if by_line else json.dumps(rows)
    table = read(content, "data.jsonl" if by_line else "data.json")
    assert table.schema.field("cell").type == kind
    assert table["cell"].to_pylist() == read_as


def test_json_types_and_columns_that_come_late(read: Read) -> None:
    count = 20_000
    rows: list[dict[str, Any]] = [{"n": number, "empty": None} for number in range(count)]
    rows += [{"n": "x", "empty": 5, "late": 1.5}]
    table = read("".join(json.dumps(row) + "\n" for row in rows), "data.jsonl")
    assert table.schema == pa.schema([("n", pa.string()), ("empty", pa.int64()), ("late", pa.float64())])
    assert table["n"].to_pylist() == [str(number) for number in range(count)] + ["x"]
    assert table["late"].null_count == count


def test_json_of_many_chunks_keeps_every_row(read: Read) -> None:
    rows = [{"id": number, "text": "zé" * (number % 2_000)} for number in range(2_000)]  # about 6 MB, characters cut anywhere
    content = json.dumps(rows, ensure_ascii=False, indent=1)
    assert read(content, "data.json").to_pylist() == rows


def test_parquet_types(read: Read, tmp_path: Path) -> None:
    table = pa.table(
        {
            "text": pa.array(["a", None, "b"], pa.large_string()),
            "category": pa.array(["x", "x", "y"]).dictionary_encode(),
            "codes": pa.array([5, 6, 5]).dictionary_encode(),
            "nothing": pa.nulls(3),
            "items": pa.array([[1], [], None], pa.list_(pa.int64())),
            "chat": pa.array([{"role": "user"}, None, {"role": "bot"}]),
            "when": pa.array([0, 1, 2], pa.timestamp("ms")),
        }
    )
    path = tmp_path / "upload"
    pq.write_table(table, path)
    content = path.read_bytes()
    result = read(content, "data.parquet")
    assert result.to_pylist() == table.to_pylist()
    assert result.schema.field("text").type == result.schema.field("category").type == result.schema.field("nothing").type == pa.string()
    assert result.schema.field("codes").type == pa.int64()


def test_parquet_of_one_long_text_repeated_is_read_in_parts(read: Read, tmp_path: Path) -> None:
    path = tmp_path / "upload"
    pq.write_table(pa.table({"text": pa.array(["x" * 2**20] * 80)}), path)
    assert path.stat().st_size < 2**20
    content = path.read_bytes()
    assert read(content, "data.parquet").num_rows == 80


def test_hook_hears_the_rows_and_a_reader_can_be_cancelled(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text("".join(f'{{"a": "{"x" * 2_000}{number}"}}\n' for number in range(5_000)))
    heard: list[int] = []
    to_parquet(path, "jsonl", tmp_path / "out.parquet", "x.jsonl", on_rows=heard.append)
    assert heard[-1] == 5_000
    assert heard == sorted(heard)
    assert len(heard) > 1
    with pytest.raises(Cancelled):
        to_parquet(path, "jsonl", tmp_path / "new.parquet", "x.jsonl", reporter=ListReporter(cancel_after=1))
    assert sorted(item.name for item in tmp_path.iterdir()) == ["out.parquet", "x"]


@pytest.mark.parametrize(
    ("content", "name", "claimed", "found"),
    [
        (CSV, "a.csv", None, "csv"),
        (CSV, "a.tsv", "csv", "csv"),
        (CSV, "upload", None, "csv"),
        (CSV, "a.txt", None, "txt"),
        (CSV, "a.txt", "txt", "txt"),
        ("just a line\nanother, here\n", "upload.dat", None, "txt"),
        ('{"a": 1}\n{"a": 2}\n', "upload", None, "jsonl"),
        ('{"a": 1}\n', "upload", None, "json"),
        ('{"a": 1}\n', "a.jsonl", None, "jsonl"),
        ('[{"a": 1}]', "upload", None, "json"),
        ("[1] A footnote\n[2] Another\n", "upload", None, "txt"),
        ("[INST] hello [/INST]\n", "a.txt", None, "txt"),
        ('{"a": 1}\n{"a": 2}\n', "a.txt", "jsonl", "jsonl"),
        (json.dumps({"a": "x" * 300_000}) + "\n" + '{"a": "y"}\n', "upload", None, "jsonl"),
        (json.dumps([{"a": "x" * 300_000}]), "upload", None, "json"),
        ("ü" * 200_000 + "\n", "upload", None, "txt"),
    ],
)
def test_detected_format(tmp_path: Path, content: str, name: str, claimed: Format | None, found: Format) -> None:
    path = tmp_path / "upload"
    path.write_text(content, encoding="utf-8")
    assert detect_format(path, name, claimed) == found


@pytest.mark.parametrize(
    ("content", "name", "claimed", "seen"),
    [
        (CSV, "a.parquet", None, "csv"),
        (CSV, "a.json", None, "csv"),
        (CSV, "a.jsonl", None, "csv"),
        (CSV, "a.csv", "jsonl", "csv"),
        ('{"a": 1}\n{"a": 2}\n', "a.csv", None, "jsonl"),
        ('{"a": 1}\n{"a": 2}\n', "a.json", None, "jsonl"),
        ('[{"a": 1},\n {"a": 2}]\n', "a.jsonl", None, "json"),
        ('{\n "a": 1\n}\n', "a.jsonl", None, "json"),
        ("hello world\n", "a.json", None, "txt"),
        ("hello world\n", "a.txt", "json", "txt"),
        (b"PAR1xxxxPAR1", "a.csv", None, "parquet"),
        (b"PAR1xxxxPAR1", "a.txt", None, "parquet"),
        (CSV, "a.csv.gz", None, "unpacked"),
        (gzip.compress(CSV.encode(), mtime=0), "a.parquet.gz", None, "csv"),
        (gzip.compress(gzip.compress(CSV.encode(), mtime=0), mtime=0), "a.csv.gz", None, "gzip"),
        (gzip.compress(b"PK\x03\x04rest", mtime=0), "a.csv.gz", None, "zip"),
        (b"PK\x03\x04rest", "a.csv", None, "zip"),
        (b"%PDF-1.7", "a.txt", None, "a PDF"),
        (bytes(range(256)) * 4, "a.txt", None, "binary"),
        ("<!DOCTYPE html><html></html>", "a.csv", None, "html"),
    ],
)
def test_content_that_contradicts_a_claim(tmp_path: Path, content: str | bytes, name: str, claimed: Format | None, seen: str) -> None:
    path = tmp_path / "upload"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(DatasetError, match="^" + name) as caught:
        detect_format(path, name, claimed)
    assert caught.value.metadata["seen"] == seen
    assert str(tmp_path) not in caught.value.message
