"""Following a run's log over any number of connections: what both clients' `logs.stream` do between two pieces of it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import httpx

from llm_platform.client import calls
from llm_platform.client.calls import Call
from llm_platform.client.sse import Events
from llm_platform.client.transport import CONNECT_TIMEOUT, FAILED, TOO_MANY, pause, unreachable
from llm_platform.errors import PlatformError, ServiceUnavailable
from llm_platform.specs import resources
from llm_platform.specs.resources import Level

SILENCE = 60.0
"""Seconds without even a heartbeat after which a stream is taken for lost."""
GIVE_UP = 120.0
"""Seconds without a connection after which a stream raises ServiceUnavailable: longer than a platform takes to restart."""


class LogLine(resources.LogLine):
    """One line. METRIC lines carry more: `line.extra["loss"]`, or `line.loss` where a type checker does not mind."""

    @property
    def extra(self) -> dict[str, Any]:
        """What the line carries beside its message, such as `step`, `epoch` and `loss`."""
        return dict(self.model_extra or {})


class Following:
    """Where in the log a reader is. `ended` is set when the job has, and its log with it."""

    def __init__(self, base_url: str, run_id: str, after: str | None, level: Sequence[Level], agent: Sequence[str]) -> None:
        self.ended = False
        self._base_url = base_url
        self._run_id = run_id
        self._after = after
        self._wanted = (level, agent)
        self._attempt = 0
        self._heard = time.monotonic()
        self._events = Events()

    def connect(self) -> Call[None]:
        """The next connection, which goes on behind the last line that was taken."""
        self._events = Events()
        return calls.log_stream(self._run_id, self._after, *self._wanted, httpx.Timeout(SILENCE, connect=CONNECT_TIMEOUT))

    def take(self, chunk: bytes) -> Iterator[LogLine]:
        """The lines that end in this piece of the stream."""
        self._attempt, self._heard = 0, time.monotonic()
        for event in self._events.feed(chunk):
            if event.kind == "end":
                self.ended = True
                return
            self._after = event.id or self._after
            if event.kind == "message":
                yield LogLine.model_validate_json(event.data)

    def lost(self, error: httpx.TransportError | PlatformError | None) -> float:
        """Seconds until the next connection is tried. Raises what is no passing error, and any when none came to be for too long."""
        if isinstance(error, httpx.TransportError):
            error = unreachable(self._base_url, error)
        elif error is not None and not (error.http_status == TOO_MANY or (error.http_status or 0) >= FAILED):
            raise error
        if time.monotonic() - self._heard > GIVE_UP:
            raise error or ServiceUnavailable(f"The log stream of run '{self._run_id}' ended before the job did")
        self._attempt += 1
        return pause(self._attempt - 1)
