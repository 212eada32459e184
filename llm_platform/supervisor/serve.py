"""Run an ASGI application on a listening socket that was inherited: `python -m llm_platform.supervisor.serve FD MODULE:FACTORY [READY]`.

The supervisor holds the API's socket, so that connections that arrive while the API restarts wait for it instead of being refused, and
no other program can take the port. (`uvicorn --fd` takes a TCP socket for a Unix one and so leaves out TCP_NODELAY.) Two processes can
serve on it at a time: one that was started with READY, the number of a pipe, takes requests only when the application says that it
can answer them well, and says so on the pipe; then the old one drains.

The application's lifespan state may have `drain`, a function, and `ready`, a coroutine function.
"""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import sys
from contextlib import suppress
from typing import Any, cast

import uvicorn

from llm_platform.settings import Settings
from llm_platform.supervisor.http import HttpReceiver
from llm_platform.supervisor.sockets import MAX_SIZE, SocketProtocol

IDLE_SECONDS = 1.0
"""How long an open connection without a request is kept after nothing is accepted any more: its client may be just sending one."""

OBJECTS = 10_000
"""After how many new ones Python looks for cycles. One list of jobs makes a thousand, none of them in a cycle; to look after every
700, as Python does by itself, took a quarter of the time of such an answer."""


class Server(uvicorn.Server):
    """Ends without cutting off anybody: whoever has a connection gets an answer, and hears in it that it is the connection's last."""

    def __init__(self, config: uvicorn.Config, ready: int | None = None, delay: float = 0.0) -> None:
        super().__init__(config)
        self._ready = ready
        self._delay = delay

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        if self._ready is None:
            await super().startup(sockets)
            return
        await super().startup([])  # the application, without a connection
        if ready := self.lifespan.state.get("ready"):
            await ready()
        for listener in sockets or []:
            self.servers.append(await asyncio.get_running_loop().create_server(self._protocol, sock=listener, backlog=self.config.backlog))
        os.write(self._ready, b"r")
        os.close(self._ready)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Tells the application first; after that no new connections, and at last the end of those that are idle or take too long."""
        if drain := self.lifespan.state.get("drain"):
            drain()
        await self._wait(self._delay)
        for server in self.servers:
            server.close()
        await self._wait(IDLE_SECONDS)
        await super().shutdown(sockets)

    async def _wait(self, seconds: float) -> None:
        """Less where there is no connection, or somebody is in a hurry."""
        clock = asyncio.get_running_loop().time
        until = clock() + seconds
        while clock() < until and not self.force_exit and (self.server_state.connections or any(one.is_serving() for one in self.servers)):
            await asyncio.sleep(0.05)

    def _protocol(self) -> asyncio.BaseProtocol:
        return HttpReceiver(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)


def main() -> None:
    descriptor, factory, *ready = sys.argv[1:]
    gc.set_threshold(OBJECTS)
    settings = Settings()
    config = uvicorn.Config(
        factory,
        factory=True,
        http=cast(Any, HttpReceiver),  # uvicorn knows no buffered protocols; the event loop does
        ws=SocketProtocol,
        ws_max_size=MAX_SIZE,
        access_log=False,
        # By default it believes X-Forwarded-For from loopback: any local client could then pass for many.
        proxy_headers=False,
        timeout_graceful_shutdown=settings.drain_seconds,
    )
    server = Server(config, int(ready[0]) if ready else None, settings.drain_delay)
    with suppress(KeyboardInterrupt):  # uvicorn raises it once more after it has ended as Ctrl-C asks
        server.run(sockets=[socket.socket(fileno=int(descriptor))])


if __name__ == "__main__":
    main()
