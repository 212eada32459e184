"""The platform on real services by settings alone: Postgres for all tables, Redis, and S3 for data, artifacts, models and logs."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from llm_platform.settings import Settings, with_driver
from llm_platform.training.tiny_llama import ensure
from tests.e2e.conftest import START_SECONDS, Running, platform, question_rows, wait_for, write_csv
from tests.e2e.pipelines import everything
from tests.servers import S3Server, free_port, rclone_s3, services_profile


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with rclone_s3(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture(scope="module")
def services(s3: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The settings of the profile, over servers that run."""
    with services_profile(tmp_path_factory.mktemp("services"), s3) as settings:
        yield settings


@pytest.fixture(scope="module")
def on_services(services: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    ensure(Settings().cache)
    with platform(tmp_path_factory.mktemp("e2e-services") / "home", **services) as up:
        yield up


@contextmanager
def further_api(home: Path, services: dict[str, str]) -> Iterator[httpx.Client]:
    """A second API process over the same services."""
    port = free_port()
    command = [sys.executable, "-m", "llm_platform", "serve", "api", "--home", str(home), "--port", str(port)]
    with subprocess.Popen(command, env=os.environ | services, stderr=subprocess.DEVNULL) as process:
        try:

            def healthy() -> bool:
                assert process.poll() is None, "the second API process ended"
                try:
                    return httpx.get(f"http://127.0.0.1:{port}/health").json()["status"] == "healthy"
                except httpx.HTTPError:
                    return False

            wait_for(healthy, START_SECONDS, "the second API process is healthy")
            with httpx.Client(base_url=f"http://127.0.0.1:{port}/api/v1", timeout=60) as client:
                yield client
        finally:
            process.send_signal(signal.SIGTERM)


@pytest.fixture(scope="module")
def other(on_services: Running, services: dict[str, str]) -> Iterator[httpx.Client]:
    with further_api(on_services.home, services) as client:
        yield client


@pytest.fixture(scope="module")
def streamed(on_services: Running, other: httpx.Client, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], list[str]]:
    """The finished job, and its log lines as the other API process sent them while it ran."""
    dataset = on_services.upload(write_csv(tmp_path_factory.mktemp("data") / "rows.csv", question_rows(80)))
    created = on_services.post_job(everything({"dataset_id": dataset["dataset_id"]}, run_id="services-1"))
    lines: list[str] = []

    def read() -> None:
        with other.stream("GET", "/logs/stream/services-1", timeout=240) as stream:
            for text in stream.iter_lines():
                if text.startswith("data: ") and "message" in text:
                    lines.append(json.loads(text.removeprefix("data: "))["message"])

    reader = threading.Thread(target=read)
    reader.start()
    job = on_services.wait_job(created["job_id"])
    reader.join(60)
    assert not reader.is_alive(), "the stream ends with the job"
    return job, lines


def test_the_job_ends_well_and_both_processes_say_the_same(
    on_services: Running, other: httpx.Client, streamed: tuple[dict[str, Any], list[str]]
) -> None:
    job, lines = streamed
    assert job["status"] == "completed", job
    assert job["progress"]["completed_agents"] == ["dataset", "validation", "preprocessing", "training", "evaluation", "export"]
    assert other.get("/jobs/job_services-1").raise_for_status().json() == on_services.job("job_services-1")
    history = other.get("/logs/history/services-1", params={"limit": 1000}).json()
    assert history == on_services.http.get("/logs/history/services-1", params={"limit": 1000}).json()
    assert lines == [line["message"] for line in history["logs"]]


def test_models_come_from_either_process_and_straight_from_s3(
    on_services: Running, other: httpx.Client, streamed: tuple[dict[str, Any], list[str]]
) -> None:
    archives = [
        client.get("/models/model_services-1/download", params={"format": "merged"}).raise_for_status()
        for client in (on_services.http, other)
    ]
    assert archives[0].headers["etag"] == archives[1].headers["etag"] and archives[0].content == archives[1].content
    with tarfile.open(fileobj=io.BytesIO(archives[0].content)) as archive:
        packed = {Path(name).name for name in archive.getnames()}
    listed = other.get("/models/model_services-1/files", params={"format": "merged"}).json()["files"]
    assert packed == {file["path"] for file in listed} and "model.safetensors" in packed
    for file in listed:
        assert len(httpx.get(file["url"]).raise_for_status().content) == file["size_bytes"]
    assert "## Evaluation Metrics" in other.get("/models/model_services-1/card").text


def test_nothing_is_kept_in_the_home_folder(
    on_services: Running, services: dict[str, str], s3: S3Server, streamed: tuple[dict[str, Any], list[str]]
) -> None:
    home = on_services.home
    assert not [path for path in home.rglob("*") if path.suffix == ".db" or path.name in ("objects", "mlartifacts", "history")]
    weights = list((s3.root / "mlflow" / "models").rglob("adapter_model.safetensors"))
    assert len(weights) == 1, "MLflow's artifacts are in S3"
    for name, table in (("DATABASE", "submissions"), ("DAGSTER_DATABASE", "runs"), ("MLFLOW_DATABASE", "registered_models")):
        engine = sa.create_engine(with_driver(services[f"LLM_PLATFORM_{name}_URL"]))
        with engine.connect() as connection:
            assert connection.execute(sa.text(f"SELECT count(*) FROM {table}")).scalar_one() >= 1
        engine.dispose()
    assert wait_for(lambda: list((s3.root / "compute-logs").rglob("*.err")), 60, "what the steps printed is in S3")
    for file in (home / "dagster" / "dagster.yaml", home / "workspace.yaml", home / "services.json"):
        text = file.read_text()
        assert s3.secret_key not in text and "postgresql" not in text


def test_both_processes_count_the_same_clients_requests(on_services: Running, other: httpx.Client) -> None:
    def left(client: httpx.Client) -> int:
        return int(client.get("/jobs").headers["x-ratelimit-remaining"])

    first = left(on_services.http)
    assert left(other) < first
    assert left(on_services.http) < first - 1
