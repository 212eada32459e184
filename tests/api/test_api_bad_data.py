"""Bad and hostile uploads over HTTP: what each gets, and that nothing of what is refused is left."""

from __future__ import annotations

import gzip
import io
import json
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llm_platform.datasets import display_name, storage_key
from tests.api.api_harness import CSV, Api, Start, wait_until


def parquet(table: pa.Table, **options: Any) -> bytes:
    out = io.BytesIO()
    pq.write_table(table, out, **options)
    return out.getvalue()


@dataclass(frozen=True)
class Refused:
    """An upload that gets 400 DATASET_ERROR, with these words in its message and these fields in its metadata."""

    name: str
    data: Callable[[], bytes] | bytes
    words: str
    metadata: dict[str, Any] = field(default_factory=dict)

    def content(self) -> bytes:
        return self.data if isinstance(self.data, bytes) else self.data()


FINE = parquet(pa.table({"a": [f"text {number}" for number in range(1_000)]}))
BOMB = pa.DictionaryArray.from_arrays(pa.array([0] * 400_000, pa.int32()), pa.array(["x" * 2**19]))
REFUSED = {
    "empty": Refused("a.csv", b"", "empty"),
    "empty json": Refused("a.json", b" \n ", "empty"),
    "empty gzip": Refused("a.jsonl.gz", gzip.compress(b""), "empty"),
    "header only": Refused("a.csv", b"question,answer\n", "no rows", {"rows": 0}),
    "no rows json": Refused("a.json", b"[]", "no rows", {"rows": 0}),
    "no rows parquet": Refused("a.parquet", parquet(pa.table({"a": pa.array([], pa.string())})), "no rows", {"rows": 0}),
    "truncated parquet": Refused("a.parquet", FINE[:-50], "truncated"),
    "corrupt parquet": Refused("a.parquet", FINE[:200] + b"\xa5" * 100 + FINE[300:], "corrupt"),
    "parquet of nothing": Refused("a.parquet", b"PAR1" + b"\0" * 100 + b"PAR1", "corrupt"),
    "parquet bomb": Refused("a.parquet", lambda: parquet(pa.table({"a": BOMB}), row_group_size=400_000), "bytes in memory"),
    "nested parquet bomb": Refused(
        "a.parquet",
        lambda: parquet(pa.table({"messages": pa.StructArray.from_arrays([BOMB], ["content"])}), store_schema=False),
        "bytes in memory",
    ),
    "gzip bomb": Refused("a.csv.gz", lambda: gzip.compress(b"0" * 200_000_000), "unpacks to more than"),
    "truncated gzip": Refused("a.csv.gz", gzip.compress(CSV)[:-9], "truncated"),
    "corrupt gzip": Refused("a.csv.gz", gzip.compress(CSV)[:-8] + bytes(8), "corrupt"),
    "gzip in gzip": Refused("a.csv.gz", gzip.compress(gzip.compress(CSV)), "twice", {"seen": "gzip"}),
    "zip": Refused("a.csv", b"PK\x03\x04" + b"\0" * 100, "packed with zip", {"seen": "zip"}),
    "csv named parquet": Refused("a.parquet", CSV, "the content is CSV", {"claimed": "parquet", "seen": "csv"}),
    "parquet named csv": Refused("a.csv", FINE, "the content is Parquet", {"claimed": "csv", "seen": "parquet"}),
    "csv named gzip": Refused("a.csv.gz", CSV, "not packed", {"claimed": "gzip"}),
    "parquet named csv in gzip": Refused("a.csv.gz", gzip.compress(FINE), "the content is Parquet", {"seen": "parquet"}),
    "an image": Refused("a.csv", b"\x89PNG\r\n\x1a\n" + b"\0" * 100, "a PNG image"),
    "a web page": Refused("a.csv", b"<!DOCTYPE html><html></html>", "a web page"),
    "invalid utf-8": Refused("a.csv", b"a,b\n1,2\nx,\xff\xfe\xff\n", "row 2", {"row": 2, "line": 3}),
    "invalid utf-8 in gzip": Refused("a.jsonl.gz", gzip.compress(b'{"a": "x"}\n{"a": "\xff"}\n'), "row 2", {"row": 2, "line": 2}),
    "latin-1 text": Refused("a.txt", "one\nfünf\n".encode("latin-1"), "row 2", {"row": 2}),
    "cut utf-16": Refused("a.csv", "a,b\n1,2\n".encode("utf-16") + b"x", "UTF-16"),
    "nul": Refused("a.csv", b"a,b\n1,2\nx,a\0b\n", "row 2 (line 3) has a NUL byte", {"row": 2}),
    "nul in parquet": Refused("a.parquet", parquet(pa.table({"a": ["x", "a\0b"]})), "NUL", {"row": 2, "column": "a"}),
    "nul in nested parquet": Refused(
        "a.parquet",
        parquet(pa.table({"messages": [[{"role": "user", "content": "x"}]] * 9 + [[{"role": "user", "content": "a\0b"}]]})),
        "NUL",
        {"row": 10, "column": "messages"},
    ),
    "lone surrogate": Refused("a.jsonl", b'{"a": "x"}\n{"a": "\\ud800"}\n', "lone surrogate", {"row": 2, "column": "a"}),
    "ragged": Refused("a.csv", b"a,b\n1,2\n1,2,3\n", "has 3 cells, the header has 2", {"row": 2, "cells": 3, "expected": 2}),
    "open quote": Refused("a.csv", b'a,b\n1,2\n3,"x\n', "never closed", {"row": 2}),
    "duplicate columns": Refused("a.csv", b"a,a\n1,2\n", "more than once", {"column": "a"}),
    "100 MB cell": Refused("a.csv", lambda: b"a,b\n1,2\n3," + b"x" * 100_000_000 + b"\n", "16 MiB", {"row": 2}),
    "broken line": Refused("a.jsonl", b'{"a": 1}\n{"a": \n{"a": 3}\n', "row 2 (line 2): broken JSON", {"row": 2, "line": 2}),
    "key twice": Refused("a.jsonl", b'{"a": 1}\n{"a": 1, "a": 2}\n', "twice", {"row": 2}),
    "broken json": Refused("a.json", b'[{"a": 1}', "end of the file", {"row": 1}),
    "list of lists": Refused("a.json", b"[[1, 2], [3, 4]]", "a list", {"row": 1}),
    "nan": Refused("a.json", b'[{"a": 1.5}, {"a": NaN}]', "NaN is not JSON", {"row": 2}),
    "infinity": Refused("a.jsonl", b'{"a": 1.5}\n{"a": -Infinity}\n', "Infinity is not JSON", {"row": 2}),
    "a million levels": Refused("a.json", b"[" * 1_000_000, "nested too deeply"),
    "a million levels in a line": Refused("a.jsonl", b'{"a": 1}\n{"a": ' + b"[" * 1_000_000 + b"\n", "nested too deeply", {"row": 2}),
}


