"""Runs what docker/compose.yaml runs, without the containers: every ENTRYPOINT, CMD and HEALTHCHECK of our images, as processes of this
machine, over a real Postgres, Redis and S3. Of what an engine would do, only the packaging is left unseen.

Addresses of the compose network become free ports of loopback, and the volume a temporary folder; nothing else is changed.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from llm_platform.settings import Settings, with_driver
from llm_platform.training.tiny_llama import ensure
from tests.docker.containers import DOCKER, ROOT, Container, compose, containers
from tests.e2e.conftest import leftovers, question_rows, wait_for, write_csv
from tests.e2e.pipelines import up_to_training
from tests.servers import databases, free_port, rclone_s3, redis_server, stop

PASSWORD = "open-sesame-of-postgres"
BIN = Path(sys.executable).parent
SECONDS = 180.0
STOP_SECONDS = 30.0
"""As `stop_grace_period` in the compose file."""


@dataclass
class Box:
    """A container's command as a process of this machine."""

    container: Container
    command: list[str]
    healthcheck: list[str]
    environment: dict[str, str]
    log: Path
    process: subprocess.Popen[bytes] = field(init=False)

    def start(self) -> None:
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                self.command, env=self.environment, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """As `docker compose exec`."""
        return subprocess.run(command, env=self.environment, cwd=ROOT, capture_output=True, text=True, timeout=120)

    def healthy(self) -> bool:
        assert self.process.poll() is None, f"{self.container.name} ended:\n{self.log.read_text()[-3000:]}"
        return self.run(*self.healthcheck).returncode == 0


@dataclass
class Machine:
    boxes: dict[str, Box]
    home: Path
    buckets: Path
    """The folder in which the objects of the S3 server lie."""
    databases: dict[str, str]
    secrets: dict[str, str]
    http: httpx.Client
    unhealthy_before: dict[str, bool]


class Translation:
    """From the compose network's addresses to this machine's."""

    def __init__(self, ports: dict[str, int], home: Path, stores: dict[str, str]) -> None:
        self._ports = {port: free_port() for port in ports.values()}
        self._names = ports
        self._home = home
        self._stores = stores

    def port(self, name: str) -> int:
        return self._ports[self._names[name]]

    def command(self, parts: list[str]) -> list[str]:
        named = {index + 1 for index, part in enumerate(parts) if part == "--advertise"}
        return ["127.0.0.1" if index in named else self(part) for index, part in enumerate(parts)]

    def __call__(self, text: str) -> str:
        for place, replacement in self._stores.items():
            text = text.replace(place, replacement)
        for name, port in self._names.items():
            text = re.sub(rf"\b(?:{name}|127\.0\.0\.1|localhost):{port}\b", f"127.0.0.1:{self._ports[port]}", text)
        if text in map(str, self._ports):
            return str(self._ports[int(text)])
        if text == "0.0.0.0":
            return "127.0.0.1"
        return re.sub(r"^/data\b", str(self._home), text)


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    tmp = tmp_path_factory.mktemp("containers")
    home = tmp / "data"
    home.mkdir()
    cache = ensure(Settings().cache).parent  # the tiny model, built once per machine
    with ExitStack() as stack:
        s3 = stack.enter_context(rclone_s3(tmp))
        redis = stack.enter_context(redis_server(tmp))
        make = stack.enter_context(databases("postgres", tmp))
        content = compose(DOCKER / "compose.yaml", {"POSTGRES_PASSWORD": "secret", "S3_SECRET_KEY": s3.secret_key})
        urls = {name: make(name) for name in databases_of(content)}
        # The server asks for no password, and takes any.
        stores = {
            f"postgresql+psycopg2://platform:secret@postgres:5432/{name}": with_driver(url).replace("postgres:@", f"postgres:{PASSWORD}@")
            for name, url in urls.items()
        }
        stores |= {"redis://redis:6379/0": redis, "http://minio:9000": s3.endpoint}
        ports = {"api": 8000, "dagster-webserver": 3000, "dagster-code": 4000, "mlflow": 5000}
        translate = Translation(ports, home, stores)
        boxes = {}
        for name, container in containers(content).items():
            environment = {key: translate(value) for key, value in container.environment.items()}
            environment |= {"PATH": f"{BIN}{os.pathsep}{os.defpath}", "LLM_PLATFORM_CACHE": str(cache)}
            if "LLM_PLATFORM_S3_ACCESS_KEY" in environment:
                environment["LLM_PLATFORM_S3_ACCESS_KEY"] = s3.access_key
            command, healthcheck = translate.command(container.command), translate.command(container.healthcheck)
            boxes[name] = Box(container, command, healthcheck, environment, tmp / f"{name}.log")
        stack.callback(stop_all, boxes)
        before = {}
        for name, box in boxes.items():
            before[name] = not box.healthcheck or box.run(*box.healthcheck).returncode != 0
            needed = [boxes[other] for other in box.container.after if other in boxes]
            wait_for(lambda needed=needed: all(other.healthy() for other in needed), SECONDS, f"what {name} needs")
            box.start()
        key = boxes["api"].run("llm-platform", "keys", "create", "ada", "--scope", "admin")
        assert key.returncode == 0, key.stderr
        headers = {"Authorization": f"Bearer {key.stdout.strip()}"}
        http = stack.enter_context(httpx.Client(base_url=f"http://127.0.0.1:{translate.port('api')}/api/v1", headers=headers, timeout=60))
        secrets = {"database": PASSWORD, "S3": s3.secret_key, "API key": key.stdout.strip()}
        yield Machine(boxes, home, s3.root, urls, secrets, http, before)


