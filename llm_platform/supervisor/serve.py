"""Run an ASGI application on a listening socket that was inherited: `python -m llm_platform.supervisor.serve FD MODULE:FACTORY`.

The supervisor holds the API's socket, so that connections that arrive while the API restarts wait for it instead of being refused, and
no other program can take the port. (`uvicorn --fd` takes a TCP socket for a Unix one and so leaves out TCP_NODELAY.)
"""

from __future__ import annotations

import socket
import sys
from typing import Any, cast

import uvicorn

from llm_platform.supervisor.http import HttpReceiver
from llm_platform.supervisor.sockets import MAX_SIZE, SocketProtocol


def main() -> None:
    descriptor, factory = sys.argv[1:]
    config = uvicorn.Config(
        factory,
        factory=True,
        http=cast(Any, HttpReceiver),  # uvicorn knows no buffered protocols; the event loop does
        ws=SocketProtocol,
        ws_max_size=MAX_SIZE,
        access_log=False,
        # By default it believes X-Forwarded-For from loopback: any local client could then pass for many.
        proxy_headers=False,
        # A log stream ends only with its job: do not wait for those who still read one.
        timeout_graceful_shutdown=1,
    )
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=int(descriptor))])


if __name__ == "__main__":
    main()
