"""How soon a dead run worker is noticed, and its place in the queue is free: `python -m benchmarks.faults`.

Run workers are killed while their jobs train, a second job waiting behind each: noticed is when the API says that the job has failed,
free is when the run behind it starts. The targets are 15 s and 20 s, for 99 of 100.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import psutil

from benchmarks.platform import Started, started_platform
from benchmarks.report import report
from llm_platform.jobs import dagster_run_id
from llm_platform.settings import Settings
from llm_platform.training.tiny_llama import demo_rows, ensure

PATIENCE_SECONDS = 300.0
PLACES = 2
"""Runs at a time, as `dagster.yaml` has it."""
MAPPING = {"instruction": "question", "output": "answer"}
T = TypeVar("T")


def pipeline(dataset_id: str, run_id: str) -> dict[str, Any]:
    """A training that does not end by itself."""
    preprocessing = {"base_model": "llm-platform/tiny-llama", "template": "alpaca", "template_mapping": MAPPING}
    nodes = [
        {"agent_name": "dataset", "agent_class": "DatasetAgent", "config": {"dataset_id": dataset_id}},
        {"agent_name": "preprocessing", "agent_class": "PreprocessingAgent", "config": preprocessing},
        {"agent_name": "training", "agent_class": "TrainingAgent", "config": {"max_steps": 1_000_000, "batch_size": 4}},
    ]
    edges = [{"from_agent": "dataset", "to_agent": "preprocessing"}, {"from_agent": "preprocessing", "to_agent": "training"}]
    return {"run_id": run_id, "nodes": nodes, "edges": edges}


def until(condition: Callable[[], T], what: str) -> T:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise SystemExit(f"not within {PATIENCE_SECONDS:g} s: {what}")
        time.sleep(0.02)
    return value


class Jobs:
    """Trainings without end on one platform: as many as there are places, and one that waits."""

    def __init__(self, platform: Started, home: Path) -> None:
        self._platform = platform
        self._home = home
        rows = "\n".join(json.dumps(row) for row in demo_rows(60, seed=7))
        uploaded = platform.http.post("/datasets/upload", files={"file": ("rows.jsonl", rows)}).raise_for_status().json()
        self._dataset_id: str = uploaded["dataset_id"]
        self._count = 0
        self._running = [self._post() for _ in range(PLACES)]

    def kill_one(self) -> tuple[float, float]:
        """(seconds until it was noticed, until its place was free)."""
        for run_id in self._running:
            until(lambda run_id=run_id: self._trains(run_id), f"{run_id} trains")
        waiting = self._post()
        victim = self._running.pop(0)
        os.kill(until(lambda: self._worker(victim), "the run worker is known"), signal.SIGKILL)
        killed = time.monotonic()
        until(lambda: self._job(victim)["status"] == "failed", f"{victim} has failed")
        noticed = time.monotonic() - killed
        until(lambda: self._job(waiting)["started_at"], f"{waiting} has started")
        free = time.monotonic() - killed
        self._running.append(waiting)
        return noticed, free

    def stop(self) -> None:
        for run_id in self._running:
            self._platform.http.delete(f"/jobs/job_{run_id}").raise_for_status()

    def _post(self) -> str:
        self._count += 1
        run_id = f"kill-{self._count}"
        config = {"pipeline_config": pipeline(self._dataset_id, run_id)}
        self._platform.http.post("/jobs", json=config).raise_for_status()
        return run_id

    def _job(self, run_id: str) -> dict[str, Any]:
        return self._platform.http.get(f"/jobs/job_{run_id}").raise_for_status().json()

    def _trains(self, run_id: str) -> bool:
        lines = self._platform.http.get(f"/logs/history/{run_id}", params={"limit": 1000}).raise_for_status().json()["logs"]
        return any(line["level"] == "METRIC" for line in lines)

    def _worker(self, run_id: str) -> int:
        """The pid of a run's worker; 0 if there is none yet."""
        with suppress(OSError, ValueError):
            pid = int((self._home / "run-workers" / f"{dagster_run_id(run_id)}.pid").read_text())
            return pid if psutil.pid_exists(pid) else 0
        return 0


def percentile(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    kills = parser.parse_args().kills
    ensure(Settings().cache)
    with tempfile.TemporaryDirectory() as folder, started_platform(Path(folder) / "home") as platform:
        jobs = Jobs(platform, Path(folder) / "home")
        seen = [jobs.kill_one() for _ in range(kills)]
        jobs.stop()
    rows: list[tuple[object, ...]] = []
    figures: dict[str, object] = {"kills": kills}
    for name, values in zip(("noticed_seconds", "slot_free_seconds"), zip(*seen, strict=True), strict=True):
        told = {"p50": statistics.median(values), "p99": percentile(values, 0.99), "max": max(values)}
        rows.append((name.replace("_", " "), *told.values()))
        figures |= {f"{name}_{which}": round(value, 3) for which, value in told.items()}
    report(f"Run workers killed while they trained: {kills}", ["figure", "p50", "p99", "max"], rows, figures, ["llm-platform", "dagster"])


if __name__ == "__main__":
    main()
