"""Quotas of a user over real HTTP: refused before the body is taken, while it comes, and also when many ask at once."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from llm_platform import keys
from llm_platform.specs.keys import KeyRequest
from tests.api.api_harness import CSV, Api, Start, body, wait_until


def headers(api: Api, owner: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {keys.create(KeyRequest(owner=owner), api.services.database).key}"}


def usage(api: Api, **more: Any) -> tuple[int, int]:
    found = api.client.get("/usage", **more).raise_for_status().json()
    return found["dataset_bytes"]["used"], found["open_jobs"]["used"]


def refused(answer: httpx.Response, status: int, error: str, **metadata: int) -> None:
    assert (answer.status_code, answer.json()["error"], answer.json()["metadata"]) == (status, error, metadata)


@pytest.fixture(scope="module")
def limited(start: Start) -> Iterator[Api]:
    """Each user may have two files of the tests' size, and two jobs."""
    with start(authentication=True, max_dataset_bytes_per_owner=2 * len(CSV) + 10, max_jobs_per_owner=2) as api:
        api.put()
        yield api


def test_bytes_are_a_users_own(limited: Api) -> None:
    ada, bob = headers(limited, "ada"), headers(limited, "bob")

    def upload(who: dict[str, str], data: bytes = CSV) -> httpx.Response:
        return limited.client.post("/datasets/upload", files={"file": ("rows.csv", data)}, headers=who)

    assert [upload(ada).status_code for _ in range(2)] == [200, 200]
    before = limited.counts()
    refused(upload(ada), 409, "CONFLICT", limit_bytes=2 * len(CSV) + 10)
    assert limited.counts() == before and limited.nothing_left()
    assert upload(bob).status_code == 200
    assert (usage(limited, headers=ada), usage(limited, headers=bob)) == ((2 * len(CSV), 0), (len(CSV), 0))


def test_an_announced_length_is_refused_before_the_body(limited: Api) -> None:
    key = headers(limited, "eve")["Authorization"]
    head = f"POST /api/v1/datasets/upload HTTP/1.1\r\nHost: localhost\r\nAuthorization: {key}\r\nContent-Length: 100000000\r\n"
    with socket.create_connection(("127.0.0.1", limited.port), timeout=10) as connection:
        connection.sendall(f"{head}Content-Type: multipart/form-data; boundary=x\r\n\r\n".encode())
        assert connection.recv(4096).startswith(b"HTTP/1.1 409 ")


def test_at_once_they_do_not_pass_together(limited: Api) -> None:
    who = headers(limited, "many")

    def upload(_: int) -> int:
        return limited.client.post("/datasets/upload", files={"file": ("rows.csv", CSV)}, headers=who).status_code

    def submit(number: int) -> int:
        return limited.client.post("/jobs", json=body(f"many{number}"), headers=who).status_code

    with ThreadPoolExecutor(6) as pool:
        assert sorted(pool.map(upload, range(6))) == [200, 200, 409, 409, 409, 409]
        assert sorted(pool.map(submit, range(6))) == [200, 200, 429, 429, 429, 429]
    assert usage(limited, headers=who) == (2 * len(CSV), 2) and limited.nothing_left()


def test_jobs_that_ended_do_not_count(limited: Api) -> None:
    who = headers(limited, "carl")

    def submit(run_id: str) -> httpx.Response:
        return limited.client.post("/jobs", json=body(run_id), headers=who)

    assert [submit(run_id).status_code for run_id in ("one", "two", "one")] == [200] * 3, "the same job again is no other job"
    refused(submit("three"), 429, "RATE_LIMITED", limit=2)
    limited.orchestrator.move("one", "failed")
    wait_until(lambda: limited.client.get("/jobs/job_one", headers=who).json()["status"] == "failed")
    assert submit("three").status_code == 200
    refused(limited.client.post("/jobs/job_one/retry", headers=who), 429, "RATE_LIMITED", limit=2)
    assert limited.client.get("/jobs/job_one", headers=who).json()["status"] == "failed"


def test_without_a_quota_there_is_none(shared: Api) -> None:
    found = shared.client.get("/usage").json()
    assert found["owner"] is None and found["dataset_bytes"]["limit"] is found["open_jobs"]["limit"] is None


def test_a_job_may_not_ask_for_more_time_than_there_is(start: Start) -> None:
    with start(max_runtime=60) as api:
        api.put()
        answer = api.submit("long", config={"global_config": {"max_runtime": 61}})
        assert (answer.status_code, answer.json()["error"]) == (400, "CONFIG_ERROR")
        assert answer.json()["metadata"]["errors"][0]["field"] == "global_config.max_runtime"
        assert api.submit("long", config={"global_config": {"max_runtime": 60}}).status_code == 200
