"""Deleting a job's artifacts over real HTTP, with a real store and registry: what goes, and what somebody else needs and stays."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from llm_platform import models
from llm_platform.comparisons import EVALUATION_TAG
from llm_platform.database import now
from llm_platform.registry import DatasetInput
from llm_platform.specs import AgentClass
from llm_platform.specs.results import NodeResult
from tests.api.api_harness import Api, Start, body, wait_until

# MLflow's own, about the libraries that it uses.
pytestmark = pytest.mark.filterwarnings("ignore")

CACHED = "s3://artifacts/cache/splits/abc"
MadeRun = Callable[[str], str]


@pytest.fixture(scope="module")
def stored(start: Start) -> Iterator[Api]:
    with start() as api, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        api.put()
        api.services.storage.put_bytes(b"shared", f"{CACHED}/train.parquet")
        yield api


@pytest.fixture
def made(stored: Api, tmp_path: Path) -> MadeRun:
    """Makes a completed job with a validation report, a trained and evaluated model, a comparison, and unfinished work."""

    def make(run_id: str) -> str:
        submit(stored, run_id)
        root = f"s3://artifacts/{run_id}"
        folder = tmp_path / run_id
        folder.mkdir()
        (folder / "weights.safetensors").write_bytes(b"w" * 1000)
        for part in ("validation/check", "adapter", "evaluations/score/train", "comparisons/best", "leftover/of/an/attempt"):
            stored.services.storage.put_folder(folder, f"{root}/{part}")
        finish(stored, run_id, "check", AgentClass.VALIDATION, {"table": f"{CACHED}/train.parquet", "report": f"{root}/validation/check"})
        finish(stored, run_id, "train", AgentClass.TRAINING, {"adapter": f"{root}/adapter"}, [f"model_{run_id}"])
        finish(stored, run_id, "score", AgentClass.EVALUATION, {"evaluation": f"{root}/evaluations/score/train"}, [f"model_{run_id}"])
        finish(stored, run_id, "best", AgentClass.COMPARISON, {"comparison": f"{root}/comparisons/best"}, ["model_of_another"])
        registry = stored.services.registry
        data = DatasetInput(name="rows", digest="d" * 64, source_address="s3://datasets/ds_x/rows.csv")
        begun = registry.begin(f"model_{run_id}", run_id, "train", "tuned", "base", {}, {}, [data])
        registry.register(begun, folder, "tuned")
        registry.set_export(f"model_{run_id}", "adapter", f"{root}/adapter", "0" * 64)
        registry.set_tags(f"model_{run_id}", {EVALUATION_TAG: f"{root}/evaluations/score/train"})
        stored.services.database.put_model(**models.projection(models.registered(f"model_{run_id}", registry)))
        work = stored.services.settings.work / run_id / "train" / "checkpoints"
        work.mkdir(parents=True)
        (work / "step-10").write_bytes(b"half")
        stored.orchestrator.move(run_id, "completed")
        assert stored.client.get(f"/jobs/job_{run_id}").json()["status"] == "completed"
        return run_id

    return make


def submit(api: Api, run_id: str, **changes: Any) -> None:
    assert api.client.post("/jobs", json=body(run_id, **changes)).status_code == 200
    wait_until(lambda: (api.services.database.submission(run_id) or {})["submitted"])


def finish(api: Api, run_id: str, name: str, agent: AgentClass, artifacts: dict[str, str], model_ids: list[str] | None = None) -> None:
    database = api.services.database
    database.start_node(run_id, name, agent.value, "digest")
    result = NodeResult(artifacts=artifacts, model_ids=model_ids or [])
    database.end_node(run_id, name, "completed", result=result.model_dump(mode="json"))


def files(api: Api, run_id: str) -> list[str]:
    root = f"s3://artifacts/{run_id}"
    return [file.address.removeprefix(f"{root}/") for file in api.services.storage.list_files(root)]


def delete(api: Api, run_id: str, **params: Any) -> httpx.Response:
    return api.client.delete(f"/jobs/job_{run_id}/artifacts", params=params)


def test_the_models_stay(stored: Api, made: MadeRun) -> None:
    run_id = made("plain")
    root = f"s3://artifacts/{run_id}"
    other = made("untouched")
    before = files(stored, other)
    answer = delete(stored, run_id)
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert found.pop("freed_bytes") >= 3_000
    assert found == {
        "job_id": "job_plain",
        "deleted": [f"{root}/comparisons/best", f"{root}/validation/check"],
        "kept": [
            {"address": f"{root}/adapter", "reason": "of model model_plain"},
            {"address": f"{root}/evaluations/score/train", "reason": "of model model_plain"},
        ],
        "models": [],
    }
    assert {file.split("/")[0] for file in files(stored, run_id)} == {"adapter", "evaluations"}
    download = stored.client.get("/models/model_plain/download")
    assert download.status_code == 200 and b"w" * 1000 in download.content
    plain = stored.client.get("/models/model_plain/download", headers={"Accept-Encoding": "identity"})
    assert "content-encoding" not in download.headers and download.headers["etag"] == plain.headers["etag"], "never compressed"
    assert int(download.headers["content-length"]) == len(download.content)
    assert stored.services.storage.exists(f"{CACHED}/train.parquet"), "what all jobs share stays"
    assert not (stored.services.settings.work / run_id / "train").exists()
    assert files(stored, other) == before and (stored.services.settings.work / other / "train").exists()
    job = stored.client.get("/jobs/job_plain").json()
    assert job["status"] == "completed" and len(job["progress"]["completed_agents"]) == 4
    assert set(job["result"]["artifacts"]) == {"check.table", "train.adapter", "score.evaluation"}
    again = delete(stored, run_id)
    assert again.status_code == 200 and again.json()["deleted"] == [] and again.json()["freed_bytes"] == 0
    assert [entry["action"] for entry in stored.client.get("/audit", params={"action": "job.delete_artifacts"}).json()["items"]] == [
        "job.delete_artifacts"
    ] * 2


def test_the_models_go_if_they_are_asked_for(stored: Api, made: MadeRun) -> None:
    run_id = made("whole")
    found = delete(stored, run_id, models=True).json()
    assert found["models"] == ["model_whole"] and found["kept"] == [] and len(found["deleted"]) == 4
    assert files(stored, run_id) == []
    assert stored.client.get("/models/model_whole").status_code == 404
    assert "model_whole" not in stored.client.get("/models", params={"limit": 100}).text
    job = stored.client.get("/jobs/job_whole").json()
    assert (job["model_id"], job["result"]["models"], set(job["result"]["artifacts"])) == (None, [], {"check.table"})


def test_a_model_that_a_job_waits_for_stays(stored: Api, made: MadeRun) -> None:
    run_id = made("needed")
    pipeline = {"nodes": [{"agent_name": "c", "agent_class": "ComparisonAgent", "config": {"model_ids": ["model_needed", "model_x"]}}]}
    stored.services.database.accept("waiting", dagster_run_id="d-waiting", digest="x", pipeline=pipeline)
    before = files(stored, run_id)
    answer = delete(stored, run_id, models=True)
    assert (answer.status_code, answer.json()["error"]) == (409, "CONFLICT") and "job_waiting" in answer.json()["message"]
    assert files(stored, run_id) == before and stored.client.get("/models/model_needed").status_code == 200
    stored.services.database.update_submission("waiting", status="cancelled", ended_at=now())
    assert delete(stored, run_id, models=True).status_code == 200


def test_what_another_job_reads_stays(stored: Api, made: MadeRun) -> None:
    run_id = made("source")
    address = f"s3://artifacts/{run_id}/leftover/of/an/attempt/rows.csv"
    stored.services.storage.put_bytes(b"question,answer\n1,2\n", address)
    submit(stored, "reader", dataset={"file_path": address, "format": "csv"})
    found = delete(stored, run_id, models=True).json()
    assert found["kept"] == [{"address": address, "reason": "read by job job_reader"}]
    assert files(stored, run_id) == ["leftover/of/an/attempt/rows.csv"]


def test_only_of_a_job_that_has_ended(stored: Api) -> None:
    submit(stored, "going")
    for _ in range(2):
        answer = delete(stored, "going")
        assert (answer.status_code, answer.json()["error"]) == (409, "CONFLICT")
        stored.orchestrator.move("going", "running")
    stored.orchestrator.move("going", "failed")
    assert delete(stored, "going").status_code == 200
    assert delete(stored, "none").status_code == 404


def test_a_retry_does_what_was_deleted_again(stored: Api) -> None:
    submit(stored, "again")
    for part in ("validation/a", "validation/b"):
        stored.services.storage.put_bytes(b"report", f"s3://artifacts/again/{part}")
    finish(stored, "again", "a", AgentClass.VALIDATION, {"report": "s3://artifacts/again/validation/a"})
    finish(stored, "again", "b", AgentClass.VALIDATION, {"table": f"{CACHED}/train.parquet"})
    stored.orchestrator.move("again", "failed")
    assert delete(stored, "again").json()["deleted"] == ["s3://artifacts/again/validation/a"]
    rows = {node["agent_name"]: node["digest"] for node in stored.services.database.nodes(["again"])["again"]}
    assert rows == {"a": "", "b": "digest"}, "a node without its digest is not reused"
    assert stored.client.post("/jobs/job_again/retry").status_code == 200
    assert delete(stored, "again").status_code == 409


def test_nobody_tries_again_what_is_being_deleted(stored: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    submit(stored, "held")
    stored.services.storage.put_bytes(b"x", "s3://artifacts/held/file")
    stored.orchestrator.move("held", "failed")
    began, go_on = threading.Event(), threading.Event()
    real = stored.services.storage.delete

    def slow(address: str) -> None:
        began.set()
        assert go_on.wait(30)
        real(address)

    monkeypatch.setattr(stored.services.storage, "delete", slow)
    deleting = threading.Thread(target=delete, args=(stored, "held"))
    deleting.start()
    assert began.wait(30)
    with httpx.Client(base_url=stored.url, trust_env=False, timeout=30) as other:
        for answer in (other.post("/jobs/job_held/retry"), other.delete("/jobs/job_held/artifacts")):
            assert (answer.status_code, answer.json()["error"]) == (409, "CONFLICT")
        go_on.set()
        deleting.join(30)
        assert other.post("/jobs/job_held/retry").status_code == 200
    assert files(stored, "held") == []
