"""Rate limits over real HTTP: the specification's numbers and headers, whom a request is counted for, and several processes."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from sqlalchemy.exc import OperationalError
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from api.limits import network
from llm_platform import Client
from llm_platform.errors import RateLimited
from llm_platform.settings import Settings
from tests.api.api_harness import Api, Start
from tests.servers import free_port, redis_server

HEADERS = ("x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset")


def test_the_specifications_limits_are_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LLM_PLATFORM_RATE_LIMIT_DEFAULT")
    monkeypatch.delenv("LLM_PLATFORM_RATE_LIMIT_AUTHENTICATED")
    settings = Settings()
    assert (settings.rate_limit_default, settings.rate_limit_authenticated) == (100, 1000)


def test_one_request_too_many(start: Start) -> None:
    with start(rate_limit_default=100) as api:
        began = int(time.time())
        answers = [api.client.get("/jobs") for _ in range(101)]
    assert [answer.status_code for answer in answers] == [200] * 100 + [429]
    assert [answer.headers["x-ratelimit-remaining"] for answer in answers[:100]] == [str(number) for number in reversed(range(100))]
    resets = {int(answer.headers["x-ratelimit-reset"]) for answer in answers}
    assert len(resets) == 1 and began + 60 <= resets.pop() <= time.time() + 61
    refused = answers[100]
    assert (refused.headers["x-ratelimit-limit"], refused.headers["x-ratelimit-remaining"]) == ("100", "0")
    assert 1 <= int(refused.headers["retry-after"]) <= 61
    assert refused.json()["error"] == "RATE_LIMITED" and refused.json()["metadata"]["limit"] == 100
    assert "x-request-id" in refused.headers


def test_every_answer_has_the_headers(start: Start) -> None:
    with start() as api:
        base = api.url.removesuffix("/api/v1")
        answers = [
            *(api.client.get(path) for path in ("/jobs", "/jobs/job_none", "/jobs?limit=0", "/nothing", "/health")),
            *(httpx.get(base + path, trust_env=False) for path in ("/health", "/docs", "/openapi.json", "/")),
            api.client.put("/jobs"),
            api.client.post("/jobs", content=b"{", headers={"Content-Type": "application/json"}),
            api.upload(b"", "empty.csv"),
            api.upload(b"question,answer\nWhat?,That\n", "rows.csv"),
        ]
        with api.services.database.write() as connection:
            connection.exec_driver_sql("UPDATE datasets SET profile = '{}'")
        failed = api.client.get("/datasets")
        assert failed.status_code == 500
        for answer in [*answers, failed]:
            assert all(answer.headers[name].isdigit() for name in HEADERS), answer.url


def test_the_answer_while_the_database_is_away_has_the_headers(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: object) -> None:
        raise OperationalError("SELECT", {}, Exception("it is away"))

    with start(authentication=True) as api:
        monkeypatch.setattr("llm_platform.keys.caller", away)
        authorized = {"Authorization": "Bearer llmp_a_b"}
        answer = api.client.get("/jobs", headers=authorized)
        assert (answer.status_code, answer.json()["error"]) == (503, "SERVICE_UNAVAILABLE")
        assert all(answer.headers[name].isdigit() for name in HEADERS)
        with pytest.raises(InvalidStatus) as refused, connect(f"ws://127.0.0.1:{api.port}/api/v1/ws/runs/x", additional_headers=authorized):
            pass
        assert refused.value.response.status_code == 503 and all(name in refused.value.response.headers for name in HEADERS)


def test_at_once_no_more_than_the_limit(start: Start) -> None:
    with start(rate_limit_default=30) as api, ThreadPoolExecutor(16) as pool:
        codes = list(pool.map(lambda _: api.client.get("/jobs").status_code, range(60)))
    assert (codes.count(200), codes.count(429)) == (30, 30)


def test_a_forwarded_address_is_believed_from_a_trusted_proxy_only(start: Start) -> None:
    def codes(api: Api) -> list[int]:
        return [api.client.get("/jobs", headers={"X-Forwarded-For": f"203.0.113.{number}"}).status_code for number in range(5)]

    with start(rate_limit_default=3) as api:
        assert codes(api) == [200, 200, 200, 429, 429]
    with start(rate_limit_default=3, trusted_proxies=["10.0.0.0/8"]) as api:
        assert codes(api) == [200, 200, 200, 429, 429]
    with start(rate_limit_default=3, trusted_proxies=["127.0.0.1"]) as api:
        assert codes(api) == [200] * 5
        # What the client itself put in front of the address that the proxy saw counts for nothing.
        forged = [api.client.get("/jobs", headers={"X-Forwarded-For": f"198.51.100.{n}, 203.0.113.99"}).status_code for n in range(5)]
        assert forged == [200, 200, 200, 429, 429]


def test_whom_an_address_stands_for() -> None:
    assert network("2001:db8::1") == network("2001:db8::ffff:1") != network("2001:db8:0:1::1")
    assert network("::ffff:192.0.2.1") == network("192.0.2.1") == "192.0.2.1"
    assert network("fe80::1%eth0") == network("fe80::2") and network("unknown") == "unknown"


def test_processes_that_share_a_redis_count_together(start: Start, tmp_path: Path) -> None:
    port = free_port()
    with start(rate_limit_default=5, redis_url=f"redis://127.0.0.1:{port}/0") as alone:
        assert [alone.client.get("/jobs").status_code for _ in range(6)] == [200] * 5 + [429], "without Redis, each counts for itself"
    with (
        redis_server(tmp_path, port) as url,
        start(rate_limit_default=5, redis_url=url) as one,
        start(rate_limit_default=5, redis_url=url) as other,
    ):
        answers = [api.client.get("/jobs") for _ in range(3) for api in (one, other)]
        assert [answer.status_code for answer in answers] == [200] * 5 + [429]
        assert [answer.headers["x-ratelimit-remaining"] for answer in answers] == ["4", "3", "2", "1", "0", "0"]
        assert 1 <= int(answers[-1].headers["retry-after"]) <= 61


def test_the_sdk_says_who_refused_and_why(start: Start) -> None:
    with start(rate_limit_default=2) as api, Client(api.url, max_retries=0) as client:
        client.jobs.list()
        client.jobs.list()
        with pytest.raises(RateLimited, match="More than 2 requests in a minute") as caught:
            client.jobs.list()
        assert caught.value.metadata["limit"] == 2
