"""Lists and single rows that are asked for again and again: answered from memory while nothing was written, never a moment longer."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest
import sqlalchemy as sa
import sqlalchemy.event

from llm_platform import keys
from llm_platform.database import Database, now
from llm_platform.specs.keys import KeyRequest
from tests.api.api_harness import Api, Start


@contextmanager
def statements_of(database: Database) -> Iterator[list[str]]:
    """What SQLAlchemy executes meanwhile."""
    seen: list[str] = []

    def note(_conn: object, _cursor: object, statement: str, *_: object) -> None:
        seen.append(statement)

    sqlalchemy.event.listen(database.engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        sqlalchemy.event.remove(database.engine, "before_cursor_execute", note)


def job(database: Database, run_id: str, status: str = "completed", owner: str | None = None) -> None:
    database.accept(run_id, dagster_run_id=f"of {run_id}", digest="a", pipeline={"nodes": [], "edges": []}, owner=owner)
    database.update_submission(run_id, status=status, submitted=True, started_at=now(), ended_at=now())


def total(client: httpx.Client, path: str) -> int:
    return client.get(path).json()["total"]


def test_the_same_question_is_answered_from_memory_until_somebody_writes(api: Api) -> None:
    job(api.services.database, "first")
    paths = ["/jobs", "/jobs/job_first", "/datasets", "/models"]
    before = [api.client.get(path).json() for path in paths]
    with statements_of(api.services.database) as seen:
        assert [api.client.get(path).json() for path in paths] == before
    assert seen == []
    database = sqlite3.connect(api.services.settings.home / "platform.db")  # as another process would
    with database:
        database.execute("UPDATE submissions SET status = 'cancelled'")
    database.close()
    assert api.client.get("/jobs/job_first").json()["status"] == api.client.get("/jobs").json()["items"][0]["status"] == "cancelled"


def test_each_way_of_writing_is_seen_at_once(api: Api) -> None:
    for number in range(20):
        job(api.services.database, f"run-{number}")
        assert total(api.client, "/jobs") == number + 1
        assert api.upload(filename=f"rows-{number}.csv").status_code == 200
        assert total(api.client, "/datasets") == number + 1


def test_other_questions_have_other_answers(api: Api) -> None:
    for number in range(3):
        job(api.services.database, f"run-{number}", "failed" if number else "completed")
    for _ in range(2):
        assert total(api.client, "/jobs") == 3 and total(api.client, "/jobs?status=failed") == 2
        assert len(api.client.get("/jobs?limit=1").json()["items"]) == 1
        assert api.client.get("/jobs/job_none").status_code == 404


def test_what_one_user_sees_is_not_remembered_for_another(start: Start) -> None:
    with start(authentication=True) as api:
        database = api.services.database
        job(database, "of-ada", owner="ada")
        clients = {
            name: httpx.Client(base_url=api.url, headers={"Authorization": f"Bearer {keys.create(KeyRequest(owner=name), database).key}"})
            for name in ("ada", "bob")
        }
        for _ in range(2):
            assert [total(clients[name], "/jobs") for name in ("ada", "bob")] == [1, 0]
            assert [clients[name].get("/jobs/job_of-ada").status_code for name in ("ada", "bob")] == [200, 404]
        for client in clients.values():
            client.close()


def test_what_dagster_says_of_a_job_that_goes_on_is_asked_each_time(api: Api) -> None:
    api.put()
    run_id = api.submit().json()["run_id"]
    api.orchestrator.move(run_id, "running")
    assert api.client.get(f"/jobs/job_{run_id}").json()["status"] == "running"
    api.orchestrator.move(run_id, "completed")
    assert api.client.get(f"/jobs/job_{run_id}").json()["status"] == "completed"


@pytest.mark.parametrize("length", [200_000, 10])
def test_what_is_too_long_is_not_remembered(api: Api, length: int) -> None:
    job(api.services.database, "long", "failed")
    api.services.database.update_submission("long", error={"error": "INTERNAL_ERROR", "message": "x" * length, "metadata": {}})
    api.client.get("/jobs/job_long")
    with statements_of(api.services.database) as seen:
        assert len(api.client.get("/jobs/job_long").json()["result"]["error"]["message"]) == length
    assert bool(seen) == (length > 100_000)


def test_reads_within_a_read_are_on_its_connection(api: Api) -> None:
    database = api.services.database
    with database.read() as outer:
        with database.read() as inner:
            assert inner is outer
        assert outer.execute(sa.text("SELECT 1")).scalar() == 1
    with database.read() as later:
        assert not later.closed and outer.closed