@pytest.fixture(scope="module")
def roomy(start: Start) -> Iterator[Api]:
    """One API that takes large files."""
    with start() as found:
        yield found


@pytest.mark.parametrize("case", REFUSED)
def test_a_file_that_cannot_be_read_leaves_nothing(roomy: Api, case: str) -> None:
    refused = REFUSED[case]
    before = roomy.counts()
    answer = roomy.upload(refused.content(), refused.name)
    assert (answer.status_code, answer.json()["error"]) == (400, "DATASET_ERROR"), answer.text
    body = answer.json()
    assert body["message"].startswith(f"{refused.name}: ") and refused.words in body["message"]
    assert {key: body["metadata"].get(key) for key in refused.metadata} == refused.metadata
    assert str(roomy.services.settings.root) not in answer.text and "Traceback" not in answer.text
    assert roomy.counts() == before and roomy.nothing_left()


CELL = "=cmd|' /C calc'!A0"
ROW = {"question": "Hä?", "answer": "x\ny"}
READ: dict[str, tuple[str, bytes, list[dict[str, Any]]]] = {
    "bom": ("a.csv", '\ufeffquestion,answer\nHä?,"x\ny"\n'.encode(), [ROW]),
    "utf-16": ("a.csv", 'question,answer\nHä?,"x\ny"\n'.encode("utf-16"), [ROW]),
    "utf-16 big-endian jsonl": ("a.jsonl", b"\xfe\xff" + json.dumps(ROW, ensure_ascii=False).encode("utf-16-be"), [ROW]),
    "crlf": ("a.csv", b"a,b\r\nx,y\r\n", [{"a": "x", "b": "y"}]),
    "semicolons": ("a.csv", b"a;b\nx;1,5\n", [{"a": "x", "b": "1,5"}]),
    "tabs": ("a.csv", b"a\tb\nx\ty\n", [{"a": "x", "b": "y"}]),
    "a formula": ("a.csv", f'a,b\n"{CELL}",x\n'.encode(), [{"a": CELL, "b": "x"}]),
    "a formula in jsonl": ("a.jsonl", json.dumps({"a": CELL}).encode(), [{"a": CELL}]),
    "one object": ("a.json", b'{"a": "x", "b": 1}', [{"a": "x", "b": 1}]),
    "an object that holds the rows": ("a.json", b'{"version": 1, "data": [{"a": "x"}]}', [{"a": "x"}]),
    "gzip": ("a.json.gz", gzip.compress(json.dumps([ROW]).encode()), [ROW]),
}


