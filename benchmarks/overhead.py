"""What orchestration costs: a five-stage job over REST against the same library calls without it.

    python -m benchmarks.overhead [--repeats 3]

The job has a dataset, a validation, a preprocessing, a training (one step) and an evaluation node on 50 rows. The peers
call `llm_platform.agents.run_node` for the same nodes, against the same database, object store and MLflow server:

cold  as somebody without the platform would: the first three in one new Python process, training and evaluation in a
      new one each. `overhead_seconds` is the difference of the medians; below zero, the platform is faster than that,
      since its processes are forks of one that has everything imported.
warm  all in one process that has everything imported: the work alone. `overhead_against_warm_seconds` is the
      difference to that.

Acceptance (POST answered), launch (first line of the log) and stages (the rest) say where the job's time goes; heavy start is what
passes from the end of one node to the beginning of a heavy one behind it, a process of its own, Dagster's step between them included.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks.platform import Started, started_platform
from benchmarks.report import report

ROWS = 50


def pipeline(dataset_id: str, run_id: str, seed: int) -> dict[str, Any]:
    """Five nodes in a row; the seed keeps the preprocessing from being reused."""
    mapping = {"instruction": "question", "output": "answer"}
    nodes = [
        ("dataset", "DatasetAgent", {"dataset_id": dataset_id}),
        ("validation", "ValidationAgent", {}),
        ("preprocessing", "PreprocessingAgent", {"base_model": "llm-platform/tiny-llama", "template_mapping": mapping, "seed": seed}),
        ("training", "TrainingAgent", {"max_steps": 1, "batch_size": 4}),
        ("evaluation", "EvaluationAgent", {"max_samples": 2, "max_new_tokens": 4}),
    ]
    names = [name for name, _, _ in nodes]
    return {
        "run_id": run_id,
        "nodes": [{"agent_name": name, "agent_class": agent, "config": config} for name, agent, config in nodes],
        "edges": [{"from_agent": one, "to_agent": two} for one, two in itertools.pairwise(names)],
    }


def over_rest(platform: Started, config: dict[str, Any]) -> dict[str, float]:
    started = time.perf_counter()
    platform.http.post("/jobs", json={"pipeline_config": config}).raise_for_status()
    accepted = time.perf_counter()
    launched = None
    while True:
        if launched is None and platform.http.get(f"/logs/history/{config['run_id']}").json()["total"]:
            launched = time.perf_counter()
        job = platform.http.get(f"/jobs/job_{config['run_id']}").json()
        if job["status"] in ("completed", "failed", "cancelled"):
            break
        time.sleep(0.02)
    ended = time.perf_counter()
    if job["status"] != "completed" or launched is None:
        raise SystemExit(f"the job has {job['status']}: {job['result']}")
    heavy = statistics.fmean(
        (datetime.fromisoformat(after["started_at"]) - datetime.fromisoformat(before["ended_at"])).total_seconds()
        for before, after in itertools.pairwise(job["nodes"])
        if after["agent_name"] in ("training", "evaluation")
    )
    parts = {"acceptance": accepted - started, "launch": launched - accepted, "stages": ended - launched}
    return {"total": ended - started, **parts, "heavy_start": heavy}


def wait_until_warm(home: Path) -> None:
    """Until heavy nodes are forked; before that, some seconds after the start, each of them starts cold."""
    deadline = time.monotonic() + 120
    while not (home / "node-workers.sock").exists():
        if time.monotonic() > deadline:
            raise SystemExit("the zygote of heavy nodes has not started")
        time.sleep(0.1)


LIBRARY = """
import json, sys
from llm_platform.agents import Node, Platform, preload, run_node
from llm_platform.runlog import RunLogReporter
from llm_platform.settings import Settings
if sys.argv[1] == "warm":
    preload.everything()
platform = Platform.from_settings(Settings())
for line in sys.stdin:
    for data in json.loads(line):
        node = Node.from_dict(data)
        with RunLogReporter(platform.database, node.run_id, node.agent_class.value, node.agent_name) as reporter:
            run_node(platform, node, reporter)
    print("done", flush=True)
