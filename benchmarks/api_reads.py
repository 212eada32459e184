"""How many reads the API answers, and how soon.

    python -m benchmarks.api_reads [--seconds 20] [--connections 8]

A platform as `llm-platform up` starts it, with 1,000 jobs of three nodes, 100 datasets and 20 registered models. This process
asks over kept connections, as fast as it gets answers: the list of jobs, a job, the list of models, the list of datasets and
the health, one after the other, each connection at another place of the round. Answers that are not 200 end the benchmark.

`requests_per_second`, `p50_ms` and `p99_ms` are of all of them together, while nothing else happens: then the API answers from
memory what was asked before. `writing_requests_per_second` and `writing_p99_ms` are the same while this process writes a log line
20 times a second, after each of which everything is read anew. `jobs_10000_over_empty` compares the median time of `GET /jobs` (20
of them are answered) on one connection with 10,000 jobs and with none; `written_10000_ms` is that time with a line written before
each look.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import sqlalchemy as sa

from benchmarks.platform import Started, started_platform
from benchmarks.report import report
from llm_platform import tables
from llm_platform.database import Database, now
from llm_platform.jobs import dagster_run_id
from llm_platform.registry import Registry
from llm_platform.runlog import append, line
from llm_platform.settings import Settings

JOBS = 1_000
MANY_JOBS = 10_000
DATASETS = 100
MODELS = 20
LOOKS = 300
"""Times that the list of jobs is asked for, before and after it is long."""
MINUTE = timedelta(minutes=1)


class Connection:
    """One kept connection, with just as much of HTTP as the API's answers need."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, base: str) -> None:
        self._reader, self._writer, self._base = reader, writer, base

    @classmethod
    async def to(cls, url: str) -> Connection:
        parts = urlsplit(url)
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        return cls(reader, writer, parts.path.rstrip("/"))

    async def seconds(self, path: str) -> float:
        """How long the answer to a GET took, to its last byte."""
        begun = time.perf_counter()
        self._writer.write(f"GET {self._base}{path} HTTP/1.1\r\nHost: platform\r\nAccept-Encoding: gzip\r\n\r\n".encode())
        status, *headers = (await self._reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
        lengths = [int(header.partition(b":")[2]) for header in headers if header.startswith(b"content-length:")]
        body = await self._reader.readexactly(lengths[0])
        taken = time.perf_counter() - begun
        if b" 200 " not in status:
            raise SystemExit(f"{path} was answered with {status.decode()}: {body.decode(errors='replace')}")
        return taken

    def close(self) -> None:
        self._writer.close()


async def answered(url: str, paths: Sequence[str], connections: int, seconds: float) -> list[float]:
    """How long each answer took, in seconds."""
    found: list[float] = []
    end = time.perf_counter() + seconds

    async def ask(start: int) -> None:
        connection = await Connection.to(url)
        for at in itertools.count(start):
            if time.perf_counter() >= end:
                connection.close()
                return
            found.append(await connection.seconds(paths[at % len(paths)]))

    await asyncio.gather(*(ask(number * len(paths) // connections) for number in range(connections)))
    return found


async def looks(url: str, before: Callable[[], None] = lambda: None) -> float:
    """The median time of the list of jobs, in seconds; `before` happens before each look."""
    connection = await Connection.to(url)
    found: list[float] = []
    for _ in range(LOOKS + LOOKS // 10):
        before()
        found.append(await connection.seconds("/jobs"))
    connection.close()
    return statistics.median(found[LOOKS // 10 :])


@contextmanager
def writing(database: Database) -> Iterator[None]:
    """Meanwhile a log line is written every 50 ms."""
    end = threading.Event()

    def write() -> None:
        while not end.wait(0.05):
            write_line(database)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()


def write_line(database: Database) -> None:
    append(database, "stored-0", [line("INFO", "Step 10 of 100")])


def store_jobs(database: Database, numbers: range) -> None:
    """Jobs that have ended, as they are written down."""
    agents = ("DatasetAgent", "PreprocessingAgent", "TrainingAgent")
    config = {"model_name": "tickets", "method": "lora", "lora_r": 16, "learning_rate": 2e-4, "max_steps": 100}
    pipeline = {"nodes": [{"agent_name": agent, "agent_class": agent, "config": config} for agent in agents], "edges": []}
    jobs: list[dict[str, object]] = []
    nodes: list[dict[str, object]] = []
    for number in numbers:
        run_id, at = f"stored-{number}", now() - number * MINUTE
        state = {"status": "completed", "attempts": 1, "started_at": at, "ended_at": at + MINUTE}
        first = {"dagster_run_id": dagster_run_id(run_id), "source": "api", "digest": "0" * 64, "pipeline": {**pipeline, "run_id": run_id}}
        jobs.append({**first, **state, "run_id": run_id, "created_at": at, "submitted": True, "cancel_requested": False})
        for agent in agents:
            artifacts = {"adapter": f"s3://artifacts/{run_id}/{agent}/adapter"}
            result = {"datasets": ["ds_0"], "artifacts": artifacts, "metrics": {"final_loss": 0.42, "rows": 2_000.0}}
            nodes.append({**state, "run_id": run_id, "agent_name": agent, "agent_class": agent, "digest": "0" * 64, "result": result})
    with database.write() as connection:
        connection.execute(sa.insert(tables.submissions), jobs)
        connection.execute(sa.insert(tables.nodes), nodes)


def store_models(registry: Registry, folder: Path) -> None:
    """In MLflow, since the list is kept in step with it."""
    (folder / "adapter_config.json").write_text("{}")
    for number in range(MODELS):
        begun = registry.begin(
            f"model_stored-{number}", f"stored-{number}", "TrainingAgent", "tickets", "org/base", {"method": "lora"}, {}, []
        )
        registry.register(begun, folder, "tickets")
        registry.set_metrics(f"model_stored-{number}", {"accuracy": number / MODELS, "f1": 0.5, "final_loss": 0.42})


def store_datasets(platform: Started) -> None:
    rows = "question,answer\n" + "".join(f"What is {number} plus 1?,{number + 1}\n" for number in range(100))
    for number in range(DATASETS):
        platform.http.post("/datasets/upload", files={"file": (f"rows-{number}.csv", rows)}).raise_for_status()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20, help="how long it asks")
    parser.add_argument("--connections", type=int, default=8, help="how many requests are under way at once")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, started_platform(Path(name) / "home") as platform:
        url = str(platform.http.base_url)
        settings = Settings(home=Path(name) / "home", mlflow_url=platform.environment["LLM_PLATFORM_MLFLOW_URL"])
        database = Database.from_settings(settings)
        empty = asyncio.run(looks(url))
        (Path(name) / "adapter").mkdir()
        store_models(Registry(settings.resolved_mlflow_url), Path(name) / "adapter")
        store_datasets(platform)
        store_jobs(database, range(JOBS))
        while platform.http.get("/models").json()["total"] < MODELS:  # the list is brought up to date while it is looked at
            time.sleep(0.1)
        paths = ["/jobs", "/jobs/job_stored-500", "/models", "/datasets", "/health"]
        asyncio.run(answered(url, paths, options.connections, 2))
        begun = time.perf_counter()
        found = asyncio.run(answered(url, paths, options.connections, options.seconds))
        rate = len(found) / (time.perf_counter() - begun)
        with writing(database):
            begun = time.perf_counter()
            written = asyncio.run(answered(url, paths, options.connections, options.seconds))
            writing_rate = len(written) / (time.perf_counter() - begun)
        store_jobs(database, range(JOBS, MANY_JOBS))
        many = asyncio.run(looks(url))
        many_written = asyncio.run(looks(url, partial(write_line, database)))
        database.close()
    percentiles = statistics.quantiles(found, n=100)
    figures = {
        "requests_per_second": rate,
        "p50_ms": 1000 * percentiles[49],
        "p99_ms": 1000 * percentiles[98],
        "writing_requests_per_second": writing_rate,
        "writing_p99_ms": 1000 * statistics.quantiles(written, n=100)[98],
        "jobs_10000_over_empty": many / empty,
        "jobs_empty_ms": 1000 * empty,
        "jobs_10000_ms": 1000 * many,
        "written_10000_ms": 1000 * many_written,
        "requests": len(found),
        "connections": options.connections,
    }
    title = f"Reads over {options.connections} connections with {JOBS:,} jobs"
    report(
        title, ["figure", "value"], [(name.replace("_", " "), value) for name, value in figures.items()], figures, ["fastapi", "uvicorn"]
    )


if __name__ == "__main__":
    main()
