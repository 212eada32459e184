"""What a notebook costs as a node of a pipeline, over the time of its cells, and how long each of the project's notebooks takes.

    python -m benchmarks.notebook [--repeats 3]

Each runs with its defaults, so on the demo model: by papermill alone (`python -m papermill`, a process of its own with a kernel of its
own), and on a platform, all of them as nodes of one job, which run one after the other. A node's time is from the end of the node before
it, or of the first one from the start of the job's run, to its own end: with the step in Dagster, the process, the kernel, the page that
is made of it, and storing both. The time of the cells is what papermill notes in the executed notebook.

`node_overhead_seconds` is the largest difference of a node's time and that of its cells, among the medians of the notebooks;
`slowest_node_seconds` and `slowest_papermill_seconds` are those of the slowest notebook.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from datetime import datetime
from pathlib import Path

from benchmarks.overhead import wait_until_warm
from benchmarks.platform import Started, started_platform
from benchmarks.report import report

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
WAIT_SECONDS = 1800


def by_papermill(path: Path) -> float:
    """Seconds, as a person waits who runs it by hand."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "papermill", str(path), f"{folder}/out.ipynb", "--cwd", folder, "--no-progress-bar"]
        started = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"LLM_PLATFORM_HOME": f"{folder}/home"})
        if done.returncode:
            raise SystemExit(f"{path.name} failed by papermill:\n{done.stderr[-2000:]}")
        return time.perf_counter() - started


def as_nodes(platform: Started, names: list[str], run_id: str) -> dict[str, tuple[float, float]]:
    """By notebook: seconds of the node, and of its cells."""
    nodes = [{"agent_name": name, "agent_class": "NotebookAgent", "config": {"notebook": name}} for name in names]
    body = {"pipeline_config": {"run_id": run_id, "nodes": nodes, "edges": []}}
    platform.http.post("/jobs", json=body).raise_for_status()
    deadline = time.monotonic() + WAIT_SECONDS
    while (job := platform.http.get(f"/jobs/job_{run_id}").raise_for_status().json())["status"] in ("pending", "running"):
        if time.monotonic() > deadline:
            raise SystemExit(f"the notebooks did not end within {WAIT_SECONDS} s")
        time.sleep(0.2)
    if job["status"] != "completed":
        raise SystemExit(f"the job has {job['status']}: {job['result']}")
    ran = platform.http.get(f"/jobs/job_{run_id}/notebooks", params={"limit": 100}).raise_for_status().json()["items"]
    found: dict[str, tuple[float, float]] = {}
    before = datetime.fromisoformat(job["started_at"])
    for item in sorted(ran, key=lambda item: item["ended_at"]):
        ended = datetime.fromisoformat(item["ended_at"])
        executed = platform.http.get(f"/jobs/job_{run_id}/notebooks/{item['agent_name']}").raise_for_status()
        cells = sum(cell["metadata"].get("papermill", {}).get("duration") or 0.0 for cell in json.loads(executed.content)["cells"])
        found[item["notebook"]] = ((ended - before).total_seconds(), cells)
        before = ended
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    from llm_platform.settings import Settings
    from llm_platform.training.tiny_llama import ensure

    ensure(Settings().cache)
    paths = {path.stem: path for path in sorted(NOTEBOOKS.glob("*.ipynb"))}
    alone: dict[str, list[float]] = defaultdict(list)
    nodes: dict[str, list[tuple[float, float]]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder, started_platform(Path(folder) / "home") as platform:
        wait_until_warm(Path(folder) / "home")
        for number in range(repeats):
            for name, seconds in as_nodes(platform, list(paths), f"notebooks-{number}").items():
                nodes[name].append(seconds)
    for _ in range(repeats):
        for name, path in paths.items():
            alone[name].append(by_papermill(path))
    rows = [
        (
            name,
            statistics.median(alone[name]),
            statistics.median(node for node, _ in nodes[name]),
            statistics.median(cells for _, cells in nodes[name]),
            statistics.median(node - cells for node, cells in nodes[name]),
        )
        for name in paths
    ]
    figures = {
        "node_overhead_seconds": round(max(row[4] for row in rows), 2),
        "slowest_node_seconds": round(max(row[2] for row in rows), 2),
        "slowest_papermill_seconds": round(max(row[1] for row in rows), 2),
        "repeats": repeats,
    }
    columns = ["notebook", "by papermill, s", "as a node, s", "its cells, s", "node over cells, s"]
    report(f"The project's notebooks with their defaults; median of {repeats}", columns, rows, figures, ["papermill", "dagster"])


if __name__ == "__main__":
    main()
