"""Stopping a job and keeping what training has so far as a model; checkpoints on request."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import psutil
import pytest
from websockets.sync.client import connect

from tests.e2e.conftest import Running, is_training, node_processes, question_rows, wait_for, write_csv
from tests.e2e.pipelines import edges, node, up_to_training

LONG = {"max_steps": 100_000, "checkpoint_every": 100_000, "evaluate_every": 100_000}


@pytest.fixture(scope="module")
def dataset(running: Running, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    path = write_csv(tmp_path_factory.mktemp("keep") / "rows.csv", question_rows(60))
    return {"dataset_id": running.upload(path)["dataset_id"]}


def lines(running: Running, run_id: str) -> list[dict[str, Any]]:
    return running.http.get(f"/logs/history/{run_id}", params={"limit": 1000}).json()["logs"]


def stop_and_keep(running: Running, run_id: str) -> list[str]:
    answer = running.http.delete(f"/jobs/job_{run_id}", params={"keep": True})
    assert (answer.status_code, answer.json()["status"]) == (200, "cancelled"), answer.text
    return answer.json()["keeps"]


def test_what_training_has_becomes_a_model(running: Running, dataset: dict[str, str]) -> None:
    """The nodes behind it do not run, until the job is tried again: then they take the model that was kept."""
    pipeline = up_to_training(dataset, run_id="kept", **LONG)
    pipeline["nodes"].append(node("evaluation", "EvaluationAgent", max_samples=2, max_new_tokens=2))
    pipeline["edges"] += edges(("training", "evaluation"))
    running.post_job(pipeline)
    wait_for(lambda: is_training(running, "kept"), 120, "training has begun")
    assert stop_and_keep(running, "kept") == ["training"]
    job = running.wait_job("job_kept", seconds=60)
    assert (job["status"], job["model_id"]) == ("cancelled", "model_kept")
    assert job["result"]["models"] == ["model_kept"] and job["progress"]["completed_agents"][-1] == "training"
    wait_for(lambda: not node_processes(running), 30, "the trainer is gone")

    listed = running.http.get("/models", params={"limit": 100}).json()["models"]
    (model,) = [model for model in listed if model["model_id"] == "model_kept"]
    assert {"final_loss", "validation_loss"} <= model["metrics"].keys()
    log = lines(running, "kept")
    assert not any(line["agent_name"] == "evaluation" for line in log)
    (step,) = [line["step"] for line in log if line["message"].startswith("Stopped on request after step ")]
    last = [line["step"] for line in log if "learning_rate" in line][-1]
    assert last <= step < 100_000
    assert f"**Its training was stopped early**, on request, after step {step}" in running.http.get("/models/model_kept/card").text
    assert running.http.get("/models/model_kept/download", params={"format": "adapter"}).status_code == 200

    assert running.http.post("/jobs/job_kept/retry").status_code == 200
    job = running.wait_job("job_kept")
    assert job["status"] == "completed" and job["result"]["models"] == ["model_kept"], job
    assert "accuracy" in job["result"]["metrics"]["evaluation"]
    assert [line["step"] for line in lines(running, "kept") if "learning_rate" in line][-1] <= step, "nothing was trained again"


def test_a_trainer_that_is_killed_before_it_kept_is_tried_again(running: Running, dataset: dict[str, str]) -> None:
    """Its next process finds the checkpoint and what was asked, and makes the model without another step."""
    pipeline = up_to_training(dataset, run_id="kept-late", **LONG | {"checkpoint_every": 1}) | {"global_config": {"max_retries": 1}}
    running.post_job(pipeline)
    wait_for(lambda: any(line.get("step", 0) > 2 for line in lines(running, "kept-late")), 120, "training is past a checkpoint")
    (trainer,) = node_processes(running)
    trainer.suspend()
    assert stop_and_keep(running, "kept-late") == ["training"]
    os.kill(trainer.pid, signal.SIGKILL)
    job = running.wait_job("job_kept-late", seconds=60)
    assert (job["status"], job["model_id"]) == ("cancelled", "model_kept-late"), job
    log = lines(running, "kept-late")
    resumed = next(number for number, line in enumerate(log) if line["message"].startswith("Resuming from the checkpoint of step"))
    assert not any("learning_rate" in line for line in log[resumed:])


def test_without_a_training_that_runs_there_is_nothing_to_keep(running: Running, dataset: dict[str, str]) -> None:
    pipeline = up_to_training(dataset, run_id="kept-nothing", **LONG)
    running.post_job(pipeline)
    assert stop_and_keep(running, "kept-nothing") == []
    job = running.wait_job("job_kept-nothing", seconds=60)
    assert (job["status"], job["model_id"]) == ("cancelled", None)
    assert any("there was nothing to keep" in line["message"] for line in lines(running, "kept-nothing"))


@pytest.mark.slow
def test_whoever_cannot_wait_cancels_again(running: Running, dataset: dict[str, str]) -> None:
    running.post_job(up_to_training(dataset, run_id="kept-not", **LONG))
    wait_for(lambda: is_training(running, "kept-not"), 120, "training has begun")
    (trainer,) = node_processes(running)
    trainer.suspend()  # so that it never hears of it
    assert stop_and_keep(running, "kept-not") == ["training"]
    assert running.job("job_kept-not")["status"] == "running"
    answer = running.http.delete("/jobs/job_kept-not")
    assert answer.json() == {"job_id": "job_kept-not", "status": "cancelled"}
    assert running.wait_job("job_kept-not", seconds=60)["model_id"] is None
    wait_for(lambda: not node_processes(running), 30, "the trainer is gone")


def test_a_running_training_is_steered_over_its_channel(running: Running, dataset: dict[str, str]) -> None:
    """A checkpoint now, which a trainer that is killed goes on from; and stop and keep."""
    pipeline = up_to_training(dataset, run_id="steered", **LONG) | {"global_config": {"max_retries": 1}}
    running.post_job(pipeline)
    address = f"{running.service('api')['url'].replace('http', 'ws', 1)}/api/v1/ws/runs/steered"
    with connect(address, max_queue=None, proxy=None) as channel:

        def heard(wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
            while True:
                message = json.loads(channel.recv(timeout=120))
                if wanted(message):
                    return message
                assert message["type"] not in ("error", "end"), (message, running.job("job_steered"))

        def line(text: str) -> dict[str, Any]:
            return heard(lambda message: message["type"] == "log" and message["data"]["message"].startswith(text))["data"]

        line("step ")
        channel.send('{"command": "checkpoint_now"}')
        saved = line("Checkpoint of step ")["step"]
        (trainer,) = node_processes(running)
        trainer.kill()
        assert line("Resuming from the checkpoint of step ")["step"] == saved
        line("step ")
        channel.send('{"command": "comment", "text": "enough"}')
        line("enough")
        channel.send('{"command": "stop_and_keep"}')
        assert heard(lambda message: message["type"] == "ack" and message["command"] == "stop_and_keep")["result"]["keeps"] == ["training"]
        assert line("Stopped on request after step ")["step"] > saved
        assert heard(lambda message: message["type"] == "end")["status"] == "cancelled"
    assert running.job("job_steered")["model_id"] == "model_steered"


@pytest.mark.slow
def test_a_run_worker_that_is_killed_leaves_the_checkpoint(running: Running, dataset: dict[str, str]) -> None:
    """Nobody is there to make the model; the job is cancelled, and tried again it trains on."""
    running.post_job(up_to_training(dataset, run_id="kept-lost", max_steps=80, checkpoint_every=1))
    wait_for(lambda: any(line.get("step", 0) > 2 for line in lines(running, "kept-lost")), 120, "training is past a checkpoint")
    (trainer,) = node_processes(running)
    trainer.suspend()
    assert stop_and_keep(running, "kept-lost") == ["training"]
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.name() == "run-worker" and process.environ().get("LLM_PLATFORM_HOME") == str(running.home):
                process.kill()
    job = running.wait_job("job_kept-lost", seconds=60)
    assert (job["status"], job["model_id"]) == ("cancelled", None)
    assert running.http.post("/jobs/job_kept-lost/retry").status_code == 200
    assert running.wait_job("job_kept-lost")["model_id"] == "model_kept-lost"
    log = lines(running, "kept-lost")
    assert any(line["message"].startswith("Resuming from the checkpoint of step") for line in log)
    assert not any(line["message"].startswith("Stopped on request") for line in log)