platform.close()
"""


def library_nodes(config: dict[str, Any]) -> list[dict[str, Any]]:
    inputs = {edge["to_agent"]: [edge["from_agent"]] for edge in config["edges"]}
    return [{**node, "run_id": config["run_id"], "inputs": inputs.get(node["agent_name"], []), "peers": 1} for node in config["nodes"]]


def by_cold_library(platform: Started, config: dict[str, Any]) -> float:
    nodes = library_nodes(config)
    command = [sys.executable, "-c", LIBRARY, "cold"]
    started = time.perf_counter()
    for part in (nodes[:3], nodes[3:4], nodes[4:]):
        line = json.dumps(part)
        subprocess.run(command, env=os.environ | platform.environment, input=line, text=True, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - started


class WarmLibrary:
    """One process for all repetitions."""

    def __init__(self, platform: Started) -> None:
        command = [sys.executable, "-c", LIBRARY, "warm"]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, env=os.environ | platform.environment, stdin=pipe, stdout=pipe, text=True)

    def seconds(self, config: dict[str, Any]) -> float:
        assert self._process.stdin is not None and self._process.stdout is not None
        started = time.perf_counter()
        self._process.stdin.write(json.dumps(library_nodes(config)) + "\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            if line == "done\n":
                return time.perf_counter() - started
        raise SystemExit("the library's process has ended")

    def close(self) -> None:
        self._process.communicate()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="pairs of runs, after one that is not counted")
    repeats = parser.parse_args().repeats
    from llm_platform.settings import Settings
    from llm_platform.training.tiny_llama import demo_rows, ensure

    ensure(Settings().cache)
    rest: list[dict[str, float]] = []
    cold: list[float] = []
    warm: list[float] = []
    posts: list[float] = []
    with tempfile.TemporaryDirectory() as folder, started_platform(Path(folder) / "home") as platform:
        rows = "\n".join(json.dumps(row) for row in demo_rows(ROWS, seed=5))
        uploaded = platform.http.post("/datasets/upload", files={"file": ("rows.jsonl", rows)}).raise_for_status().json()
        wait_until_warm(Path(folder) / "home")
        library = WarmLibrary(platform)
        for i in range(repeats + 1):
            rest.append(over_rest(platform, pipeline(uploaded["dataset_id"], f"rest-{i}", seed=3 * i)))
            cold.append(by_cold_library(platform, pipeline(uploaded["dataset_id"], f"cold-{i}", seed=3 * i + 1)))
            warm.append(library.seconds(pipeline(uploaded["dataset_id"], f"warm-{i}", seed=3 * i + 2)))
        library.close()
        for i in range(50):
            config = pipeline(uploaded["dataset_id"], f"post-{i}", seed=0)
            begun = time.perf_counter()
            platform.http.post("/jobs", json={"pipeline_config": config}).raise_for_status()
            posts.append(time.perf_counter() - begun)
            platform.http.delete(f"/jobs/job_post-{i}").raise_for_status()
    rest, cold, warm = rest[1:], cold[1:], warm[1:]
    median = {name: statistics.median(run[name] for run in rest) for name in rest[0]}
    figures = {
        "overhead_seconds": median["total"] - statistics.median(cold),
        "overhead_against_warm_seconds": median["total"] - statistics.median(warm),
        "rest_seconds": median["total"],
        "cold_library_seconds": statistics.median(cold),
        "warm_library_seconds": statistics.median(warm),
        "acceptance_seconds": median["acceptance"],
        "launch_seconds": median["launch"],
        "stages_seconds": median["stages"],
        "heavy_start_seconds": median["heavy_start"],
        "post_jobs_p50_ms": 1000 * statistics.median(posts),
    }
    told = [(name.replace("_", " "), value) for name, value in figures.items()]
    report(
        f"Five stages, {ROWS} rows, one step; median of {repeats}",
        ["figure", "value"],
        told,
        figures | {"repeats": repeats},
        ["dagster", "torch"],
    )


if __name__ == "__main__":
    main()
