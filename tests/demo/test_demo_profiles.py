"""The whole demo, unchanged, on other profiles than the embedded one, which `make demo` runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.executors.ray_cluster import ray_cluster
from tests.servers import rclone_s3, services_profile

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def demo(home: Path, settings: dict[str, str]) -> str:
    """What it prints. It fails where fine-tuning does not make the model better."""
    command = [sys.executable, "-m", "llm_platform", "demo", "--home", str(home)]
    done = subprocess.run(command, env=os.environ | settings, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_the_demo_runs_on_postgres_redis_and_s3(tmp_path: Path) -> None:
    with rclone_s3(tmp_path / "s3") as s3, services_profile(tmp_path, s3) as settings:
        demo(tmp_path / "home", settings)
        kept = {path.relative_to(s3.root).parts[0] for path in s3.root.rglob("*") if path.is_file()}
    assert {"datasets", "artifacts", "mlflow", "compute-logs"} <= kept
    assert not {"objects", "mlartifacts"} & {path.name for path in (tmp_path / "home").iterdir()}, "what is to last lies in S3"


def test_the_demo_runs_on_a_ray_cluster(tmp_path: Path) -> None:
    with ray_cluster(2) as cluster:
        demo(
            tmp_path / "home",
            {"LLM_PLATFORM_EXECUTOR": "ray", "LLM_PLATFORM_RAY_ADDRESS": cluster.address, "LLM_PLATFORM_DATA_ENGINE": "ray"},
        )
