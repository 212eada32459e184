"""Jobs over HTTP: accepted once, watched, cancelled."""

from __future__ import annotations

import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from api import submitter
from llm_platform import jobs
from llm_platform.specs.results import NodeResult
from tests.api.api_harness import Api, Start, body, wait_until


def test_the_specifications_example(api: Api) -> None:
    api.put()
    answer = api.submit("abc123")
    assert answer.status_code == 200
    created = answer.json()
    assert created.pop("created_at").endswith("Z")
    assert created == {"job_id": "job_abc123", "run_id": "abc123", "status": "pending"}

    job = api.client.get("/jobs/job_abc123").json()
    assert job["status"] == "pending" and job["result"] is None and job["started_at"] is None and job["model_id"] is None
    assert job["progress"] == {"completed_agents": [], "current_agent": None, "total_agents": 3}
    waiting = {"status": "pending", "attempts": 0, "started_at": None, "ended_at": None}
    names = (("dataset", "DatasetAgent"), ("validation", "ValidationAgent"), ("preprocessing", "PreprocessingAgent"))
    assert job["nodes"] == [{"agent_name": name, "agent_class": kind, **waiting} for name, kind in names]


def test_an_idempotency_key_makes_one_job_of_many_requests(api: Api) -> None:
    api.put()
    headers = {"Idempotency-Key": "my upload of Tuesday"}
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: api.client.post("/jobs", json=body(None), headers=headers), range(20)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["job_id"] for answer in answers}) == 1
    assert api.counts()[0] == 1
    refused = api.client.post("/jobs", json=body(None, preprocessing={"dedup": False}), headers=headers)
    assert (refused.status_code, refused.json()["error"]) == (409, "CONFLICT")
    assert "This Idempotency-Key was used for another pipeline" in refused.json()["message"]
    other = api.client.post("/jobs", json=body(None), headers={"Idempotency-Key": "another"})
    named = api.client.post("/jobs", json=body("abc123"), headers=headers)
    assert (other.status_code, named.json()["run_id"], api.counts()[0]) == (200, "abc123", 3)
    assert api.client.post("/jobs", json=body(None), headers={"Idempotency-Key": "x" * 256}).status_code == 400


def test_a_run_becomes_a_result(api: Api) -> None:
    api.put()
    api.submit("abc123")
    api.orchestrator.move("abc123", "running")
    database = api.services.database
    for name, kind in (("dataset", "DatasetAgent"), ("validation", "ValidationAgent")):
        database.start_node("abc123", name, kind, "d")
        result = NodeResult(
            artifacts={"table": "s3://artifacts/t.parquet"}, metrics={"rows": 3}, datasets=["s3://datasets/training_data.csv"]
        )
        database.end_node("abc123", name, "completed", result=result.model_dump())
    database.start_node("abc123", "preprocessing", "PreprocessingAgent", "d")
    job = api.client.get("/jobs/job_abc123").json()
    assert job["status"] == "running" and job["started_at"].endswith("Z") and job["result"] is None
    assert job["progress"] == {"completed_agents": ["dataset", "validation"], "current_agent": "preprocessing", "total_agents": 3}
    assert [(node["agent_name"], node["status"], node["attempts"]) for node in job["nodes"]] == [
        ("dataset", "completed", 1),
        ("validation", "completed", 1),
        ("preprocessing", "running", 1),
    ]
    first, second, third = job["nodes"]
    assert first["started_at"] <= first["ended_at"] <= second["started_at"] and third["started_at"] and third["ended_at"] is None
    assert api.client.get("/jobs").json()["items"][0]["nodes"] == job["nodes"]

    database.end_node("abc123", "preprocessing", "completed", result=NodeResult().model_dump())
    model = {"model_id": "model_abc123", "run_id": "abc123", "model_name": "m", "base_model": "b", "metrics": {}, "exports": {}}
    database.put_model(**model, created_at=datetime.now(UTC))
    api.orchestrator.move("abc123", "completed")
    job = api.client.get("/jobs/job_abc123").json()
    assert (job["status"], job["model_id"]) == ("completed", "model_abc123")
    assert job["ended_at"] >= job["started_at"] >= job["created_at"]
    assert job["result"] == {
        "models": ["model_abc123"],
        "datasets": ["s3://datasets/training_data.csv"],
        "artifacts": {"dataset.table": "s3://artifacts/t.parquet", "validation.table": "s3://artifacts/t.parquet"},
        "metrics": {"dataset": {"rows": 3.0}, "validation": {"rows": 3.0}},
        "error": None,
    }


