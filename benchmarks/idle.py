"""What the platform costs when nobody uses it: `python -m benchmarks.idle`.

Starts it on an empty home folder, waits until /health says healthy, and from 60 s after the start samples the processor time of all of
its processes over 30 s and adds up their proportional set sizes (memory that several share counts once). The targets are 5% of one core
and 1,536 MiB.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

import psutil

from benchmarks.platform import RAISED
from benchmarks.report import report
from llm_platform.supervisor.sweep import marked

SETTLED_AFTER = 60.0
WINDOW = 30.0
START_LIMIT = 120.0


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="llm-platform-idle-") as folder:
        home = Path(folder)
        began = time.monotonic()
        command = [sys.executable, "-m", "llm_platform", "up", "--home", folder, "--port", "0"]
        supervisor = subprocess.Popen(command, env=os.environ | RAISED, stdout=subprocess.DEVNULL)
        try:
            answered, healthy = wait_until_healthy(home, supervisor, began)
            time.sleep(max(0.0, began + SETTLED_AFTER - time.monotonic()))
            processes = processes_of(home, supervisor.pid)
            before = {process: cpu_seconds(process) for process in processes}
            time.sleep(WINDOW)
            cpu = {process: (cpu_seconds(process) - before[process]) / WINDOW * 100 for process in processes}
            pss = {process: process.memory_full_info().pss / 2**20 for process in processes}
        finally:
            supervisor.send_signal(signal.SIGINT)
            stopping = time.monotonic()
            supervisor.wait(30)
            stopped = time.monotonic() - stopping
    rows: list[tuple[object, ...]] = [(processes[process], cpu[process], pss[process]) for process in processes]
    rows.append(("all", sum(cpu.values()), sum(pss.values())))
    figures = {
        "idle_cpu_percent": round(sum(cpu.values()), 2),
        "idle_pss_mib": round(sum(pss.values())),
        "first_health_answer_seconds": round(answered, 2),
        "healthy_seconds": round(healthy, 2),
        "stop_seconds": round(stopped, 2),
        "processes": {name: {"cpu_percent": round(cpu[p], 2), "pss_mib": round(pss[p])} for p, name in processes.items()},
    }
    report("Idle platform", ["process", "% of one core", "PSS (MiB)"], rows, figures, ["llm-platform", "dagster", "mlflow"])


def wait_until_healthy(home: Path, supervisor: subprocess.Popen[bytes], began: float) -> tuple[float, float]:
    """Seconds from the start to the first answer of /health, and to its first 'healthy'."""
    answered: float | None = None
    while time.monotonic() - began < START_LIMIT and supervisor.poll() is None:
        if status := health(home):
            answered = answered or time.monotonic() - began
            if status == "healthy":
                return answered, time.monotonic() - began
        time.sleep(0.1)
    raise SystemExit(f"The platform was not healthy after {START_LIMIT:.0f} s; see the logs in {home / 'logs'}")


def health(home: Path) -> str | None:
    try:
        url = json.loads((home / "services.json").read_text())["services"]["api"]["url"]
        with urllib.request.urlopen(f"{url}/health", timeout=30) as response:
            return json.load(response)["status"]
    except urllib.error.HTTPError as error:
        with error:
            return json.load(error).get("status", "unhealthy")
    except (OSError, ValueError, KeyError):
        return None


def processes_of(home: Path, supervisor: int) -> Mapping[psutil.Process, str]:
    """Every process of the platform, by its service; also the supervisor and its guardian, which carry no marker."""
    instance = json.loads((home / "supervisor.lock").read_text())["instance"]
    services = {item["pid"]: name for name, item in json.loads((home / "services.json").read_text())["services"].items()}
    parent = psutil.Process(supervisor)
    found = {parent: "supervisor"}
    for process in [*parent.children(recursive=True), *marked(instance)]:
        found[process] = services.get(process.pid) or ("guardian" if process.ppid() == supervisor else process.name())
    return found


def cpu_seconds(process: psutil.Process) -> float:
    """Its own time and that of its children that have ended."""
    times = process.cpu_times()
    return times.user + times.system + times.children_user + times.children_system


if __name__ == "__main__":
    main()
