"""docs/deployment.md, followed step by step on a real Postgres, Redis and S3: its own commands and its own file of settings."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa

from llm_platform import Client
from llm_platform.settings import Settings
from llm_platform.training.tiny_llama import ensure
from tests.e2e import deployment_page as page
from tests.e2e.conftest import question_rows, wait_for, write_csv
from tests.e2e.deployment_page import block
from tests.e2e.pipelines import edges, node, up_to_training
from tests.servers import databases, free_port, rclone_s3, redis_server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@contextmanager
def shell(commands: str, folder: Path, environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """Runs commands as a person would; what still runs at the end of the block gets a Ctrl-C."""
    command = ["bash", "-euc", commands]
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=page.environment(environment),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    with process:
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGINT)


def output(commands: str, folder: Path, environment: dict[str, str]) -> str:
    with shell(commands, folder, environment) as process:
        said = process.communicate(timeout=300)[0]
    assert process.returncode == 0, said
    return said


def healthy(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health", trust_env=False).json()["status"] == "healthy"
    except httpx.HTTPError:
        return False


def test_the_steps_lead_to_a_platform_that_trains(tmp_path: Path) -> None:
    ensure(Settings().cache)
    first, second = free_port(), free_port()
    with databases("postgres", tmp_path) as make, rclone_s3(tmp_path / "s3") as s3, redis_server(tmp_path) as redis_url:
        at = sa.make_url(make("reachable"))
        postgres = {"PGHOST": str(at.query.get("host") or at.host), "PGPORT": str(at.port or 5432), "PGUSER": at.username or "postgres"}
        output(block("createdb platform"), tmp_path, postgres)

        examples = {
            f"postgresql://platform:PASSWORD@db.example.test/{name}": str(at.set(database=name))
            for name in ("platform", "dagster", "mlflow")
        }
        examples |= {"https://s3.example.test": s3.endpoint, "=ACCESS_KEY": f"={s3.access_key}", "=SECRET_KEY": f"={s3.secret_key}"}
        examples |= {"redis://redis.example.test/0": redis_url, "/srv/llm-platform": str(tmp_path / "home")}
        file = block("LLM_PLATFORM_HOME=/srv/llm-platform", "sh")
        for example, real in examples.items():
            assert example in file
            file = file.replace(example, real)
        assert "example" not in file
        (tmp_path / "llm-platform.env").write_text(file)

        load = block("set -a")
        said = output(load, tmp_path, {})
        assert s3.secret_key not in said

        load = load.replace("llm-platform check\n", "")
        start = block("llm-platform keys create ada").replace("8000", str(first))
        create, up = start.splitlines()
        (key,) = re.findall(r"llmp_[\w-]+", output(f"{load}{create}\n", tmp_path, {}))
        further = block("llm-platform serve api --port 8001").replace("8001", str(second))
        with shell(f"{load}exec {up}\n", tmp_path, {}) as platform:
            wait_for(lambda: platform.poll() is not None or healthy(first), 180, "the platform is healthy")
            with shell(f"{load}exec {further}", tmp_path, {}) as other:
                wait_for(lambda: other.poll() is not None or healthy(second), 60, "the further API process is healthy")
                rows = write_csv(tmp_path / "rows.csv", question_rows(60))
                with Client(f"http://127.0.0.1:{first}/api/v1", api_key=key) as client:
                    dataset = client.datasets.upload(rows)
                    pipeline = up_to_training({"dataset_id": dataset.dataset_id})
                    pipeline["nodes"].append(node("export", "ExportAgent", formats=["adapter"]))
                    pipeline["edges"] += edges(("training", "export"))
                    job = client.jobs.create(pipeline)
                with Client(f"http://127.0.0.1:{second}/api/v1", api_key=key) as client:
                    done = client.jobs.get(job.job_id).wait(timeout=300)
                    assert done.status == "completed" and done.model_id, done
                    client.models.download(done.model_id, path=tmp_path / "model")
                assert httpx.get(f"http://127.0.0.1:{second}/api/v1/jobs", trust_env=False).status_code == 401
            assert other.returncode == 0
            os.killpg(platform.pid, signal.SIGINT)
            said = platform.communicate(timeout=60)[0]
        assert platform.returncode == 0, said
