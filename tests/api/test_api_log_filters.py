"""Filters by level and agent over HTTP: the same lines live and past, with the cursor of the whole log."""

from __future__ import annotations

import json
from typing import Any

import pytest

from api import streams
from llm_platform import runlog
from tests.api.api_harness import Api, body, wait_until

RUN = "filtered"


def log(api: Api, *lines: tuple[str, str, str | None, str | None]) -> None:
    """(level, message, agent class, node name)."""
    runlog.append(
        api.services.database, RUN, [runlog.line(level, text, agent=agent, agent_name=name) for level, text, agent, name in lines]
    )


def submit(api: Api) -> None:
    api.put()
    assert api.client.post("/jobs", json=body(RUN)).status_code == 200
    wait_until(lambda: (api.services.database.submission(RUN) or {})["submitted"])


def history(api: Api, **params: Any) -> dict[str, Any]:
    answer = api.client.get(f"/logs/history/{RUN}", params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()


def stream(api: Api, last: str | None = None, most: int | None = None, **params: Any) -> list[dict[str, Any]]:
    """The data of the events, with their ids; without the end."""
    found: list[dict[str, Any]] = []
    headers = {"Last-Event-ID": last} if last else {}
    with api.client.stream("GET", f"/logs/stream/{RUN}", params=params, headers=headers) as response:
        assert response.status_code == 200
        event = ""
        for text in response.iter_lines():
            if text.startswith("id: "):
                event = text[4:]
            elif text.startswith("data: ") and event:
                found.append({"id": event, **json.loads(text[6:])})
                event = ""
            if len(found) == most:
                break
    return found


def messages(lines: list[dict[str, Any]]) -> list[str]:
    return [line["message"] for line in lines]


def test_by_level_and_agent(api: Api) -> None:
    submit(api)
    log(
        api,
        ("INFO", "1", "DatasetAgent", "rows"),
        ("WARN", "2", "DatasetAgent", "rows"),
        ("METRIC", "3", "TrainingAgent", "first"),
        ("METRIC", "4", "TrainingAgent", "second"),
        ("ERROR", "5", "TrainingAgent", "second"),
        ("INFO", "6", None, None),
    )
    api.orchestrator.move(RUN, "completed")
    cases: list[tuple[dict[str, Any], list[str]]] = [
        ({"level": "METRIC"}, ["3", "4"]),
        ({"level": ["WARN", "ERROR"]}, ["2", "5"]),
        ({"agent": "TrainingAgent"}, ["3", "4", "5"]),
        ({"agent": "second"}, ["4", "5"]),
        ({"agent": ["DatasetAgent", "first"]}, ["1", "2", "3"]),
        ({"agent": "second", "level": "ERROR"}, ["5"]),
        ({"agent": "none"}, []),
        ({}, ["1", "2", "3", "4", "5", "6"]),
    ]
    for params, expected in cases:
        past = history(api, **params)
        assert messages(past["logs"]) == expected and (past["total"], past["next_cursor"]) == (len(expected), None)
        live = stream(api, **params)
        assert messages(live) == expected
        assert [event["id"] for event in live] == [f"{RUN}:{text}" for text in expected], "the cursor is the whole log's"


def test_going_on_with_a_filter(api: Api) -> None:
    submit(api)
    log(api, *[("METRIC" if number % 10 == 0 else "INFO", str(number), "TrainingAgent", "training") for number in range(3_000)])
    api.orchestrator.move(RUN, "completed")
    expected = [str(number) for number in range(0, 3_000, 10)]
    found: list[str] = []
    params: dict[str, Any] = {"limit": 70, "level": "METRIC"}
    while True:
        page = history(api, **params)
        assert page["total"] == 300
        found += messages(page["logs"])
        if page["next_cursor"] is None:
            break
        params["after"] = page["next_cursor"]
    assert found == expected
    # Live, with reconnections, from before what is remembered to its end; and from a position that the filter leaves out.
    events = stream(api, level="METRIC", most=130)
    events += stream(api, last=events[-1]["id"], level="METRIC")
    assert messages(events) == expected
    assert messages(stream(api, last=f"{RUN}:2985", level="METRIC")) == ["2990"]
    assert messages(history(api, level="METRIC", after=f"{RUN}:2985")["logs"]) == ["2990"]


def test_lines_arrive_while_others_do_not(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "HEARTBEAT_SECONDS", 0.2)
    submit(api)
    with api.client.stream("GET", f"/logs/stream/{RUN}", params={"level": "ERROR"}) as response:
        text = response.iter_lines()
        assert next(text) == ": stream of the log"
        assert next(text) == ""
        beats = 0
        while beats < 3:  # a connection that is sent nothing else is still seen to live
            log(api, ("INFO", "not for this reader", None, None))
            beats += next(text) == ": heartbeat"
        log(api, ("ERROR", "this one", None, None), ("INFO", "not this one", None, None))
        line = next(line for line in text if line.startswith("data: "))
        assert json.loads(line[6:])["message"] == "this one"
        api.orchestrator.move(RUN, "completed")
        rest = [line for line in text if line and line != ": heartbeat"]
    assert rest == ["event: end", 'data: {"status": "completed"}']


@pytest.mark.parametrize(
    "params", [{"level": "DEBUG"}, {"level": "info"}, {"level": ["INFO", ""]}, {"agent": ""}, {"agent": "x" * 65}, {"agent": "a\0"}]
)
def test_filters_that_are_none(api: Api, params: dict[str, Any]) -> None:
    submit(api)
    for path in (f"/logs/history/{RUN}", f"/logs/stream/{RUN}"):
        answer = api.client.get(path, params=params)
        assert (answer.status_code, answer.json()["error"]) == (400, "VALIDATION_ERROR")
        assert answer.json()["metadata"]["errors"][0]["field"].startswith(next(iter(params)))
