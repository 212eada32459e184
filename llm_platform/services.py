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
        state = json.loads(settings.services_file.read_text())
        item = state["services"][name]
        pid, started_at, url = int(item["pid"]), float(item["started_at"]), item["url"]
        boot_time = float(state["supervisor"]["boot_time"])
    except (OSError, KeyError, TypeError, ValueError):
        return None
    return ServiceProcess(pid, started_at, url, is_alive(pid, started_at, boot_time))


def is_alive(pid: int, started_at: float, boot_time: float) -> bool:
    """Whether that very process lives; a pid that was given to another process does not count. See `start_time`."""
    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and start_time(process, boot_time) <= started_at + CLOCK_SLACK_SECONDS
    except psutil.NoSuchProcess:
        return False


def start_time(process: psutil.Process, boot_time: float) -> float:
    """When a process started, in seconds since the epoch, as if the clock had never been set since it showed `boot_time` for the boot.

    The system counts from the boot, and psutil adds the boot's time of now: a clock that is set moves the start of every process.
    """
    return process.create_time() - psutil.boot_time() + boot_time
