"""Uvicorn's WebSockets, with an ending that the client hears of when its message is too long."""

from __future__ import annotations

from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

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
        elif self.loop.time() - self._refused_at > LONGEST_SECONDS:
            self.transport.close()
        else:
            self._wait()

    def handle_parser_exception(self) -> None:
        assert self.conn.close_sent is not None
        self.queue.put_nowait({"type": "websocket.disconnect", "code": self.conn.close_sent.code, "reason": self.conn.close_sent.reason})
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        self._refused_at = self.loop.time()
        self.transport.resume_reading()
        self._wait()

    def _wait(self) -> None:
        """Closes the connection as soon as the client is quiet."""
        if self.close_timer is not None:
            self.close_timer.cancel()
        self.close_timer = self.loop.call_later(QUIET_SECONDS, self.transport.close)
