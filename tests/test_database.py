"""The platform's tables: what must hold when several threads and processes use them at once."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from llm_platform.database import Database, now
from llm_platform.model_list import list_models, parse_query
from llm_platform.tables import submissions

pytest_plugins = ["tests.databases"]
PIPELINE = {"nodes": []}


def accept(database: Database, run_id: str, digest: str = "a") -> tuple[Any, bool]:
    return database.accept(run_id, dagster_run_id=f"d-{run_id}", digest=digest, pipeline=PIPELINE)


def status(database: Database, run_id: str) -> str:
    return (database.submission(run_id) or {})["status"]


def test_times_keep_their_zone(database: Database) -> None:
    at = datetime(2026, 1, 2, 3, 4, 5, 678_000, timezone(timedelta(hours=5)))
    accept(database, "r")
    database.update_submission("r", started_at=at)
    found = (database.submission("r") or {})["started_at"]
    assert found == at and found.tzinfo is UTC


def test_tables_of_an_earlier_version_get_what_is_new(url: str) -> None:
    old = Database(url)
    accept(old, "r")
    with old.write() as connection:
        connection.exec_driver_sql("DROP TABLE keys")
        connection.exec_driver_sql("DROP TABLE llm_platform_version")
        for table in ("submissions", "datasets"):
            connection.exec_driver_sql(f"ALTER TABLE {table} DROP COLUMN owner")
        connection.exec_driver_sql("ALTER TABLE submissions DROP COLUMN retried_at")
    old.close()
    database = Database(url)
    assert (database.submission("r") or {})["owner"] is None and database.list_datasets(1, 0) == ([], 0)
    database.update_submission("r", retried_at=now())
    assert (database.submission("r") or {})["retried_at"].tzinfo is UTC
    database.close()


def test_lists_of_an_owner(database: Database) -> None:
    for run_id, owner in (("a", "ada"), ("b", "bob"), ("c", None)):
        database.accept(run_id, dagster_run_id=run_id, digest="", pipeline=PIPELINE, owner=owner)
        database.put_model(
            model_id=f"model_{run_id}", run_id=run_id, model_name="m", base_model="b", metrics={}, exports=[], created_at=now()
        )
    assert [row["run_id"] for row in database.list_submissions(10, 0, owner="ada")[0]] == ["a"]
    assert database.list_submissions(10, 0, "completed", owner="ada") == ([], 0)
    rows, total = list_models(parse_query(base_model="b"), database, 10, 0, "bob")
    assert ([row["model_id"] for row in rows], total) == (["model_b"], 1)
    assert list_models(parse_query(), database, 10, 0, None)[1] == database.list_submissions(10, 0)[1] == 3
    assert [database.owner_of_run(run_id) for run_id in ("a", "c", "none")] == ["ada", None, None]


def test_accepted_once(database: Database) -> None:
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda number: accept(database, "r", str(number)), range(16)))
    assert sum(new for _, new in answers) == 1
    assert len({row["digest"] for row, _ in answers}) == 1


def test_accepted_is_on_disk(url: str) -> None:
    """A process that dies the moment after it accepted loses nothing."""
    code = (
        "import os; from llm_platform.database import Database; "
        f"Database({url!r}).accept('r', dagster_run_id='d', digest='a', pipeline={{}}); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code], check=False, timeout=60)
    database = Database(url)
    assert database.submission("r") is not None
    database.close()


def test_each_submission_is_claimed_by_one(database: Database) -> None:
    for number in range(40):
        accept(database, f"r{number}")
    with ThreadPoolExecutor(8) as pool:
        claims = [row["run_id"] for rows in pool.map(lambda _: database.claim(5, 60), range(16)) for row in rows]
    assert sorted(claims) == sorted(f"r{number}" for number in range(40))
    assert database.claim(100, 60) == []


def test_a_claim_runs_out(database: Database) -> None:
    accept(database, "r")
    assert database.claim(1, -1)
    (again,) = database.claim(1, 60)
    assert (again["run_id"], again["attempts"]) == ("r", 1)


def test_withdrawn_or_claimed_never_both(database: Database) -> None:
    for number in range(60):
        accept(database, f"r{number}")
    with ThreadPoolExecutor(8) as pool:
        claims = pool.submit(lambda: [row["run_id"] for _ in range(20) for row in database.claim(3, 60)])
        withdrawn = [f"r{n}" for n, done in enumerate(pool.map(lambda n: database.withdraw(f"r{n}"), range(60))) if done]
        claimed = claims.result()
    assert set(claimed).isdisjoint(withdrawn) and len(claimed) + len(withdrawn) == 60
    assert {status(database, run_id) for run_id in withdrawn} <= {"cancelled"}
    assert not database.withdraw("unknown")


def test_what_was_asked_to_stop_is_not_claimed(database: Database) -> None:
    accept(database, "r")
    database.update_submission("r", cancel_requested=True)
    assert database.claim(1, 60) == [] and database.withdraw("r")


def test_a_final_state_is_final(database: Database) -> None:
    accept(database, "r")
    database.finish("r", "d-r", "completed", started_at=now(), ended_at=now())
    database.finish("r", "d-r", "failed", started_at=None, ended_at=None)
    assert status(database, "r") == "completed"
    assert not database.update_submission("r", only_open=True, cancel_requested=True)
    assert database.open_submissions() == []


def test_the_end_of_an_older_run_does_not_end_a_newer_one(database: Database) -> None:
    accept(database, "r")
    database.adopt("r", dagster_run_id="second", created_at=now())
    database.finish("r", "d-r", "failed", started_at=None, ended_at=now())
    assert status(database, "r") == "pending"
    database.finish("r", "second", "completed", started_at=None, ended_at=now())
    assert status(database, "r") == "completed"


def test_a_job_is_tried_again_once(database: Database) -> None:
    accept(database, "r")
    for name, ended in (("done", "completed"), ("broken", "failed")):
        database.start_node("r", name, "TrainingAgent", "x")
        database.end_node("r", name, ended, result={"kept": name} if ended == "completed" else None, error={"error": "E"})
    assert not database.retry("r", dagster_run_id="second", instead_of="d-r"), "it has not ended"
    database.finish("r", "d-r", "failed", started_at=now(), ended_at=now())
    with ThreadPoolExecutor(8) as pool:
        tried = list(pool.map(lambda _: database.retry("r", dagster_run_id="second", instead_of="d-r"), range(8)))
    assert tried.count(True) == 1
    (row,) = database.claim(10, 60)
    assert (row["dagster_run_id"], row["status"], row["started_at"]) == ("second", "pending", None)
    nodes = {node["agent_name"]: (node["status"], node["result"], node["error"]) for node in database.nodes(["r"])["r"]}
    assert nodes == {"done": ("completed", {"kept": "done"}, {"error": "E"}), "broken": ("pending", None, None)}
    database.finish("r", "second", "completed", started_at=now(), ended_at=now())
    assert not database.retry("r", dagster_run_id="third", instead_of="second"), "it has completed"


def test_a_cancelled_job_says_cancelled(database: Database) -> None:
    for run_id, ended, shown in (("a", "failed", "cancelled"), ("b", "completed", "completed"), ("c", "cancelled", "cancelled")):
        accept(database, run_id)
        database.start_node(run_id, "n", "TrainingAgent", "x")
        database.update_submission(run_id, cancel_requested=True)
        database.finish(run_id, f"d-{run_id}", ended, started_at=None, ended_at=now(), error={"error": "X"})
        assert status(database, run_id) == shown
    assert (database.node("a", "n") or {})["status"] == "cancelled" and (database.node("a", "n") or {})["error"] is None
    assert (database.submission("a") or {})["error"] is None


def test_a_node_tried_again_forgets_its_error(database: Database) -> None:
    database.start_node("r", "n", "TrainingAgent", "x")
    database.end_node("r", "n", "failed", error={"error": "X"})
    database.start_node("r", "n", "TrainingAgent", "x")
    found = database.node("r", "n") or {}
    assert (found["status"], found["attempts"], found["error"], found["ended_at"]) == ("running", 2, None, None)


def test_adopting(database: Database) -> None:
    database.adopt("ui", dagster_run_id="one", created_at=now())
    database.adopt("ui", dagster_run_id="one", created_at=now())
    found = database.submission("ui") or {}
    assert (found["source"], found["submitted"], found["pipeline"]) == ("dagster", True, None)
    assert database.claim(10, 60) == []


def test_lists(database: Database) -> None:
    for number in range(5):
        accept(database, f"r{number}")
    rows, total = database.list_submissions(2, 1)
    assert [row["run_id"] for row in rows] == ["r3", "r2"] and total == 5
    assert database.list_submissions(10, 0, "running") == ([], 0)
    second, third = rows[1]["created_at"], rows[0]["created_at"]
    rows, total = database.list_submissions(10, 0, "pending", after=second, before=third)
    assert [row["run_id"] for row in rows] == ["r2"] and total == 1
    assert database.list_submissions(1, 0, after=third.astimezone(timezone(timedelta(hours=5))))[1] == 2
    assert database.nodes(["r1", "r2"]) == {"r1": [], "r2": []} and database.models_of([]) == {}


def test_models_are_put_and_deleted(database: Database) -> None:
    def model(name: str) -> dict[str, Any]:
        return {"model_id": name, "run_id": "r", "model_name": "m", "base_model": "b", "metrics": {}, "exports": {}, "created_at": now()}

    database.put_model(**model("a"))
    database.put_model(**{**model("a"), "metrics": {"f1": 1.0}})
    assert (database.model("a") or {})["metrics"] == {"f1": 1.0}
    for name in ("b", "c"):
        database.put_model(**model(name))
    database.delete_models(["a"])
    assert database.models_of(["r"]) == {"r": ["b", "c"]} and list_models(parse_query(base_model="b"), database, 1, 0, None)[1] == 2
    database.delete_models(["b", "c"])
    assert list_models(parse_query(), database, 1, 0, None) == ([], 0)


def test_one_transaction_is_one_step(database: Database) -> None:
    with pytest.raises(ZeroDivisionError), database.write() as connection:
        connection.execute(submissions.delete())
        accept_row = dict(run_id="r", dagster_run_id="d", source="api", digest="a", status="pending", created_at=now())
        connection.execute(submissions.insert().values(**accept_row, cancel_requested=False, submitted=False, attempts=0))
        raise ZeroDivisionError
    assert database.submission("r") is None
