"""`client.logs` of `AsyncClient`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing

import anyio
import httpx

from llm_platform.client import calls
from llm_platform.client.aio.transport import AsyncTransport
from llm_platform.client.follow import Following, LogLine
from llm_platform.errors import PlatformError
from llm_platform.specs.resources import Level, LogHistory


class AsyncLogs:
    """`level` and `agent` (classes or nodes) choose lines; without them all are given."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    async def stream(
        self, run_id: str, *, after: str | None = None, level: Sequence[Level] = (), agent: Sequence[str] = ()
    ) -> AsyncIterator[LogLine]:
        """See `Logs.stream`; read it with `async for`."""
        following = Following(self._transport.connection.base_url, run_id, after, level, agent)
        while True:
            lost: httpx.TransportError | PlatformError | None = None
            try:
                async with aclosing(await self._transport.open_stream(following.connect())) as response:
                    async for chunk in response.aiter_bytes():
                        for line in following.take(chunk):
                            yield line
                        if following.ended:
                            return
            except (httpx.TransportError, PlatformError) as error:
                lost = error
            await anyio.sleep(following.lost(lost))

    async def history(
        self, run_id: str, *, limit: int = 100, after: str | None = None, level: Sequence[Level] = (), agent: Sequence[str] = ()
    ) -> LogHistory:
        """See `Logs.history`."""
        return await self._transport.run(calls.history(run_id, limit, after, level, agent))
