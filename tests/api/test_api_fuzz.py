"""Requests that nobody thought of: Schemathesis reads the API's OpenAPI document, sends what fits it and what does not, and holds
every answer against it. `make fuzz` sends 10,000; the suite some hundreds, always the same."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
import schemathesis
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import events, from_schema

from llm_platform import runlog
from tests.api.api_harness import Api, Start, body

REQUESTS = int(os.environ.get("LLM_PLATFORM_TEST_FUZZ", "500"))
ENUMERATED = 1_500
"""Boundaries of each field, and what is just behind them, which is always sent; the rest is drawn at random."""
OPERATIONS = 24
"""Those that take something."""
UNENDING = "/logs/stream/"
"""A log stream answers as long as its job runs; tests/api/test_api_logs.py has it. WebSockets are not in an OpenAPI document."""
MEANING = r"^/api/v1/(jobs|preflight|datasets/[^/]+/profile|models|models/compare)$"
"""What these take must also mean something: a graph of known agents, rows in a file, a tokenizer, a metric that models have, models
that were evaluated, a position in a log. No schema says that, so what fits the schema may be refused there."""
REFUSED = ["2xx", "3xx", "400", "404", "409", "429"]
RUN_ID = "watched"

# Deprecations inside the generator's own libraries.
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(600 if REQUESTS <= 500 else 3600)]


@dataclass
class Found:
    """What a run of the generator sent, and what was wrong with the answers."""

    sent: int = 0
    succeeded: set[str] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)

    def take(self, event: events.EngineEvent) -> None:
        if isinstance(event, events.FatalError):
            raise event.exception
        if isinstance(event, events.NonFatalError):
            self.problems.append(f"{event.label}: {event.value}")
        elif isinstance(event, events.ScenarioFinished):
            recorder = event.recorder
            for interaction in recorder.interactions.values():
                self.sent += 1
                if interaction.response is not None and interaction.response.status_code < 300:
                    self.succeeded.add(recorder.label)
            for check in [check for checks in recorder.checks.values() for check in checks]:
                if check.failure_info is not None:
                    failure, how = check.failure_info.failure, check.failure_info.code_sample
                    self.problems.append(f"{recorder.label}: {failure.title}: {failure.message[:500]}\n  {how[:1000]}")


@pytest.fixture(scope="module")
def api(start: Start) -> Iterator[Api]:
    """A platform with a dataset, a job that is over and one that waits, and a log."""
    with start(access_log="off") as found:
        found.put()
        found.upload()
        for run_id in (RUN_ID, "over"):
            assert found.submit(run_id).status_code == 200
            runlog.append(found.services.database, run_id, [runlog.line("INFO", f"line {number}") for number in range(3)])
        found.orchestrator.move("over", "completed")
        yield found


def configuration(examples: int) -> SchemathesisConfig:
    semantic = {"positive_data_acceptance": {"expected-statuses": REFUSED}}
    return SchemathesisConfig.from_dict(
        {
            "seed": 1,
            "continue-on-failure": True,
            "generation": {"deterministic": True, "database": "none", "no-shrink": True, "max-examples": examples},
            "phases": {"stateful": {"enabled": False}},
            # What violates the form's schema, such as a number for the file, is bytes of a file like any other once it is sent.
            # And in a query false is a text like any other, which may be an agent's name.
            "operations": [
                {
                    "include-path-regex": r"^/api/v1/(datasets/upload|logs/history/.*)$",
                    "checks": {**semantic, "negative_data_rejection": {"enabled": False}},
                },
                {"include-path-regex": MEANING, "checks": semantic},
            ],
        }
    )


def test_generated_requests_are_answered_as_the_openapi_document_says(api: Api) -> None:
    root = f"http://127.0.0.1:{api.port}"
    schema = schemathesis.openapi.from_url(
        f"{root}/openapi.json", config=configuration(max(2, (REQUESTS - ENUMERATED) // OPERATIONS))
    ).exclude(path_regex=UNENDING)
    dataset_id = api.client.get("/datasets").json()["items"][0]["dataset_id"]
    known = {"dataset_id": [dataset_id], "job_id": [f"job_{RUN_ID}", "job_over"], "run_id": [RUN_ID, "over"]}

    @schema.hook
    def map_path_parameters(context: Any, path_parameters: dict[str, Any] | None) -> dict[str, Any] | None:
        # Of ids that are made up there is nothing; every other time one is taken that there is.
        return path_parameters and {
            name: known[name][len(str(value)) % len(known[name])] if name in known and len(str(value)) % 2 else value
            for name, value in path_parameters.items()
        }

    @schema.hook
    def map_case(context: Any, case: schemathesis.Case) -> schemathesis.Case:
        if isinstance(case.body, dict) and case.meta is not None and case.meta.generation.mode is schemathesis.GenerationMode.POSITIVE:
            # A graph that was put together by chance is none; every one is taken with a graph that is one.
            if case.path.endswith("/jobs"):
                case.body = {"pipeline_config": cast(Any, case.body)["pipeline_config"] | body()["pipeline_config"]}
            case.body = whole(case.body)
        return case

    found = Found()
    for event in from_schema(schema).execute():
        found.take(event)
    print(f"{found.sent} requests")
    assert {"POST /api/v1/jobs", "GET /api/v1/jobs/{job_id}", "DELETE /api/v1/jobs/{job_id}", "POST /api/v1/keys"} <= found.succeeded
    assert not found.problems, "\n\n".join(found.problems[:20])
    assert found.sent >= REQUESTS


def whole(value: Any) -> Any:
    """JSON Schema takes 2.0 for an integer; the platform wants integers written as integers."""
    if isinstance(value, dict):
        return {name: whole(item) for name, item in value.items()}
    if isinstance(value, list):
        return [whole(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
