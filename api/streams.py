"""Live logs as Server-Sent Events: one poller per run that is watched, any number of readers, bounded memory for each.

A reader holds nothing but its cursor. Lines come from the poller's short memory; a reader that fell behind it reads the
table, as fast as its client takes them.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import Counter, deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, suppress
from itertools import islice
from typing import Any, NamedTuple

from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from llm_platform import runlog
from llm_platform.database import FINAL, Database
from llm_platform.errors import RateLimited

POLL_SECONDS = 0.1
STATUS_SECONDS = 0.5
HEARTBEAT_SECONDS = 15.0
REMEMBERED = 1000
"""Lines that the poller keeps for readers who are up to date."""
BATCH = 500
"""Lines that the poller reads at a time."""
RECONNECT_MS = 200
"""When browsers open a stream again that a draining process has ended."""
MOST_AT_ONCE = 100
"""Lines that a reader gets at a time; what its client does not take, it holds."""

log = logging.getLogger(__name__)


class Event(NamedTuple):
    """A line, as `data` to send, and what readers choose by."""

    seq: int
    level: str
    agent: str | None
    agent_name: str | None
    data: bytes

    @property
    def line(self) -> str:
        """The line alone, as JSON."""
        return self.data.partition(b"\ndata: ")[2].decode().rstrip()


class Tail:
    """A run's log as its poller last saw it. `status` is set when the job has ended and `last` is its last line."""

    def __init__(self, run_id: str, last: int) -> None:
        self.run_id = run_id
        self.last = last
        self.status: str | None = None
        self.readers = 0
        self.changed = asyncio.Event()
        self.poller: asyncio.Task[None] | None = None
        self._first = last + 1
        self._lines: deque[Event] = deque(maxlen=REMEMBERED)

    def update(self, lines: list[Event], status: str | None) -> None:
        """Takes the next lines and wakes who waits for them."""
        if not lines and status is None:
            return
        self._lines.extend(lines)
        self.last += len(lines)
        self._first = self.last - len(self._lines) + 1
        self.status = status
        self.wake()

    def wake(self) -> None:
        waiting, self.changed = self.changed, asyncio.Event()
        waiting.set()

    def behind(self, cursor: int) -> bool:
        """Whether lines after `cursor` were forgotten."""
        return cursor + 1 < self._first and cursor < self.last

    def after(self, cursor: int) -> list[Event]:
        """The next remembered events after `cursor`, which is not behind."""
        start = max(cursor + 1 - self._first, 0)
        return list(islice(self._lines, start, start + MOST_AT_ONCE))


