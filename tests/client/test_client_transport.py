"""What the SDK does when the platform is busy, away, or says no; and how it follows a log."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from llm_platform import Client
from llm_platform.client.sse import Event, Events
from llm_platform.errors import NotFound, PlatformError, RateLimited, ServiceUnavailable
from tests.client.conftest import Seen

CONFIG = {"nodes": [], "edges": []}


def test_an_error_body_becomes_its_class_with_message_and_metadata(client: Client) -> None:
    with pytest.raises(NotFound) as caught:
        client.datasets.get("ds_nothing")
    assert caught.value.message == "There is no ds_nothing"
    assert caught.value.metadata == {"what": "ds_nothing"}


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504, 507])
def test_a_busy_or_failing_platform_is_asked_again(client: Client, seen: Seen, status: int) -> None:
    seen.busy = [(status, {}), (status, {})]
    assert client.datasets.get("ds_xyz789").rows == 10000
    assert len(seen.calls) == 3


def test_retries_end(base_url: str, seen: Seen) -> None:
    seen.busy = [(429, {"Retry-After": "0"})] * 3
    with Client(base_url, max_retries=1) as client, pytest.raises(RateLimited, match="429"):
        client.datasets.get("ds_xyz789")
    assert len(seen.calls) == 2


@pytest.mark.parametrize("status", [500, 503])
def test_a_submission_is_repeated_as_the_same_job(client: Client, seen: Seen, status: int) -> None:
    seen.busy = [(status, {})]
    job = client.jobs.create(CONFIG)
    assert list(seen.jobs) == [job.job_id]
    assert len(seen.calls) == 2


@pytest.mark.parametrize("status", [500, 503])
def test_what_would_be_done_twice_is_not_repeated(client: Client, seen: Seen, status: int) -> None:
    for call in (lambda: client.jobs.retry("job_abc123"), lambda: client.keys.create("alice")):
        seen.calls.clear()
        seen.busy = [(status, {"X-Request-Id": "r1"})]
        with pytest.raises(PlatformError, match=f"answered with {status}") as caught:
            call()
        assert len(seen.calls) == 1 and caught.value.request_id == "r1"


def test_what_the_platform_refuses_is_not_repeated(client: Client, seen: Seen) -> None:
    seen.busy = [(409, {})] * 2
    with pytest.raises(PlatformError, match="answered with 409"):
        client.jobs.get("job_abc123")
    assert len(seen.calls) == 1


@pytest.mark.parametrize("status", [500, 503])
def test_an_upload_is_repeated_whole_and_as_the_same_dataset(client: Client, seen: Seen, tmp_path: Path, status: int) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("a\n1\n")
    seen.busy = [(status, {})]
    assert client.datasets.upload(path).size_bytes == path.stat().st_size
    assert len(seen.calls) == 2
    assert len(set(seen.idempotency_keys)) == 1 and None not in seen.idempotency_keys


def test_an_upload_that_was_one_request_too_many_is_sent_again(client: Client, seen: Seen, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("a\n1\n")
    seen.busy = [(429, {"Retry-After": "0"})]
    assert client.datasets.upload(path).size_bytes == path.stat().st_size
    assert len(seen.calls) == 2


def test_an_answer_without_an_error_body_is_still_an_error(base_url: str, seen: Seen) -> None:
    seen.busy = [(500, {})] * 2
    with Client(base_url, max_retries=1) as client, pytest.raises(PlatformError, match="answered with 500") as caught:
        client.datasets.get("ds_xyz789")
    assert type(caught.value) is PlatformError and len(seen.calls) == 2


def test_nobody_there_is_said_clearly() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with (
        Client(f"http://127.0.0.1:{port}/api/v1", max_retries=1) as client,
        pytest.raises(ServiceUnavailable, match=f"{port}/api/v1 cannot be reached.*is it running"),
    ):
        client.health()


def test_a_silent_platform_runs_into_the_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with (
            Client(f"http://127.0.0.1:{port}/api/v1", timeout=0.2, max_retries=0) as client,
            pytest.raises(ServiceUnavailable, match="did not answer in time"),
        ):
            client.jobs.get("job_abc123")


@pytest.mark.parametrize(("status", "word"), [(200, "healthy"), (503, "unhealthy")])
def test_health_is_an_answer_also_when_it_is_bad(client: Client, seen: Seen, status: int, word: str) -> None:
    seen.health = (status, word)
    health = client.health()
    assert (health.status, health.services["redis"]) == (word, "disabled")


def test_a_proxy_that_finds_no_platform_is_no_answer_about_its_health(base_url: str, client: Client, seen: Seen) -> None:
    seen.busy = [(503, {})]
    assert client.health().status == "healthy", "asked again"
    seen.busy = [(503, {})]
    with Client(base_url, max_retries=0) as once, pytest.raises(ServiceUnavailable, match="answered with 503") as caught:
        once.health()
    assert caught.value.http_status == 503


def test_log_lines_are_typed_and_carry_their_figures(client: Client) -> None:
    line = next(line for line in client.logs.stream("abc123") if line.level == "METRIC")
    assert (line.agent, line.timestamp.year, line.extra) == ("TrainingAgent", 2025, {"step": 100, "epoch": 1.0, "loss": 1.85})


def test_a_broken_stream_goes_on_behind_the_last_line(client: Client, seen: Seen) -> None:
    seen.lines = [f"line {number}" for number in range(20)]
    seen.break_after = [0, 3, 3, 11]
    assert [line.message for line in client.logs.stream("abc123")] == seen.lines
    assert seen.last_event_ids == [None, None, "abc123:3", "abc123:3", "abc123:11"]


def test_a_stream_outlives_a_busy_platform(client: Client, seen: Seen) -> None:
    seen.busy = [(503, {}), (429, {}), (500, {})]
    assert len(list(client.logs.stream("abc123"))) == 4
    assert not seen.busy


def test_a_stream_can_start_behind_a_cursor(client: Client, seen: Seen) -> None:
    cursor = client.logs.history("abc123", limit=3).next_cursor
    assert [line.message for line in client.logs.stream("abc123", after=cursor)] == ["Done"]


def test_a_message_may_hold_any_line_separator(client: Client, seen: Seen) -> None:
    seen.lines = ["a\u2028b\u2029c\x85d\x0be\x1cf"]
    assert [line.message for line in client.logs.stream("abc123")] == seen.lines


def test_a_stream_of_an_unknown_run_is_an_error(client: Client, seen: Seen) -> None:
    seen.busy = [(404, {})]
    with pytest.raises(NotFound):
        next(client.logs.stream("nothing"))


def test_events_are_cut_at_blank_lines_wherever_the_bytes_are_cut() -> None:
    raw = ': hi\r\n\r\nid: r:1\ndata: {"a":\ndata: "ü"}\n\nevent: end\n\ndata: half'.encode()
    for size in range(1, 12):
        chunks = [raw[i : i + size] for i in range(0, len(raw), size)]
        events = Events()
        assert [event for chunk in chunks for event in events.feed(chunk)] == [
            Event("message", '{"a":\n"ü"}', "r:1"),
            Event("end", "", None),
        ]
