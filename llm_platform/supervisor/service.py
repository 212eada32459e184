"""One service: how it is described, and the child process that runs it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import ProxyHandler, build_opener

import psutil

from llm_platform.services import start_time
from llm_platform.supervisor import leash

BOOT_TIME = psutil.boot_time()
"""As the clock was when the supervisor started: what all times of processes in the services file go by."""
LOG_LIMIT = 10 * 2**20
_BACKOFF_LIMIT = 30.0
_STEADY_AFTER = 60.0


@dataclass(frozen=True)
class Service:
    """What to run, and when it counts as ready."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    url: str | None = None
    """Where a person or another service reaches it."""
    probe: str | None = None
    """An `http:` address that answers (whatever), or a `tcp:` one that accepts; without one the service is ready once it runs."""
    after: Sequence[str] = ()
    """Services that must be ready before this one is first started."""
    stop_rank: int = 0
    """Services of a lower rank are stopped first, those of one rank together."""
    grace: float = 3.0
    """Seconds between SIGTERM and SIGKILL."""
    pass_fds: Sequence[int] = ()
    hands_over: bool = False
    """Whether a second process may run while the first one still works. It is given the number of a pipe as its last argument, and
    writes to it when it can take over."""


class Child:
    """The process of one service, over all its restarts. While it is replaced it has a successor, and then a predecessor that ends."""

    def __init__(self, service: Service, log: Path) -> None:
        self.service = service
        self.log = log
        self.process: subprocess.Popen[bytes] | None = None
        self.started_at: float | None = None
        self.restarts = -1
        self.ready = False
        self.due: float | None = None
        """When to start it (again), in monotonic time; None while it runs or waits for another service."""
        self.successor: subprocess.Popen[bytes] | None = None
        self.predecessor: subprocess.Popen[bytes] | None = None
        self.kill_at: float | None = None
        """When the predecessor has had its time, in monotonic time."""
        self.failed_successors = 0
        self._failures = 0
        self._since = 0.0

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def start(self, environment: Mapping[str, str]) -> None:
        """Must be called from the main thread: the kernel's death signal follows the thread that forked."""
        self.due = None
        self.restarts += 1
        self._rotate_log()
        self._run(self._spawn(environment))

    def start_successor(self, environment: Mapping[str, str]) -> int:
        """As `start`, beside the process that runs. The pipe from which a byte comes when it can take over, or the end when it failed."""
        reader, writer = os.pipe()
        try:
            self.successor = self._spawn(environment, writer)
        finally:
            os.close(writer)
        return reader

    def take_over(self) -> None:
        """The successor becomes the service's process, and the one before is asked to end."""
        assert self.successor is not None
        self.predecessor, self.successor, successor = self.process, None, self.successor
        self._run(successor)
        self.kill_at = time.monotonic() + self.service.grace
        self.due = None
        if self.predecessor is not None:
            _signal(self.predecessor, signal.SIGTERM)

    def give_up_successor(self) -> None:
        if self.successor is not None:
            _signal(self.successor, signal.SIGKILL)
            self.successor.wait()
            self.successor = None
            self.failed_successors += 1

    def end_predecessor(self) -> None:
        """Takes note of its end, which is hurried when its time is over."""
        if self.predecessor is None or self.kill_at is None:
            return
        if self.predecessor.poll() is not None:
            self.predecessor = self.kill_at = None
        elif time.monotonic() >= self.kill_at:
            _signal(self.predecessor, signal.SIGKILL)
            self.kill_at = time.monotonic() + 1.0

    def _run(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self._since = time.monotonic()
        self.started_at = start_time(psutil.Process(process.pid), BOOT_TIME)

    def _spawn(self, environment: Mapping[str, str], ready: int | None = None) -> subprocess.Popen[bytes]:
        launcher = (sys.executable, "-I", "-S", str(leash.__file__), str(os.getpid()))
        more = [] if ready is None else [ready]
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [*launcher, *self.service.command, *map(str, more)],
                env={**environment, **self.service.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=[*self.service.pass_fds, *more],
            )

    def plan_restart(self) -> float:
        """After the process ended: sets `due`, and returns the seconds until then."""
        now = time.monotonic()
        if now - self._since >= _STEADY_AFTER:
            self._failures = 0
        delay = 0.0 if self._failures == 0 else min(2.0 ** (self._failures - 1), _BACKOFF_LIMIT)
        self._failures += 1
        self.ready = False
        self.due = now + delay
        return delay

    def group(self) -> list[psutil.Process]:
        """The living processes of its process group, run workers of a code server for example."""
        groups = self.pids()
        return [process for process in psutil.process_iter() if _is_member(process, groups)] if groups else []

    def pids(self) -> set[int]:
        return {process.pid for process in (self.process, self.successor, self.predecessor) if process is not None}

    def signal_group(self, number: signal.Signals) -> None:
        for process in (self.process, self.successor, self.predecessor):
            if process is not None:
                _signal(process, number)

    def state(self) -> dict[str, Any]:
        """Its entry in the services file."""
        pid = self.process.pid if self.process is not None else None
        found = {"pid": pid, "started_at": self.started_at, "url": self.service.url, "restarts": max(self.restarts, 0)}
        if self.service.hands_over:
            found["failed_successors"] = self.failed_successors
        return found

    def _rotate_log(self) -> None:
        if self.log.exists() and self.log.stat().st_size > LOG_LIMIT:
            self.log.replace(self.log.with_suffix(".log.1"))


def answers(probe: str, timeout: float) -> bool:
    """Whether the address of a probe answers within `timeout` seconds."""
    parts = urlsplit(probe)
    try:
        if parts.scheme == "tcp":
            with socket.create_connection((parts.hostname or "", parts.port or 0), timeout=timeout):
                return True
        with build_opener(ProxyHandler({})).open(probe, timeout=timeout) as response:
            return response.status > 0
    except HTTPError as error:
        error.close()
        return True
    except (OSError, HTTPException):
        return False


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """To its whole process group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _is_member(process: psutil.Process, groups: set[int]) -> bool:
    try:
        return os.getpgid(process.pid) in groups and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.Error, ProcessLookupError):
        return False