def databases_of(content: dict[str, Any]) -> list[str]:
    """Those that the first start of the Postgres container makes."""
    made = re.findall(r"CREATE DATABASE (\w+);", content["configs"]["databases"]["content"])
    return [content["services"]["postgres"]["environment"]["POSTGRES_DB"], *made]


def stop_all(boxes: dict[str, Box]) -> None:
    stop([box.process for box in boxes.values() if hasattr(box, "process")], STOP_SECONDS)


def test_every_health_check_says_when_its_service_is_there(machine: Machine) -> None:
    probed = {name: box for name, box in machine.boxes.items() if box.healthcheck}
    assert len(probed) == 6
    for name, box in probed.items():
        wait_for(box.healthy, SECONDS, f"{name} is healthy")
    # That of the workers looks for processes of the machine, where others may run.
    assert all(machine.unhealthy_before[name] for name in probed if name != "dagster-workers"), machine.unhealthy_before


def test_a_job_runs_through_all_of_them(machine: Machine, tmp_path: Path) -> None:
    wait_for(machine.boxes["api"].healthy, SECONDS, "the API is healthy")
    wait_for((machine.home / "node-workers.sock").exists, SECONDS, "the workers are there")
    table = write_csv(tmp_path / "rows.csv", question_rows(40))
    with table.open("rb") as file:
        dataset = machine.http.post("/datasets/upload", files={"file": (table.name, file)}).raise_for_status().json()
    created = machine.http.post("/jobs", json={"pipeline_config": up_to_training({"dataset_id": dataset["dataset_id"]}, run_id="boxed")})
    assert created.is_success, created.text

    def ended() -> dict[str, Any] | None:
        job = machine.http.get("/jobs/job_boxed").raise_for_status().json()
        return job if job["status"] in ("completed", "failed", "cancelled") else None

    job = wait_for(ended, 240, "the job has ended")
    assert job["status"] == "completed", job
    assert machine.http.get("/models/model_boxed").raise_for_status().json()["model_id"] == "model_boxed"


def test_nobody_is_let_in_without_a_key(machine: Machine) -> None:
    assert httpx.get(f"{machine.http.base_url}jobs").status_code == 401


def test_no_secret_is_anywhere_but_in_the_environment(machine: Machine) -> None:
    """Neither in what the job before this test left behind, nor in what others see of the processes that run."""
    assert machine.http.get("/jobs/job_boxed").json()["status"] == "completed"
    places = {str(path): path.read_bytes() for folder in (machine.home, machine.buckets) for path in folder.rglob("*") if path.is_file()}
    places |= {f"log of {name}": box.log.read_bytes() for name, box in machine.boxes.items()}
    places |= {f"database {name}": dump(url) for name, url in machine.databases.items()}
    places |= {f"command line {number}": line.encode() for number, line in enumerate(leftovers(machine.home))}
    for path in ("/jobs", "/jobs/job_boxed", "/logs/history/boxed?limit=1000", "/models/model_boxed", "/models/model_boxed/card", "/usage"):
        places[path] = machine.http.get(path).raise_for_status().content
    # It would be found: the job is in what was read.
    for kind in ("database platform", "database dagster", "database mlflow", "/jobs"):
        assert b"boxed" in places[kind], kind
    for name in ("dagster.yaml", "workspace.yaml", "adapter_model.safetensors"):
        assert any(place.endswith(name) for place in places), name
    assert sum(place.startswith("command line") for place in places) >= 6
    found = [(place, name) for place, content in places.items() for name, secret in machine.secrets.items() if secret.encode() in content]
    assert found == []


def dump(url: str) -> bytes:
    """Every row of every table of a database, as text."""
    engine = sa.create_engine(with_driver(url))
    with engine.connect() as connection:
        tables = sa.inspect(connection).get_table_names()
        rows = [row for name in tables for row in connection.execute(sa.text(f'SELECT "{name}"::text FROM "{name}"')).scalars()]
    engine.dispose()
    return "\n".join(rows).encode()


def test_the_containers_end_in_their_time(machine: Machine) -> None:
    """Last, since nothing runs behind it."""
    machine.http.close()
    stop_all(machine.boxes)
    codes = {name: box.process.returncode for name, box in machine.boxes.items()}
    assert all(code != -signal.SIGKILL for code in codes.values()), codes
    wait_for(lambda: not leftovers(machine.home), 30, "no process is left")
