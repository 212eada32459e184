"""What holds for all routes: errors, identifiers, paging, health, the OpenAPI document."""

from __future__ import annotations

import json
import socket
import threading
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from api import errors
from llm_platform.errors import PlatformError, error_classes
from tests.api.api_harness import Api, Start, wait_until
from tests.servers import redis_server

# errors


@pytest.mark.parametrize("kind", error_classes(), ids=lambda kind: kind.__name__)
def test_every_error_has_its_answer(kind: type[PlatformError]) -> None:
    app = FastAPI()
    errors.install(app)

    @app.get("/")
    def fail() -> None:
        raise kind("what went wrong \ud800", field="x", where=Path("y"), size_bytes=7)

    answer = TestClient(app).get("/")
    assert answer.status_code == kind.status
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == {
        "error": kind.code,
        "message": "what went wrong \ud800",
        "metadata": {"field": "x", "where": "y", "size_bytes": 7},
    }
    assert (answer.headers.get("content-range") == "bytes */7") == (kind.status == 416)


def test_the_specifications_codes() -> None:
    """The table of the specification, and the codes that it lacks."""
    table = {kind.code: kind.status for kind in error_classes() if kind.status != 416}
    assert table == {
        "VALIDATION_ERROR": 400,
        "DATASET_ERROR": 400,
        "TRAINING_ERROR": 500,
        "STORAGE_ERROR": 500,
        "CONFIG_ERROR": 400,
        "NOT_FOUND": 404,
        "INTERNAL_ERROR": 500,
        "CONFLICT": 409,
        "PAYLOAD_TOO_LARGE": 413,
        "RATE_LIMITED": 429,
        "UNAUTHORIZED": 401,
        "FORBIDDEN": 403,
        "SERVICE_UNAVAILABLE": 503,
    }


def test_what_nobody_foresaw_says_nothing(api: Api) -> None:
    def fail() -> None:
        raise RuntimeError("the secret of /home/somebody")

    api.app.add_api_route("/api/v1/fails", fail)
    answer = api.client.get("/fails", headers={"X-Request-Id": "mine-1"})
    assert answer.status_code == 500 and answer.headers["x-request-id"] == "mine-1"
    assert answer.json() == {
        "error": "INTERNAL_ERROR",
        "message": "An unexpected error occurred; the server's log has the details",
        "metadata": {"request_id": "mine-1"},
    }


@pytest.mark.parametrize("path", ["/nothing", "/jobs/a/b", "/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/models/x/y/z"])
def test_unknown_paths(shared: Api, path: str) -> None:
    answer = shared.client.get(path)
    assert answer.status_code == 404 and set(answer.json()) == {"error", "message", "metadata"}
    assert answer.json()["error"] == "NOT_FOUND"
    assert len(answer.headers["x-request-id"]) == 16


def test_a_method_that_is_not_there(shared: Api) -> None:
    answer = shared.client.put("/jobs")
    assert answer.status_code == 405 and answer.json()["error"] == "VALIDATION_ERROR" and "allow" in answer.headers


@pytest.mark.parametrize("path", ["/jobs", "/datasets", "/models"])
@pytest.mark.parametrize("query", ["limit=0", "limit=-1", "limit=101", "limit=1000000000", "limit=x", "limit=", "offset=-1", "offset=x"])
def test_paging_bounds(shared: Api, path: str, query: str) -> None:
    answer = shared.client.get(f"{path}?{query}")
    assert (answer.status_code, answer.json()["error"]) == (400, "VALIDATION_ERROR")
    assert answer.json()["metadata"]["errors"][0]["field"] == query.partition("=")[0]
    assert shared.client.get(path, params={"limit": 100, "offset": 10**9}).json()["has_more"] is False


def test_other_bounds(shared: Api) -> None:
    made = shared.upload().json()
    shared.submit("bounds")
    paths = [f"/datasets/{made['dataset_id']}/preview?limit={n}" for n in ("0", "101", "x")]
    paths += [f"/logs/history/bounds?limit={n}" for n in ("0", "1001", "x", "-1")] + ["/jobs?status=done"]
    for path in paths:
        answer = shared.client.get(path)
        assert (answer.status_code, answer.json()["error"]) == (400, "VALIDATION_ERROR"), path
        assert answer.json()["metadata"]["errors"][0]["field"] in ("limit", "status")


