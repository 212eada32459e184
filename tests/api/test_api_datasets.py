"""Datasets over HTTP: what is accepted whole, and what is refused without a trace."""

from __future__ import annotations

import gzip
import io
import json
import re
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import anyio
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from tests.api.api_harness import CSV, Api, Start, wait_until


def parquet(table: pa.Table) -> bytes:
    out = io.BytesIO()
    pq.write_table(table, out)
    return out.getvalue()


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
    assert api.nothing_left()


@pytest.mark.parametrize(
    ("filename", "data", "seen"),
    [
        ("a.csv", CSV, "csv"),
        ("a.json", b'[{"question": "a", "answer": "b"}]', "json"),
        ("a.jsonl", b'{"question": "a", "answer": "b"}\n', "jsonl"),
        ("a.parquet", parquet(pa.table({"question": ["a"], "answer": ["b"]})), "parquet"),
        ("a.txt", b"one\ntwo\n", "txt"),
        ("a", CSV, "csv"),
        ("a.csv.gz", gzip.compress(CSV, mtime=0), "csv"),
    ],
)
def test_every_format(shared: Api, filename: str, data: bytes, seen: str) -> None:
    made = shared.upload(data, filename)
    assert made.status_code == 200, made.text
    assert shared.client.get(f"/datasets/{made.json()['dataset_id']}").json()["format"] == seen


def test_the_profile(shared: Api) -> None:
    rows = [{"messages": [{"role": "user", "content": f"What is {i}?"}, {"role": "assistant", "content": "A number."}]} for i in range(40)]
    made = shared.upload("\n".join(map(json.dumps, rows)).encode(), "chat.jsonl").json()
    found = shared.client.get(f"/datasets/{made['dataset_id']}/profile").json()
    assert found["analysis"] == made["analysis"]
    assert found["layout"] == {"name": "messages", "columns": {"messages": "messages"}}
    assert found["turns"] == {"mean": 2.0, "min": 2, "max": 2, "unusable": 0}
    assert (found["nulls"], found["duplicates"], found["tokens"]) == ({"messages": 0}, 0, None)
    assert sum(bin["count"] for bin in found["histogram"]) == 40 and found["languages"].keys() <= {"en", "und"}
    assert json.loads(found["shortest"]["messages"]) == rows[0]["messages"]


def test_the_profile_in_tokens(start: Start, tmp_path: Path) -> None:
    """By the tokenizer of a base model that is on this machine."""
    words = {"[UNK]": 0, "What": 1, "is": 2}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    folder = tmp_path / "models" / "tiny"
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"")
    with start(model_roots=[tmp_path / "models"]) as api:
        dataset_id = api.upload().json()["dataset_id"]
        found = api.client.get(f"/datasets/{dataset_id}/profile", params={"tokenizer": str(folder)})
        assert found.status_code == 200, found.text
        tokens = found.json()["tokens"]
        assert (tokens["tokenizer"], tokens["rows"]) == (str(folder), 30)
        assert tokens["stats"] == {"avg_length": 6.0, "min_length": 6, "max_length": 6}
        assert tokens["histogram"] == [{"low": 6, "high": 6, "count": 30}]


@pytest.mark.parametrize("name", ["llm-platform/tiny-llama", "org/not-on-this-machine", "/etc", "http://x/y", "a b"])
def test_a_tokenizer_that_is_not_here(shared: Api, name: str) -> None:
    """It is said at once; nothing is downloaded or built for a question."""
    dataset_id = shared.upload().json()["dataset_id"]
    answer = shared.client.get(f"/datasets/{dataset_id}/profile", params={"tokenizer": name})
    assert (answer.status_code, answer.json()["error"]) == (400, "CONFIG_ERROR"), answer.text


def test_how_long_it_took_is_said(shared: Api) -> None:
    timing = shared.upload().headers["Server-Timing"]
    assert re.fullmatch(r"receive;dur=[0-9.]+, read;dur=[0-9.]+", timing)


def test_list(api: Api) -> None:
    ids = [api.upload().json()["dataset_id"] for _ in range(3)]
    page = api.client.get("/datasets", params={"limit": 2}).json()
    assert [item["dataset_id"] for item in page["items"]] == ids[:0:-1]
    assert (page["total"], page["has_more"]) == (3, True)


def test_several_at_once(api: Api) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda number: api.upload(CSV, f"file{number}.csv"), range(8)))
    assert [answer.status_code for answer in answers] == [200] * 8
    assert len({answer.json()["dataset_id"] for answer in answers}) == 8 and api.nothing_left()


def test_a_failing_database_leaves_no_file(api: Api) -> None:
    """Whatever fails last: the stored files go again."""
    with api.services.database.write() as connection:
        connection.exec_driver_sql("CREATE TRIGGER full BEFORE INSERT ON datasets BEGIN SELECT RAISE(ABORT, 'full'); END")
    answer = api.upload()
    assert (answer.status_code, answer.json()["error"]) == (500, "INTERNAL_ERROR")
    assert api.counts()[1:] == (0, []) and api.nothing_left()


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


@pytest.mark.parametrize("path", ["/datasets/ds_unknown", "/datasets/ds_unknown/preview", "/datasets/ds_unknown/profile"])
def test_unknown(shared: Api, path: str) -> None:
    answer = shared.client.get(path)
    assert (answer.status_code, answer.json()["error"]) == (404, "NOT_FOUND")
