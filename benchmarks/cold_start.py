"""How long `llm-platform up` takes until /health says healthy, with many jobs stored: `python -m benchmarks.cold_start`.

The home folder gets 10,000 jobs that have ended, with their nodes and the rows of their Dagster runs, before it is started; an empty one
is started for comparison. The target is 15 s.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import httpx
import sqlalchemy as sa
from dagster import DagsterInstance, DagsterRun, DagsterRunStatus

from benchmarks.idle import wait_until_healthy
from benchmarks.platform import RAISED
from benchmarks.report import report
from llm_platform.database import Database, now
from llm_platform.jobs import dagster_run_id
from llm_platform.settings import Settings
from llm_platform.supervisor.dagster_files import write_dagster_files
from llm_platform.tables import nodes, submissions

AGENTS = {"dataset": "DatasetAgent", "preprocessing": "PreprocessingAgent", "training": "TrainingAgent"}


@dataclass(frozen=True)
class Start:
    """Seconds from the start of the process."""

    first_answer: float
    healthy: float
    listed: float
    """To the first page of GET /jobs, asked for when all was healthy."""


def fill(home: Path, jobs: int) -> None:
    """Writes jobs that have completed, as they are in the platform's tables and in Dagster's."""
    settings = Settings(home=home)
    write_dagster_files(settings, 1)
    database, began = Database.from_settings(settings), now() - timedelta(days=30)
    pipeline = {"nodes": [{"agent_name": name, "agent_class": kind, "config": {}} for name, kind in AGENTS.items()], "edges": []}
    made = [(f"stored-{number:05}", began + timedelta(minutes=number)) for number in range(jobs)]
    row = {"source": "api", "digest": uuid.uuid4().hex * 2, "pipeline": pipeline, "status": "completed", "submitted": True, "attempts": 1}
    jobs_rows = [
        row
        | {"run_id": run_id, "dagster_run_id": dagster_run_id(run_id), "cancel_requested": False, "created_at": at}
        | {"started_at": at, "ended_at": at + timedelta(seconds=50)}
        for run_id, at in made
    ]
    nodes_rows = [
        {"run_id": run_id, "agent_name": name, "agent_class": kind, "digest": row["digest"], "status": "completed", "attempts": 1}
        | {"started_at": at, "ended_at": at + timedelta(seconds=10), "result": {"artifacts": {}, "datasets": [], "metrics": {}}}
        for run_id, at in made
        for name, kind in AGENTS.items()
    ]
    with database.write() as connection:
        if jobs:
            connection.execute(sa.insert(submissions), jobs_rows)
            connection.execute(sa.insert(nodes), nodes_rows)
    database.close()
    with DagsterInstance.from_config(str(settings.dagster_home)) as instance:
        for run_id, _ in made:
            tags = {"llm_platform/run_id": run_id, "dagster/partition": run_id}
            instance.run_storage.add_run(DagsterRun("pipeline", dagster_run_id(run_id), status=DagsterRunStatus.SUCCESS, tags=tags))


def start(home: Path, jobs: int) -> Start:
    """Starts a platform on the home, looks at its jobs, and stops it."""
    began = time.monotonic()
    command = [sys.executable, "-m", "llm_platform", "up", "--home", str(home), "--port", "0"]
    supervisor = subprocess.Popen(command, env=os.environ | RAISED, stdout=subprocess.DEVNULL)
    try:
        answered, healthy = wait_until_healthy(home, supervisor, began)
        url = json.loads((home / "services.json").read_text())["services"]["api"]["url"]
        page = httpx.get(f"{url}/api/v1/jobs", params={"limit": 100}, timeout=60).raise_for_status().json()
        listed = time.monotonic() - began
        assert page["total"] == jobs, page["total"]
    finally:
        supervisor.send_signal(signal.SIGINT)
        supervisor.wait(60)
    return Start(answered, healthy, listed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=10_000)
    jobs = parser.parse_args().jobs
    with tempfile.TemporaryDirectory(prefix="llm-platform-cold-") as folder:
        seen: dict[int, Start] = {}
        for count in (0, jobs):
            home = Path(folder) / f"home-{count}"
            fill(home, count)
            seen[count] = start(home, count)
    rows = [(f"{count:,} jobs", one.first_answer, one.healthy, one.listed) for count, one in seen.items()]
    figures = {
        "jobs": jobs,
        "healthy_seconds": round(seen[jobs].healthy, 2),
        "first_health_answer_seconds": round(seen[jobs].first_answer, 2),
        "listed_seconds": round(seen[jobs].listed, 2),
        "empty_healthy_seconds": round(seen[0].healthy, 2),
    }
    columns = ["home folder with", "first answer (s)", "healthy (s)", "jobs listed (s)"]
    report("Cold start", columns, rows, figures, ["llm-platform", "dagster", "mlflow"])


if __name__ == "__main__":
    main()
