"""Backups of both profiles, taken and restored as docs/deployment.md says; jobs, models and downloads are there again."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest

from llm_platform.settings import Settings
from llm_platform.training.tiny_llama import ensure
from tests.e2e import deployment_page as page
from tests.e2e.conftest import Running, is_training, platform, question_rows, wait_for, write_csv
from tests.e2e.deployment_page import block
from tests.e2e.pipelines import edges, node, up_to_training
from tests.servers import S3Server, databases, rclone_s3

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def run(commands: str, folder: Path, environment: dict[str, str]) -> None:
    """Runs commands in a shell as a person would, with Postgres' and the platform's programs in the path."""
    settings = page.environment({"RCLONE_CONFIG": str(folder / "rclone.conf"), **environment})
    done = subprocess.run(["bash", "-euc", commands], cwd=folder, env=settings, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


def trained(running: Running, folder: Path) -> dict[str, Any]:
    dataset = running.upload(write_csv(folder / "rows.csv", question_rows(60)))
    pipeline = up_to_training({"dataset_id": dataset["dataset_id"]}, run_id="kept-1")
    pipeline["nodes"].append(node("export", "ExportAgent", formats=["adapter"]))
    pipeline["edges"] += edges(("training", "export"))
    job = running.wait_job(running.post_job(pipeline)["job_id"])
    assert job["status"] == "completed", job
    return job


def what_clients_see(http: httpx.Client) -> dict[str, Any]:
    """A finished job, its log, its model, card and files, and the dataset that it came from."""
    model = http.get("/models/model_kept-1").raise_for_status().json()
    return {
        "job": http.get("/jobs/job_kept-1").raise_for_status().json(),
        "log": http.get("/logs/history/kept-1", params={"limit": 1000}).raise_for_status().json(),
        "model": model,
        "card": http.get("/models/model_kept-1/card").raise_for_status().text,
        "download": http.get("/models/model_kept-1/download").raise_for_status().content,
        "dataset": http.get(f"/datasets/{model['dataset_id']}").raise_for_status().json(),
    }


def settings_of(make: Any, s3: S3Server, name: str) -> dict[str, str]:
    return {
        "LLM_PLATFORM_DATABASE_URL": make(f"{name}_platform"),
        "LLM_PLATFORM_DAGSTER_DATABASE_URL": make(f"{name}_dagster"),
        "LLM_PLATFORM_MLFLOW_DATABASE_URL": make(f"{name}_mlflow"),
        "LLM_PLATFORM_MLFLOW_ARTIFACTS": "s3://mlflow/models",
        "LLM_PLATFORM_S3_ENDPOINT": s3.endpoint,
        "LLM_PLATFORM_S3_ACCESS_KEY": s3.access_key,
        "LLM_PLATFORM_S3_SECRET_KEY": s3.secret_key,
    }


def test_postgres_and_s3(tmp_path: Path) -> None:
    ensure(Settings().cache)
    with databases("postgres", tmp_path) as make, rclone_s3(tmp_path / "one") as one, rclone_s3(tmp_path / "two") as two:
        old = settings_of(make, one, "old")
        with platform(tmp_path / "old", **old) as running:
            trained(running, tmp_path)
            before = what_clients_see(running.http)
            run(block("RCLONE_CONFIG_STORE_TYPE") + block("pg_dump"), tmp_path, old)
        new = settings_of(make, two, "new")
        run(block("RCLONE_CONFIG_STORE_TYPE") + block("pg_restore"), tmp_path, {**new, "LLM_PLATFORM_HOME": str(tmp_path / "new")})
        with platform(tmp_path / "new", **new) as running:
            assert what_clients_see(running.http) == before


def test_embedded_while_a_job_runs(tmp_path: Path) -> None:
    ensure(Settings().cache)
    with platform(tmp_path / "old") as running:
        trained(running, tmp_path)
        before = what_clients_see(running.http)
        going = up_to_training({"dataset_id": before["model"]["dataset_id"]}, run_id="going-1", max_steps=100_000)
        running.post_job(going)
        wait_for(lambda: is_training(running, "going-1"), 120, "the second job trains")
        run(block("llm-platform backup").replace("/backups", str(tmp_path / "backups")), tmp_path, {"LLM_PLATFORM_HOME": "old"})
        running.http.delete("/jobs/job_going-1").raise_for_status()
    commands = block("llm-platform restore").replace("/backups", str(tmp_path / "backups")).replace("/srv/llm-platform", "new")
    run(commands, tmp_path, {})
    with platform(tmp_path / "new") as running:
        assert what_clients_see(running.http) == before
        interrupted = running.wait_job("job_going-1")
        assert interrupted["status"] == "failed", interrupted
        assert interrupted["progress"]["completed_agents"] == ["dataset", "validation", "preprocessing"]
