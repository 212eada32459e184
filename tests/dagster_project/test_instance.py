"""Dagster's tables of an earlier version are brought up to date before a service uses them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from alembic.command import downgrade
from dagster import DagsterInstance, __version__
from dagster._core.storage.runs.sqlite import sqlite_run_storage
from dagster._core.storage.sql import get_alembic_config

from llm_platform.settings import Settings


def open_once(home: Path) -> None:
    """What each Dagster service does first; `this` stands for a service that ends at once."""
    command = [sys.executable, "-m", "dagster_project.instance", "this"]
    done = subprocess.run(command, env={**os.environ, "LLM_PLATFORM_HOME": str(home)}, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr


def test_tables_of_an_earlier_dagster_are_upgraded(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    (settings.dagster_home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    open_once(tmp_path)
    marker = settings.dagster_home / "version"
    assert marker.read_text() == __version__
    with DagsterInstance.from_config(str(settings.dagster_home)) as instance:
        storage = instance.run_storage
        assert isinstance(storage, sqlite_run_storage.SqliteRunStorage)
        old, head = storage.alembic_version() or (None, None)
        assert old == head
        config = get_alembic_config(sqlite_run_storage.__file__)
        with storage.connect() as connection:
            config.attributes["connection"] = connection
            downgrade(config, "-1")
        assert (storage.alembic_version() or (None, None))[0] != head
    marker.write_text("1.0.0")
    open_once(tmp_path)
    with DagsterInstance.from_config(str(settings.dagster_home)) as instance:
        assert (instance.run_storage.alembic_version() or (None, None))[0] == head
    assert marker.read_text() == __version__
