"""A job that takes longer than it may is stopped, says so, and leaves nothing behind."""

from __future__ import annotations

from pathlib import Path

from tests.e2e.conftest import Running, node_processes, question_rows, wait_for, write_csv
from tests.e2e.pipelines import up_to_training


def test_a_job_that_runs_too_long_is_stopped(running: Running, tmp_path: Path) -> None:
    dataset = {"dataset_id": running.upload(write_csv(tmp_path / "rows.csv", question_rows(60)))["dataset_id"]}
    pipeline = up_to_training(dataset, run_id="too-long", max_steps=100_000)
    running.post_job(pipeline | {"global_config": {"max_runtime": 5}})
    wait_for(lambda: node_processes(running), 60, "a node's process runs")
    job = running.wait_job("job_too-long", seconds=60)
    assert job["status"] == "failed"
    error = job["result"]["error"]
    assert (error["error"], error["metadata"]["max_runtime"]) == ("TRAINING_ERROR", 5)
    assert "longer than its max_runtime of 5 s" in error["message"]
    wait_for(lambda: not node_processes(running), 20, "the trainer is gone")

    running.post_job(up_to_training(dataset, run_id="after-too-long"))
    assert running.wait_job("job_after-too-long")["status"] == "completed"
    # Its worker, which ended later than the run, changes nothing any more.
    assert running.job("job_too-long")["status"] == "failed"
