"""`POST /jobs/{id}/retry` over real HTTP; that finished nodes are reused is seen in tests/e2e/test_e2e_retry.py."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import pytest

from api.orchestration import RunState, UiRun
from llm_platform import Client
from llm_platform.errors import Conflict
from tests.api.api_harness import Api, Start, wait_until


def ended(api: Api, run_id: str, status: Any) -> str:
    """A job of which the dataset node completed and the next one did not; the id of its first Dagster run."""
    api.put()
    api.submit(run_id)
    api.orchestrator.move(run_id, "running")
    database = api.services.database
    database.start_node(run_id, "dataset", "DatasetAgent", "d")
    database.end_node(run_id, "dataset", "completed", result={"datasets": [], "artifacts": {"table": "s3://x/y"}, "metrics": {}})
    database.start_node(run_id, "validation", "ValidationAgent", "d")
    error = {"error": "STORAGE_ERROR", "message": "the first time", "metadata": {}}
    database.end_node(run_id, "validation", status, error=error if status == "failed" else None)
    wait_until(lambda: (database.submission(run_id) or {})["submitted"])
    if status == "cancelled":
        assert api.client.delete(f"/jobs/job_{run_id}").status_code == 200
    else:
        api.orchestrator.move(run_id, status)
    assert api.client.get(f"/jobs/job_{run_id}").json()["status"] == status
    return api.orchestrator.by_run_id[run_id]


@pytest.mark.parametrize("status", ["failed", "cancelled"])
def test_a_job_that_did_not_complete_gets_a_new_run(api: Api, status: Any) -> None:
    first = ended(api, "again", status)
    before = api.client.get("/jobs/job_again").json()
    answer = api.client.post("/jobs/job_again/retry")
    assert answer.status_code == 200, answer.text
    assert answer.json() == {"job_id": "job_again", "run_id": "again", "status": "pending", "created_at": before["created_at"]}
    wait_until(lambda: len(api.orchestrator.runs) == 2)
    assert api.orchestrator.by_run_id["again"] != first and api.orchestrator.pipelines[0] == api.orchestrator.pipelines[1]
    job = api.client.get("/jobs/job_again").json()
    assert (job["status"], job["started_at"], job["ended_at"], job["result"]) == ("pending", None, None, None)
    assert job["progress"]["completed_agents"] == ["dataset"], "what was done stays done"
    lines = api.client.get("/logs/history/again").json()["logs"]
    assert lines[-1]["message"] == "The job is tried again; what finished is used again: dataset"
    # The second run fails for a reason of its own, of which the first run's nodes know nothing.
    api.orchestrator.move("again", "failed")
    wait_until(lambda: api.client.get("/jobs/job_again").json()["status"] == "failed")
    error = api.client.get("/jobs/job_again").json()["result"]["error"]
    assert "without saying why" in error["message"]
    assert api.client.post("/jobs/job_again/retry").status_code == 200, "and again"
    wait_until(lambda: len(api.orchestrator.runs) == 3)
    api.orchestrator.move("again", "completed")
    wait_until(lambda: api.client.get("/jobs/job_again").json()["status"] == "completed")


@pytest.mark.parametrize("status", ["pending", "running", "completed"])
def test_any_other_job_is_refused(api: Api, status: Any) -> None:
    api.put()
    api.submit("other")
    api.orchestrator.move("other", status)
    wait_until(lambda: api.client.get("/jobs/job_other").json()["status"] == status)
    answer = api.client.post("/jobs/job_other/retry")
    assert (answer.status_code, answer.json()["error"], answer.json()["metadata"]) == (409, "CONFLICT", {"status": status})
    assert api.client.get("/jobs/job_other").json()["status"] == status and len(api.orchestrator.runs) == 1


def test_what_is_not_there_or_only_dagster_knows(api: Api) -> None:
    assert api.client.post("/jobs/job_none/retry").status_code == 404
    api.services.database.adopt("ui", dagster_run_id="d", created_at=datetime.now(UTC))
    api.services.database.update_submission("ui", status="failed")
    answer = api.client.post("/jobs/job_ui/retry")
    assert answer.status_code == 409 and "re-execute" in answer.json()["message"]


def test_of_many_at_once_one_tries_again(api: Api) -> None:
    ended(api, "once", "failed")
    with ThreadPoolExecutor(20) as pool:
        codes = list(pool.map(lambda _: api.client.post("/jobs/job_once/retry").status_code, range(20)))
    assert (codes.count(200), codes.count(409)) == (1, 19)
    wait_until(lambda: len(api.orchestrator.runs) == 2)


def test_the_run_before_is_not_taken_for_a_newer_one(api: Api) -> None:
    first = ended(api, "seen", "failed")
    created = datetime.now(UTC)
    api.orchestrator.ui_runs = lambda since: [UiRun("seen", first, created)]  # type: ignore[method-assign]
    api.orchestrator.failing = True
    assert api.client.post("/jobs/job_seen/retry").status_code == 200
    swept: list[int] = []
    record = api.orchestrator.ui_runs
    api.orchestrator.ui_runs = lambda since: (swept.append(1), record(since))[1]  # type: ignore[method-assign]
    api.services.kick()
    wait_until(lambda: len(swept) >= 2)
    row = api.services.database.submission("seen") or {}
    assert row["dagster_run_id"] != first and row["status"] == "pending"


def test_a_retry_outlives_the_api(start: Start) -> None:
    with start() as api:
        first = ended(api, "kept", "failed")
        api.orchestrator.failing = True
        assert api.client.post("/jobs/job_kept/retry").status_code == 200
        home = api.services.settings.root
    with start(home=home) as again:
        again.orchestrator.runs[first] = RunState(first, "failed", None, None)
        wait_until(lambda: "kept" in again.orchestrator.by_run_id)
        assert again.orchestrator.by_run_id["kept"] != first


def test_the_sdk_tries_again(api: Api) -> None:
    first = ended(api, "sdk", "failed")
    with Client(api.url) as client:
        job = client.jobs.retry(client.jobs.get("job_sdk"))
        assert (job.status, job.run_id) == ("pending", "sdk")
        with pytest.raises(Conflict, match="only a failed or cancelled job"):
            client.jobs.retry("job_sdk")
        wait_until(lambda: api.orchestrator.by_run_id["sdk"] != first)
        api.orchestrator.move("sdk", "completed")
        assert client.jobs.wait(job, timeout=30).status == "completed"