@pytest.mark.parametrize("bad", ["..", "%2e%2e%2f", "a%0Ab", "a%00b", "a%20b", "x" * 300, "%F0%9F%98%80", "a;b", "'--"])
def test_identifiers_that_are_none(shared: Api, bad: str) -> None:
    for path in (f"/jobs/job_{bad}", f"/jobs/{bad}", f"/datasets/ds_{bad}", f"/datasets/ds_{bad}/preview", f"/models/model_{bad}"):
        answer = shared.client.get(path)
        assert (answer.status_code, answer.json()["error"]) == (404, "NOT_FOUND"), path
    assert shared.client.delete(f"/jobs/job_{bad}").status_code == 404
    assert shared.client.get(f"/models/model_{bad}/card").status_code == 404


def test_a_newline_at_the_end_is_no_identifier(shared: Api) -> None:
    shared.submit("newline")
    assert shared.client.get("/jobs/job_newline").status_code == 200
    assert shared.client.get("/jobs/job_newline%0A").status_code == 404


# health


def test_health(api: Api) -> None:
    healthy = dict.fromkeys(("api", "dagster", "mlflow", "storage"), "healthy") | {"redis": "disabled", "disk": "disabled"}
    wait_until(lambda: api.client.get("/health").status_code == 200)
    for url in (f"{api.url}/health", api.url.removesuffix("/api/v1") + "/health"):
        answer = httpx.get(url, trust_env=False)
        assert answer.json() == {"status": "healthy", "version": "1.0.0", "services": healthy}
    api.orchestrator.alive = False
    wait_until(lambda: api.client.get("/health").status_code == 503, 3)
    assert api.client.get("/health").json() == {"status": "unhealthy", "version": "1.0.0", "services": healthy | {"dagster": "unhealthy"}}
    api.orchestrator.alive = True
    wait_until(lambda: api.client.get("/health").status_code == 200, 3)


def connections(server: socket.socket) -> int:
    """How many were made to a server that does not take them."""
    server.setblocking(False)
    count = 0
    with suppress(BlockingIOError):
        while True:
            server.accept()[0].close()
            count += 1
    return count


def test_services_that_are_away(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mlflow, socket.create_server(("127.0.0.1", 0)) as redis:  # they never answer
        urls = [f"127.0.0.1:{server.getsockname()[1]}" for server in (mlflow, redis)]
        with start(mlflow_url=f"http://{urls[0]}", redis_url=f"redis://{urls[1]}/0") as api:
            answers: list[httpx.Response] = []
            askers = [threading.Thread(target=lambda: answers.append(api.client.get("/health"))) for _ in range(4)]
            for asker in askers:
                asker.start()
            for asker in askers:
                asker.join()
            assert 1 <= connections(mlflow) < 4, "who asks meanwhile gets the same answer"
            for answer in answers:
                services = answer.json()["services"]
                assert answer.status_code == 503 and (services["mlflow"], services["redis"]) == ("unhealthy", "unhealthy")
                assert services["storage"] == "healthy"


def test_a_redis_that_answers(start: Start, tmp_path: Path) -> None:
    with redis_server(tmp_path) as url, start(redis_url=url) as api:
        assert api.client.get("/health").json()["services"]["redis"] == "healthy"


def test_a_store_that_is_away(api: Api) -> None:
    wait_until(lambda: api.client.get("/health").status_code == 200)
    root = api.services.settings.root / "objects"
    root.rename(root.with_name("gone"))
    wait_until(lambda: api.client.get("/health").json()["services"]["storage"] == "unhealthy", 3)
    root.with_name("gone").rename(root)


# documentation


def test_the_openapi_document(shared: Api) -> None:
    text = httpx.get(shared.url.removesuffix("/api/v1") + "/openapi.json", trust_env=False).text
    document = json.loads(text)
    for operations in document["paths"].values():
        for operation in operations.values():
            assert "422" not in operation["responses"]
            assert operation["responses"]["4XX"]["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/ErrorBody"}
    references = {part.split('"')[0] for part in text.split('"#/components/schemas/')[1:]}
    assert references <= set(document["components"]["schemas"])
    assert document["paths"]["/api/v1/jobs"]["post"]["requestBody"]["content"]["application/json"]["schema"]["$ref"].endswith("/JobRequest")
