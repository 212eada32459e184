"""Logs: live and past, from one source with one cursor."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from api.deps import CallerDep, HistoryCursor, HistoryLimit, LineFilterDep, LoggedRun, ServicesDep, StreamCursor
from api.limits import holder
from llm_platform import runlog
from llm_platform.specs.resources import LogHistory

router = APIRouter(prefix="/logs", tags=["logs"])

_EVENT = {
    "type": "object",
    "description": "One event. Heartbeats are comments, which are no events.",
    "properties": {
        "id": {"type": "string", "description": "Where in the log the line is: sent as `Last-Event-ID`, the stream goes on behind it."},
        "event": {"type": "string", "enum": ["message", "end"], "description": "A line of the log, or its end."},
        "data": {"type": "string", "description": "JSON: a LogLine; of the end an object with the job's final `status`."},
    },
    "required": ["data"],
}
"""As OpenAPI before 3.2 has it, where the schema of a stream is that of each event."""
_EVENTS: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {"schema": _EVENT}}}}


@router.get("/stream/{run_id}", response_class=Response, responses=_EVENTS)
async def stream(
    request: Request, run_id: LoggedRun, cursor: StreamCursor, only: LineFilterDep, services: ServicesDep, caller: CallerDep
) -> Response:
    """The run's log as Server-Sent Events, from its first line, or from behind `Last-Event-ID`, until the job has ended."""
    return services.streams.open(run_id, holder(caller.owner, request.client and request.client.host), cursor, only)


@router.get("/history/{run_id}", response_model=LogHistory)
def history(run_id: LoggedRun, cursor: HistoryCursor, only: LineFilterDep, services: ServicesDep, limit: HistoryLimit = 100) -> Response:
    """The run's log from its first line, or from behind `after`; `total` is of the lines that are asked for."""
    found = runlog.read(services.database, run_id, after=cursor, limit=limit + 1, only=only)
    lines = found[:limit]
    total = runlog.count(services.database, run_id, only)
    following = f"{run_id}:{lines[-1][0]}" if len(found) > limit else None
    # Answered as it was written, so that a line is the same here and in a stream.
    return JSONResponse({"run_id": run_id, "logs": [line for _, line in lines], "total": total, "next_cursor": following})
