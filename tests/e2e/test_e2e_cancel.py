"""Cancelling a job: queued, training, and in the middle of writing a checkpoint."""

from __future__ import annotations

import itertools
import os
import signal
import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from dagster_project.sessions import MARK
from dagster_project.worker import NAME
from tests.e2e.conftest import Running, is_training, node_processes, question_rows, wait_for, write_csv
from tests.e2e.pipelines import up_to_training

LONG = {"max_steps": 100_000, "checkpoint_every": 1}


@pytest.fixture(scope="module")
def dataset(running: Running, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    path = write_csv(tmp_path_factory.mktemp("cancel") / "rows.csv", question_rows(60))
    return {"dataset_id": running.upload(path)["dataset_id"]}


def cancel(running: Running, run_id: str) -> dict[str, Any]:
    answer = running.http.delete(f"/jobs/job_{run_id}")
    assert (answer.status_code, answer.json()) == (200, {"job_id": f"job_{run_id}", "status": "cancelled"})
    again = running.http.delete(f"/jobs/job_{run_id}")
    assert (again.status_code, again.json()) == (200, {"job_id": f"job_{run_id}", "status": "cancelled"})
    return running.wait_job(f"job_{run_id}", seconds=30)


def partial_folders(running: Running, run_id: str) -> list[Path]:
    return list((running.home / "work" / run_id).rglob("*.tmp"))


def can_write(database: Path) -> bool:
    with closing(sqlite3.connect(database, timeout=0.2, isolation_level=None)) as connection:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return False
        connection.execute("ROLLBACK")
        return True


def started_by_nodes(running: Running, run_id: str) -> list[psutil.Process]:
    """What the run's heavy nodes have started as programs, such as the processes beside rank 0 of a training on several devices."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.name() != NAME and process.environ().get(MARK, "").startswith(str(running.home / "work" / run_id)):
                found.append(process)
    return found


@pytest.mark.parametrize("devices", [1, 2])
def test_cancel_while_training(devices: int, running: Running, dataset: dict[str, str]) -> None:
    run_id = f"stop-training-{devices}"
    running.post_job(up_to_training(dataset, run_id=run_id, devices=devices, **LONG))
    wait_for(lambda: is_training(running, run_id), 120, "training has begun")
    assert bool(started_by_nodes(running, run_id)) == (devices > 1)
    assert cancel(running, run_id)["status"] == "cancelled"
    wait_for(lambda: not node_processes(running) and not started_by_nodes(running, run_id), 30, "the trainers are gone")
    assert partial_folders(running, run_id) == []
    assert running.http.get(f"/models/model_{run_id}").status_code == 404


def test_cancel_inside_a_checkpoints_write(running: Running, dataset: dict[str, str]) -> None:
    running.post_job(up_to_training(dataset, run_id="stop-saving", **LONG))
    wait_for(lambda: is_training(running, "stop-saving"), 120, "training has begun")
    (trainer,) = node_processes(running)

    def stopped_inside_a_write() -> bool:
        trainer.suspend()
        inside = any(path.parent.name == "checkpoints" for path in partial_folders(running, "stop-saving"))
        # A stopped process may also hold SQLite's lock, by a line of its log; then everybody waits, which is not what is tested.
        if inside and can_write(running.home / "platform.db"):
            return True
        trainer.resume()
        return False

    wait_for(stopped_inside_a_write, 60, "the trainer is stopped while a checkpoint is half written")
    assert cancel(running, "stop-saving")["status"] == "cancelled"
    wait_for(lambda: not node_processes(running), 30, "the trainer is gone")
    assert partial_folders(running, "stop-saving") == []


def test_cancel_while_queued(running: Running, dataset: dict[str, str]) -> None:
    first = [running.post_job(up_to_training(dataset, run_id=f"busy-{i}", **LONG)) for i in range(2)]
    wait_for(lambda: all(is_training(running, job["run_id"]) for job in first), 180, "both places are taken")
    running.post_job(up_to_training(dataset, run_id="waiting", **LONG))

    def queued() -> bool:
        runs = running.graphql(
            '{ runsOrError(filter: {tags: [{key: "llm_platform/run_id", value: "waiting"}]}) { ... on Runs { results { status } } } }'
        )
        return [run["status"] for run in runs["runsOrError"]["results"]] == ["QUEUED"]

    wait_for(queued, 30, "the third is in the queue")
    assert running.job("job_waiting")["status"] == "pending"
    waited = cancel(running, "waiting")
    assert (waited["status"], waited["started_at"], waited["progress"]["completed_agents"]) == ("cancelled", None, [])
    for job in first:
        assert cancel(running, job["run_id"])["status"] == "cancelled"
    wait_for(lambda: not node_processes(running), 30, "the trainers are gone")


def test_what_has_ended_cannot_be_cancelled(running: Running, dataset: dict[str, str]) -> None:
    pipeline = up_to_training(dataset, run_id="short")
    pipeline["nodes"], pipeline["edges"] = pipeline["nodes"][:1], []
    assert running.wait_job(running.post_job(pipeline)["job_id"])["status"] == "completed"
    answer = running.http.delete("/jobs/job_short")
    assert (answer.status_code, answer.json()["error"]) == (409, "CONFLICT")


def test_a_killed_trainer_is_tried_again_and_goes_on(running: Running, dataset: dict[str, str]) -> None:
    pipeline = up_to_training(dataset, run_id="killed", max_steps=60, checkpoint_every=5) | {"global_config": {"max_retries": 1}}
    running.post_job(pipeline)

    def past_a_checkpoint() -> bool:
        lines = running.http.get("/logs/history/killed", params={"limit": 1000}).json()["logs"]
        return any(line.get("step", 0) > 10 for line in lines)

    wait_for(past_a_checkpoint, 120, "training is past a checkpoint")
    for process in node_processes(running):
        os.kill(process.pid, signal.SIGKILL)
    job = running.wait_job("job_killed")
    assert job["status"] == "completed", job
    lines = running.http.get("/logs/history/killed", params={"limit": 1000}).json()["logs"]
    steps = [line["step"] for line in lines if line["level"] == "METRIC"]
    resumed = next(after for before, after in itertools.pairwise(steps) if after <= before or after > before + 1)
    assert resumed > 1, "the second attempt began where the checkpoint was, not at the first step"
    assert steps[-1] == 60
