"""A small real HTTP server that answers as the API specification's examples do, and remembers what it was asked."""

from __future__ import annotations

import io
import json
import socket
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from llm_platform.client import Client
from llm_platform.specs import resources
from tests.specification import SPECIFICATION

CREATED = "2025-12-13T01:00:00Z"
UPLOADED = {**SPECIFICATION[resources.DatasetUploaded], "size_bytes": 0}
DATASET = {**SPECIFICATION[resources.Dataset], "a_field_of_a_newer_platform": True}
MODEL = SPECIFICATION[resources.Model]


@dataclass
class Seen:
    """What a test sets, and what the server saw."""

    calls: list[tuple[str, str]] = field(default_factory=list)
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    posted: list[dict[str, Any]] = field(default_factory=list)
    uploads: list[tuple[str | None, str | None, bytes]] = field(default_factory=list)
    idempotency_keys: list[str | None] = field(default_factory=list)
    last_event_ids: list[str | None] = field(default_factory=list)
    busy: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    """Answers (status, headers) that the next requests get instead of the real one."""
    lines: list[str] = field(default_factory=lambda: ["Starting dataset ingestion", "Dataset loaded: 10000 rows", "step", "Done"])
    break_after: list[int] = field(default_factory=list)
    """After how many lines the next streams break off."""
    archive: bytes = b""
    archive_name: str = "adapter.zip"
    health: tuple[int, str] = (200, "healthy")

    def finish(self, job_id: str, status: str = "completed", **values: Any) -> None:
        self.jobs[job_id] |= {"status": status, "ended_at": CREATED, **values}


