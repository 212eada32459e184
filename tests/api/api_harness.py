"""A running API over real HTTP, with everything real but Dagster."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import httpx
import uvicorn
from fastapi import FastAPI
from sqlalchemy.engine import RowMapping

from api.main import create_app
from api.orchestration import Orchestrator, RunState, RunStatus, UiRun
from api.services import Services
from llm_platform.database import Database
from llm_platform.settings import Settings
from llm_platform.specs import Pipeline
from llm_platform.supervisor.http import HttpReceiver
from llm_platform.supervisor.sockets import MAX_SIZE, SocketProtocol

CSV = b"question,answer\n" + b"".join(b"What is %d plus 1?,%d\n" % (i, i + 1) for i in range(30))


ADDRESS = "s3://datasets/training_data.csv"


class FakeOrchestrator:
    """The orchestrator's interface over a dictionary; a test moves its runs along."""

    def __init__(self) -> None:
        self.runs: dict[str, RunState] = {}
        self.by_run_id: dict[str, str] = {}
        self.pipelines: list[Pipeline] = []
        self.cancelled: list[str] = []
        self.recorded: list[str] = []
        self.alive = True
        self.failing = False
        self.handed_over: Callable[[str], bool] = self.by_run_id.__contains__
        self.open = threading.Event()
        self.open.set()

    def submit(self, run_id: str, dagster_run_id: str, pipeline: Pipeline) -> None:
        self.open.wait(30)
        self._fail_if_asked()
        self.by_run_id[run_id] = dagster_run_id
        self.pipelines.append(pipeline)
        self.runs.setdefault(dagster_run_id, RunState(dagster_run_id, "pending", None, None))

    def states(self, dagster_run_ids: Sequence[str]) -> dict[str, RunState]:
        self._fail_if_asked()
        return {name: self.runs[name] for name in dagster_run_ids if name in self.runs}

    def cancel(self, dagster_run_id: str) -> None:
        self._fail_if_asked()
        self.cancelled.append(dagster_run_id)
        if self.runs[dagster_run_id].status in ("pending", "running"):
            # As Dagster does with a run that is cancelled while it starts.
            self.runs[dagster_run_id] = replace(self.runs[dagster_run_id], status="failed", ended_at=datetime.now(UTC))

    def ui_runs(self, since: datetime) -> list[UiRun]:
        return []

    def record_dataset(self, row: RowMapping) -> None:
        self.recorded.append(row["dataset_id"])

    def healthy(self) -> bool:
        return self.alive

    def close(self) -> None:
        return None

    def move(self, run_id: str, status: RunStatus) -> None:
        """Sets the state of a run, as soon as the platform knows that it was submitted."""
        wait_until(lambda: self.handed_over(run_id))
        at = datetime.now(UTC)
        old = self.runs[self.by_run_id[run_id]]
        ended = at if status in ("completed", "failed", "cancelled") else None
        self.runs[old.dagster_run_id] = replace(old, status=status, started_at=old.started_at or at, ended_at=ended)

    def _fail_if_asked(self) -> None:
        if self.failing:
            raise ConnectionError("the orchestrator is away")


@dataclass
class Api:
    """A server, a client of it, and its insides."""

    url: str
    client: httpx.Client
    app: FastAPI
    orchestrator: FakeOrchestrator
    port: int

    @property
    def services(self) -> Services:
        return self.app.state.services

    def put(self, key: str = "training_data.csv", data: bytes = CSV) -> str:
        """Stores a file where a pipeline may read it; its address."""
        return self.services.storage.put_bytes(data, f"s3://datasets/{key}").address

    def upload(self, data: bytes = CSV, filename: str = "training_data.csv", **form: str) -> httpx.Response:
        return self.client.post("/datasets/upload", files={"file": (filename, data)}, data=form)

    def submit(self, run_id: str | None = None, **changes: Any) -> httpx.Response:
        return self.client.post("/jobs", json=body(run_id, **changes))

    def counts(self) -> tuple[int, int, list[str]]:
        """Jobs, datasets and stored files: what a refused request must leave as it was."""
        database = self.services.database
        files = [stat.address for bucket in ("datasets", "artifacts") for stat in self._files(bucket)]
        return database.list_submissions(1, 0)[1], database.list_datasets(1, 0)[1], files

    def nothing_left(self) -> bool:
        """Whether no upload has a file that is half-received."""
        return not list((self.services.settings.work / "uploads").glob("*"))

    def _files(self, bucket: str) -> list[Any]:
        root = self.services.settings.root / "objects" / bucket
        return [stat for entry in sorted(root.glob("*")) for stat in self.services.storage.list_files(f"s3://{bucket}/{entry.name}")]


def body(run_id: str | None = None, config: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    """The specification's example; `changes` by agent name are merged into that node's config."""
    nodes: list[dict[str, Any]] = [
        {
            "agent_name": "dataset",
            "agent_class": "DatasetAgent",
            "config": {"file_path": "s3://datasets/training_data.csv", "format": "csv"},
        },
        {"agent_name": "validation", "agent_class": "ValidationAgent", "config": {}},
        {
            "agent_name": "preprocessing",
            "agent_class": "PreprocessingAgent",
            "config": {
                "base_model": "llm-platform/tiny-llama",
                "clean": True,
                "dedup": True,
                "template": "alpaca",
                "template_mapping": {"instruction": "question", "output": "answer"},
            },
        },
    ]
    for node in nodes:
        node["config"] |= changes.get(node["agent_name"], {})
    edges = [{"from_agent": "dataset", "to_agent": "validation"}, {"from_agent": "validation", "to_agent": "preprocessing"}]
    pipeline = {"nodes": nodes, "edges": edges, "global_config": {"max_retries": 3}} | (config or {})
    return {"pipeline_config": {"run_id": run_id, **pipeline} if run_id else pipeline}


def wait_until(condition: Callable[[], Any], seconds: float = 10) -> None:
    """Returns as soon as the condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition never came true"
        threading.Event().wait(0.01)


@contextmanager
def serving(settings: Settings, orchestrator: Orchestrator | None) -> Iterator[tuple[FastAPI, int]]:
    """An API on a free port, in a thread."""
    app = create_app(settings, orchestrator)
    for route in app.routes:  # FastAPI builds them when they are first looked through, of routers that another thread may be building
        route.matches({"type": "http", "method": "GET", "path": "/api/v1/none", "headers": []})
    config = uvicorn.Config(
        app, http=cast(Any, HttpReceiver), ws=SocketProtocol, ws_max_size=MAX_SIZE,
        log_level="warning", access_log=False, proxy_headers=False, timeout_graceful_shutdown=1,
    )  # fmt: skip
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0), backlog=256) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        wait_until(lambda: server.started)
        try:
            yield app, listener.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(10)
            assert not thread.is_alive()


@dataclass
class Start:
    """Starts APIs; each has a home of its own unless it is given one."""

    folder: Path
    made: int = field(default=0)

    @contextmanager
    def __call__(self, home: Path | None = None, **settings: Any) -> Iterator[Api]:
        self.made += 1
        orchestrator = FakeOrchestrator()
        options = {"home": home or self.folder / f"home{self.made}", "cache": self.folder / "cache", **settings}
        with serving(Settings(**options), orchestrator) as (app, port):
            database: Database = app.state.services.database
            orchestrator.handed_over = lambda run_id: bool((database.submission(run_id) or {}).get("submitted"))
            url = f"http://127.0.0.1:{port}/api/v1"
            with httpx.Client(base_url=url, timeout=30, trust_env=False) as client:
                yield Api(url, client, app, orchestrator, port)
