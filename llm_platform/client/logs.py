"""`client.logs`: a run's log, live and afterwards."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import closing

import httpx

from llm_platform.client import calls
from llm_platform.client.follow import Following, LogLine
from llm_platform.client.transport import Transport
from llm_platform.errors import PlatformError
from llm_platform.specs.resources import Level, LogHistory


class Logs:
    """`level` and `agent` (classes or nodes) choose lines; without them all are given."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def stream(self, run_id: str, *, after: str | None = None, level: Sequence[Level] = (), agent: Sequence[str] = ()) -> Iterator[LogLine]:
        """The run's lines from the first one on, or from behind the cursor `after`, then live until the job has ended.

        A lost connection is taken up again behind the last line that was yielded: none is lost, none comes twice.
        """
        following = Following(self._transport.connection.base_url, run_id, after, level, agent)
        while True:
            lost: httpx.TransportError | PlatformError | None = None
            try:
                with closing(self._transport.open_stream(following.connect())) as response:
                    for chunk in response.iter_bytes():
                        yield from following.take(chunk)
                        if following.ended:
                            return
            except (httpx.TransportError, PlatformError) as error:
                lost = error
            time.sleep(following.lost(lost))

    def history(
        self, run_id: str, *, limit: int = 100, after: str | None = None, level: Sequence[Level] = (), agent: Sequence[str] = ()
    ) -> LogHistory:
        """The first `limit` lines (at most 1,000), or those behind the cursor `after`; `next_cursor` reads on."""
        return self._transport.run(calls.history(run_id, limit, after, level, agent))
