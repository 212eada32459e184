"""The contract as a whole: the specification's fields, and what holds for every list and every operation there is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from llm_platform.specs import resources
from tests.api.api_harness import Api, Start
from tests.specification import SPECIFICATION

BEYOND = {
    resources.JobCreated: {"run_id": "abc123"},
    resources.Job: {"run_id": "abc123", "model_id": None, "ended_at": None},
    resources.ModelList: {"has_more": False},
    resources.LogLine: {"agent_name": None},
}
"""Fields that the platform answers besides, which its examples of use read or its section on lists asks for."""
TEXT = Path(__file__).resolve().parents[3] / "shared" / "spec" / "api-specification.md"


@pytest.mark.parametrize("kind", SPECIFICATION, ids=lambda kind: kind.__name__)
def test_the_examples_of_the_specification_are_answers(kind: type[BaseModel]) -> None:
    example = SPECIFICATION[kind]
    more = BEYOND.get(kind, {})
    if kind is resources.LogHistory:  # the lines name their run, too
        more = {"logs": [{"run_id": "abc123", "agent_name": None, **line} for line in example["logs"]], "next_cursor": None}
    answer = json.loads(kind.model_validate_json(json.dumps({**example, **more})).model_dump_json())
    assert holds(answer, example), answer


@pytest.mark.parametrize("kind", SPECIFICATION, ids=lambda kind: kind.__name__)
def test_the_document_shows_the_examples_of_the_specification(kind: type[BaseModel]) -> None:
    assert holds(kind.model_json_schema()["examples"][0], SPECIFICATION[kind])


def holds(answer: Any, example: Any) -> bool:
    """Whether everything of the example is in the answer, which may have more fields."""
    if isinstance(example, dict):
        return example.keys() <= answer.keys() and all(holds(answer[name], value) for name, value in example.items())
    if isinstance(example, list):
        return len(answer) == len(example) and all(map(holds, answer, example))
    return answer == example


@pytest.mark.skipif(not TEXT.exists(), reason="the specification is not beside the repository")
def test_every_example_of_the_specification_is_among_them() -> None:
    blocks = [block.split("```")[0] for block in TEXT.read_text(encoding="utf-8").split("```json\n")[1:]]
    known = [json.dumps(example, sort_keys=True) for example in SPECIFICATION.values()]
    others = []
    for block in (block for block in blocks if "[...]" not in block):
        value = json.loads(block)
        if json.dumps(value, sort_keys=True) not in known:
            others.append(sorted(value))
    # The health of another set of services, a submission (test_api_jobs.py), the form of an error.
    assert others == [["services", "status", "version"], ["pipeline_config"], ["error", "message", "metadata"]]


@pytest.fixture(scope="module")
def api(start: Start) -> Iterator[Api]:
    """A platform with one of everything that a list can be of and needs no training."""
    with start(rate_limit_default=100_000) as found:
        found.put()
        found.upload()
        assert found.submit("abc123").status_code == 200
        found.client.post("/keys", json={"owner": "ada", "scope": "read"}).raise_for_status()
        yield found


def document(api: Api) -> dict[str, Any]:
    return api.client.get(f"http://127.0.0.1:{api.port}/openapi.json").json()


def test_every_list_is_paged_within_the_same_bounds(api: Api) -> None:
    lists: list[str] = []
    for path, operations in document(api)["paths"].items():
        names = {parameter["name"] for parameter in operations.get("get", {}).get("parameters", [])}
        if "offset" not in names:
            continue
        lists.append(path.removeprefix("/api/v1"))
        asked = lists[-1].replace("{job_id}", "job_abc123")
        first = api.client.get(asked).raise_for_status().json()
        items = "models" if asked == "/models" else "items"
        assert (first["limit"], first["offset"], first["has_more"]) == (20, 0, first["total"] > 20), path
        assert len(first[items]) == min(first["total"], 20), path
        one = api.client.get(asked, params={"limit": 1, "offset": 0}).json()
        assert one[items] == first[items][:1] and one["has_more"] is (first["total"] > 1), path
        beyond = api.client.get(asked, params={"limit": 100, "offset": 10**6}).json()
        assert (beyond[items], beyond["total"], beyond["has_more"]) == ([], first["total"], False), path
        for wrong in ({"limit": 0}, {"limit": 101}, {"limit": "x"}, {"offset": -1}, {"offset": 2**63}):
            answer = api.client.get(asked, params=wrong)
            assert (answer.status_code, answer.json()["error"]) == (400, "VALIDATION_ERROR"), (path, wrong)
            assert answer.json()["metadata"]["errors"][0]["field"] == next(iter(wrong)), (path, wrong)
    assert sorted(lists) == ["/audit", "/datasets", "/jobs", "/jobs/{job_id}/notebooks", "/keys", "/models", "/notebooks"]


def test_every_operation_has_an_id_and_a_description(api: Api) -> None:
    operations = [operation for path in document(api)["paths"].values() for operation in path.values()]
    ids = [operation["operationId"] for operation in operations]
    assert len(set(ids)) == len(ids)
    assert all(operation["description"] for operation in operations)


def test_every_answer_has_a_request_id_also_one_of_an_operation_that_failed(api: Api) -> None:
    for path in ("/jobs", "/jobs/job_nothing", "/nothing", "/health", "/jobs?limit=0", "/logs/history/abc123"):
        answer = api.client.get(path, headers={"X-Request-Id": "mine"})
        assert answer.headers["x-request-id"] == "mine", path
        assert {"x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset"} <= answer.headers.keys(), path
