"""Who watches which run: one watcher per run with open channels in this process, which learns of other processes from the table."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from starlette.concurrency import run_in_threadpool

from llm_platform import presence
from llm_platform.database import Database
from llm_platform.specs.channel import Present

LOOK_SECONDS = 1.0
SAY_SECONDS = 15.0

log = logging.getLogger(__name__)


@dataclass
class Room:
    """The users who watch a run, as they were when the watcher last looked. `changed` is replaced with every change."""

    run_id: str
    users: list[Present] = field(default_factory=list[Present])
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    own: set[str] = field(default_factory=set[str])
    watcher: asyncio.Task[None] | None = None

    def update(self, users: list[Present]) -> None:
        if [user.user for user in users] != [user.user for user in self.users]:
            waiting, self.changed = self.changed, asyncio.Event()
            waiting.set()
        self.users = users


class Rooms:
    """All rooms with somebody of this process in them."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._rooms: dict[str, Room] = {}

    @asynccontextmanager
    async def entered(self, run_id: str, user: str | None) -> AsyncIterator[Room]:
        """The run's room, for as long as the block runs with this user in it."""
        connection_id = await run_in_threadpool(presence.join, self._database, run_id, user)
        try:
            users = await run_in_threadpool(presence.present, self._database, run_id)
            room = self._rooms.get(run_id)
            if room is None:
                room = self._rooms[run_id] = Room(run_id)
            room.own.add(connection_id)
            room.update(users)
            if room.watcher is None:
                room.watcher = asyncio.create_task(self._watch(room), name=f"presence {run_id}")
            try:
                yield room
            finally:
                room.own.discard(connection_id)
                if not room.own and room.watcher is not None:
                    room.watcher.cancel()
                    self._rooms.pop(run_id, None)
        finally:
            # Also when the connection is cancelled: others must not see for 45 s somebody who is gone.
            await asyncio.shield(run_in_threadpool(presence.leave, self._database, connection_id))

    def close(self) -> None:
        for room in self._rooms.values():
            if room.watcher is not None:
                room.watcher.cancel()

    async def _watch(self, room: Room) -> None:
        clock = asyncio.get_running_loop().time
        said = clock()
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                if clock() - said >= SAY_SECONDS:
                    said = clock()
                    await run_in_threadpool(presence.keep_alive, self._database, list(room.own))
                room.update(await run_in_threadpool(presence.present, self._database, room.run_id))
            except Exception:
                log.warning("Who watches run %s cannot be read now", room.run_id, exc_info=True)
