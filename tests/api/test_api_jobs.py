"""Jobs over HTTP: accepted once, watched, cancelled."""

from __future__ import annotations

import json
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import pytest

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


# bad bodies


def refused(api: Api, answer: Any, status: int, code: str, *words: str) -> dict[str, Any]:
    """Asserts the specification's error body, and that it holds these words."""
    found = answer.json()
    assert (answer.status_code, found["error"]) == (status, code), answer.text
    assert set(found) == {"error", "message", "metadata"} and found["message"]
    for word in words:
        assert word in answer.text
    assert str(api.services.settings.root) not in answer.text and "Traceback" not in answer.text
    return found


@pytest.mark.parametrize(
    "path",
    [
        "file:///etc/passwd",
        "/etc/passwd",
        "http://169.254.169.254/",
        "http://2852039166/",
        "http://[::ffff:169.254.169.254]/",
        "s3://other-bucket/x",
        "s3://datasets/../../x",
        "s3://datasets/%2e%2e/x",
        "s3://datasets/a\nb",
        "s3://datasets/",
    ],
)
def test_a_path_that_is_not_allowed(shared: Api, path: str) -> None:
    before = shared.counts()
    answer = shared.submit("bad", dataset={"file_path": path})
    found = refused(shared, answer, 400, "CONFIG_ERROR", "file_path")
    assert found["metadata"]["errors"][0]["agent"] == "dataset"
    assert shared.counts() == before


def test_a_symbolic_link_out_of_the_root(shared: Api) -> None:
    link = shared.services.settings.root / "objects" / "datasets" / "link.csv"
    link.symlink_to("/etc/passwd")
    refused(shared, shared.submit("bad", dataset={"file_path": "s3://datasets/link.csv"}), 400, "CONFIG_ERROR", "symbolic link")
    link.unlink()


def test_what_is_not_there(shared: Api) -> None:
    refused(shared, shared.submit("bad", dataset={"file_path": "s3://datasets/nothing.csv"}), 400, "DATASET_ERROR", "nothing.csv")
    answer = shared.client.post("/jobs", json=body("bad", dataset={"file_path": "s3://datasets/nothing.csv"}))
    refused(shared, answer, 400, "DATASET_ERROR", "nothing.csv")
    named = body("bad")
    named["pipeline_config"]["nodes"][0]["config"] = {"dataset_id": "ds_nothing"}
    refused(shared, shared.client.post("/jobs", json=named), 400, "CONFIG_ERROR", "ds_nothing")
    notebook = body("bad")
    notebook["pipeline_config"]["nodes"].append(
        {"agent_name": "n", "agent_class": "NotebookAgent", "config": {"notebook": "no_such_notebook"}}
    )
    refused(shared, shared.client.post("/jobs", json=notebook), 400, "CONFIG_ERROR", "no_such_notebook")


@pytest.mark.parametrize("name", ["../models/evil", "/etc", "https://example.com/model", "a/b/c", "pickle"])
def test_a_base_model_that_is_not_allowed(shared: Api, name: str) -> None:
    found = refused(shared, shared.submit("bad", preprocessing={"base_model": name}), 400, "CONFIG_ERROR")
    assert found["metadata"]["errors"][0] == {"field": "base_model", "agent": "preprocessing", "message": found["message"]}


def test_a_mapping_to_a_column_that_is_not_there(shared: Api) -> None:
    made = shared.upload().json()
    pipeline = body("bad", preprocessing={"template_mapping": {"instruction": "frage", "output": "answer"}})
    pipeline["pipeline_config"]["nodes"][0]["config"] = {"dataset_id": made["dataset_id"]}
    refused(shared, shared.client.post("/jobs", json=pipeline), 400, "DATASET_ERROR", "frage", "question", "preprocessing")
    pipeline["pipeline_config"]["nodes"][0]["config"] = {"dataset_id": made["dataset_id"], "columns": ["question"]}
    good = {"instruction": "question", "output": "answer"}
    pipeline["pipeline_config"]["nodes"][2]["config"]["template_mapping"] = good
    refused(shared, shared.client.post("/jobs", json=pipeline), 400, "DATASET_ERROR", "answer")
    pipeline["pipeline_config"]["nodes"][0]["config"] = {"dataset_id": made["dataset_id"], "columns": ["question", "antwort"]}
    refused(shared, shared.client.post("/jobs", json=pipeline), 400, "DATASET_ERROR", "antwort")
    pipeline["pipeline_config"]["nodes"][0]["config"] = {"dataset_id": made["dataset_id"]}
    assert shared.client.post("/jobs", json=pipeline).status_code == 200


