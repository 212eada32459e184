"""Requests that nobody thought of: Schemathesis reads the API's OpenAPI document, sends what fits it and what does not, and holds
every answer against it. `make fuzz` sends 10,000; the suite some hundreds, always the same."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import pytest
import schemathesis
from schemathesis import GenerationMode
from schemathesis.config import SchemathesisConfig
from schemathesis.core.parameters import ParameterLocation
from schemathesis.engine import events, from_schema

from llm_platform import keys, models, runlog
from llm_platform.specs.keys import KeyRequest, Scope
from tests.api.api_harness import Api, Start, body
from tests.api.test_api_models import register

SUITE = 500
REQUESTS = int(os.environ.get("LLM_PLATFORM_TEST_FUZZ", SUITE))
ENUMERATED = 5_000
"""Boundaries of each field, and what is just behind them, which is always sent; the rest is drawn at random."""
OPERATIONS = 24
"""Those that take something."""
OFTEN = {
    *("POST /api/v1/jobs", "GET /api/v1/jobs/{job_id}", "DELETE /api/v1/jobs/{job_id}", "POST /api/v1/keys", "POST /api/v1/preflight"),
    *(
        "GET /api/v1/logs/stream/{run_id}",
        "GET /api/v1/datasets/{dataset_id}/preview",
        "GET /api/v1/models/{model_id}",
        "GET /api/v1/models/{model_id}/download",
    ),
}
"""Operations some of whose requests succeed: were all refused, the checks would see little."""
MEANING = r"^/api/v1/(jobs|preflight|datasets/upload|datasets/[^/]+/profile|models|models/compare|logs/(history|stream)/.*)$"
"""What these take must also mean something: a graph of known agents, rows in a file, a tokenizer, a metric that models have, models
that were evaluated, a position in this log. No schema says that, so what fits the schema may be refused there, but not for its form."""
FORM = "Input should be"
"""In the message of a field that does not fit its schema."""
REFUSED = ["2xx", "3xx", "400", "401", "403", "404", "409"]
UNLIMITED = 10**6
"""Requests a minute. An answer with 429 would say nothing of the request, and is taken for a problem."""
RUN_ID = "watched"
MODEL_ID = "model_over"

# Deprecations inside the generator's own libraries.
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(600 if REQUESTS <= SUITE else 3600)]


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
            for case_id, interaction in recorder.interactions.items():
                self.sent += 1
                if interaction.response is not None:
                    self.look(recorder.label, recorder.cases[case_id].value, interaction.response)
            for check in [check for checks in recorder.checks.values() for check in checks]:
                if check.failure_info is not None:
                    failure, how = check.failure_info.failure, check.failure_info.code_sample
                    self.problems.append(f"{recorder.label}: {failure.title}: {failure.message[:500]}\n  {how[:1000]}")

    def look(self, label: str, case: schemathesis.Case, response: schemathesis.Response) -> None:
        """What no check looks at."""
        if response.status_code < 300:
            self.succeeded.add(label)
        if response.status_code == 429:
            self.problems.append(f"{label}: too many requests")
        fits = case.meta is not None and case.meta.generation.mode is GenerationMode.POSITIVE
        if fits and response.status_code == 400 and FORM in response.text:
            self.problems.append(
                f"{label}: refused for its form, which fits the document: {response.text[:500]}\n  {case.as_curl_command()[:1000]}"
            )


@contextmanager
def platform(start: Start, **settings: Any) -> Iterator[Api]:
    """A platform with a dataset, a job that is over and its model, one that waits, and their logs; of ada, where users have keys."""
    with start(access_log="off", rate_limit_default=UNLIMITED, rate_limit_authenticated=UNLIMITED, **settings) as found:
        found.put()
        if found.services.settings.authentication:
            found.client.headers["Authorization"] = f"Bearer {key(found, 'ada')}"
        assert found.upload().status_code == 200
        for run_id in (RUN_ID, "over"):
            assert found.submit(run_id).status_code == 200
            runlog.append(found.services.database, run_id, [runlog.line("INFO", f"line {number}") for number in range(3)])
        found.orchestrator.move("over", "completed")
        with TemporaryDirectory() as adapter:
            Path(adapter, "adapter_config.json").write_text("{}")
            register(found, MODEL_ID, Path(adapter), "llm-platform/tiny-llama")
            stored = found.services.storage.put_folder(Path(adapter), "s3://artifacts/over/adapter")
        found.services.registry.set_export(MODEL_ID, "adapter", stored.address, stored.sha256)
        assert models.reindex(found.services.registry, found.services.database) == 1
        yield found


def key(api: Api, owner: str, scope: Scope = "write") -> str:
    return keys.create(KeyRequest(owner=owner, scope=scope), api.services.database).key


def configuration(examples: int, mode: str = "all", **more: Any) -> SchemathesisConfig:
    """Every check of Schemathesis is on. The suite leaves the boundaries of preflights out: they are those of jobs."""
    boundaries = {"enabled": REQUESTS > SUITE}
    return SchemathesisConfig.from_dict(
        {
            "seed": 1,
            "continue-on-failure": True,
            "generation": {"deterministic": True, "database": "none", "no-shrink": True, "max-examples": examples, "mode": mode},
            "operations": [
                {"include-path-regex": "/preflight$", "phases": {"coverage": boundaries}},
                {"include-path-regex": MEANING, "checks": {"positive_data_acceptance": {"expected-statuses": REFUSED}}},
                {"include-path-regex": "/download$", "checks": {"positive_data_acceptance": {"expected-statuses": [*REFUSED, "416"]}}},
            ],
            **more,
        }
    )


def fuzz(api: Api, config: SchemathesisConfig) -> Found:
    schema = schemathesis.openapi.from_url(f"http://127.0.0.1:{api.port}/openapi.json", config=config)
    dataset_id = api.client.get("/datasets").json()["items"][0]["dataset_id"]
    known = {"dataset_id": [dataset_id], "job_id": [f"job_{RUN_ID}", "job_over"], "run_id": [RUN_ID, "over"], "model_id": [MODEL_ID]}

    @schema.hook
    def map_case(context: Any, case: schemathesis.Case) -> schemathesis.Case:
        if case.path_parameters and case.meta is not None and not case.meta.is_negative_at(ParameterLocation.PATH):
            # Of ids that are made up there is nothing; every other time one is taken that there is.
            case.path_parameters = {
                name: known[name][len(str(value)) % len(known[name])] if name in known and len(str(value)) % 2 else value
                for name, value in case.path_parameters.items()
            }
            if "/logs/stream/" in case.path:
                case.path_parameters = {"run_id": "over"}  # the stream of a job that goes on does not end
        if case.media_type == "application/json" and case.meta is not None and case.meta.generation.mode is GenerationMode.POSITIVE:
            # A graph that was put together by chance is none; every one is taken with a graph that is one.
            if case.path.endswith("/jobs"):
                case.body = {"pipeline_config": cast(Any, case.body)["pipeline_config"] | body()["pipeline_config"]}
            case.body = whole(case.body)
        return case

    found = Found()
    for event in from_schema(schema).execute():
        found.take(event)
    print(f"{found.sent} requests")
    assert not found.problems, f"{len(found.problems)} problems\n" + "\n\n".join(found.problems[:20])
    return found


def test_generated_requests_are_answered_as_the_openapi_document_says(start: Start) -> None:
    with platform(start) as api:
        found = fuzz(api, configuration(max(2, (REQUESTS - ENUMERATED) // OPERATIONS)))
    assert found.succeeded >= OFTEN
    assert found.sent >= REQUESTS


def test_with_keys_every_operation_needs_one_and_nobody_reads_what_is_anothers(start: Start, tmp_path: Path) -> None:
    with platform(start, authentication=True) as api:
        users = {"ada": key(api, "ada"), "bob": key(api, "bob"), "root": key(api, "root", "admin")}
        known = [{"name": user, "fixedHeaders": [{"name": "Authorization", "value": f"Bearer {text}"}]} for user, text in users.items()]
        (tmp_path / "users.json").write_text(json.dumps({"auth": known}))
        peers = {"path": str(tmp_path / "users.json"), "peers": ["ada", "bob"]}
        found = fuzz(api, configuration(4, "positive", auth={"wfc": peers}))
    read = {"GET /api/v1/jobs/{job_id}", "GET /api/v1/datasets/{dataset_id}", "GET /api/v1/models/{model_id}", "GET /api/v1/audit"}
    assert found.succeeded >= read | {"POST /api/v1/jobs", "POST /api/v1/keys"}


def whole(value: Any) -> Any:
    """JSON Schema takes 2.0 for an integer; the platform wants integers written as integers."""
    if isinstance(value, dict):
        return {name: whole(item) for name, item in value.items()}
    if isinstance(value, list):
        return [whole(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
