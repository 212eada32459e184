"""The processes of heavy nodes are forks of one that has everything imported, and end with whoever asked for them, not with it."""

from __future__ import annotations

import os
import signal
from typing import Any

import psutil
import pytest

from tests.e2e.conftest import Running, is_training, node_processes, question_rows, wait_for, write_csv
from tests.e2e.pipelines import up_to_training


@pytest.fixture(scope="module")
def dataset(running: Running, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    path = write_csv(tmp_path_factory.mktemp("node-workers") / "rows.csv", question_rows(60))
    return {"dataset_id": running.upload(path)["dataset_id"]}


def train(running: Running, dataset: dict[str, str], run_id: str, **training: Any) -> psutil.Process:
    """A job whose training has begun: the process of the node."""
    running.post_job(up_to_training(dataset, run_id=run_id, **training))
    wait_for(lambda: is_training(running, run_id), 120, f"{run_id} is training")
    (process,) = node_processes(running)
    return process


def run_worker_of(running: Running, run_id: str) -> int:
    query = """query($run_id: String!) { runsOrError(filter: {tags: [{key: "llm_platform/run_id", value: $run_id}]}) { ... on Runs {
      results { eventConnection { events { ... on EngineEvent { metadataEntries { label ... on TextMetadataEntry { text } } } } } } } } }"""
    (run,) = running.graphql(query, run_id=run_id)["runsOrError"]["results"]
    entries = [entry for event in run["eventConnection"]["events"] for entry in event.get("metadataEntries", [])]
    return next(int(entry["text"]) for entry in entries if entry["label"] == "pid")


def test_a_killed_run_worker_leaves_no_process(running: Running, dataset: dict[str, str]) -> None:
    wait_for((running.home / "node-workers.sock").exists, 120, "everything is imported")
    node = train(running, dataset, "orphan", max_steps=100_000)
    keeper = node.parent()
    assert keeper is not None
    service = psutil.Process(running.service("dagster-workers")["pid"])
    assert service in keeper.parents(), "the node's process is a fork"
    assert os.getsid(node.pid) == node.pid
    for zygote in service.children():
        assert zygote.num_threads() == 1 and zygote.net_connections("inet") == [], "a fork would share them"
    os.kill(run_worker_of(running, "orphan"), signal.SIGKILL)
    wait_for(lambda: not node.is_running() and not keeper.is_running(), 10, "the node's process and its keeper are gone")
    assert running.wait_job("job_orphan", seconds=60)["status"] == "failed"


@pytest.mark.slow
def test_a_killed_service_takes_no_training_with_it_and_the_next_job_runs(running: Running, dataset: dict[str, str]) -> None:
    node = train(running, dataset, "goes-on", max_steps=60)
    pid = running.service("dagster-workers")["pid"]
    zygotes = psutil.Process(pid).children()
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not any(zygote.is_running() for zygote in zygotes), 10, "its zygotes are gone")
    assert node.is_running()
    running.post_job(up_to_training(dataset, run_id="next"))
    for run_id in ("goes-on", "next"):
        job = running.wait_job(f"job_{run_id}")
        assert job["status"] == "completed", job
    assert running.service("dagster-workers")["pid"] != pid


def test_a_training_on_two_devices_is_a_job_like_any_other(running: Running, dataset: dict[str, str]) -> None:
    running.post_job(up_to_training(dataset, run_id="two", devices=2, max_steps=3))
    job = running.wait_job("job_two")
    assert job["status"] == "completed", job
    lines = running.http.get("/logs/history/two", params={"limit": 1000}).json()["logs"]
    assert [line["step"] for line in lines if line["level"] == "METRIC" and "loss" in line] == [1, 2, 3], "rank 0 alone reports"
    assert node_processes(running) == []
