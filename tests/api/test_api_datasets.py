"""Datasets over HTTP: what is accepted whole, and what is refused without a trace."""

from __future__ import annotations

import gzip
import io
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import anyio
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llm_platform.datasets import display_name, storage_key
from tests.api.api_harness import CSV, Api, Start, wait_until


def parquet(table: pa.Table) -> bytes:
    out = io.BytesIO()
    pq.write_table(table, out)
    return out.getvalue()


def nothing_left(api: Api) -> bool:
    return not list((api.services.settings.work / "uploads").glob("*"))


def test_the_specifications_example(api: Api) -> None:
    data = b"text,label\n" + b"".join(b"Sample text %d,%s\n" % (i, b"positive" if i % 2 else b"negative") for i in range(200))
    answer = api.upload(data)
    assert answer.status_code == 200
    made = answer.json()
    dataset_id = made["dataset_id"]
    assert dataset_id.startswith("ds_") and dataset_id[3:].isalnum() and len(dataset_id) >= 15
    assert made == {
        "dataset_id": dataset_id,
        "filename": "training_data.csv",
        "size_bytes": len(data),
        "s3_path": f"s3://datasets/{dataset_id}/training_data.csv",
        "analysis": {
            "rows": 200,
            "columns": ["text", "label"],
            "text_column": "text",
            "stats": {"avg_length": 14.45, "min_length": 13, "max_length": 15},
        },
    }
    found = api.client.get(f"/datasets/{dataset_id}").json()
    assert found.pop("created_at").endswith("Z")
    assert found == {
        "dataset_id": dataset_id,
        "filename": "training_data.csv",
        "format": "csv",
        "rows": 200,
        "columns": ["text", "label"],
        "s3_path": made["s3_path"],
    }
    preview = api.client.get(f"/datasets/{dataset_id}/preview", params={"limit": 2}).json()
    assert preview == {
        "dataset_id": dataset_id,
        "samples": [{"text": "Sample text 0", "label": "negative"}, {"text": "Sample text 1", "label": "positive"}],
        "total_rows": 200,
    }
    assert len(api.client.get(f"/datasets/{dataset_id}/preview").json()["samples"]) == 10
    assert b"".join(api.services.storage.read_range(made["s3_path"])) == data
    stat = api.services.storage.stat(made["s3_path"])
    assert stat is not None and stat.sha256 == (api.services.database.dataset(dataset_id) or {})["sha256"]
    wait_until(lambda: api.orchestrator.recorded == [dataset_id])
    assert nothing_left(api)


@pytest.mark.parametrize(
    ("filename", "data", "seen"),
    [
        ("a.csv", CSV, "csv"),
        ("a.json", b'[{"question": "a", "answer": "b"}]', "json"),
        ("a.jsonl", b'{"question": "a", "answer": "b"}\n', "jsonl"),
        ("a.parquet", parquet(pa.table({"question": ["a"], "answer": ["b"]})), "parquet"),
        ("a.txt", b"one\ntwo\n", "txt"),
        ("a", CSV, "csv"),
    ],
)
def test_every_format(shared: Api, filename: str, data: bytes, seen: str) -> None:
    made = shared.upload(data, filename)
    assert made.status_code == 200, made.text
    assert shared.client.get(f"/datasets/{made.json()['dataset_id']}").json()["format"] == seen


def test_list(api: Api) -> None:
    ids = [api.upload().json()["dataset_id"] for _ in range(3)]
    page = api.client.get("/datasets", params={"limit": 2}).json()
    assert [item["dataset_id"] for item in page["items"]] == ids[:0:-1]
    assert (page["total"], page["has_more"]) == (3, True)


def test_several_at_once(api: Api) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda number: api.upload(CSV, f"file{number}.csv"), range(8)))
    assert [answer.status_code for answer in answers] == [200] * 8
    assert len({answer.json()["dataset_id"] for answer in answers}) == 8 and nothing_left(api)


def test_a_formula_is_kept_to_the_letter(shared: Api) -> None:
    cell = "=cmd|' /C calc'!A0"
    made = shared.upload(b'question,answer\n"%s",x\n' % cell.encode()).json()
    samples = shared.client.get(f"/datasets/{made['dataset_id']}/preview").json()["samples"]
    assert samples == [{"question": cell, "answer": "x"}]


# names


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        ("../../x.csv", "x.csv"),
        ("/etc/passwd.csv", "passwd.csv"),
        ("C:\\temp\\x.csv", "x.csv"),
        ("x\0y.csv", "xy.csv"),
        ("‮gpj.csv", "gpj.csv"),
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


@pytest.mark.parametrize("sent", ["../../x.csv", "/abs/x.csv", "CON", "‮gpj.csv", "manifest.json", "x" * 5_000 + ".csv", "a%2e%2e.csv"])
def test_a_hostile_name_is_stored_under_a_safe_key(shared: Api, sent: str) -> None:
    answer = shared.upload(CSV if sent != "manifest.json" else b'[{"a": "b"}]', sent)
    assert answer.status_code == 200, answer.text
    made = answer.json()
    assert made["s3_path"].startswith(f"s3://datasets/{made['dataset_id']}/") and made["s3_path"].count("/") == 4
    assert len(made["filename"]) <= 255 and "/" not in made["filename"]
    assert shared.services.storage.stat(made["s3_path"]) is not None
    assert shared.client.get(f"/datasets/{made['dataset_id']}/preview").status_code == 200


