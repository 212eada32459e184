"""A job that is tried again: what had finished is reused, and training goes on from its last checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llm_platform import Client
from tests.e2e.conftest import Running, node_processes, question_rows, wait_for, write_csv
from tests.e2e.pipelines import up_to_training

RUN_ID = "tried-again"
STEPS = 60


def lines(running: Running) -> list[dict[str, Any]]:
    return running.http.get(f"/logs/history/{RUN_ID}", params={"limit": 1000}).json()["logs"]


def test_a_retry_reuses_what_had_finished(running: Running, tmp_path: Path) -> None:
    dataset = {"dataset_id": running.upload(write_csv(tmp_path / "rows.csv", question_rows(60)))["dataset_id"]}
    running.post_job(up_to_training(dataset, run_id=RUN_ID, max_steps=STEPS, checkpoint_every=5))
    wait_for(lambda: any(line.get("step", 0) > 10 for line in lines(running)), 120, "training is past a checkpoint")
    running.http.delete(f"/jobs/job_{RUN_ID}").raise_for_status()
    assert running.wait_job(f"job_{RUN_ID}", seconds=30)["status"] == "cancelled"
    wait_for(lambda: not node_processes(running), 30, "the trainer is gone")
    before = lines(running)

    with Client(str(running.http.base_url)) as client:
        job = client.jobs.retry(f"job_{RUN_ID}")
        assert client.jobs.wait(job, timeout=180).status == "completed", job.error
    after = lines(running)[len(before) :]
    reused = {line["agent_name"] for line in after if "Already done by an earlier attempt" in line["message"]}
    assert reused == {"dataset", "validation", "preprocessing"}
    assert {line["agent_name"] for line in after if line["level"] == "METRIC"} == {"training"}
    steps = [line["step"] for line in after if "step" in line]
    assert steps[0] > 5 and steps[-1] == STEPS, "from the checkpoint on, not from the first step"
    assert running.http.get(f"/models/model_{RUN_ID}").status_code == 200
    nodes = running.http.get(f"/jobs/job_{RUN_ID}").json()["nodes"]
    assert {node["status"] for node in nodes} == {"completed"}
    assert {node["agent_name"]: node["attempts"] for node in nodes} == dict.fromkeys(reused, 1) | {"training": 2}
    again = running.http.post(f"/jobs/job_{RUN_ID}/retry")
    assert (again.status_code, again.json()["error"]) == (409, "CONFLICT")
