"""The log of a run: no line lost, none twice, in the order of its cursor."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from llm_platform import runlog
from llm_platform.database import Database
from llm_platform.errors import InvalidInput
from llm_platform.runlog import RunLogReporter

pytest_plugins = ["tests.databases"]


def texts(database: Database, run_id: str) -> list[str]:
    return [line["message"] for _, line in runlog.read(database, run_id, limit=100_000)]


def test_concurrent_writers_leave_no_gap(database: Database) -> None:
    """A reader beside them never sees a line appear behind its cursor."""

    def write(name: int) -> None:
        for number in range(40):
            runlog.append(database, "r", [runlog.line("INFO", f"{name}.{number}.{part}") for part in range(3)])

    seen: list[int] = []
    with ThreadPoolExecutor(8) as pool:
        writers = [pool.submit(write, name) for name in range(8)]
        while not all(writer.done() for writer in writers) or len(seen) < 960:
            seen += [seq for seq, _ in runlog.read(database, "r", after=seen[-1] if seen else 0)]
            assert len(seen) <= 960
        for writer in writers:
            writer.result()
    assert seen == list(range(1, 961)) and runlog.last_seq(database, "r") == 960
    found = texts(database, "r")
    for name in range(8):
        mine = [text for text in found if text.startswith(f"{name}.")]
        assert mine == [f"{name}.{number}.{part}" for number in range(40) for part in range(3)]


def test_processes_write_beside_each_other(database: Database, url: str) -> None:
    code = (
        "import sys; from llm_platform.database import Database; from llm_platform.runlog import RunLogReporter\n"
        f"database = Database({url!r})\n"
        "with RunLogReporter(database, 'r', 'TrainingAgent', sys.argv[1]) as reporter:\n"
        "    [reporter.info(f'{sys.argv[1]} {number}') for number in range(200)]\n"
    )
    processes = [subprocess.Popen([sys.executable, "-c", code, name]) for name in ("a", "b")]
    assert [process.wait(60) for process in processes] == [0, 0]
    found = texts(database, "r")
    for name in ("a", "b"):
        assert [text for text in found if text.startswith(name)] == [f"{name} {number}" for number in range(200)]


def test_runs_have_cursors_of_their_own(database: Database) -> None:
    for run_id in ("r", "s", "r"):
        runlog.append(database, run_id, [runlog.line("INFO", run_id)])
    assert [seq for seq, _ in runlog.read(database, "r")] == [1, 2] and runlog.last_seq(database, "s") == 1
    assert runlog.last_seq(database, "none") == 0 and runlog.read(database, "none") == []


def test_the_specifications_line(database: Database) -> None:
    line = runlog.line("METRIC", "Training step completed", agent="TrainingAgent", agent_name="train", step=100, epoch=1, loss=1.85)
    runlog.append(database, "abc123", [line])
    ((_, found),) = runlog.read(database, "abc123")
    assert found.pop("timestamp").endswith("Z")
    assert found == {
        "run_id": "abc123",
        "agent": "TrainingAgent",
        "agent_name": "train",
        "level": "METRIC",
        "message": "Training step completed",
        "step": 100,
        "epoch": 1,
        "loss": 1.85,
    }
    assert list(found)[:2] == ["run_id", "agent"] and list(found)[-1] == "loss"


def test_whatever_is_logged_can_be_read(database: Database) -> None:
    data: dict[str, Any] = {
        "nan": float("nan"),
        "deep": {"inf": [float("inf")], "path": Path("x"), "text": "\ud800\0", 5: (1, 2)},
        "flag": True,
        "many": 2**70,
        "level": "FAKE",
        "nothing": None,
    }
    with RunLogReporter(database, "r", None, None) as reporter:
        reporter._add("INFO", "\ud800a\0b" + "x" * 20_000, data, forward=False)
    ((_, line),) = runlog.read(database, "r")
    json.dumps(line, allow_nan=False).encode()
    assert line["level"] == "INFO" and line["message"].startswith("?ab") and len(line["message"]) < 8_001
    assert line["nan"] == "nan" and line["deep"] == {"inf": ["inf"], "path": "x", "text": "?", "5": [1, 2]} and line["many"] == 2**70


def test_a_database_that_is_away_delays_lines(database: Database) -> None:
    with database.write() as connection:
        connection.exec_driver_sql("ALTER TABLE log_lines RENAME TO away")
    with RunLogReporter(database, "r", "A", "a") as reporter:
        reporter.info("one")
        reporter.flush()
        reporter.info("two")
        with database.write() as connection:
            connection.exec_driver_sql("ALTER TABLE away RENAME TO log_lines")
        reporter.info("three")
    assert texts(database, "r") == ["one", "two", "three"]


def test_what_is_forwarded(database: Database) -> None:
    """Dagster's UI gets what a person wants to see, and at most one metric every few seconds."""
    forwarded: list[tuple[str, str]] = []
    with RunLogReporter(database, "r", "A", "a", forward=lambda level, text: forwarded.append((level, text))) as reporter:
        reporter.info("hello", rows=5)
        for step in range(50):
            reporter.metric("Training step completed", step=step, epoch=0.5, loss=2.0)
        reporter.progress(1, 2, "rows")  # too soon after the start to be worth a line
        reporter.error("bad")
    assert forwarded == [("INFO", "hello"), ("METRIC", "Training step completed  step 0  epoch 0.5  loss 2"), ("ERROR", "bad")]
    assert len(texts(database, "r")) == 52


def test_cursors() -> None:
    assert runlog.parse_cursor("r-1", "r-1:12") == 12
    for bad in ("", "r-1", "r-1:", "r-1:x", "r-1:-1", "r-1:1.0", "r-2:1", "r-1:٣", "r-1:" + "1" * 19, "r-1:1:2", "r-1: 1"):
        with pytest.raises(InvalidInput):
            runlog.parse_cursor("r-1", bad)


def test_no_lines_are_no_lines(database: Database) -> None:
    with RunLogReporter(database, "r", None, None):
        pass
    with database.read() as connection:
        assert connection.execute(sa.text("SELECT count(*) FROM log_cursors")).scalar() == 0