def test_a_failed_job_says_why(api: Api) -> None:
    api.put()
    api.submit("abc123")
    database = api.services.database
    for name in ("one", "two"):
        database.start_node("abc123", name, "TrainingAgent", "d")
        error = {"error": "TRAINING_ERROR", "message": f"{name} broke", "metadata": {"step": 3}}
        database.end_node("abc123", name, "failed", error=error)
    database.start_node("abc123", "three", "TrainingAgent", "d")
    api.orchestrator.move("abc123", "failed")
    result = api.client.get("/jobs/job_abc123").json()["result"]
    assert result["error"]["error"] == "TRAINING_ERROR" and result["error"]["message"] == "one broke"
    assert result["error"]["metadata"]["agent"] == "one" and result["error"]["metadata"]["step"] == 3
    assert [item["agent"] for item in result["error"]["metadata"]["failed"]] == ["one", "two", "three"]
    # A node that was running when its process died did not go on running.
    assert {row["agent_name"]: row["status"] for row in database.nodes(["abc123"])["abc123"]}["three"] == "failed"


def test_a_job_that_failed_before_its_first_node(api: Api) -> None:
    api.put()
    api.submit("abc123")
    api.orchestrator.move("abc123", "failed")
    error = api.client.get("/jobs/job_abc123").json()["result"]["error"]
    assert error["error"] == "INTERNAL_ERROR" and error["message"]


def test_a_run_deleted_in_dagster_is_no_running_job(api: Api) -> None:
    api.put()
    api.submit("abc123")
    api.orchestrator.move("abc123", "running")
    wait_until(lambda: (api.services.database.submission("abc123") or {})["submitted"])
    api.orchestrator.runs.clear()
    job = api.client.get("/jobs/job_abc123").json()
    assert job["status"] == "failed" and "deleted" in job["result"]["error"]["message"]


def test_fifty_at_once_are_one_job(api: Api) -> None:
    api.put()
    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda _: api.submit("abc123"), range(50)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.text for answer in answers}) == 1
    assert api.services.database.list_submissions(10, 0)[1] == 1
    wait_until(lambda: api.orchestrator.pipelines)
    assert len(api.orchestrator.runs) == 1 and len(api.orchestrator.pipelines) == 1


def test_another_body_is_a_conflict(api: Api) -> None:
    api.put()
    assert api.submit("abc123").status_code == 200
    answer = api.submit("abc123", config={"global_config": {"max_retries": 2}})
    assert answer.status_code == 409 and answer.json()["error"] == "CONFLICT"
    # A field that only says what is the default anyway is the same pipeline; so is the answer, also after the data has gone.
    api.services.storage.delete("s3://datasets/training_data.csv")
    assert api.submit("abc123").status_code == 200
    api.orchestrator.move("abc123", "failed")
    api.client.get("/jobs/job_abc123")
    assert api.submit("abc123").json()["status"] == "failed"


def test_without_a_run_id_each_is_a_job(api: Api) -> None:
    api.put()
    first, second = api.submit().json(), api.submit().json()
    assert first["run_id"] != second["run_id"] and first["job_id"] == f"job_{first['run_id']}"