def archive(files: dict[str, str]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as bundle:
        for name, text in files.items():
            bundle.writestr(name, text)
    return buffer.getvalue()


def new_job(run_id: str) -> dict[str, Any]:
    return {
        "job_id": f"job_{run_id}",
        "run_id": run_id,
        "model_id": None,
        "status": "running",
        "created_at": CREATED,
        "started_at": CREATED,
        "ended_at": None,
        "progress": {"completed_agents": ["dataset", "validation"], "current_agent": "preprocessing", "total_agents": 3},
        "result": None,
        "nodes": [
            {"agent_name": name, "agent_class": kind, "status": status, "attempts": attempts, "started_at": started, "ended_at": ended}
            for name, kind, status, attempts, started, ended in (
                ("dataset", "DatasetAgent", "completed", 2, CREATED, "2025-12-13T01:00:01.5Z"),
                ("preprocessing", "PreprocessingAgent", "running", 1, CREATED, None),
                ("training", "TrainingAgent", "pending", 0, None, None),
            )
        ],
    }


def app_of(seen: Seen) -> FastAPI:
    app = FastAPI()

    @app.middleware("http")
    async def remember(request: Request, call_next: Any) -> Response:
        seen.calls.append((request.method, request.url.path))
        if request.url.path.endswith("/upload"):
            seen.idempotency_keys.append(request.headers.get("idempotency-key"))
        if seen.busy:
            status, headers = seen.busy.pop(0)
            return Response("busy", status, headers=headers)
        return await call_next(request)

    def not_found(what: str) -> JSONResponse:
        return JSONResponse({"error": "NOT_FOUND", "message": f"There is no {what}", "metadata": {"what": what}}, 404)

    @app.get("/api/v1/health")
    def health() -> Response:
        status, word = seen.health
        return JSONResponse({"status": word, "version": "1.0.0", "services": {"redis": "disabled", "api": "healthy"}}, status)

    @app.post("/api/v1/datasets/upload")
    async def upload(request: Request) -> Any:
        async with request.form() as form:
            file, chosen = form["file"], form.get("format")
            assert not isinstance(file, str)
            content = await file.read()
        seen.uploads.append((file.filename, chosen if isinstance(chosen, str) else None, content))
        return UPLOADED | {"filename": file.filename, "size_bytes": len(content)}

    @app.get("/api/v1/datasets")
    def datasets(limit: int, offset: int) -> Any:
        return {"items": [DATASET], "total": 41, "limit": limit, "offset": offset, "has_more": True}

    @app.get("/api/v1/datasets/{dataset_id}")
    def dataset(dataset_id: str) -> Any:
        return DATASET if dataset_id == "ds_xyz789" else not_found(dataset_id)

    @app.get("/api/v1/datasets/{dataset_id}/preview")
    def preview(dataset_id: str, limit: int) -> Any:
        return {"dataset_id": dataset_id, "samples": [{"text": "Sample text 1", "label": "positive"}] * limit, "total_rows": 10000}

    @app.post("/api/v1/jobs")
    async def create(request: Request) -> Any:
        body = await request.json()
        seen.posted.append(body)
        job = seen.jobs.setdefault(f"job_{body['pipeline_config']['run_id']}", new_job(body["pipeline_config"]["run_id"]))
        return {"job_id": job["job_id"], "run_id": job["run_id"], "status": "pending", "created_at": CREATED}

    @app.get("/api/v1/jobs")
    def jobs(limit: int, offset: int) -> Any:
        items = list(seen.jobs.values())
        return {"items": items, "total": len(items), "limit": limit, "offset": offset, "has_more": False}

    @app.get("/api/v1/jobs/{job_id}")
    def job(job_id: str) -> Any:
        return seen.jobs.get(job_id) or not_found(job_id)

    @app.delete("/api/v1/jobs/{job_id}")
    def cancel(job_id: str) -> Any:
        if seen.jobs[job_id]["status"] == "completed":
            return JSONResponse({"error": "CONFLICT", "message": "The job has completed", "metadata": {}}, 409)
        seen.finish(job_id, "cancelled")
        return {"job_id": job_id, "status": "cancelled"}

    @app.get("/api/v1/models")
    def models(limit: int, offset: int) -> Any:
        summary = {name: MODEL[name] for name in ("model_id", "run_id", "model_name", "base_model", "created_at", "metrics")}
        return {"models": [summary | {"exports": ["adapter"]}], "total": 1, "limit": limit, "offset": offset, "has_more": False}

    @app.get("/api/v1/models/{model_id}")
    def model(model_id: str) -> Any:
        return MODEL if model_id == "model_abc123" else not_found(model_id)

    @app.get("/api/v1/models/{model_id}/card")
    def card(model_id: str) -> Response:
        return Response("# llama2-finetuned\n", media_type="text/markdown")

    @app.get("/api/v1/models/{model_id}/download")
    def download(model_id: str, format: str) -> Response:
        if format == "gguf":
            return not_found("gguf export")
        headers = {"Content-Disposition": f'attachment; filename="{seen.archive_name}"'}
        return Response(seen.archive, media_type="application/zip", headers=headers)

    @app.get("/api/v1/logs/stream/{run_id}")
    def stream(run_id: str, request: Request) -> Response:
        last = request.headers.get("last-event-id")
        seen.last_event_ids.append(last)
        start = int(last.rpartition(":")[2]) if last else 0
        stop = seen.break_after.pop(0) if seen.break_after else None

        def body() -> Iterator[str]:
            yield ": welcome\n\n"
            for seq in range(start + 1, len(seen.lines) + 1):
                if stop is not None and seq > stop:
                    return
                yield f"id: {run_id}:{seq}\ndata: {json.dumps(log_line(run_id, seen.lines[seq - 1]), ensure_ascii=False)}\n\n"
            yield 'event: end\ndata: {"status": "completed"}\n\n'

        return StreamingResponse(body(), media_type="text/event-stream")

    @app.get("/api/v1/logs/history/{run_id}")
    def history(run_id: str, limit: int) -> Any:
        lines = [log_line(run_id, message) for message in seen.lines[:limit]]
        return {"run_id": run_id, "logs": lines, "total": len(seen.lines), "next_cursor": f"{run_id}:{len(lines)}"}

    return app


def log_line(run_id: str, message: str) -> dict[str, Any]:
    known = {"run_id": run_id, "timestamp": CREATED, "agent": "TrainingAgent", "agent_name": "training", "message": message}
    return {"step": 100, "epoch": 1.0, "loss": 1.85, **known, "level": "METRIC"} if message == "step" else known | {"level": "INFO"}


@pytest.fixture(scope="session")
def server() -> Iterator[tuple[str, Seen]]:
    """The server, which starts once. Its socket listens before it runs, so that no test has to wait for it."""
    seen = Seen()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(app_of(seen), log_level="error", lifespan="off", ws="none", timeout_graceful_shutdown=1)
        running = uvicorn.Server(config)
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]})
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/api/v1", seen
        running.should_exit = True
        thread.join()


@pytest.fixture
def seen(server: tuple[str, Seen]) -> Seen:
    """What the server remembers, emptied for this test."""
    found = server[1]
    vars(found).update(vars(Seen(archive=archive({"adapter_config.json": "{}", "weights/adapter_model.safetensors": "weights"}))))
    return found


@pytest.fixture
def base_url(server: tuple[str, Seen], seen: Seen) -> str:
    return server[0]


@pytest.fixture
def client(base_url: str) -> Iterator[Client]:
    with Client(base_url, timeout=10) as client:
        yield client