# refused


@pytest.mark.parametrize(
    ("filename", "data"),
    [
        ("a.csv", b""),
        ("a.csv", b"question,answer\n"),
        ("a.csv", b"question,answer\na\n"),
        ("a.csv", b"a,a\n1,2\n"),
        ("a.csv", b"question,answer\nx,\xff\xfe\xff\n"),
        ("a.csv", b"question,answer\nx,a\x00b\n"),
        ("a.jsonl", b'{"a": 1}\n{"a": \n{"a": 3}\n'),
        ("a.jsonl", b'{"a": "\\ud800"}\n'),
        ("a.json", b"[" * 1_000_000),
        ("a.json", b'[{"a": 1}'),
        ("a.parquet", parquet(pa.table({"a": ["x"] * 1000}))[:-50]),
        ("a.parquet", b"PAR1" + b"\0" * 100 + b"PAR1"),
        ("a.parquet", CSV),
        ("a.csv", parquet(pa.table({"a": ["x"]}))),
        ("a.csv", gzip.compress(b"0" * 50_000_000)),
    ],
)
def test_a_file_that_cannot_be_read_leaves_nothing(shared: Api, filename: str, data: bytes) -> None:
    before = shared.counts()
    answer = shared.upload(data, filename)
    assert (answer.status_code, answer.json()["error"]) == (400, "DATASET_ERROR"), answer.text
    assert str(shared.services.settings.root) not in answer.text
    assert shared.counts() == before and nothing_left(shared)


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
    assert shared.counts() == before and nothing_left(shared)


@pytest.mark.parametrize("kind", ["text/csv", "multipart/form-data", f"multipart/form-data; boundary={'b' * 300}", "application/json"])
def test_a_body_that_is_no_form(shared: Api, kind: str) -> None:
    answer = shared.client.post("/datasets/upload", content=FILE + END, headers={"content-type": kind})
    assert (answer.status_code, answer.json()["error"]) == (400, "VALIDATION_ERROR")


def test_fields_before_and_after_the_file(shared: Api) -> None:
    for content in (part('name="format"', b"csv") + FILE + END, FILE + part('name="format"', b"csv") + END):
        assert shared.client.post("/datasets/upload", content=content, headers=BOUNDARY).status_code == 200


def test_too_large(shared: Api) -> None:
    before = shared.counts()

    def chunks() -> Iterator[bytes]:
        yield FILE[:-2]
        for _ in range(300):
            yield b"1,2\n" * 2_500

    for content in (FILE[:-2] + b"1,2\n" * 750_000 + b"\r\n" + END, chunks()):
        answer = shared.client.post("/datasets/upload", content=content, headers=BOUNDARY)
        assert (answer.status_code, answer.json()["error"]) == (413, "PAYLOAD_TOO_LARGE")
    assert shared.counts() == before and nothing_left(shared)


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
    wait_until(lambda: nothing_left(shared))


def test_a_client_that_goes_away_leaves_nothing(shared: Api) -> None:
    before = shared.counts()
    with socket.create_connection(("127.0.0.1", shared.port), timeout=20) as connection:
        connection.sendall(request_head("Content-Length: 100000") + FILE)
        wait_until(lambda: not nothing_left(shared))
    wait_until(lambda: nothing_left(shared))
    assert shared.counts() == before


def test_a_failing_database_leaves_no_file(api: Api) -> None:
    """Whatever fails last: the stored files go again."""
    with api.services.database.write() as connection:
        connection.exec_driver_sql("CREATE TRIGGER full BEFORE INSERT ON datasets BEGIN SELECT RAISE(ABORT, 'full'); END")
    answer = api.upload()
    assert (answer.status_code, answer.json()["error"]) == (500, "INTERNAL_ERROR")
    assert api.counts()[1:] == (0, []) and nothing_left(api)


def test_leftovers_of_a_killed_process_are_swept(start: Start, tmp_path: Path) -> None:
    left = tmp_path / "work" / "uploads" / f".tmp~{socket.gethostname()}~999999999~1~abcdef"
    left.mkdir(parents=True)
    with start(home=tmp_path):
        wait_until(lambda: not left.exists())


def test_at_most_so_many_uploads_at_once(api: Api) -> None:
    limiter = api.services.uploads
    slots = [object() for _ in range(int(limiter.total_tokens))]

    async def take() -> None:
        for slot in slots:
            limiter.acquire_on_behalf_of_nowait(slot)

    anyio.run(take)
    answer = api.upload()
    assert (answer.status_code, answer.json()["error"]) == (429, "RATE_LIMITED")


@pytest.mark.parametrize("path", ["/datasets/ds_unknown", "/datasets/ds_unknown/preview"])
def test_unknown(shared: Api, path: str) -> None:
    answer = shared.client.get(path)
    assert (answer.status_code, answer.json()["error"]) == (404, "NOT_FOUND")
