"""Whether the platform's services work, told quickly whatever state they are in."""

from __future__ import annotations

import asyncio
import logging
import socket
import sqlite3
import ssl
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from importlib.metadata import version
from pathlib import Path
from urllib.parse import unquote, urlsplit

import httpx

from llm_platform.errors import PlatformError
from llm_platform.specs.resources import Health, ServiceStatus

CHECK_SECONDS = 2.0
CACHE_SECONDS = 1.0

log = logging.getLogger(__name__)

Check = Callable[[], None]
"""Raises anything if the service cannot be used; returns within `CHECK_SECONDS`, or counts as unhealthy."""


class HealthMonitor:
    """Runs one check per service, all at once, and remembers the answer for a second.

    `checks` has None for a service that is not configured. A check that hangs is not started a second time.
    """

    def __init__(self, checks: Mapping[str, Check | None]) -> None:
        self._checks = dict(checks)
        self._pool = ThreadPoolExecutor(max_workers=max(1, len(self._checks)), thread_name_prefix="health")
        self._running: dict[str, Future[None]] = {}
        self._lock = asyncio.Lock()
        self._last: tuple[float, Health] | None = None
        self._ill: set[str] = set()
        self.draining = False
        """Whether this process is about to end: then it says that it is unhealthy, so that a proxy sends the next requests elsewhere."""
        self.version = version("llm-platform")

    async def health(self) -> Health:
        """At most a second old, in at most 2.5 s."""
        async with self._lock:
            if self._last is None or time.monotonic() - self._last[0] > CACHE_SECONDS:
                found = await self._look()
                self._last = (time.monotonic(), found)
            found = self._last[1]
        if not self.draining:
            return found
        return found.model_copy(update={"status": "unhealthy", "services": {**found.services, "api": "unhealthy"}})

    async def _look(self) -> Health:
        for name, check in self._checks.items():
            if check is not None and (name not in self._running or self._running[name].done()):
                self._running[name] = self._pool.submit(check)
        await asyncio.to_thread(wait, list(self._running.values()), CHECK_SECONDS)
        services: dict[str, ServiceStatus] = {"api": "healthy"}
        services |= {name: self._status(name, check) for name, check in self._checks.items()}
        self._tell(services)
        overall = "unhealthy" if "unhealthy" in services.values() else "healthy"
        return Health(status=overall, version=self.version, services=services)

    def _tell(self, services: Mapping[str, ServiceStatus]) -> None:
        """One line in the log for each service whose state has changed."""
        ill = {name for name, status in services.items() if status == "unhealthy"}
        for name in sorted(ill - self._ill):
            future = self._running[name]
            error = future.exception() if future.done() else TimeoutError()
            # Other errors' texts may name users and addresses of services.
            log.warning("Service %s is unhealthy: %s", name, error.message if isinstance(error, PlatformError) else type(error).__name__)
        for name in sorted(self._ill - ill):
            log.warning("Service %s is healthy again", name)
        self._ill = ill

    def _status(self, name: str, check: Check | None) -> ServiceStatus:
        if check is None:
            return "disabled"
        future = self._running[name]
        if not future.done():
            return "unhealthy"
        return "unhealthy" if future.exception() else "healthy"

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)


def mlflow_check(url: str, fallback: Check) -> Check:
    """A check of an MLflow server, or of its SQLite file where there is no server; `fallback` for other databases."""
    if url.startswith(("http://", "https://")):
        return lambda: _http_ok(f"{url.rstrip('/')}/health")
    if url.startswith("sqlite:///"):
        return lambda: _sqlite_ok(Path(url.removeprefix("sqlite:///")))
    return fallback


def _http_ok(url: str) -> None:
    # Proxies of the environment are not asked: the server is one of ours.
    with httpx.Client(timeout=CHECK_SECONDS * 0.9, trust_env=False) as client:
        client.get(url).raise_for_status()


def _sqlite_ok(path: Path) -> None:
    """A file that is not there yet is made at the first use; then its folder must be."""
    if not path.exists():
        if not path.parent.is_dir():
            raise FileNotFoundError
        return
    connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=CHECK_SECONDS / 2)
    try:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    finally:
        connection.close()


def redis_check(url: str | None) -> Check | None:
    """A check that a Redis answers; None if there is none."""
    return None if url is None else lambda: _redis_ok(url)


def _redis_ok(url: str) -> None:
    """Says PING as the protocol's inline command, so that no client library is needed; 'first log in' is an answer too."""
    parts = urlsplit(url)
    if parts.scheme == "unix":
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(CHECK_SECONDS / 2)
        connection.connect(unquote(parts.path))
    else:
        connection = socket.create_connection((parts.hostname or "localhost", parts.port or 6379), timeout=CHECK_SECONDS / 2)
    with connection:
        if parts.scheme == "rediss":
            connection = ssl.create_default_context().wrap_socket(connection, server_hostname=parts.hostname)
        connection.sendall(b"PING\r\n")
        if not connection.recv(64).startswith((b"+PONG", b"-NOAUTH")):
            raise ConnectionError
