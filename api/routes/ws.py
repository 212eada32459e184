"""Channels: WebSockets to runs."""

from __future__ import annotations

from fastapi import APIRouter, WebSocket
from starlette.concurrency import run_in_threadpool

from api.channel import Channel
from api.deps import cursor_of, logged_run
from api.errors import error_response
from api.limits import holder
from api.services import Services
from llm_platform.errors import PlatformError
from llm_platform.keys import Caller
from llm_platform.specs.channel import PROTOCOL

router = APIRouter(prefix="/ws")


@router.websocket("/runs/{run_id}")
async def channel(socket: WebSocket, run_id: str, after: str | None = None) -> None:
    """The run's log from its first line, or from behind `after`; who watches it; and commands. Refusals are HTTP answers."""
    services: Services = socket.app.state.services
    caller: Caller = socket.state.caller
    client = holder(caller.owner, socket.client and socket.client.host)
    try:
        await run_in_threadpool(logged_run, run_id, services, caller)
        cursor = await run_in_threadpool(cursor_of, services, run_id, after, "after")
        services.streams.enter(client)
    except PlatformError as error:
        await socket.send_denial_response(error_response(error))
        return
    try:
        await socket.accept(PROTOCOL if PROTOCOL in socket.scope["subprotocols"] else None)
        await Channel(socket, services, caller, run_id).serve(cursor)
    finally:
        services.streams.leave(client)
