"""Runs a supervisor over stand-in services as a program of its own, and tells what it says and which processes it has."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import psutil

from llm_platform.supervisor.sweep import marked

T = TypeVar("T")
HOST = Path(__file__).with_name("supervisor_host.py")
PATIENCE = 15.0

SLEEPER = "import time; time.sleep(1000)"
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(1000)"
"""Ignores SIGTERM; says so in its log when it does."""

WITH_GRANDCHILD = f"""
import subprocess, sys, time
subprocess.Popen([sys.executable, "-S", "-c", {STUBBORN!r}], start_new_session=True)
time.sleep(1000)
"""
"""Starts a stubborn process in a session of its own, as a trainer is."""


def python(source: str, *arguments: str) -> list[str]:
    return [sys.executable, "-S", "-c", source, *arguments]


def wait_until(condition: Callable[[], T], what: str, seconds: float = PATIENCE) -> T:
    """The first true value of the condition."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.02)
    return value


class Platform:
    """A supervisor at work in `home`; `instance` marks its processes."""

    def __init__(self, home: Path, services: Sequence[dict[str, Any]], *, pass_fds: Sequence[int] = ()) -> None:
        self.home = home
        self.supervisor = subprocess.Popen(
            [sys.executable, str(HOST), str(home), json.dumps(services)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            pass_fds=pass_fds,
        )
        self._events: queue.Queue[dict[str, Any]] = queue.Queue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        self.instance = ""

    def next(self, event: str, name: str | None = None) -> dict[str, Any]:
        """The next event of this kind; others before it are dropped."""
        while True:
            seen = self._events.get(timeout=PATIENCE)
            if seen["event"] == event and name in (None, seen.get("name")):
                self.instance = self.instance or json.loads((self.home / "supervisor.lock").read_text())["instance"]
                return seen

    def services(self) -> dict[str, Any]:
        return json.loads((self.home / "services.json").read_text())["services"]

    def processes(self) -> list[psutil.Process]:
        """Those of the services and all their descendants, wherever they went."""
        return marked(self.instance)

    def stop(self, number: int) -> int:
        self.supervisor.send_signal(number)
        return self.supervisor.wait(PATIENCE)

    def log(self, name: str) -> str:
        path = self.home / "logs" / f"{name}.log"
        return path.read_text() if path.exists() else ""

    def close(self) -> None:
        if self.supervisor.poll() is None:
            self.supervisor.kill()
            self.supervisor.wait()
        for process in self.processes() if self.instance else []:
            os.kill(process.pid, 9)
        self._reader.join()
        for stream in (self.supervisor.stdout, self.supervisor.stderr):
            if stream:
                stream.close()

    def _read(self) -> None:
        assert self.supervisor.stdout is not None
        for line in self.supervisor.stdout:
            self._events.put(json.loads(line))