@pytest.mark.parametrize("case", READ)
def test_what_is_odd_but_right_is_read_to_the_letter(roomy: Api, case: str) -> None:
    name, data, rows = READ[case]
    made = roomy.upload(data, name)
    assert made.status_code == 200, made.text
    assert roomy.client.get(f"/datasets/{made.json()['dataset_id']}/preview").json()["samples"] == rows
    assert b"".join(roomy.services.storage.read_range(made.json()["s3_path"])) == data


# names


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        ("../../x.csv", "x.csv"),
        ("/etc/passwd.csv", "passwd.csv"),
        ("C:\\temp\\x.csv", "x.csv"),
        ("x\0y.csv", "xy.csv"),
        ("\u202egpj.csv", "gpj.csv"),
        ("CON", "_CON"),
        ("con.csv", "_con.csv"),
        ("..", "dataset"),
        ("", "dataset"),
        ("größe 1.csv", "größe 1.csv"),
        ("table.parquet", "table.parquet"),
        ("x" * 5_000 + ".csv", "x" * 251 + ".csv"),
    ],
)
def test_names(sent: str, shown: str) -> None:
    assert display_name(sent) == shown
    key = storage_key(shown)
    assert key.isascii() and not key.startswith(".") and len(key) <= 120 and "/" not in key
    assert key not in ("table.parquet", "manifest.json")


@pytest.mark.parametrize(
    "sent", ["../../x.csv", "/abs/x.csv", "CON", "\u202egpj.csv", "manifest.json", "x" * 5_000 + ".csv", "a%2e%2e.csv", "x\0y.csv"]
)
def test_a_hostile_name_is_stored_under_a_safe_key(shared: Api, sent: str) -> None:
    answer = shared.upload(CSV if sent != "manifest.json" else b'[{"a": "b"}]', sent)
    assert answer.status_code == 200, answer.text
    made = answer.json()
    assert made["s3_path"].startswith(f"s3://datasets/{made['dataset_id']}/") and made["s3_path"].count("/") == 4
    assert len(made["filename"]) <= 255 and "/" not in made["filename"] and "\0" not in made["filename"]
    assert shared.services.storage.stat(made["s3_path"]) is not None
    assert shared.client.get(f"/datasets/{made['dataset_id']}/preview").status_code == 200


# forms


def test_the_format_is_a_claim(shared: Api) -> None:
    answer = shared.upload(CSV, "a", format="parquet")
    assert (answer.status_code, answer.json()["error"]) == (400, "DATASET_ERROR") and "csv" in answer.text
    answer = shared.upload(CSV, "a", format="xlsx")
    assert (answer.status_code, answer.json()["error"]) == (400, "VALIDATION_ERROR") and "jsonl" in answer.text
    assert shared.upload(CSV, "a", format="csv").status_code == 200


BOUNDARY = {"content-type": "multipart/form-data; boundary=xyz"}


def part(disposition: str, data: bytes = CSV) -> bytes:
    return b"--xyz\r\nContent-Disposition: form-data; " + disposition.encode() + b"\r\n\r\n" + data + b"\r\n"


