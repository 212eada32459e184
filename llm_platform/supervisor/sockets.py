"""Uvicorn's WebSockets, with an ending that the client hears of when its message is too long, and the platform's error body."""

from __future__ import annotations

from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.http11 import Request

from llm_platform.supervisor.http import refuse

MAX_SIZE = 2**20
"""Bytes of a message that are read before it is refused; who takes messages has a smaller limit, and says what it is."""
QUIET_SECONDS = 0.5
LONGEST_SECONDS = 30.0


class SocketProtocol(WebSocketsSansIOProtocol):
    """Reads and forgets what a client still sends after it was told to stop.

    Uvicorn closes the connection at once. With bytes unread the kernel resets it then, and takes the close frame, which says why
    (1009), from a client that has not read it yet.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._refused_at: float | None = None

    def data_received(self, data: bytes) -> None:
        if self._refused_at is None:
            super().data_received(data)
            if self.conn.handshake_exc is not None:
                self._refuse_handshake()
        elif self.loop.time() - self._refused_at > LONGEST_SECONDS:
            self.transport.close()
        else:
            self._wait()

    def handle_connect(self, event: Request) -> None:
        if self.conn.accept(event).status_code == 101:  # else the handshake has failed, which `data_received` answers
            super().handle_connect(event)

    def handle_parser_exception(self) -> None:
        assert self.conn.close_sent is not None
        self.queue.put_nowait({"type": "websocket.disconnect", "code": self.conn.close_sent.code, "reason": self.conn.close_sent.reason})
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        self._refused_at = self.loop.time()
        self.transport.resume_reading()
        self._wait()

    def _refuse_handshake(self) -> None:
        self._refused_at = self.loop.time()
        self.handshake_complete = self.close_sent = True
        message = "This is not the handshake of a WebSocket (RFC 6455, version 13), or its headers are too many or too long"
        task = self.loop.create_task(refuse(self.transport, self.app_state, self.client, 400, "headers", message))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def _wait(self) -> None:
        """Closes the connection as soon as the client is quiet."""
        if self.close_timer is not None:
            self.close_timer.cancel()
        self.close_timer = self.loop.call_later(QUIET_SECONDS, self.transport.close)
