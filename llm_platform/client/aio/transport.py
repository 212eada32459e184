"""`Transport` for asyncio: the same calls, attempts and errors."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import anyio
import httpx
from pydantic import BaseModel

from llm_platform.client.aio.pages import AsyncListing
from llm_platform.client.calls import Call, Pages
from llm_platform.client.transport import Connection, Retry, error_of, unreachable

ResultT = TypeVar("ResultT")
ItemT = TypeVar("ItemT", bound=BaseModel)


class AsyncTransport:
    """One connection pool to one platform."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._http = httpx.AsyncClient(**connection.options())

    async def run(self, call: Call[ResultT]) -> ResultT:
        """Makes the call; what its answer says. Raises PlatformError."""

        async def send() -> httpx.Response:
            method, url = self.connection.request(call)
            return await self._http.request(method, url, **call.options)

        return call.read(await self._attempts(send, call))

    def listing(self, pages: Pages[ItemT], offset: int) -> AsyncListing[ItemT]:
        return AsyncListing(offset, lambda at: self.run(pages(at)))

    @asynccontextmanager
    async def stream(self, call: Call[None]) -> AsyncIterator[httpx.Response]:
        """A GET whose body is read by the caller, piece by piece. Only the opening is tried again."""
        response = await self._attempts(lambda: self._open(call), call)
        try:
            yield response
        except httpx.TransportError as error:
            raise unreachable(self.connection.base_url, error) from error
        finally:
            await response.aclose()

    async def open_stream(self, call: Call[None]) -> httpx.Response:
        """One attempt at a streamed GET, for callers that decide themselves what to do about a lost connection."""
        return await self._checked(await self._open(call), Retry(self.connection, call))

    async def close(self) -> None:
        await self._http.aclose()

    async def _open(self, call: Call[None]) -> httpx.Response:
        method, url = self.connection.request(call)
        return await self._http.send(self._http.build_request(method, url, **call.options), stream=True)

    async def _attempts(self, send: Callable[[], Awaitable[httpx.Response]], call: Call[Any]) -> httpx.Response:
        retry = Retry(self.connection, call)
        while True:
            try:
                response = await send()
            except httpx.TransportError as error:
                wait = retry.after_error(error)
            else:
                wait = retry.after(response)
                if wait is None:
                    return await self._checked(response, retry)
                await response.aclose()
            await anyio.sleep(wait)

    async def _checked(self, response: httpx.Response, retry: Retry) -> httpx.Response:
        if retry.good(response):
            return response
        try:
            await response.aread()
        finally:
            await response.aclose()
        raise error_of(response)
