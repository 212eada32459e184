"""The main job through the platform that `llm-platform up` started, as a client drives it."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from llm_platform.settings import Settings
from llm_platform.storage import storage_from
from tests.api.api_harness import body as example
from tests.e2e.conftest import Running, question_rows, wait_for, write_csv
from tests.e2e.pipelines import BASE_MODEL, edges, node, up_to_training


@pytest.fixture(scope="module")
def dataset(running: Running, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = write_csv(tmp_path_factory.mktemp("data") / "training_data.csv", question_rows(120))
    return running.upload(path)


@pytest.fixture(scope="module")
def finished(running: Running, dataset: dict[str, Any]) -> dict[str, Any]:
    """One run of all agent classes."""
    pipeline = up_to_training({"dataset_id": dataset["dataset_id"]}, run_id="whole-1")
    pipeline["nodes"] += [
        node("evaluation", "EvaluationAgent", max_samples=4, max_new_tokens=8),
        node("choice", "ComparisonAgent", metric="loss"),
        node("export", "ExportAgent"),
        node("report", "NotebookAgent"),
    ]
    pipeline["edges"] += edges(("training", "evaluation"), ("evaluation", "choice"), ("training", "export"), ("evaluation", "report"))
    created = running.post_job(pipeline)
    assert created["job_id"] == "job_whole-1"
    assert created["status"] == "pending"
    return running.wait_job(created["job_id"])


def test_the_specifications_example_to_the_letter(running: Running, tmp_path: Path) -> None:
    spec = Path(__file__).resolve().parents[2].parent / "shared" / "spec" / "api-specification.md"
    body = json.loads(spec.read_text().split("**Request Body:**\n```json")[1].split("```")[0]) if spec.exists() else example("abc123")
    body["pipeline_config"]["nodes"][2]["config"]["base_model"] = BASE_MODEL
    path = write_csv(tmp_path / "training_data.csv", question_rows(50))
    storage_from(Settings(home=running.home)).put_file(path, "s3://datasets/training_data.csv")

    answer = running.http.post("/jobs", json=body)
    created = answer.json()
    assert created["job_id"] == "job_abc123", created
    job = running.wait_job("job_abc123")
    assert job["status"] == "completed", job
    assert job["progress"] == {"completed_agents": ["dataset", "validation", "preprocessing"], "current_agent": None, "total_agents": 3}
    assert running.http.post("/jobs", json=body).json()["created_at"] == created["created_at"]


def test_the_whole_job_ends_well(finished: dict[str, Any]) -> None:
    assert finished["status"] == "completed", finished
    assert finished["progress"]["completed_agents"] == [
        "dataset", "validation", "preprocessing", "training", "evaluation", "choice", "export", "report",
    ]  # fmt: skip
    assert finished["model_id"] == "model_whole-1"
    result = finished["result"]
    assert result["models"] == ["model_whole-1"]
    assert result["error"] is None
    assert {"training.adapter", "export.merged", "evaluation.evaluation", "choice.comparison", "report.notebook"} <= set(
        result["artifacts"]
    )
    assert 0 <= result["metrics"]["evaluation"]["base_accuracy"] <= 1
    assert result["metrics"]["choice"].keys() == {"gain", "regressions", "promoted"}


def test_the_log_tells_the_story(running: Running, finished: dict[str, Any]) -> None:
    history = running.http.get("/logs/history/whole-1", params={"limit": 1000}).json()
    assert history["total"] == len(history["logs"])
    assert [line["step"] for line in history["logs"] if line["level"] == "METRIC" and "loss" in line] == [1, 2]
    agents = [line["agent"] for line in history["logs"]]
    assert list(dict.fromkeys(agent for agent in agents if agent)) == [
        "DatasetAgent", "ValidationAgent", "PreprocessingAgent", "TrainingAgent", "EvaluationAgent", "ComparisonAgent",
        "ExportAgent", "NotebookAgent",
    ]  # fmt: skip
    streamed = []
    with running.http.stream("GET", "/logs/stream/whole-1") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        for text in stream.iter_lines():
            if text.startswith("data: ") and "message" in text:
                streamed.append(json.loads(text.removeprefix("data: ")))
    assert [line["message"] for line in streamed] == [line["message"] for line in history["logs"]]


def test_the_model_is_registered_and_can_be_downloaded(running: Running, finished: dict[str, Any], dataset: dict[str, Any]) -> None:
    listed = running.http.get("/models", params={"base_model": BASE_MODEL}).json()
    assert "model_whole-1" in [model["model_id"] for model in listed["models"]]
    model = running.http.get("/models/model_whole-1").json()
    assert model["dataset_id"] == dataset["dataset_id"]
    assert model["training_config"]["method"] == "lora"
    assert set(model["exports"]) == {"adapter", "merged"}
    assert {"accuracy", "f1", "final_loss", "base_accuracy"} <= set(model["metrics"])
    for kind, needed in (("adapter", "adapter_model.safetensors"), ("merged", "model.safetensors")):
        answer = running.http.get("/models/model_whole-1/download", params={"format": kind})
        assert answer.status_code == 200
        with tarfile.open(fileobj=io.BytesIO(answer.content)) as archive:
            names = archive.getnames()
        assert any(Path(name).name == needed for name in names), names
    missing = running.http.get("/models/model_whole-1/download", params={"format": "gguf"})
    assert (missing.status_code, missing.json()["error"]) == (404, "NOT_FOUND")
    card = running.http.get("/models/model_whole-1/card")
    assert card.headers["content-type"].startswith("text/markdown")
    assert "## Evaluation Metrics" in card.text
    assert BASE_MODEL in card.text


def test_dagster_shows_every_stage_and_the_lineage(running: Running, finished: dict[str, Any], dataset: dict[str, Any]) -> None:
    query = """query($partition: String!) { assetNodes { assetKey { path }
      assetMaterializations(partitions: [$partition], limit: 1) { partition metadataEntries { label __typename } } } }"""
    nodes = running.graphql(query, partition="whole-1")["assetNodes"]
    made = {item["assetKey"]["path"][-1]: item["assetMaterializations"] for item in nodes}
    for stage in ("dataset", "validation", "preprocessed_splits", "adapters", "evaluations", "comparison", "exports", "notebook_reports"):
        assert made[stage], f"{stage} has no materialization for the run id"
    kinds = {entry["label"]: entry["__typename"] for entry in made["notebook_reports"][0]["metadataEntries"]}
    assert kinds["report notebook"] == "NotebookMetadataEntry"
    figures = ("loss curve", "final loss", "epochs", "seconds", "tokens per second", "peak memory (MB)")
    assert {f"training {name}" for name in figures} <= {entry["label"] for entry in made["adapters"][0]["metadataEntries"]}
    compared = {entry["label"]: entry["__typename"] for entry in made["comparison"][0]["metadataEntries"]}
    assert compared["choice chart"] == "MarkdownMetadataEntry" and compared["comparison"] == "TableMetadataEntry"
    uploads = running.graphql(query, partition=dataset["dataset_id"])["assetNodes"]
    upload = next(item for item in uploads if item["assetKey"]["path"] == ["uploaded_dataset"])["assetMaterializations"]
    assert {"preview", "length histogram"} <= {entry["label"] for entry in upload[0]["metadataEntries"]}


def test_of_two_trainings_the_good_one_stays(running: Running, dataset: dict[str, Any]) -> None:
    pipeline = up_to_training({"dataset_id": dataset["dataset_id"]}, run_id="two-1")
    pipeline["nodes"].append(node("doomed", "TrainingAgent", max_steps=2, optimizer="paged_adamw"))
    pipeline["edges"] += edges(("preprocessing", "doomed"))
    job = running.wait_job(running.post_job(pipeline)["job_id"])
    assert job["status"] == "failed"
    assert job["result"]["models"] == ["model_two-1.training"]
    assert job["result"]["error"]["metadata"]["agent"] == "doomed"
    assert "this machine has no GPU" in job["result"]["error"]["message"]
    assert running.http.get("/models/model_two-1.training").status_code == 200


def test_a_re_execution_in_dagsters_ui_is_the_same_job_and_reuses_what_is_done(running: Running, dataset: dict[str, Any]) -> None:
    pipeline = up_to_training({"dataset_id": dataset["dataset_id"]}, run_id="once-more", optimizer="paged_adamw")
    failed = running.wait_job(running.post_job(pipeline)["job_id"])
    assert failed["status"] == "failed"
    query = """{ runsOrError(filter: {tags: [{key: "llm_platform/run_id", value: "once-more"}]})
      { ... on Runs { results { runId status } } } }"""
    (parent,) = running.graphql(query)["runsOrError"]["results"]
    launched = running.graphql(
        "mutation($p: ReexecutionParams!) { launchPipelineReexecution(reexecutionParams: $p) { __typename "
        "... on PythonError { message } } }",
        p={"parentRunId": parent["runId"], "strategy": "ALL_STEPS"},
    )["launchPipelineReexecution"]
    assert launched["__typename"] == "LaunchRunSuccess", launched

    def second_run_ended() -> bool:
        runs = running.graphql(query)["runsOrError"]["results"]
        return len(runs) == 2 and all(run["status"] == "FAILURE" for run in runs)

    wait_for(second_run_ended, 120, "the second run has ended")
    again = running.wait_job(failed["job_id"])
    assert (again["status"], again["result"]["error"]["metadata"]["agent"]) == ("failed", "training")
    lines = running.http.get("/logs/history/once-more", params={"limit": 1000}).json()["logs"]
    reused = [line["agent_name"] for line in lines if line["message"].startswith("Already done by an earlier attempt")]
    assert reused == ["dataset", "validation", "preprocessing"]


def test_failed_validation_fails_the_check_in_dagster(running: Running, tmp_path: Path) -> None:
    rows = [*question_rows(20), {"question": "", "answer": "an answer to nothing"}]
    uploaded = running.upload(write_csv(tmp_path / "holes.csv", rows))
    pipeline = up_to_training({"dataset_id": uploaded["dataset_id"]}, run_id="holes-1")
    job = running.wait_job(running.post_job(pipeline)["job_id"])
    assert job["status"] == "failed"
    assert job["result"]["error"]["error"] == "DATASET_ERROR"
    assert job["result"]["error"]["metadata"]["errors"][0]["row"] == 21
    assert job["progress"]["completed_agents"] == ["dataset"]
    query = """{ assetNodes(assetKeys: [{path: ["validation"]}]) { assetChecksOrError { ... on AssetChecks { checks {
      name executionForLatestMaterialization { status runId evaluation { success metadataEntries { label } } } } } } } }"""
    checks = {
        check["name"]: check["executionForLatestMaterialization"]
        for check in running.graphql(query)["assetNodes"][0]["assetChecksOrError"]["checks"]
    }
    assert checks["nulls"]["status"] == "FAILED", checks
    assert checks["schema"]["status"] == "SUCCEEDED", checks


def test_a_run_launched_in_dagsters_ui_is_a_job(running: Running, dataset: dict[str, Any]) -> None:
    running.graphql(
        """mutation($key: String!) { addDynamicPartition(partitionKey: $key, partitionsDefName: "run_id",
          repositorySelector: {repositoryLocationName: "llm_platform", repositoryName: "__repository__"}) { __typename } }""",
        key="from-the-ui",
    )
    launched = running.graphql(
        "mutation($params: ExecutionParams!) { launchPipelineExecution(executionParams: $params) { __typename "
        "... on PythonError { message } ... on RunConfigValidationInvalid { errors { message } } } }",
        params={
            "selector": {
                "repositoryLocationName": "llm_platform",
                "repositoryName": "__repository__",
                "pipelineName": "pipeline",
                "assetSelection": [{"path": ["dataset"]}],
                "assetCheckSelection": [],
            },
            "mode": "default",
            "executionMetadata": {"tags": [{"key": "dagster/partition", "value": "from-the-ui"}]},
            "runConfigData": json.dumps(
                {"ops": {"dataset": {"config": {"nodes": [{"agent_name": "rows", "config": {"dataset_id": dataset["dataset_id"]}}]}}}}
            ),
        },
    )["launchPipelineExecution"]
    assert launched["__typename"] == "LaunchRunSuccess", launched
    job = running.wait_job_listed("from-the-ui")
    job = running.wait_job(job["job_id"])
    assert job["status"] == "completed"
    assert job["progress"]["completed_agents"] == ["rows"]


def test_preprocessing_is_not_computed_twice(running: Running, dataset: dict[str, Any]) -> None:
    pipeline = up_to_training({"dataset_id": dataset["dataset_id"]}, run_id="again-1")
    pipeline["nodes"].pop()
    pipeline["edges"].pop()
    assert running.wait_job(running.post_job(pipeline)["job_id"])["status"] == "completed"
    logs = running.http.get("/logs/history/again-1").json()["logs"]
    assert any("were preprocessed the same way before" in line["message"] for line in logs)
