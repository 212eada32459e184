"""One platform for the whole folder, started by `llm-platform up` as a user would, and driven over HTTP."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psutil
import pytest

from dagster_project.worker import NAME
from llm_platform.settings import Settings
from llm_platform.training.tiny_llama import demo_rows, ensure

START_SECONDS = 120.0
T = TypeVar("T")


def wait_for(condition: Callable[[], T | None], seconds: float, what: str) -> T:
    """The first truthy value; fails when none came in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.05)
    raise AssertionError(f"not within {seconds:g} s: {what}")


@dataclass
class Running:
    """A platform in a process of its own."""

    process: subprocess.Popen[bytes]
    home: Path
    http: httpx.Client = field(init=False)

    def service(self, name: str) -> dict[str, Any]:
        return json.loads((self.home / "services.json").read_text())["services"][name]

    def healthy(self) -> bool:
        try:
            return httpx.get(self.service("api")["url"] + "/health").status_code == 200
        except (httpx.HTTPError, OSError, KeyError, ValueError):
            return False

    def connect(self) -> None:
        wait_for(self.healthy, START_SECONDS, "the platform is healthy")
        self.http = httpx.Client(base_url=self.service("api")["url"] + "/api/v1", timeout=30)

    def post_job(self, pipeline: dict[str, Any]) -> dict[str, Any]:
        answer = self.http.post("/jobs", json={"pipeline_config": pipeline})
        assert answer.status_code in (200, 201, 202), answer.text
        return answer.json()

    def job(self, job_id: str) -> dict[str, Any]:
        return self.http.get(f"/jobs/{job_id}").raise_for_status().json()

    def wait_job(self, job_id: str, seconds: float = 240) -> dict[str, Any]:
        def ended() -> dict[str, Any] | None:
            job = self.job(job_id)
            return job if job["status"] in ("completed", "failed", "cancelled") else None

        return wait_for(ended, seconds, f"{job_id} has ended")

    def wait_job_listed(self, run_id: str) -> dict[str, Any]:
        """The job of that run id, as soon as `GET /jobs` shows it."""

        def listed() -> dict[str, Any] | None:
            items = self.http.get("/jobs", params={"limit": 100}).raise_for_status().json()["items"]
            return next((job for job in items if job["run_id"] == run_id), None)

        return wait_for(listed, 30, f"{run_id} is listed")

    def graphql(self, query: str, **variables: Any) -> dict[str, Any]:
        url = self.service("dagster-webserver")["url"] + "/graphql"
        body = httpx.post(url, json={"query": query, "variables": variables}, timeout=60).raise_for_status().json()
        assert "errors" not in body, body["errors"]
        return body["data"]

    def upload(self, path: Path) -> dict[str, Any]:
        with path.open("rb") as file:
            answer = self.http.post("/datasets/upload", files={"file": (path.name, file)})
        assert answer.status_code in (200, 201), answer.text
        return answer.json()


@contextmanager
def platform(home: Path, **environment: str) -> Iterator[Running]:
    """`llm-platform up` on a free port, stopped by SIGTERM; nothing of it may be left."""
    command = [sys.executable, "-m", "llm_platform", "up", "--home", str(home), "--port", "0"]
    log = (home.parent / f"{home.name}.log").open("wb")
    with log, subprocess.Popen(command, env=os.environ | environment, stdout=log, stderr=log, start_new_session=True) as process:
        running = Running(process, home)
        try:
            running.connect()
            yield running
            running.http.close()
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                code = process.wait(40)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                raise
    assert code == 0
    assert leftovers(home) == []


def leftovers(home: Path) -> list[str]:
    """Command lines of processes that still belong to a platform of this home."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get("LLM_PLATFORM_HOME") == str(home):
                found.append(" ".join(process.cmdline()))
        except psutil.Error:
            continue
    return found


def node_processes(running: Running) -> list[psutil.Process]:
    """The processes of heavy nodes, without what one has just forked to start a program: it has the same name until it is that program."""
    found: dict[int, tuple[psutil.Process, int]] = {}
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.name() == NAME and process.environ().get("LLM_PLATFORM_HOME") == str(running.home):
                found[process.pid] = process, process.ppid()
    return [process for process, parent in found.values() if parent not in found]


def is_training(running: Running, run_id: str) -> bool:
    lines = running.http.get(f"/logs/history/{run_id}", params={"limit": 1000}).json()["logs"]
    return any(line["level"] == "METRIC" for line in lines)


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    ensure(Settings().cache)  # minutes on a new machine, which are no job's fault
    with platform(tmp_path_factory.mktemp("e2e") / "home") as up:
        yield up


def write_csv(path: Path, rows: list[dict[str, str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def question_rows(count: int) -> list[dict[str, str]]:
    """Real rows (GSM8K) where the machine has them, else the demo's; columns question and answer."""
    real = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "gsm8k" / "train.jsonl"
    if real.exists():
        with real.open(encoding="utf-8") as file:
            return [json.loads(text) for text, _ in zip(file, range(count), strict=False)]
    return demo_rows(count, seed=1)
