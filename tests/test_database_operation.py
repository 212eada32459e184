"""The tables behind the audit log, uploads' keys, log filters, and deletions, on each kind of database."""

from __future__ import annotations

from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

from llm_platform import audit, runlog
from llm_platform.database import Database, now
from llm_platform.keys import Caller

pytest_plugins = ["tests.databases"]


def add(database: Database, dataset_id: str, key: str | None) -> str:
    row: dict[str, Any] = dict(filename="a.csv", format="csv", size_bytes=1, sha256="s", s3_path="s3://datasets/a")
    row["table_path"] = "s3://datasets/t"
    return database.add_dataset(key=key, dataset_id=dataset_id, profile={}, owner=None, **row)


def test_one_dataset_of_a_key(database: Database) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda number: add(database, f"ds_{number}", "k"), range(8)))
    assert len(set(made)) == 1 and database.list_datasets(10, 0)[1] == 1
    assert (database.dataset_of_key("k") or {})["dataset_id"] == made[0]
    assert database.dataset_of_key("other") is None
    assert add(database, "ds_x", None) == "ds_x" and add(database, "ds_y", None) == "ds_y"


def test_audit_entries(database: Database) -> None:
    ada = Caller("ada", "write", "key1")
    began = now()
    for number in range(3):
        audit.record(database, ada, "job.submit", f"job_{number}", "2001:db8::" * 20)
    audit.record(database, None, "access.denied", "x" * 500)
    found, total = audit.listed(database, 2, 0)
    assert total == 4 and [entry.action for entry in found] == ["access.denied", "job.submit"]
    assert len(found[0].target) == 255 and (found[0].actor, found[0].client, found[0].request_id) == (None, None, None)
    assert len(audit.listed(database, 1, 1)[0][0].client or "") == 64
    assert [entry.target for entry in audit.listed(database, 10, 1, actor="ada")[0]] == ["job_1", "job_0"]
    assert audit.listed(database, 10, action="job.submit", since=began)[1] == 3
    assert audit.listed(database, 10, since=now() + timedelta(hours=1)) == ([], 0)


def test_jobs_in_each_state_and_in_the_queue(database: Database) -> None:
    assert (database.count_submissions(), database.count_queued()) == ({}, 0)
    for run_id in ("a", "b", "c"):
        database.accept(run_id, dagster_run_id=f"d-{run_id}", digest="", pipeline={})
    database.update_submission("b", submitted=True)
    database.update_submission("c", submitted=True, status="completed")
    assert database.count_submissions() == {"pending": 2, "completed": 1} and database.count_queued() == 1


def test_an_ended_job_is_held_by_one(database: Database) -> None:
    database.accept("r", dagster_run_id="d1", digest="", pipeline={})
    assert not database.hold("r", timedelta(minutes=1)), "it goes on"
    database.update_submission("r", status="failed", submitted=True)
    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(lambda _: database.hold("r", timedelta(minutes=1)), range(8))) == [False] * 7 + [True]
    assert not database.retry("r", dagster_run_id="d2", instead_of="d1")
    database.release("r")
    assert database.hold("r", timedelta(seconds=-1)), "one that has run out holds nobody up"
    assert database.retry("r", dagster_run_id="d2", instead_of="d1")


def test_pipelines_that_name_something(database: Database) -> None:
    for run_id, path in (("a", "s3://artifacts/run_1/x"), ("b", "s3://artifacts/runx1/x"), ("c", "s3://artifacts/RUN_1/x")):
        database.accept(run_id, dagster_run_id=run_id, digest="", pipeline={"nodes": [{"config": {"file_path": path}}]})
    database.adopt("ui", dagster_run_id="ui", created_at=now())
    assert [row["run_id"] for row in database.pipelines_with("s3://artifacts/run_1/")] == ["a"]


def test_lines_that_are_wanted(database: Database) -> None:
    lines = [
        ("INFO", "DatasetAgent", "rows"),
        ("ERROR", "TrainingAgent", "first"),
        ("METRIC", "TrainingAgent", "second"),
        ("ERROR", None, None),
    ]
    runlog.append(database, "r", [runlog.line(level, "m", agent=agent, agent_name=name) for level, agent, name in lines])
    runlog.append(database, "other", [runlog.line("ERROR", "m")])

    def seqs(levels: Collection[str] = (), agents: Collection[str] = (), after: int = 0) -> list[int]:
        only = runlog.LineFilter(frozenset(levels), frozenset(agents))
        found = [seq for seq, _ in runlog.read(database, "r", after=after, only=only)]
        assert len(found) == runlog.count(database, "r", only) or after
        assert found == [n for n, line in enumerate(lines, 1) if only.takes(*line) and n > after], "in SQL as in Python"
        return found

    assert seqs() == [1, 2, 3, 4]
    assert seqs({"ERROR"}) == [2, 4] and seqs({"ERROR"}, after=2) == [4]
    assert seqs(agents={"TrainingAgent"}) == [2, 3] and seqs(agents={"rows", "second"}) == [1, 3]
    assert seqs({"ERROR", "METRIC"}, {"second"}) == [3] and seqs({"WARN"}) == []