FILE = part('name="file"; filename="a.csv"')
END = b"--xyz--\r\n"


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"".join(part(f'name="f{i}"', b"x") for i in range(5_000)) + END, "f0"),
        (part('name="format"', b"csv") * 5_000 + END, "format"),
        (b"--xyz\r\nX-Header: " + b"a" * 100_000 + b"\r\n\r\nx\r\n" + END, "header"),
        (b"--xyz\r\n" + b"X: y\r\n" * 5_000 + b"\r\nx\r\n" + END, "header"),
        (FILE + FILE + END, "more than once"),
        (part('name="format"', b"csv") + END, "file"),
        (part('name="format"', b"c" * 5_000) + FILE + END, "longer"),
        (part('name="file"') + END, "file name"),
        (part('filename="a.csv"') + END, "unknown field"),
        (FILE + part('name="status"', b"done") + END, "status"),
        (FILE, "closing boundary"),
        (b"", "closing boundary"),
        (b"not a form at all", "well-formed"),
    ],
)
def test_a_form_that_is_none(shared: Api, content: bytes, word: str) -> None:
    before = shared.counts()
    answer = shared.client.post("/datasets/upload", content=content, headers=BOUNDARY)
    assert (answer.status_code, answer.json()["error"]) == (400, "VALIDATION_ERROR"), answer.text
    assert word in answer.text
    assert shared.counts() == before and shared.nothing_left()


@pytest.mark.parametrize("kind", ["text/csv", "multipart/form-data", f"multipart/form-data; boundary={'b' * 300}", "application/json"])
def test_a_body_that_is_no_form(shared: Api, kind: str) -> None:
    answer = shared.client.post("/datasets/upload", content=FILE + END, headers={"content-type": kind})
    assert (answer.status_code, answer.json()["error"]) == (400, "VALIDATION_ERROR")


def test_fields_before_and_after_the_file(shared: Api) -> None:
    for content in (part('name="format"', b"csv") + FILE + END, FILE + part('name="format"', b"csv") + END):
        assert shared.client.post("/datasets/upload", content=content, headers=BOUNDARY).status_code == 200


@pytest.mark.parametrize("size", [1, 2, 7, 50])
def test_a_boundary_may_be_cut_anywhere(shared: Api, size: int) -> None:
    """And what looks like one in the data is data."""
    data = b"one\r\n--xy\r\n-\r\n\r--xyz\r\n--xy-\r"
    content = part('name="file"; filename="a.txt"', data) + END

    def pieces() -> Iterator[bytes]:
        for start in range(0, len(content), size):
            yield content[start : start + size]

    answer = shared.client.post("/datasets/upload", content=pieces(), headers=BOUNDARY)
    assert answer.status_code == 200, answer.text
    assert b"".join(shared.services.storage.read_range(answer.json()["s3_path"])) == data


# too large, and cut off


def test_too_large(shared: Api) -> None:
    before = shared.counts()

    def chunks() -> Iterator[bytes]:
        yield FILE[:-2]
        for _ in range(300):
            yield b"1,2\n" * 2_500

    for content in (FILE[:-2] + b"1,2\n" * 750_000 + b"\r\n" + END, chunks()):
        answer = shared.client.post("/datasets/upload", content=content, headers=BOUNDARY)
        assert (answer.status_code, answer.json()["error"]) == (413, "PAYLOAD_TOO_LARGE")
    assert shared.counts() == before and shared.nothing_left()


def request_head(length: str) -> bytes:
    return f"POST /api/v1/datasets/upload HTTP/1.1\r\nHost: x\r\nContent-Type: {BOUNDARY['content-type']}\r\n{length}\r\n\r\n".encode()


@pytest.mark.parametrize("length", ["Transfer-Encoding: chunked", "Content-Length: 99999999999"])
def test_too_large_is_said_while_it_streams(shared: Api, length: str) -> None:
    """The answer comes although the client has not finished, and never does."""
    with socket.create_connection(("127.0.0.1", shared.port), timeout=20) as connection:
        connection.sendall(request_head(length))
        if "chunked" in length:
            for piece in [FILE[:-2]] + [b"1,2\n" * 25_000] * 25:
                connection.sendall(b"%x\r\n%s\r\n" % (len(piece), piece))
        assert connection.recv(65536).startswith(b"HTTP/1.1 413")
    wait_until(shared.nothing_left)


@pytest.mark.parametrize("sent", [FILE, FILE[:-2] + b"1,2\n" * 400_000])
def test_a_client_that_goes_away_leaves_nothing(shared: Api, sent: bytes) -> None:
    before = shared.counts()
    with socket.create_connection(("127.0.0.1", shared.port), timeout=20) as connection:
        connection.sendall(request_head("Content-Length: 1900000") + sent)
        wait_until(lambda: not shared.nothing_left())
    wait_until(shared.nothing_left)
    assert shared.counts() == before
