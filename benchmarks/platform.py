"""A platform of its own for a benchmark."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

START_SECONDS = 120.0
RAISED = {"LLM_PLATFORM_RATE_LIMIT_DEFAULT": "1000000", "LLM_PLATFORM_RATE_LIMIT_AUTHENTICATED": "1000000"}


@dataclass(frozen=True)
class Started:
    """`environment` makes the library work on this platform's home and MLflow."""

    http: httpx.Client
    environment: dict[str, str]


@contextmanager
def started_platform(home: Path) -> Iterator[Started]:
    """`llm-platform up` on a free port, healthy, with a rate limit out of the way; stopped at the end."""
    log = (home.parent / "platform.log").open("wb")
    command = [sys.executable, "-m", "llm_platform", "up", "--home", str(home), "--port", "0"]
    with log, subprocess.Popen(command, env=os.environ | RAISED, stdout=log, stderr=log) as up:
        try:
            services = _services_when_healthy(home)
            environment = {"LLM_PLATFORM_HOME": str(home), "LLM_PLATFORM_MLFLOW_URL": services["mlflow"]["url"]}
            with httpx.Client(base_url=services["api"]["url"] + "/api/v1", timeout=60) as http:
                yield Started(http, environment)
        finally:
            up.send_signal(signal.SIGTERM)
            up.wait(60)


def _services_when_healthy(home: Path) -> dict[str, dict[str, str]]:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        try:
            services = json.loads((home / "services.json").read_text())["services"]
            if httpx.get(services["api"]["url"] + "/health").status_code == 200:
                return services
        except (OSError, KeyError, ValueError, httpx.HTTPError):
            pass
        time.sleep(0.1)
    raise SystemExit(f"the platform was not healthy within {START_SECONDS:g} s")
