"""What an operator sees and sets, over real HTTP: the access log, request ids, pages of other origins, and compressed answers."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from pydantic import ValidationError

from llm_platform import keys, tables
from llm_platform.settings import Settings
from llm_platform.specs.keys import KeyRequest
from tests.api.api_harness import CSV, Api, Start, body, wait_until

ORIGIN = "https://app.example.test"
Lines = Callable[[str], list[dict[str, Any]]]


@pytest.fixture(scope="module")
def guarded(start: Start) -> Iterator[Api]:
    with start(authentication=True, cors_origins=[ORIGIN]) as api:
        yield api


@pytest.fixture(scope="module")
def key(guarded: Api) -> str:
    return keys.create(KeyRequest(owner="ada"), guarded.services.database).key


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str]) -> Lines:
    """The log lines of a request, as they were written."""
    text: list[str] = []

    def found(request_id: str) -> list[dict[str, Any]]:
        text.append(capsys.readouterr().err)
        entries = [json.loads(line) for line in "".join(text).splitlines() if line.startswith("{")]
        return [entry for entry in entries if entry["request_id"] == request_id]

    return found


# the access log


def test_a_line_for_every_request(guarded: Api, key: str, lines: Lines) -> None:
    headers = {"Authorization": f"Bearer {key}", "X-Request-ID": "mine-1"}
    answer = guarded.client.get("/jobs/job_none?secret=hidden", headers=headers)
    assert answer.headers["x-request-id"] == "mine-1" and answer.status_code == 404
    wait_until(lambda: lines("mine-1"))
    (line,) = lines("mine-1")
    assert line.pop("time").endswith("Z") and 0 < line.pop("duration_ms") < 30_000
    assert line == {
        "level": "INFO",
        "logger": "api.access",
        "request_id": "mine-1",
        "message": "GET /api/v1/jobs/{job_id} 404",
        "method": "GET",
        "route": "/api/v1/jobs/{job_id}",
        "status": 404,
        "client": "127.0.0.1",
        "user": "ada",
        "key_id": key.split("_")[1],
        "bytes": len(answer.content),
    }


def test_nothing_secret_is_in_a_line(guarded: Api, key: str, lines: Lines) -> None:
    for number, path in enumerate(("/jobs?api_key=s3cret", "/nothing/s3cret", "/jobs/s3cret%0A{}", "/keys/s3cret")):
        request_id = f"secret-{number}"
        guarded.client.get(path, headers={"Authorization": f"Bearer {key}", "X-Request-ID": request_id, "Cookie": "s3cret"})
        wait_until(lambda request_id=request_id: lines(request_id))
        assert "s3cret" not in str(lines(request_id)) and key.split("_", 2)[2] not in str(lines(request_id))


def test_refused_requests_have_lines_too(guarded: Api, lines: Lines) -> None:
    guarded.client.get("/jobs", headers={"X-Request-ID": "refused", "Authorization": "Bearer llmp_wrong"})
    wait_until(lambda: lines("refused"))
    (line,) = lines("refused")
    assert (line["status"], line["route"], line["user"], line["key_id"]) == (401, None, None, None)


def test_a_failure_is_found_by_its_request_id(start: Start, lines: Lines) -> None:
    with start(access_log="errors") as api:
        api.client.post("/datasets/upload", files={"file": ("rows.csv", CSV)}).raise_for_status()
        with api.services.database.write() as connection:
            connection.execute(sa.update(tables.datasets).values(profile={"analysis": {}}))
        assert api.client.get("/jobs", headers={"X-Request-ID": "well"}).status_code == 200
        answer = api.client.get("/datasets", headers={"X-Request-ID": "fell"})
        assert (answer.status_code, answer.headers["x-request-id"]) == (500, "fell")
        wait_until(lambda: len(lines("fell")) == 2)
    failure, request = lines("fell")
    assert (failure["level"], failure["logger"]) == ("ERROR", "api.middleware") and "KeyError: 'rows'" in failure["exception"]
    assert (request["route"], request["status"]) == ("/api/v1/datasets", 500)
    assert lines("well") == [], "errors only"


def test_the_log_can_be_off(start: Start, lines: Lines) -> None:
    with start(access_log="off") as api:
        assert api.client.get("/jobs/job_none", headers={"X-Request-ID": "unseen"}).status_code == 404
    assert lines("unseen") == []


@pytest.mark.parametrize("given", ["a b", "x" * 65, "a\u00e9", ""])
def test_a_request_id_that_is_none_is_replaced(shared: Api, given: str) -> None:
    found = shared.client.get("/jobs", headers={b"X-Request-ID": given.encode("latin-1")}).headers["x-request-id"]
    assert found != given and len(found) == 16


# pages of other origins


def preflight(api: Api, origin: str, method: str = "POST", headers: str = "authorization,idempotency-key") -> httpx.Response:
    asked = {"Origin": origin, "Access-Control-Request-Method": method, "Access-Control-Request-Headers": headers}
    return api.client.options("/jobs", headers=asked)


def test_a_page_of_an_allowed_origin(guarded: Api, key: str) -> None:
    asked = preflight(guarded, ORIGIN)
    assert asked.status_code == 200 and asked.headers["access-control-allow-origin"] == ORIGIN
    assert "x-request-id" in asked.headers and "access-control-allow-credentials" not in asked.headers
    answers = [
        guarded.client.get("/jobs", headers={"Origin": ORIGIN, "Authorization": f"Bearer {key}"}),
        guarded.client.get("/jobs", headers={"Origin": ORIGIN}),
        guarded.client.get("/jobs/job_none", headers={"Origin": ORIGIN, "Authorization": f"Bearer {key}"}),
    ]
    assert [answer.status_code for answer in answers] == [200, 401, 404]
    for answer in answers:
        assert answer.headers["access-control-allow-origin"] == ORIGIN and "Origin" in answer.headers["vary"]
        exposed = answer.headers["access-control-expose-headers"].lower().split(", ")
        assert {"x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset", "etag", "x-request-id"} <= set(exposed)


def test_a_page_of_any_other_origin(guarded: Api, shared: Api) -> None:
    for origin in ("https://evil.example.test", f"{ORIGIN}.evil.test", "http://app.example.test", "null"):
        refused = preflight(guarded, origin)
        assert (refused.status_code, refused.json()["error"]) == (403, "FORBIDDEN")
        assert "access-control-allow-origin" not in refused.headers
        assert "access-control-allow-origin" not in guarded.client.get("/jobs", headers={"Origin": origin}).headers
    assert "origin" not in str(preflight(shared, ORIGIN).headers), "off if nothing is set"
    assert "access-control-allow-origin" not in shared.client.get("/jobs", headers={"Origin": ORIGIN}).headers


def test_preflights_say_where_their_address_stands_and_a_refusal_can_be_read(start: Start) -> None:
    with start(cors_origins=[ORIGIN], rate_limit_default=2) as api:
        remaining = [preflight(api, origin).headers["x-ratelimit-remaining"] for origin in (ORIGIN, ORIGIN, "https://evil.example.test")]
        assert remaining == ["2", "2", "2"], "they count for nobody"
        answers = [api.client.get("/jobs", headers={"Origin": ORIGIN}) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200, 200, 429]
        assert answers[2].headers["access-control-allow-origin"] == ORIGIN
        assert "retry-after" in answers[2].headers["access-control-expose-headers"].lower()
        asked = preflight(api, ORIGIN)
        assert (asked.status_code, asked.headers["x-ratelimit-limit"], asked.headers["x-ratelimit-remaining"]) == (200, "2", "0")
        assert int(asked.headers["x-ratelimit-reset"]) == int(answers[2].headers["x-ratelimit-reset"])


@pytest.mark.parametrize("origin", ["https://app.example.test/", "app.example.test", "https://*.example.test", "file:///x"])
def test_an_origin_that_no_browser_sends(origin: str) -> None:
    with pytest.raises(ValidationError, match="cors_origins"):
        Settings(cors_origins=[origin])


# compressed answers


def test_long_answers_are_compressed_for_those_who_can(shared: Api) -> None:
    path = "/openapi.json"
    base = shared.url.removesuffix("/api/v1")
    with httpx.Client(base_url=base, trust_env=False) as client, client.stream("GET", path, headers={"Accept-Encoding": "gzip"}) as packed:
        raw = b"".join(packed.iter_raw())
        plain = client.get(path, headers={"Accept-Encoding": "identity"})
    assert packed.headers["content-encoding"] == "gzip" and int(packed.headers["content-length"]) == len(raw)
    assert gzip.decompress(raw) == plain.content and len(raw) < len(plain.content) / 4
    for answer in (packed, plain):
        assert "Accept-Encoding" in answer.headers["vary"] and "etag" not in answer.headers and "x-ratelimit-limit" in answer.headers
    assert "content-encoding" not in plain.headers
    short = shared.client.get("/jobs/job_none", headers={"Accept-Encoding": "gzip"})
    assert "content-encoding" not in short.headers


def test_a_log_stream_is_not_compressed(api: Api) -> None:
    api.put()
    assert api.client.post("/jobs", json=body("quiet")).status_code == 200
    with api.client.stream("GET", "/logs/stream/quiet", headers={"Accept-Encoding": "gzip"}) as response:
        assert next(response.iter_lines()) == ": stream of the log"
        assert "content-encoding" not in response.headers
