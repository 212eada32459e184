"""docs/deployment.md, followed step by step on a real Postgres, Redis and S3: its own commands and its own file of settings."""

from __future__ import annotations

import json
import os
import re
import signal
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from websockets.sync.client import connect

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


@contextmanager
def proxy(folder: Path, apis: tuple[int, int]) -> Iterator[tuple[str, ssl.SSLContext]]:
    """The page's Caddy before two API processes: its address, and what trusts its certificate, which it makes itself here."""
    port = free_port()
    file = block("reverse_proxy", "caddyfile")
    for example, real in {"platform.example.test": f"localhost:{port}", "8000": str(apis[0]), "8001": str(apis[1])}.items():
        assert example in file
        file = file.replace(example, real)
    options = f"{{\n\tadmin off\n\tlocal_certs\n\tskip_install_trust\n\thttp_port {free_port()}\n\thttps_port {port}\n}}\n"
    (folder / "Caddyfile").write_text(options + file)
    root = folder / "caddy" / "pki" / "authorities" / "local" / "root.crt"
    with shell("exec caddy run", folder, {"XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}) as process:
        wait_for(root.exists, 60, "the proxy has made itself a certificate")
        trust = ssl.create_default_context(cafile=root)

        def there() -> bool:
            try:
                return process.poll() is not None or httpx.get(f"https://localhost:{port}/health", verify=trust, trust_env=False).is_success
            except httpx.HTTPError:
                return False

        wait_for(there, 60, "the proxy is there")
        yield f"localhost:{port}", trust


def healthy(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health", trust_env=False).json()["status"] == "healthy"
    except httpx.HTTPError:
        return False


@contextmanager
def use_through(address: str, trust: ssl.SSLContext, key: str) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {key}"}
    with httpx.Client(base_url=f"https://{address}/api/v1", headers=headers, verify=trust, timeout=60, trust_env=False) as http:
        yield http


def upload(http: httpx.Client, path: Path) -> str:
    with path.open("rb") as file:
        return http.post("/datasets/upload", files={"file": (path.name, file)}).raise_for_status().json()["dataset_id"]


def follow(http: httpx.Client, address: str, trust: ssl.SSLContext, key: str, job: dict[str, Any]) -> list[str]:
    """The job's log lines as they are streamed, until it ends; its WebSocket tells a line while it runs, too."""
    lines: list[str] = []
    told = f"wss://{address}/api/v1/ws/runs/{job['run_id']}"
    with (
        http.stream("GET", f"/logs/stream/{job['run_id']}", timeout=240) as stream,
        connect(told, ssl=trust, additional_headers={"Authorization": f"Bearer {key}"}, proxy=None) as channel,
    ):
        for text in stream.iter_lines():
            if text.startswith("data: ") and "message" in text:
                if not lines:
                    assert http.get(f"/jobs/{job['job_id']}").json()["status"] in ("pending", "running"), "nothing is held back"
                    while json.loads(channel.recv(timeout=120))["type"] != "log":
                        continue
                lines.append(json.loads(text.removeprefix("data: "))["message"])
    return lines


@contextmanager
def asking(http: httpx.Client) -> Iterator[list[int]]:
    """The statuses of the answers to one request after the other, while the block runs."""
    statuses: list[int] = []
    done = threading.Event()

    def ask() -> None:
        while not done.is_set():
            statuses.append(http.get("/jobs").status_code)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        wait_for(lambda: len(statuses) > 5, 30, "requests are answered")
        yield statuses
        more = len(statuses) + 5
        wait_for(lambda: len(statuses) > more, 30, "requests are answered")
    finally:
        done.set()
        thread.join()


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
        behind = {"LLM_PLATFORM_TRUSTED_PROXIES": '["127.0.0.1"]'}
        with shell(f"{load}exec {up}\n", tmp_path, behind) as platform:
            wait_for(lambda: platform.poll() is not None or healthy(first), 180, "the platform is healthy")
            with shell(f"{load}exec {further}", tmp_path, behind) as other:
                wait_for(lambda: other.poll() is not None or healthy(second), 60, "the further API process is healthy")
                with proxy(tmp_path, (first, second)) as (address, trust), use_through(address, trust, key) as http:
                    dataset = upload(http, write_csv(tmp_path / "rows.csv", question_rows(60)))
                    pipeline = up_to_training({"dataset_id": dataset})
                    pipeline["nodes"].append(node("export", "ExportAgent", formats=["adapter"]))
                    pipeline["edges"] += edges(("training", "export"))
                    job = http.post("/jobs", json={"pipeline_config": pipeline}).raise_for_status().json()
                    live = follow(http, address, trust, key, job)
                    done = http.get(f"/jobs/{job['job_id']}").json()
                    assert done["status"] == "completed" and done["model_id"], done
                    history = http.get(f"/logs/history/{job['run_id']}", params={"limit": 1000}).json()["logs"]
                    assert live == [line["message"] for line in history]
                    assert http.get(f"/models/{done['model_id']}/download", params={"format": "adapter"}).is_success
                    assert http.get("/jobs", headers={"Authorization": ""}).status_code == 401
                    with asking(http) as statuses:
                        os.killpg(other.pid, signal.SIGINT)
                        other.communicate(timeout=60)
                    assert len(statuses) > 10 and set(statuses) == {200}, "an API process that ends loses nobody's request"
            assert other.returncode == 0
            os.killpg(platform.pid, signal.SIGINT)
            said = platform.communicate(timeout=60)[0]
        assert platform.returncode == 0, said
