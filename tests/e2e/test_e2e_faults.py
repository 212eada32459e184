"""Services die; no accepted job is lost, and /health says the truth meanwhile."""

from __future__ import annotations

import os
import signal

import httpx
import pytest

from tests.e2e.conftest import Running, question_rows, wait_for, write_csv
from tests.e2e.pipelines import up_to_training


@pytest.fixture(scope="module")
def dataset(running: Running, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    path = write_csv(tmp_path_factory.mktemp("faults") / "rows.csv", question_rows(60))
    return {"dataset_id": running.upload(path)["dataset_id"]}


def health(running: Running) -> httpx.Response:
    return httpx.get(running.service("api")["url"] + "/health", timeout=5)


def kill(running: Running, name: str) -> int:
    pid = running.service(name)["pid"]
    os.kill(pid, signal.SIGKILL)
    return pid


@pytest.mark.parametrize(("service", "shown"), [("dagster-daemon", "dagster"), ("mlflow", "mlflow")])
def test_a_killed_service_turns_the_platform_unhealthy_and_comes_back(running: Running, service: str, shown: str) -> None:
    assert health(running).json()["services"][shown] == "healthy"
    pid = kill(running, service)

    def unhealthy() -> bool:
        answer = health(running)
        return answer.json()["services"][shown] == "unhealthy" and answer.status_code == 503

    wait_for(unhealthy, 5, f"{shown} is unhealthy")
    wait_for(running.healthy, 90, "the platform is healthy again")
    assert running.service(service)["pid"] != pid


def test_killed_api_and_daemon_lose_no_job(running: Running, dataset: dict[str, str]) -> None:
    ids = [f"survivor-{i}" for i in range(3)]
    for run_id in ids:
        pipeline = up_to_training(dataset, run_id=run_id)
        pipeline["nodes"], pipeline["edges"] = pipeline["nodes"][:3], pipeline["edges"][:2]
        running.post_job(pipeline)
    kill(running, "api")  # before the last of them can have become a Dagster run
    kill(running, "dagster-daemon")
    wait_for(running.healthy, 90, "the platform is healthy again")
    for run_id in ids:
        assert running.wait_job(f"job_{run_id}")["status"] == "completed"
    query = """query($id: String!) { runsOrError(filter: {tags: [{key: "llm_platform/run_id", value: $id}]})
      { ... on Runs { results { status } } } }"""
    for run_id in ids:
        assert running.graphql(query, id=run_id)["runsOrError"]["results"] == [{"status": "SUCCESS"}], "one run, no second"


def test_a_log_stream_survives_a_restart_of_the_api(running: Running, dataset: dict[str, str]) -> None:
    running.post_job(up_to_training(dataset, run_id="streamed"))
    first: list[str] = []
    with running.http.stream("GET", "/logs/stream/streamed") as stream:
        for text in stream.iter_lines():
            if text.startswith("id: "):
                first.append(text.removeprefix("id: "))
            if len(first) == 2:
                break
    kill(running, "api")
    wait_for(running.healthy, 90, "the platform is healthy again")
    running.wait_job("job_streamed")
    with running.http.stream("GET", "/logs/stream/streamed", headers={"Last-Event-ID": first[-1]}) as stream:
        rest = [text.removeprefix("id: ") for text in stream.iter_lines() if text.startswith("id: ")]
    total = running.http.get("/logs/history/streamed").json()["total"]
    assert [*first, *rest] == [f"streamed:{i}" for i in range(1, total + 1)]
