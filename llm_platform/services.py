"""Which process runs which service of this home, as the supervisor wrote it down."""

from __future__ import annotations

import json
from dataclasses import dataclass

import psutil

from llm_platform.settings import Settings

CLOCK_SLACK_SECONDS = 2.0


@dataclass(frozen=True)
class ServiceProcess:
    """A service's process; `started_at` in seconds since the epoch."""

    pid: int
    started_at: float
    url: str | None
    alive: bool


def running_service(settings: Settings, name: str) -> ServiceProcess | None:
    """The process of a service; None where no supervisor runs it."""
    try:
        item = json.loads(settings.services_file.read_text())["services"][name]
        pid, started_at, url = int(item["pid"]), float(item["started_at"]), item["url"]
    except (OSError, KeyError, TypeError, ValueError):
        return None
    return ServiceProcess(pid, started_at, url, _alive(pid, started_at))


def _alive(pid: int, started_at: float) -> bool:
    """Whether that very process lives; a pid that was given to another process does not count."""
    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and process.create_time() <= started_at + CLOCK_SLACK_SECONDS
    except psutil.NoSuchProcess:
        return False
