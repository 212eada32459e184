"""Stands between a client and an S3 server, and misbehaves as it is told: answers with an error, breaks off, or takes its time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal
from urllib.parse import urlsplit

Fault = Literal["503", "break", "half", "slow"] | None
"""An answer 503; no answer, the connection ends; half of the answer's body; the answer a second late."""
SLOW_SECONDS = 1.0
SLOW_DOWN = b'<?xml version="1.0"?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>'


@dataclass
class Proxy:
    """`fault` is asked for each request, by its method and path."""

    endpoint: str
    fault: Callable[[str, str], Fault] = lambda _method, _path: None
    faults: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def fail_first(self, count: int, fault: Fault, method: str | None = None) -> None:
        """The next `count` requests, of that method alone if one is given."""
        left = [count]

        def decide(asked: str, _path: str) -> Fault:
            if method in (None, asked) and left[0] > 0:
                left[0] -= 1
                return fault
            return None

        self.fault = decide

    def decide(self, method: str, path: str) -> Fault:
        with self._lock:
            found = self.fault(method, path)
            self.faults += found is not None
            return found


@contextmanager
def proxy_of(endpoint: str) -> Iterator[Proxy]:
    """A proxy in front of the S3 server at `endpoint`, on a free port."""
    target = urlsplit(endpoint)
    address = (target.hostname or "", target.port or 80)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            fault = proxy.decide(self.command, self.path)
            if fault == "break":
                self.close_connection = True
                return
            if fault == "503":
                self.answer(503, {"Content-Type": "application/xml"}, SLOW_DOWN)
                return
            if fault == "slow":
                time.sleep(SLOW_SECONDS)
            upstream = HTTPConnection(*address, timeout=60)
            # With the Host header that the client has signed.
            upstream.request(self.command, self.path, body, dict(self.headers.items()))
            response = upstream.getresponse()
            data = response.read()
            headers = dict(response.getheaders())
            upstream.close()
            self.answer(response.status, headers, data, half=fault == "half")

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_any

        def answer(self, status: int, headers: dict[str, str], data: bytes, half: bool = False) -> None:
            self.send_response_only(status)
            for name, value in headers.items():
                if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                    self.send_header(name, value)
            length = headers.get("Content-Length", str(len(data))) if self.command == "HEAD" else str(len(data))
            self.send_header("Content-Length", length)
            self.end_headers()
            self.wfile.write(data[: len(data) // 2] if half else data)
            self.close_connection = half

        def log_message(self, format: str, *args: object) -> None:
            return

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            return  # a client that went away

    with Server(("127.0.0.1", 0), Handler) as server:
        proxy = Proxy(f"http://127.0.0.1:{server.server_address[1]}")
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield proxy
        finally:
            server.shutdown()
            thread.join()