def graph(*edges: tuple[str, str], nodes: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    request = body("bad")
    config = request["pipeline_config"]
    config["edges"] = [{"from_agent": source, "to_agent": target} for source, target in edges]
    config["nodes"] = config["nodes"] if nodes is None else nodes
    return request


GOOD = (("dataset", "validation"), ("validation", "preprocessing"))
NODE = {"agent_name": "dataset", "agent_class": "DatasetAgent", "config": {"file_path": "s3://datasets/training_data.csv"}}


@pytest.mark.parametrize(
    ("request_body", "code", "words"),
    [
        (graph(*GOOD, ("preprocessing", "dataset")), "CONFIG_ERROR", ("cycle", "preprocessing")),
        (graph(*GOOD, ("nowhere", "validation")), "CONFIG_ERROR", ("nowhere",)),
        (graph(*GOOD, ("dataset", "dataset")), "CONFIG_ERROR", ("itself",)),
        (graph(*GOOD, GOOD[0]), "CONFIG_ERROR", ("2 times",)),
        (graph(GOOD[0]), "CONFIG_ERROR", ("preprocessing", "at least 1")),
        (graph(nodes=[NODE, NODE]), "CONFIG_ERROR", ("dataset", "unique")),
        (graph(nodes=[]), "CONFIG_ERROR", ("no nodes",)),
        (graph(nodes=[{**NODE, "agent_name": f"n{i}"} for i in range(1_500)]), "CONFIG_ERROR", ("at most 100",)),
        (graph(nodes=[{**NODE, "agent_class": "EvilAgent"}]), "CONFIG_ERROR", ("EvilAgent", "DatasetAgent")),
        (graph(nodes=[{**NODE, "agent_class": "os.system"}]), "CONFIG_ERROR", ("os.system",)),
        (graph(nodes=[{**NODE, "agent_name": "../x"}]), "VALIDATION_ERROR", ("agent_name",)),
        (body("../x"), "VALIDATION_ERROR", ("run_id",)),
        (body("a\nb"), "VALIDATION_ERROR", ("run_id",)),
        (body("bad\n"), "VALIDATION_ERROR", ("run_id",)),
        (body("bad", dataset={"format": "xlsx"}), "VALIDATION_ERROR", ("DatasetAgent", "format")),
        (body("bad", preprocessing={"temlpate": "alpaca"}), "VALIDATION_ERROR", ("did you mean 'template'",)),
        (body("bad", preprocessing={"template": "{{ ().__class__ }}"}), "VALIDATION_ERROR", ("template",)),
        (body("bad", preprocessing={"trust_remote_code": True}), "VALIDATION_ERROR", ("trust_remote_code",)),
        (body("bad", config={"global_config": {"max_retries": True}}), "VALIDATION_ERROR", ("max_retries",)),
        ({**body("bad"), "status": "completed"}, "VALIDATION_ERROR", ("status",)),
        (body("bad", config={"owner": "me"}), "VALIDATION_ERROR", ("owner",)),
        (body("bad", config={"created_at": "2020-01-01T00:00:00Z"}), "VALIDATION_ERROR", ("created_at",)),
        ({}, "VALIDATION_ERROR", ("pipeline_config", "field required")),
        ([], "VALIDATION_ERROR", ()),
        (None, "VALIDATION_ERROR", ()),
    ],
)
def test_a_body_that_cannot_work(shared: Api, request_body: Any, code: str, words: tuple[str, ...]) -> None:
    before = shared.counts()
    refused(shared, shared.client.post("/jobs", json=request_body), 400, code, *words)
    assert shared.counts() == before


@pytest.mark.parametrize(
    ("field", "value"),
    [("learning_rate", v) for v in ("0", "-1", '"fast"', "1e999", "true", "11")]
    + [("epochs", v) for v in ("-1", "0", "1000000000000", "1.5", '"3"')]
    + [("lora_r", "0"), ("lora_r", "1025"), ("lora_rank", "8"), ("batch_size", "1000000000"), ("max_steps", "1" + "0" * 30)],
)
def test_training_numbers(shared: Api, field: str, value: str) -> None:
    request = body("bad")
    request["pipeline_config"]["nodes"].append({"agent_name": "train", "agent_class": "TrainingAgent", "config": {field: "VALUE"}})
    request["pipeline_config"]["edges"].append({"from_agent": "preprocessing", "to_agent": "train"})
    text = json.dumps(request).replace('"VALUE"', value)
    answer = shared.client.post("/jobs", content=text, headers={"content-type": "application/json"})
    found = refused(shared, answer, 400, "VALIDATION_ERROR", "TrainingAgent")
    assert found["metadata"]["errors"][0]["field"] == field and found["metadata"]["errors"][0]["agent"] == "train"
    if field == "lora_rank":
        assert "lora_r'" in answer.text


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (b"{", "application/json"),
        (b"", "application/json"),
        (b"[" * 100_000 + b"]" * 100_000, "application/json"),
        (b'{"a":' * 33_000, "application/json"),
        (b'{"pipeline_config": 1, "pipeline_config": 2}', "application/json"),
        (b'{"pipeline_config": NaN}', "application/json"),
        (b'{"pipeline_config": -Infinity}', "application/json"),
        (b'{"pipeline_config": "\xff"}', "application/json"),
        (b'{"pipeline_config": "\\ud800"}', "application/json"),
        (b'{"\\ud800": 1, "\\ud800": 2}', "application/json"),
        (b'{"pipeline_config": ' + b"1" * 10_000 + b"}", "application/json"),
        (b"{}", "text/plain"),
        (b"{}", "application/jsonp"),
        (b"a=b", "application/x-www-form-urlencoded"),
    ],
)
def test_text_that_is_not_the_json_we_take(shared: Api, text: bytes, kind: str) -> None:
    started = time.monotonic()
    answer = shared.client.post("/jobs", content=text, headers={"content-type": kind})
    refused(shared, answer, 400, "VALIDATION_ERROR")
    assert time.monotonic() - started < 2


def test_a_body_that_is_too_large(shared: Api) -> None:
    def chunks() -> Any:
        for _ in range(50):
            yield b" " * 10_000

    headers = {"content-type": "application/json"}
    for content in (b" " * 300_000, chunks()):
        refused(shared, shared.client.post("/jobs", content=content, headers=headers), 413, "PAYLOAD_TOO_LARGE", "200000")


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
