"""`llm-platform check` against real servers: while they run, when they have stopped, and when they are wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llm_platform import keys, migrations
from llm_platform.check import (
    Line,
    check_authentication,
    check_dagster,
    check_database,
    check_extras,
    check_home,
    check_mlflow,
    check_objects,
    check_ports,
    check_redis,
)
from llm_platform.database import Database
from llm_platform.settings import Settings
from llm_platform.specs.keys import KeyRequest
from tests.servers import databases, free_port, mlflow_server, rclone_s3, redis_server


def states(lines: Iterator[Line]) -> dict[str, str]:
    return {line.name: line.state for line in lines}


def only(lines: Iterator[Line]) -> Line:
    (line,) = lines
    return line


def test_a_fresh_home_is_ready_to_start(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "llm_platform", "check", "--json", "--home", str(tmp_path / "home")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    told = json.loads(done.stdout)
    assert (done.returncode, told["ok"]) == (0, True), done.stdout + done.stderr
    found = {line["name"]: line["state"] for line in told["checks"]}
    assert {"home folder", "database", "Dagster storage", "MLflow", "bucket datasets", "Redis", "torch", "authentication"} <= set(found)
    assert not list((tmp_path / "home").rglob("*.db")), "it only looks"


def test_postgres_that_runs_and_that_has_stopped(tmp_path: Path) -> None:
    with databases("postgres", tmp_path) as make:
        settings = Settings(home=tmp_path, database_url=make("platform"), dagster_database_url=make("dagster"))
        assert "empty" in only(check_database(settings)).detail
        database = Database.from_settings(settings)
        line = only(check_database(settings))
        assert (line.state, line.detail.endswith(f"tables at {migrations.HEAD}")) == ("ok", True), line
        with database.write() as connection:
            connection.exec_driver_sql(f"UPDATE {migrations.VERSION_TABLE} SET version_num = '9999'")
        newer = only(check_database(settings))
        assert newer.state == "error" and "backup" in newer.todo
        database.close()
        assert only(check_dagster(settings)).state == "ok"
        with Database(settings.dagster_database_url or "").write() as connection:
            connection.exec_driver_sql("CREATE TABLE experiments (id integer)")
        assert "MLflow's tables" in only(check_dagster(settings)).detail
    for line in (only(check_database(settings)), only(check_dagster(settings))):
        assert line.state == "error" and "LLM_PLATFORM_" in line.todo, line


def test_a_database_from_before_migrations_is_told_to_be_upgraded(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    database = Database.from_settings(settings)
    with database.write() as connection:
        connection.exec_driver_sql(f"DROP TABLE {migrations.VERSION_TABLE}")
    database.close()
    line = only(check_database(settings))
    assert line.state == "warning" and "backup" in line.todo


def test_redis_that_runs_and_that_has_stopped(tmp_path: Path) -> None:
    with redis_server(tmp_path) as url:
        settings = Settings(home=tmp_path, redis_url=url)
        line = only(check_redis(settings))
        assert line.state == "ok" and "version" in line.detail
    assert only(check_redis(settings)).state == "error"


def test_s3_that_runs_with_wrong_keys_and_that_has_stopped(tmp_path: Path) -> None:
    with rclone_s3(tmp_path) as server:
        right: dict[str, Any] = {"s3_endpoint": server.endpoint, "s3_access_key": server.access_key, "s3_secret_key": server.secret_key}
        settings = Settings(home=tmp_path, compute_logs_bucket="logs", mlflow_artifacts="s3://mlflow/models", **right)
        assert states(check_objects(settings)) == dict.fromkeys(
            ("bucket datasets", "bucket artifacts", "bucket logs", "bucket mlflow"), "ok"
        )
        assert not [path for path in server.root.rglob("*") if path.is_file()], "the probes are gone"
        wrong = list(check_objects(Settings(home=tmp_path, **{**right, "s3_secret_key": "not-the-secret"})))
        assert {line.state for line in wrong} == {"error"} and not any("not-the-secret" in line.detail for line in wrong)
    assert set(states(check_objects(settings)).values()) == {"error"}


def test_mlflow_that_runs_and_that_has_stopped(tmp_path: Path) -> None:
    with mlflow_server(tmp_path) as url:
        settings = Settings(home=tmp_path, mlflow_url=url)
        line = only(check_mlflow(settings))
        assert line.state == "ok" and "version" in line.detail
    assert only(check_mlflow(settings)).state == "error"


def test_no_secret_is_shown_and_an_error_is_the_exit_code(tmp_path: Path) -> None:
    port = free_port()
    settings = {
        "LLM_PLATFORM_HOME": str(tmp_path),
        "LLM_PLATFORM_DATABASE_URL": f"postgresql://ada:open-sesame-1@127.0.0.1:{port}/platform",
        "LLM_PLATFORM_REDIS_URL": f"redis://:open-sesame-2@127.0.0.1:{port}/0",
        "LLM_PLATFORM_S3_ENDPOINT": f"http://127.0.0.1:{port}",
        "LLM_PLATFORM_S3_ACCESS_KEY": "open-sesame-3",
        "LLM_PLATFORM_S3_SECRET_KEY": "open-sesame-4",
    }
    command = [sys.executable, "-m", "llm_platform", "check"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env={**os.environ, **settings, "COLUMNS": "200"})
    assert done.returncode == 1, done.stdout + done.stderr
    assert "open-sesame" not in done.stdout + done.stderr and "error" in done.stdout


def test_settings_that_cannot_be_are_one_line_without_values(tmp_path: Path) -> None:
    wrong = {"LLM_PLATFORM_DAGSTER_DATABASE_URL": "mysql://ada:open-sesame@host/db", "LLM_PLATFORM_NODES_PER_GPU": "many"}
    for name, value in wrong.items():
        command = [sys.executable, "-m", "llm_platform", "check", "--home", str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, env={**os.environ, name: value})
        assert done.returncode == 2 and done.stderr.startswith("Error: The settings are wrong: "), done.stderr
        assert value not in done.stderr and name.lower().removeprefix("llm_platform_") in done.stderr.lower()


def test_a_disk_without_room_and_a_folder_that_is_not_ours(tmp_path: Path) -> None:
    assert only(check_home(Settings(home=tmp_path, min_free_bytes=2**60))).state == "error"
    (tmp_path / "file").write_text("")
    assert only(check_home(Settings(home=tmp_path / "file"))).state == "error"


def test_authentication_without_a_key_is_a_warning(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, authentication=True)
    assert only(check_authentication(settings)).state == "warning"
    database = Database.from_settings(settings)
    keys.create(KeyRequest(owner="ada"), database)
    database.close()
    assert only(check_authentication(settings)).state == "ok"
    assert only(check_authentication(Settings(home=tmp_path))).todo, "off is fine on loopback, and says what others would need"


def test_an_extra_that_the_settings_need_is_an_error_where_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redis", None)
    settings = Settings(home=tmp_path, redis_url="redis://127.0.0.1")
    assert states(check_extras(settings))["extra redis"] == "error"
    assert states(check_extras(Settings(home=tmp_path)))["extra redis"] == "ok"
    assert only(check_ports(settings)).state in ("ok", "warning")