class Streams:
    """All open log streams of this process. `status_of` says the state of a run's job, None if it has none yet."""

    def __init__(self, database: Database, status_of: Callable[[str], str | None], most_per_client: int) -> None:
        self._database = database
        self._status_of = status_of
        self._most = most_per_client
        self._clients: Counter[str] = Counter()
        self._tails: dict[str, Tail] = {}
        self._draining = False

    def open(self, run_id: str, client: str, cursor: int, only: runlog.LineFilter = runlog.ALL) -> EventStream:
        """A response that sends the lines after `cursor` that are wanted, until the job has ended. Raises RateLimited."""
        self.enter(client)
        return EventStream(self._events(run_id, cursor, only), lambda: self.leave(client))

    def enter(self, client: str) -> None:
        """Counts a stream of a client, which must `leave` again. Raises RateLimited."""
        if self._clients[client] >= self._most:
            raise RateLimited(f"At most {self._most} log streams may be open per client", limit=self._most)
        self._clients[client] += 1

    def open_streams(self) -> int:
        return sum(self._clients.values())

    def drain(self) -> None:
        """Ends every stream after what is being sent, and those that are opened from now on: another process serves the next ones."""
        self._draining = True
        for tail in self._tails.values():
            tail.wake()

    def close(self) -> None:
        for tail in self._tails.values():
            if tail.poller is not None:
                tail.poller.cancel()

    def leave(self, client: str) -> None:
        self._clients[client] -= 1
        if not self._clients[client]:
            del self._clients[client]

    async def _events(self, run_id: str, cursor: int, only: runlog.LineFilter) -> AsyncIterator[bytes]:
        yield b": stream of the log\n\n"  # the client sees that it is connected before there is a line
        async with aclosing(self.follow(run_id, cursor, only)) as following:
            async for found in following:
                if isinstance(found, str):
                    yield f"event: end\ndata: {json.dumps({'status': found})}\n\n".encode()
                else:
                    yield b"".join(event.data for event in found) or b": heartbeat\n\n"
        if self._draining:
            yield b"retry: %d\n: the server restarts; go on behind the last event\n\n" % RECONNECT_MS

    async def follow(self, run_id: str, cursor: int, only: runlog.LineFilter = runlog.ALL) -> AsyncGenerator[list[Event] | str]:
        """The lines after `cursor` that are wanted, some at a time; none of them after a silence; at last how the job has ended.

        While the process drains there is no such last word: the reader goes on elsewhere.
        """
        tail = await self._join(run_id)
        clock = asyncio.get_running_loop().time
        try:
            told = clock()
            while not self._draining:
                changed, read_to, written = tail.changed, cursor, tail.last
                if tail.behind(cursor):
                    events = await run_in_threadpool(self._read, run_id, cursor, MOST_AT_ONCE, only)
                    # Fewer than asked for are all that are wanted up to what was written before.
                    cursor = events[-1].seq if len(events) == MOST_AT_ONCE else max([written, *(event.seq for event in events[-1:])])
                else:
                    events = tail.after(cursor)
                    cursor += len(events)
                wanted = [event for event in events if only.takes(event.level, event.agent, event.agent_name)]
                if wanted:
                    yield wanted
                    told = clock()
                elif clock() - told >= HEARTBEAT_SECONDS:
                    yield []
                    told = clock()
                elif cursor == read_to and tail.status is not None:
                    yield tail.status
                    return
                elif cursor == read_to:
                    await _happens(changed, told + HEARTBEAT_SECONDS - clock())
        finally:
            tail.readers -= 1
            if not tail.readers and tail.poller is not None:
                tail.poller.cancel()
                if self._tails.get(run_id) is tail:
                    del self._tails[run_id]

    async def _join(self, run_id: str) -> Tail:
        """The run's tail, with a poller. One whose job has ended is not used again: the job may have been tried again since."""
        tail = self._tails.get(run_id)
        if tail is None or tail.status is not None:
            last = await run_in_threadpool(runlog.last_seq, self._database, run_id)
            tail = self._tails.get(run_id)
            if tail is None or tail.status is not None:
                tail = self._tails[run_id] = Tail(run_id, last)
                tail.poller = asyncio.create_task(self._poll(tail), name=f"log {run_id}")
        tail.readers += 1
        return tail

    async def _poll(self, tail: Tail) -> None:
        status: str | None = None
        asked = float("-inf")
        clock = asyncio.get_running_loop().time
        while tail.status is None:
            try:
                if clock() - asked >= STATUS_SECONDS:
                    asked = clock()
                    status = await run_in_threadpool(self._status_of, tail.run_id)
                # Lines are read after the status: whatever was written before the job ended is among them.
                lines = await run_in_threadpool(self._read, tail.run_id, tail.last, BATCH)
            except Exception:
                log.warning("The log of run %s cannot be read now", tail.run_id, exc_info=True)
                await asyncio.sleep(HEARTBEAT_SECONDS / 10)
                continue
            more = len(lines) == BATCH
            tail.update(lines, status if status in FINAL and not more else None)
            if not more:
                await asyncio.sleep(POLL_SECONDS)

    def _read(self, run_id: str, cursor: int, limit: int, only: runlog.LineFilter = runlog.ALL) -> list[Event]:
        lines = runlog.read(self._database, run_id, after=cursor, limit=limit, only=only)
        return [Event(seq, line["level"], line["agent"], line["agent_name"], event(run_id, seq, line)) for seq, line in lines]


def event(run_id: str, seq: int, line: dict[str, Any]) -> bytes:
    """One line as an event. Escaped to ASCII, it holds whatever was logged."""
    return f"id: {run_id}:{seq}\ndata: {json.dumps(line, separators=(',', ':'))}\n\n".encode()


async def _happens(changed: asyncio.Event, seconds: float) -> None:
    """Waits for something new, but no longer than a connection may be silent."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await changed.wait()


class EventStream(StreamingResponse):
    """The response of a stream; `closed` is called once, however it ends."""

    def __init__(self, events: AsyncIterator[bytes], closed: Callable[[], None]) -> None:
        super().__init__(events, media_type="text/event-stream", headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        self._closed = closed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._closed()
