"""`client.logs`: a run's log, live and afterwards."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any
from urllib.parse import quote

import httpx

from llm_platform.client.sse import events
from llm_platform.client.transport import CONNECT_TIMEOUT, Transport, parse, pause, unreachable
from llm_platform.errors import RateLimited, ServiceUnavailable
from llm_platform.specs import resources
from llm_platform.specs.resources import LogHistory

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


class Logs:
    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def stream(self, run_id: str, *, after: str | None = None) -> Iterator[LogLine]:
        """The run's lines from the first one on, or from behind the cursor `after`, then live until the job has ended.

        A lost connection is taken up again behind the last line that was yielded: none is lost, none comes twice.
        """
        path = f"/logs/stream/{quote(run_id, safe='')}"
        attempt = 0
        heard = time.monotonic()

        def noted(chunks: Iterator[bytes]) -> Iterator[bytes]:
            nonlocal attempt, heard
            for chunk in chunks:
                attempt, heard = 0, time.monotonic()
                yield chunk

        while True:
            headers = {"Accept": "text/event-stream", **({} if after is None else {"Last-Event-ID": after})}
            try:
                response = self._transport.open_stream(path, headers=headers, timeout=httpx.Timeout(SILENCE, connect=CONNECT_TIMEOUT))
                with closing(response):
                    for event in events(noted(response.iter_bytes())):
                        if event.kind == "end":
                            return
                        after = event.id or after
                        if event.kind == "message":
                            yield LogLine.model_validate_json(event.data)
            except httpx.TransportError as error:
                lost: Exception = unreachable(self._transport.base_url, error)
            except (RateLimited, ServiceUnavailable) as error:
                lost = error
            else:
                lost = ServiceUnavailable(f"The log stream of run '{run_id}' ended before the job did")
            if time.monotonic() - heard > GIVE_UP:
                raise lost
            time.sleep(pause(attempt))
            attempt += 1

    def history(self, run_id: str, *, limit: int = 100, after: str | None = None) -> LogHistory:
        """The first `limit` lines (at most 1,000), or those behind the cursor `after`; `next_cursor` reads on."""
        params: dict[str, Any] = {"limit": limit} | ({} if after is None else {"after": after})
        return parse(LogHistory, self._transport.request("GET", f"/logs/history/{quote(run_id, safe='')}", params=params))
