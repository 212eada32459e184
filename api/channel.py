"""A run's channel: its log as in the log stream, who watches it, and commands, over one WebSocket.

Two tasks send what happens, the log and who comes and goes; the connection's own task takes commands, one after the other, and
answers each. Nothing is kept of a connection but its position in the log, so any API process can serve it.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing, suppress
from typing import Any

from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool
from starlette.websockets import WebSocket, WebSocketDisconnect

from api.body import parse_json
from api.guard import count, identify
from api.rooms import Room
from api.services import Services
from llm_platform import audit, jobs, runlog
from llm_platform.database import FINAL
from llm_platform.errors import Conflict, InvalidInput, PlatformError
from llm_platform.keys import Caller
from llm_platform.specs.audit import AuditAction
from llm_platform.specs.channel import (
    MAX_MESSAGE,
    AckMessage,
    Cancel,
    CheckpointNow,
    Command,
    Comment,
    EndMessage,
    ErrorMessage,
    HeartbeatMessage,
    PresenceMessage,
    StopAndKeep,
    parse_command,
)

TOO_BIG = 1009
FAILED = 1011
RESTARTING = 1012

log = logging.getLogger(__name__)


class Channel:
    """One connection that was let in: its owner may see the run."""

    def __init__(self, socket: WebSocket, services: Services, caller: Caller, run_id: str) -> None:
        self._socket = socket
        self._services = services
        self._caller = caller
        self._run_id = run_id
        self._answering = asyncio.Lock()

    async def serve(self, cursor: int) -> None:
        """Until the job has ended, or the client goes."""
        async with self._services.rooms.entered(self._run_id, self._caller.owner) as room:
            tasks = [asyncio.create_task(part) for part in (self._send_log(cursor), self._send_presence(room), self._take_commands())]
            try:
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
            except WebSocketDisconnect:
                return
            except Exception:
                log.exception("A channel of run %s failed", self._run_id)
                await self._close(FAILED)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _send(self, message: BaseModel) -> None:
        await self._send_text(message.model_dump_json())

    async def _send_text(self, text: str) -> None:
        try:
            await self._socket.send_text(text)
        except RuntimeError as error:  # how uvicorn says that it has closed the connection itself
            raise WebSocketDisconnect from error

    async def _close(self, code: int, reason: str = "") -> None:
        with suppress(RuntimeError, WebSocketDisconnect):  # it is closed already
            await self._socket.close(code, reason)

    async def _send_log(self, cursor: int) -> None:
        async with aclosing(self._services.streams.follow(self._run_id, cursor)) as following:
            async for found in following:
                if isinstance(found, str):
                    async with self._answering:  # the command that ended the job is answered first
                        await self._send(EndMessage.model_validate({"status": found}))
                        await self._close(1000)
                    return
                for event in found:
                    # Not by its model: the line is the same here as in the stream and in history, to the letter.
                    await self._send_text(f'{{"type":"log","id":"{self._run_id}:{event.seq}","data":{event.line}}}')
                if not found:
                    await self._send(HeartbeatMessage())
        await self._close(RESTARTING, "The server restarts; connect again behind the last line")

    async def _send_presence(self, room: Room) -> None:
        seen = room.users
        await self._send(PresenceMessage(event="list", user=self._caller.owner, users=seen))
        while True:
            changed, now = room.changed, room.users
            before, after = {item.user for item in seen}, {item.user for item in now}
            seen = now
            for item in sorted(after - before, key=str):
                await self._send(PresenceMessage(event="join", user=item, users=now))
            for item in sorted(before - after, key=str):
                await self._send(PresenceMessage(event="leave", user=item, users=now))
            await changed.wait()

    async def _take_commands(self) -> None:
        while True:
            message = await self._socket.receive()
            if message["type"] == "websocket.disconnect":
                raise WebSocketDisconnect(message.get("code", 1005))
            text = message.get("text")
            if len(text.encode("utf-8", "replace") if text is not None else message["bytes"]) > MAX_MESSAGE:
                await self._close(TOO_BIG, f"A message may have {MAX_MESSAGE} bytes")
                return
            async with self._answering:
                await self._send(await self._answer(text))

    async def _answer(self, text: str | None) -> AckMessage | ErrorMessage:
        value: Any = None
        try:
            if text is None:
                raise InvalidInput("Commands are JSON texts, not binary messages", errors=[])
            try:
                value = parse_json(text.encode("utf-8", "replace"))
            finally:  # nonsense counts as well
                await count(self._socket.scope, self._services, self._caller.owner)
            command = parse_command(value)
            # Again, since the key may have been revoked in the meantime.
            caller = await identify(self._socket.scope, self._services)
            result = await run_in_threadpool(self._obey, command, caller)
            return AckMessage(command=command.command, re=command.id, result=result)
        except PlatformError as error:
            return ErrorMessage.model_validate({"re": _reference(value), **error.body()})
        except Exception:
            log.exception("A command on the channel of run %s failed", self._run_id)
            error = PlatformError("An unexpected error occurred; the server's log has the details")
            return ErrorMessage.model_validate({"re": _reference(value), **error.body()})

    def _obey(self, command: Command, caller: Caller) -> dict[str, Any]:
        """What the command's answer carries. Raises PlatformError."""
        services, run_id = self._services, self._run_id
        if isinstance(command, Cancel | StopAndKeep):
            caller.need("write")
            keep = isinstance(command, StopAndKeep)
            cancelled = jobs.cancel(run_id, services.database, services.orchestrator, keep=keep)
            self._record(caller, "job.cancel")
            services.kick()
            return cancelled.model_dump(exclude_none=True)
        if isinstance(command, CheckpointNow):
            caller.need("write")
            jobs.checkpoint(run_id, services.database)
            self._record(caller, "job.checkpoint")
        if isinstance(command, Comment):
            caller.need("write")
            row = services.database.submission(run_id)
            if row is not None and services.refresh([row])[0]["status"] in FINAL:
                raise Conflict("The job has ended, and its log with it")
            comment = runlog.line("INFO", command.text, type="comment", author=caller.owner)
            return {"log_id": f"{run_id}:{runlog.append(services.database, run_id, [comment])}"}
        return {}

    def _record(self, caller: Caller, action: AuditAction) -> None:
        client = self._socket.client
        audit.record(self._services.database, caller, action, jobs.job_id(self._run_id), client.host if client else None)


def _reference(value: Any) -> str | None:
    """The `id` of a command that may be none."""
    found = value.get("id") if isinstance(value, dict) else None
    return found[:64] if isinstance(found, str) else None
