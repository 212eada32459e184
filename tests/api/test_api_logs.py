"""Logs over HTTP: live, past, resumed, and with readers who misbehave."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from llm_platform import keys, runlog
from llm_platform.specs.keys import KeyRequest
from tests.api.api_harness import Api, Start, body, wait_until


def log(api: Api, run_id: str, *messages: str) -> None:
    lines = [runlog.line("INFO", message, agent="DatasetAgent", agent_name="dataset") for message in messages]
    runlog.append(api.services.database, run_id, lines)


def job(api: Api, run_id: str = "abc123") -> str:
    api.put()
    assert api.submit(run_id).status_code == 200
    wait_until(lambda: (api.services.database.submission(run_id) or {})["submitted"])
    return run_id


def events(lines: Iterator[str]) -> Iterator[dict[str, str]]:
    """Server-sent events as the standard says, comments left out."""
    event: dict[str, str] = {}
    for text in lines:
        if not text and event:
            yield event
            event = {}
        elif text and not text.startswith(":"):
            name, _, value = text.partition(": ")
            event[name] = value


def stream(api: Api, run_id: str, last: str | None = None, most: int | None = None) -> list[dict[str, str]]:
    headers = {"Last-Event-ID": last} if last else {}
    found = []
    with api.client.stream("GET", f"/logs/stream/{run_id}", headers=headers) as response:
        assert response.status_code == 200 and response.headers["content-type"].startswith("text/event-stream")
        for event in events(response.iter_lines()):
            found.append(event)
            if len(found) == most:
                break
    return found


def test_the_specifications_example(api: Api) -> None:
    run_id = job(api)
    log(api, run_id, "Starting dataset ingestion")
    metric = runlog.line("METRIC", "Training step completed", agent="TrainingAgent", step=100, epoch=1, loss=1.85)
    runlog.append(api.services.database, run_id, [metric])
    api.orchestrator.move(run_id, "completed")
    first, second, end = stream(api, run_id)
    assert (first["id"], second["id"]) == ("abc123:1", "abc123:2")
    line = json.loads(first["data"])
    assert line.pop("timestamp").endswith("Z") and line.pop("agent_name") == "dataset"
    assert line == {"run_id": "abc123", "agent": "DatasetAgent", "level": "INFO", "message": "Starting dataset ingestion"}
    line = json.loads(second["data"])
    assert (line["level"], line["step"], line["epoch"], line["loss"]) == ("METRIC", 100, 1, 1.85)
    assert end == {"event": "end", "data": '{"status": "completed"}'}

    history = api.client.get(f"/logs/history/{run_id}").json()
    assert history["logs"] == [json.loads(first["data"]), json.loads(second["data"])]
    assert (history["run_id"], history["total"], history["next_cursor"]) == ("abc123", 2, None)


@pytest.mark.timeout(60)
def test_lines_arrive_while_the_job_runs(api: Api) -> None:
    run_id = job(api)
    api.orchestrator.move(run_id, "running")
    with api.client.stream("GET", f"/logs/stream/{run_id}") as response:
        following = events(response.iter_lines())
        for number in range(5):
            log(api, run_id, f"line {number}")
            assert json.loads(next(following)["data"])["message"] == f"line {number}"
        log(api, run_id, "the last")
        api.orchestrator.move(run_id, "failed")
        assert [event.get("event", json.loads(event["data"]).get("message")) for event in following] == ["the last", "end"]


def test_reconnecting_neither_loses_nor_repeats(api: Api) -> None:
    """A client that drops after every few lines, while four writers write."""
    run_id = job(api)
    api.orchestrator.move(run_id, "running")

    def write(name: int) -> None:
        for number in range(0, 300, 10):
            log(api, run_id, *[f"{name} {number + offset}" for offset in range(10)])

    writers = [threading.Thread(target=write, args=(name,)) for name in range(4)]
    for writer in writers:
        writer.start()
    found: list[dict[str, str]] = []
    while len(found) < 1200:
        found += stream(api, run_id, found[-1]["id"] if found else None, most=min(170, 1200 - len(found)))
    for writer in writers:
        writer.join()
    assert [event["id"] for event in found] == [f"abc123:{number + 1}" for number in range(1200)]
    messages = [json.loads(event["data"])["message"] for event in found]
    for name in range(4):
        assert [text for text in messages if text.startswith(f"{name} ")] == [f"{name} {number}" for number in range(300)]
    api.orchestrator.move(run_id, "completed")
    assert stream(api, run_id, found[-1]["id"]) == [{"event": "end", "data": '{"status": "completed"}'}]


def test_many_readers_share_one_poller(api: Api) -> None:
    run_id = job(api)
    found: list[int] = []
    readers = [threading.Thread(target=lambda: found.append(len(stream(api, run_id)))) for _ in range(20)]
    for reader in readers:
        reader.start()
    wait_until(lambda: sum(api.services.streams._clients.values()) == 20)
    assert len(api.services.streams._tails) == 1
    log(api, run_id, *[f"line {number}" for number in range(2_500)])  # more than the poller remembers
    api.orchestrator.move(run_id, "completed")
    for reader in readers:
        reader.join(30)
    assert found == [2_501] * 20
    wait_until(lambda: not api.services.streams._clients and not api.services.streams._tails)


def test_a_reader_who_never_reads_holds_nothing_up(api: Api) -> None:
    run_id = job(api)
    log(api, run_id, *["x" * 8_000 for _ in range(2_000)])  # 16 MB, more than sockets buffer
    with socket.create_connection(("127.0.0.1", api.port)) as idle:
        idle.sendall(f"GET /api/v1/logs/stream/{run_id} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        wait_until(lambda: run_id in api.services.streams._tails)
        api.orchestrator.move(run_id, "completed")
        assert len(stream(api, run_id)) == 2_001
        wait_until(lambda: sum(api.services.streams._clients.values()) == 1)
    wait_until(lambda: not api.services.streams._clients)


def test_more_streams_than_allowed(start: Start) -> None:
    with start(max_streams_per_client=2) as api:
        run_id = job(api)
        log(api, run_id, "one")
        path = f"/logs/stream/{run_id}"
        with api.client.stream("GET", path), api.client.stream("GET", path):
            wait_until(lambda: sum(api.services.streams._clients.values()) == 2)
            # Whoever claims to be somebody else is still the same client.
            refused = api.client.get(path, headers={"X-Forwarded-For": "203.0.113.9"})
            assert (refused.status_code, refused.json()["error"]) == (429, "RATE_LIMITED")
        wait_until(lambda: not api.services.streams._clients)
        assert len(stream(api, run_id, most=1)) == 1


def test_addresses_of_one_network_share_their_streams(start: Start) -> None:
    with start(max_streams_per_client=1, trusted_proxies=["127.0.0.1"]) as api:
        path = f"/logs/stream/{job(api)}"
        with api.client.stream("GET", path, headers={"X-Forwarded-For": "2001:db8::1"}) as first:
            lines = first.iter_lines()  # an iterator that is let go closes its stream
            assert next(lines)
            assert api.client.get(path, headers={"X-Forwarded-For": "2001:db8::ffff:2"}).status_code == 429
            with api.client.stream("GET", path, headers={"X-Forwarded-For": "2001:db8:0:1::1"}) as other:
                assert other.status_code == 200


def test_each_user_has_streams_of_their_own(start: Start) -> None:
    with start(authentication=True, max_streams_per_client=1) as api:
        owners = ("ada", "ada", "bob")
        ada, again, bob = ({"Authorization": f"Bearer {keys.create(KeyRequest(owner=o), api.services.database).key}"} for o in owners)
        api.put()
        paths = []
        for headers, run_id in ((ada, "of-ada"), (bob, "of-bob")):
            assert api.client.post("/jobs", json=body(run_id), headers=headers).status_code == 200
            paths.append(f"/logs/stream/{run_id}")
        with api.client.stream("GET", paths[0], headers=ada) as first:
            lines = first.iter_lines()  # an iterator that is let go closes its stream
            assert next(lines)
            assert api.client.get(paths[0], headers=again).status_code == 429
            with pytest.raises(InvalidStatus) as refused:
                connect(f"ws://127.0.0.1:{api.port}/api/v1/ws/runs/of-ada", additional_headers=again, proxy=None)
            assert refused.value.response.status_code == 429, "a channel is a stream"
            with api.client.stream("GET", paths[1], headers=bob) as other:
                assert other.status_code == 200, "from the same address"


@pytest.mark.timeout(60)
def test_the_server_stops_although_a_stream_is_open(start: Start) -> None:
    with start() as api:
        run_id = job(api)
        client = httpx.Client(base_url=api.url)
        response = client.send(client.build_request("GET", f"/logs/stream/{run_id}"), stream=True)
        assert next(response.iter_lines()).startswith(":")
    response.close()
    client.close()


def test_history_pages(api: Api) -> None:
    run_id = job(api)
    log(api, run_id, *[str(number) for number in range(250)])
    found: list[str] = []
    params: dict[str, Any] = {"limit": 100}
    while True:
        page = api.client.get(f"/logs/history/{run_id}", params=params).json()
        assert page["total"] == 250
        found += [line["message"] for line in page["logs"]]
        if page["next_cursor"] is None:
            break
        params["after"] = page["next_cursor"]
    assert found == [str(number) for number in range(250)]
    assert len(api.client.get(f"/logs/history/{run_id}").json()["logs"]) == 100
    assert len(api.client.get(f"/logs/history/{run_id}", params={"limit": 1000}).json()["logs"]) == 250


@pytest.mark.parametrize("cursor", ["garbage", "abc123", "abc123:", "abc123:-1", "abc123:x", "other:1", "abc123:99", "abc123:" + "9" * 50])
def test_a_cursor_that_is_none(api: Api, cursor: str) -> None:
    job(api)
    answers = {
        "Last-Event-ID": api.client.get("/logs/stream/abc123", headers={"Last-Event-ID": cursor}),
        "after": api.client.get("/logs/history/abc123", params={"after": cursor}),
    }
    for field, answer in answers.items():
        assert (answer.status_code, answer.json()["error"]) == (400, "VALIDATION_ERROR")
        assert answer.json()["metadata"]["errors"][0]["field"] == field


@pytest.mark.parametrize("run_id", ["unknown", "a%0Ab", "..", "%2e%2e", "a%20b", "x" * 65])
def test_unknown_runs(shared: Api, run_id: str) -> None:
    for path in (f"/logs/stream/{run_id}", f"/logs/history/{run_id}"):
        answer = shared.client.get(path)
        assert (answer.status_code, answer.json()["error"]) == (404, "NOT_FOUND")


def test_a_run_of_the_dagster_ui_can_be_watched_before_it_is_a_job(api: Api) -> None:
    log(api, "ui_run", "one")
    assert json.loads(stream(api, "ui_run", most=1)[0]["data"])["message"] == "one"
    api.services.database.adopt("ui_run", dagster_run_id="d1", created_at=runlog.now())
    log(api, "ui_run", "two")
    assert len(api.client.get("/logs/history/ui_run").json()["logs"]) == 2
