"""Fifty identical submissions at once, while the API is killed under them: one job, the same answer fifty times."""

from __future__ import annotations

import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import Running, question_rows, wait_for, write_csv

AT_ONCE = 50


@pytest.fixture(scope="module")
def dataset_id(running: Running, tmp_path_factory: pytest.TempPathFactory) -> str:
    return running.upload(write_csv(tmp_path_factory.mktemp("one_job") / "rows.csv", question_rows(20)))["dataset_id"]


@pytest.mark.parametrize(
    ("named", "headers"), [({"run_id": "fifty-times"}, {}), ({}, {"Idempotency-Key": "fifty times"})], ids=["run-id", "idempotency-key"]
)
def test_one_job_of_fifty_posts_while_the_api_is_killed(
    running: Running, dataset_id: str, named: dict[str, str], headers: dict[str, str]
) -> None:
    node = {"agent_name": "dataset", "agent_class": "DatasetAgent", "config": {"dataset_id": dataset_id}}
    body = {"pipeline_config": {**named, "nodes": [node], "edges": []}}
    url, pid = running.service("api")["url"] + "/api/v1/jobs", running.service("api")["pid"]
    before = running.http.get("/jobs").raise_for_status().json()["total"]
    together, first = threading.Barrier(AT_ONCE), threading.Event()
    answered: list[httpx.Response] = []

    def post(_: int) -> dict[str, Any]:
        together.wait()

        def asked() -> httpx.Response | None:
            try:
                return client.post(url, json=body, headers=headers)
            except httpx.TransportError:
                return None

        answer = wait_for(asked, 120, "the submission is answered")
        answered.append(answer)
        first.set()
        assert answer.status_code == 200, answer.text
        return answer.json()

    limits = httpx.Limits(max_connections=AT_ONCE)
    with httpx.Client(timeout=60, limits=limits) as client, ThreadPoolExecutor(AT_ONCE) as pool:
        posts = pool.map(post, range(AT_ONCE))
        assert first.wait(60)
        os.kill(pid, signal.SIGKILL)
        before_the_kill = len(answered)
        answers = list(posts)
    assert 1 <= before_the_kill < AT_ONCE, "the API was killed while requests were under way"
    wait_for(running.healthy, 90, "the platform is healthy again")
    assert running.service("api")["pid"] != pid
    # A job that has ended meanwhile says so; everything else is the same.
    assert len({(answer["job_id"], answer["run_id"], answer["created_at"]) for answer in answers}) == 1
    assert running.http.get("/jobs").json()["total"] == before + 1
    assert running.wait_job(answers[0]["job_id"])["status"] == "completed"
    query = """query($id: String!) { runsOrError(filter: {tags: [{key: "llm_platform/run_id", value: $id}]})
      { ... on Runs { results { status } } } }"""
    runs = running.graphql(query, id=answers[0]["run_id"])["runsOrError"]["results"]
    assert runs == [{"status": "SUCCESS"}], "one run, no second"
