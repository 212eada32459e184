"""Uvicorn's HTTP protocol with a bound on what comes before a request's body, and the platform's error body for what is not HTTP."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from llm_platform.errors import InvalidInput

HEAD_BYTES = 64 * 1024
"""The request line and all headers together; tokens of identity providers have some thousand."""
HEADERS = 200
RECEIVE_BYTES = 2**20

log = logging.getLogger(__name__)


async def refuse(
    transport: asyncio.Transport, state: dict[str, Any], client: tuple[str, int] | None, status: int, field: str, message: str
) -> None:
    """Answers what is no request that an application could be given, and closes the connection.

    The application's lifespan state may have `refused`, which is told of it and gives the headers that every answer must have.
    """
    error = InvalidInput(message, errors=[{"field": field, "agent": None, "message": message}])
    body = json.dumps(error.body()).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), (b"connection", b"close")]
    if told := state.get("refused"):
        try:
            headers += await told(client, status, len(body))
        except Exception:
            log.exception("A refused request could not be counted")
    if not transport.is_closing():
        head = b"".join(name + b": " + value + b"\r\n" for name, value in headers)
        transport.write(STATUS_LINE[status] + head + b"\r\n" + body)
        transport.close()


class HttpProtocol(HttpToolsProtocol):
    """Refuses a head that is too large while it comes (431), so that no client can fill the memory with one."""

    _in_head = False
    _too_large = False
    refused = False
    """Whether an answer is on its way that ends the connection; what still comes is not read."""
    _received = 0
    """Bytes that came after the first ones of a head: the parser keeps a header to itself until it is whole."""
    _parsed = 0

    def data_received(self, data: bytes) -> None:
        if self.refused:
            return
        came_before = self._in_head
        super().data_received(data)
        if came_before and self._in_head:
            self._received += len(data)
            if self._received > HEAD_BYTES:
                self._too_large = True
                self.send_400_response("")

    def on_message_begin(self) -> None:
        self._in_head, self._received, self._parsed = True, 0, 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        self._count(len(name) + len(value))

    def on_headers_complete(self) -> None:
        self._in_head = False
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if not self.cycle.body:
            self.cycle.body = cast(bytearray, b"")  # what is appended to these is not copied, and neither is what is read of them
        super().on_body(body)

    def _count(self, size: int) -> None:
        self._parsed += size
        if self._parsed > HEAD_BYTES or len(self.headers) > HEADERS:
            self._too_large = True
            raise ValueError("the head is too large")  # the parser stops, and `send_400_response` is called

    def send_400_response(self, msg: str) -> None:
        status, message = 400, "This is not an HTTP request that can be understood"
        if self._too_large:
            status, message = 431, f"The request's headers are more than {HEADERS}, or longer than {HEAD_BYTES} bytes together"
        self.refused = True
        task = self.loop.create_task(refuse(self.transport, self.app_state, self.client, status, "headers", message))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)


class _Shared(threading.local):
    """One buffer per thread, for an event loop belongs to one."""

    def __init__(self) -> None:
        self.buffer = memoryview(bytearray(RECEIVE_BYTES))


_shared = _Shared()


class HttpReceiver(asyncio.BufferedProtocol):
    """`HttpProtocol`, received into one buffer that all connections of a loop share: each is done with it before the next one reads.

    The body of an upload comes in pieces four times as large as the event loop makes them, and is copied once less.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        self._buffer = _shared.buffer
        self._http = HttpProtocol(*arguments, **named)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._http.connection_made(cast(asyncio.Transport, transport))

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        self._http.data_received(cast(bytes, self._buffer[:nbytes]))  # the parser copies what it keeps

    def eof_received(self) -> bool:
        """Whether the connection stays open: a client that has said everything still waits for the answer."""
        self._http.eof_received()
        return self._http.refused

    def connection_lost(self, exc: Exception | None) -> None:
        self._http.connection_lost(exc)

    def pause_writing(self) -> None:
        self._http.pause_writing()

    def resume_writing(self) -> None:
        self._http.resume_writing()
