"""Backup and restore of the embedded profile: nothing is lost, also while somebody writes, and nothing is overwritten."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest

from llm_platform import runlog
from llm_platform.backup import backup, restore
from llm_platform.database import Database
from llm_platform.errors import Conflict, InvalidConfig, NotFound
from llm_platform.settings import Settings
from llm_platform.storage import storage_from


def filled(home: Path) -> Settings:
    """A home with a job, a dataset, a folder in the object store, and files of Dagster and MLflow."""
    settings = Settings(home=home)
    database = Database.from_settings(settings)
    database.accept("r1", dagster_run_id="d1", digest="a", pipeline={"nodes": []})
    database.close()
    made = home.parent / "made"
    made.mkdir()
    (made / "weights").write_bytes(b"w" * 5000)
    storage_from(settings).put_folder(made, "s3://artifacts/r1/adapter")
    (home / "mlartifacts" / "1").mkdir(parents=True)
    (home / "mlartifacts" / "1" / "MLmodel").write_text("model")
    (settings.dagster_home / "history" / "runs").mkdir(parents=True)
    with closing(sqlite3.connect(settings.dagster_home / "history" / "runs" / "d1.db")) as connection:
        connection.execute("CREATE TABLE events (id)")
    (settings.work / "checkpoint").write_text("half")
    return settings


def test_what_was_there_is_there_again(tmp_path: Path) -> None:
    old = filled(tmp_path / "old")
    size = backup(old, tmp_path / "kept" / "monday")
    assert size > 5000 and (tmp_path / "kept" / "monday").stat().st_mode & 0o077 == 0
    new = Settings(home=tmp_path / "new")
    restore(new, tmp_path / "kept" / "monday")
    database = Database.from_settings(new)
    assert (database.submission("r1") or {})["status"] == "pending"
    database.close()
    folder = storage_from(new).folder("s3://artifacts/r1/adapter")
    assert folder.sha256 == storage_from(old).folder("s3://artifacts/r1/adapter").sha256
    storage_from(new).fetch_folder("s3://artifacts/r1/adapter", tmp_path / "fetched")
    assert (new.root / "mlartifacts" / "1" / "MLmodel").read_text() == "model"
    assert (new.dagster_home / "history" / "runs" / "d1.db").exists() and not (new.root / "work").exists()
    assert not list(new.root.rglob(".tmp~*"))


def test_a_backup_beside_a_writer_is_of_one_moment(tmp_path: Path) -> None:
    settings = filled(tmp_path / "old")
    stop = threading.Event()
    written = threading.Event()

    def write() -> None:
        database = Database.from_settings(settings)
        while not stop.is_set():
            runlog.append(database, "r1", [runlog.line("INFO", "x" * 100) for _ in range(20)])
            written.set()
        database.close()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert written.wait(60)
        for number in range(3):
            backup(settings, tmp_path / f"backup{number}")
    finally:
        stop.set()
        writer.join()
    for number in range(3):
        new = Settings(home=tmp_path / f"new{number}")
        restore(new, tmp_path / f"backup{number}")
        database = Database.from_settings(new)
        lines = runlog.read(database, "r1", limit=1_000_000)
        assert [seq for seq, _ in lines] == list(range(1, runlog.last_seq(database, "r1") + 1)) and len(lines) % 20 == 0
        database.close()


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    old = filled(tmp_path / "old")
    backup(old, tmp_path / "kept")
    with pytest.raises(Conflict, match="there already"):
        backup(old, tmp_path / "kept")
    with pytest.raises(Conflict, match="not empty"):
        restore(old, tmp_path / "kept")
    with pytest.raises(NotFound, match="no backup"):
        restore(Settings(home=tmp_path / "new"), tmp_path / "old")
    assert not (tmp_path / "new").exists()


def test_a_backup_that_fails_leaves_nothing(tmp_path: Path) -> None:
    old = filled(tmp_path / "old")
    (old.root / "mlflow.db").write_text("this is no database, " * 100)
    with pytest.raises(sqlite3.DatabaseError):
        backup(old, tmp_path / "kept")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made", "old"]


def test_other_profiles_are_told_what_to_do(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home", database_url="postgresql://ada:sesame@localhost/platform", s3_endpoint="http://localhost")
    with pytest.raises(InvalidConfig, match=r"LLM_PLATFORM_DATABASE_URL, LLM_PLATFORM_S3_ENDPOINT: .*pg_dump") as raised:
        backup(settings, tmp_path / "kept")
    assert "sesame" not in str(raised.value)
    with pytest.raises(InvalidConfig, match="pg_dump"):
        restore(settings, tmp_path)


def test_the_commands(tmp_path: Path) -> None:
    filled(tmp_path / "old")
    for arguments in (["backup", str(tmp_path / "kept"), "--home", "old"], ["restore", str(tmp_path / "kept"), "--home", "new"]):
        command = [sys.executable, "-m", "llm_platform", *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=os.environ, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "new" / "platform.db").exists()
