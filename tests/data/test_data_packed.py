"""Files packed with gzip: read as what is in them, refused if they are broken or bombs."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llm_platform.data.packed import FREE_BYTES
from llm_platform.data.read import detect_format, to_parquet
from llm_platform.errors import DatasetError

ROWS = [{"question": f"What is {number} + 1?", "answer": str(number + 1)} for number in range(1_000)]


def parquet(rows: list[dict[str, str]]) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), out)
    return out.getvalue()


CSV = b"question,answer\n" + b"".join(f'{row["question"]},"{row["answer"]}x"\n'.encode() for row in ROWS)
PLAIN = {
    "csv": CSV,
    "json": json.dumps(ROWS).encode(),
    "jsonl": b"".join(json.dumps(row).encode() + b"\n" for row in ROWS),
    "parquet": parquet(ROWS),
    "txt": b"".join(f"{row['question']} {row['answer']}\n".encode() for row in ROWS),
}


@pytest.fixture
def read(tmp_path: Path) -> Callable[[bytes, str], list[dict[str, str]]]:
    """The rows of a file of this content and name; nothing but the file and its table may be left."""

    def run(content: bytes, name: str) -> list[dict[str, str]]:
        path, out = tmp_path / "upload", tmp_path / "out.parquet"
        path.write_bytes(content)
        out.unlink(missing_ok=True)
        try:
            to_parquet(path, detect_format(path, name, None), out, name)
            return pq.read_table(out).to_pylist()
        finally:
            assert {item.name for item in tmp_path.iterdir()} <= {"upload", "out.parquet"}
            assert path.read_bytes() == content

    return run


@pytest.mark.parametrize("form", PLAIN)
@pytest.mark.parametrize("name", ["data.{}.gz", "data.{}.GZIP", "data.{}", "data.gz", "data"])
def test_every_format(read: Callable[..., object], form: str, name: str) -> None:
    content = gzip.compress(PLAIN[form])
    extension = "" if "{}" not in name and form == "txt" else form
    assert read(content, name.format(form)) == read(PLAIN[form], f"data.{extension}" if extension else "data")


def test_several_members_are_one_file(read: Callable[..., object]) -> None:
    half = PLAIN["jsonl"].index(b"\n", len(PLAIN["jsonl"]) // 2)
    content = gzip.compress(PLAIN["jsonl"][:half]) + gzip.compress(PLAIN["jsonl"][half:]) + bytes(512)
    assert read(content, "a.jsonl.gz") == ROWS


PACKED = gzip.compress(PLAIN["jsonl"] * 100)
CASES: dict[str, tuple[bytes, str, str]] = {
    "cut in the middle": (PACKED[: len(PACKED) // 2], "a.jsonl.gz", "truncated"),
    "cut in the head": (PACKED[:5], "a.jsonl.gz", "truncated"),
    "cut in the checksum": (PACKED[:-6], "a.jsonl.gz", "truncated"),
    "wrong checksum": (PACKED[:-8] + b"\0\0\0\0" + PACKED[-4:], "a.jsonl.gz", "checksum"),
    "wrong length": (PACKED[:-4] + b"\0\0\0\0", "a.jsonl.gz", "length"),
    "damaged": (PACKED[:1_000] + b"\xff" * 50 + PACKED[1_050:], "a.jsonl.gz", "corrupt"),
    "something behind it": (PACKED + b"more", "a.jsonl.gz", "corrupt"),
    "bomb": (gzip.compress(bytes(FREE_BYTES * 2)), "a.txt.gz", "unpacks to more than"),
    "empty inside": (gzip.compress(b""), "a.csv.gz", "empty"),
    "broken row inside": (gzip.compress(b'{"a": 1}\n{"a": \n'), "a.jsonl.gz", "row 2"),
    "twice": (gzip.compress(PACKED), "a.jsonl.gz", "twice"),
    "not packed": (PLAIN["csv"], "a.csv.gz", "not packed"),
    "other content": (gzip.compress(PLAIN["parquet"]), "a.csv.gz", "Parquet"),
}


@pytest.mark.parametrize("case", CASES)
def test_refused(read: Callable[..., object], tmp_path: Path, case: str) -> None:
    content, name, words = CASES[case]
    with pytest.raises(DatasetError, match=words) as caught:
        read(content, name)
    assert caught.value.message.startswith(f"{name}: ") and str(tmp_path) not in caught.value.message
    assert [item.name for item in tmp_path.iterdir()] == ["upload"]


def test_the_absolute_limit(tmp_path: Path) -> None:
    path = tmp_path / "upload"
    path.write_bytes(PACKED)
    with pytest.raises(DatasetError, match="more than the 1,000 bytes"):
        to_parquet(path, "jsonl", tmp_path / "out.parquet", "a.jsonl.gz", max_unpacked_bytes=1_000)
    assert [item.name for item in tmp_path.iterdir()] == ["upload"]