def test_accepted_while_the_orchestrator_is_away(start: Start) -> None:
    with start() as api:
        api.orchestrator.failing = True
        api.put()
        assert api.submit("abc123").status_code == 200
        assert api.client.get("/jobs/job_abc123").json()["status"] == "pending"
        home = api.services.settings.root
    with start(home=home) as again:
        wait_until(lambda: "abc123" in again.orchestrator.by_run_id)
        assert again.orchestrator.by_run_id["abc123"] == jobs.dagster_run_id("abc123")


def test_a_claim_lasts_as_long_as_its_process_hands_over(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """And little longer: a job whose API process is killed meanwhile does not wait for a minute."""
    monkeypatch.setattr(submitter, "LEASE_SECONDS", 0.2)
    api.put()
    api.orchestrator.open.clear()
    api.submit("abc123")
    database = api.services.database

    def claimed_until() -> datetime | None:
        return (database.submission("abc123") or {})["claimed_until"]

    wait_until(lambda: claimed_until() is not None)
    first = claimed_until()
    assert first is not None
    wait_until(lambda: (claimed_until() or first) > first + timedelta(seconds=0.6))
    assert database.claim(10, 60) == [], "another process leaves it alone"
    api.orchestrator.open.set()
    wait_until(lambda: "abc123" in api.orchestrator.by_run_id)
    wait_until(lambda: claimed_until() is None)
    assert len(api.orchestrator.pipelines) == 1 and (database.submission("abc123") or {})["attempts"] == 1


# cancelling


def test_cancel_while_queued_makes_no_run(api: Api) -> None:
    api.put()
    api.orchestrator.open.clear()
    api.submit("holds")  # the submitter is busy with this one
    wait_until(lambda: (api.services.database.submission("holds") or {})["attempts"])
    api.submit("abc123")
    for _ in range(2):
        answer = api.client.delete("/jobs/job_abc123")
        assert (answer.status_code, answer.json()) == (200, {"job_id": "job_abc123", "status": "cancelled"})
    api.orchestrator.open.set()
    wait_until(lambda: "holds" in api.orchestrator.by_run_id)
    assert api.submit("next").status_code == 200
    wait_until(lambda: "next" in api.orchestrator.by_run_id)
    assert "abc123" not in api.orchestrator.by_run_id
    job = api.client.get("/jobs/job_abc123").json()
    assert job["status"] == "cancelled" and job["result"]["error"] is None


def test_cancel_while_it_is_handed_over(api: Api) -> None:
    api.put()
    api.orchestrator.open.clear()
    api.submit("abc123")
    wait_until(lambda: (api.services.database.submission("abc123") or {})["attempts"])
    assert api.client.delete("/jobs/job_abc123").status_code == 200
    api.orchestrator.open.set()
    wait_until(lambda: api.client.get("/jobs/job_abc123").json()["status"] == "cancelled")
    assert api.orchestrator.cancelled


@pytest.mark.parametrize("state", ["pending", "running"])
def test_cancel_a_run(api: Api, state: Any) -> None:
    api.put()
    api.submit("abc123")
    api.orchestrator.move("abc123", state)
    wait_until(lambda: (api.services.database.submission("abc123") or {})["submitted"])
    api.services.database.start_node("abc123", "dataset", "DatasetAgent", "d")
    assert api.client.delete("/jobs/job_abc123").json() == {"job_id": "job_abc123", "status": "cancelled"}
    # Dagster called it failed; it was asked to stop.
    job = api.client.get("/jobs/job_abc123").json()
    assert job["status"] == "cancelled" and job["progress"]["current_agent"] is None and job["result"]["error"] is None
    assert api.client.delete("/jobs/job_abc123").status_code == 200


@pytest.mark.parametrize("state", ["completed", "failed"])
def test_cancel_after_the_end_is_a_conflict(api: Api, state: Any) -> None:
    api.put()
    api.submit("abc123")
    api.orchestrator.move("abc123", state)
    answer = api.client.delete("/jobs/job_abc123")
    assert answer.status_code == 409 and answer.json()["error"] == "CONFLICT" and state in answer.json()["message"]


def test_cancel_is_remembered_while_the_orchestrator_is_away(api: Api) -> None:
    api.put()
    api.submit("abc123")
    api.orchestrator.move("abc123", "running")
    wait_until(lambda: (api.services.database.submission("abc123") or {})["submitted"])
    api.orchestrator.failing = True
    assert api.client.delete("/jobs/job_abc123").status_code == 200
    assert api.client.get("/jobs/job_abc123").json()["status"] in ("pending", "running")
    api.orchestrator.failing = False
    wait_until(lambda: api.client.get("/jobs/job_abc123").json()["status"] == "cancelled")


# listing


def test_list(api: Api) -> None:
    api.put()
    for number in range(5):
        api.submit(f"run{number}")
    api.orchestrator.move("run2", "completed")
    page = api.client.get("/jobs", params={"limit": 2, "offset": 1}).json()
    assert [job["run_id"] for job in page["items"]] == ["run3", "run2"]
    assert (page["total"], page["limit"], page["offset"], page["has_more"]) == (5, 2, 1, True)
    done = api.client.get("/jobs", params={"status": "completed"}).json()
    assert [job["run_id"] for job in done["items"]] == ["run2"] and not done["has_more"] and done["limit"] == 20


def test_a_list_of_the_jobs_of_some_time(api: Api) -> None:
    api.put()
    times = [api.submit(f"run{number}").json()["created_at"] for number in range(4)]
    api.orchestrator.move("run2", "completed")

    def runs(**params: Any) -> list[str]:
        answer = api.client.get("/jobs", params=params)
        assert answer.status_code == 200, answer.text
        assert answer.json()["total"] == len(answer.json()["items"])
        return [job["run_id"] for job in answer.json()["items"]]

    for _ in range(2):  # asked again, it is answered from memory
        assert runs(created_after=times[2]) == ["run3", "run2"]
        assert runs(created_before=times[2]) == ["run1", "run0"]
        assert runs(created_after=times[1], created_before=times[3]) == ["run2", "run1"]
        assert runs(created_after=times[1], created_before=times[3], status="completed") == ["run2"]
        assert runs(created_after=times[3], created_before=times[3]) == []
    local = datetime.fromisoformat(times[2]).astimezone(timezone(timedelta(hours=-7))).isoformat()
    assert runs(created_after=local) == ["run3", "run2"]
    page = api.client.get("/jobs", params={"created_before": times[3], "limit": 2, "offset": 1}).json()
    assert [job["run_id"] for job in page["items"]] == ["run1", "run0"] and (page["total"], page["has_more"]) == (3, False)
    api.submit("run4")
    assert runs(created_after=times[2]) == ["run4", "run3", "run2"]


@pytest.mark.parametrize("field", ["created_after", "created_before"])
@pytest.mark.parametrize("value", ["", "yesterday", "1733000000", "2026-01-01T00:00:00", "9999-12-31T23:59:59-14:00"])
def test_times_that_are_none(api: Api, field: str, value: str) -> None:
    answer = api.client.get("/jobs", params={field: value})
    assert (answer.status_code, answer.json()["error"]) == (400, "VALIDATION_ERROR")
    assert answer.json()["metadata"]["errors"][0]["field"] == field


def test_posting_is_quick(api: Api) -> None:
    api.put()
    api.submit("warm")
    api.orchestrator.open.clear()
    seconds = []
    for number in range(40):
        started = time.perf_counter()
        assert api.submit(f"run{number}").status_code == 200
        seconds.append(time.perf_counter() - started)
    api.orchestrator.open.set()
    print(f"POST /jobs p50 {1000 * statistics.median(seconds):.1f} ms")
    assert statistics.median(seconds) <= 0.05
