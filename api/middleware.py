"""What surrounds every request: an id by which it is found in every log line, the access log, and the last resort for unforeseen errors."""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
from collections.abc import Awaitable, Callable
from time import perf_counter

from sqlalchemy.exc import InterfaceError, OperationalError, TimeoutError
from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api import BASE
from api.errors import error_response
from api.services import Services
from llm_platform import json_log
from llm_platform.errors import Forbidden, PlatformError, ServiceUnavailable
from llm_platform.keys import Caller
from llm_platform.settings import AccessLog

log = logging.getLogger(__name__)
access = logging.getLogger("api.access")

_STARTS = ("http.response.start", "websocket.http.response.start", "websocket.accept")
_REQUEST_ID = re.compile(r"[A-Za-z0-9_.-]{1,64}")
PROBES = ("/health", f"{BASE}/health")
"""What supervisors ask all the time; that it went well is worth no line."""


class RequestMiddleware:
    """Sends `X-Request-Id` (the client's own, if it sent a plain one), counts the request, and writes its line into the access log.

    A WebSocket is a request with the status 101, whose line comes when it is closed, or with that of its refusal.
    What lies nearer to the routes adds to `scope["state"]["answer_headers"]` what every answer must have, also that to a failure.
    """

    def __init__(self, app: ASGIApp, access_log: AccessLog) -> None:
        self._app = app
        self._access_log: AccessLog = access_log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        request_id = Headers(scope=scope).get("x-request-id", "")
        if not _REQUEST_ID.fullmatch(request_id):
            request_id = secrets.token_hex(8)
        answer_headers = scope.setdefault("state", {})["answer_headers"] = [(b"x-request-id", request_id.encode())]
        status, sent = 0, 0
        services: Services = scope["app"].state.services

        async def send_with_headers(message: Message) -> None:
            nonlocal status, sent
            if message["type"] in _STARTS:
                status = message.get("status", 101)
                message["headers"] = [*message.get("headers", []), *answer_headers]
                if services.health.draining and scope["type"] == "http":
                    message["headers"].append((b"connection", b"close"))  # the client's next request is another process's
            else:
                sent += len(message.get("body") or message.get("text") or message.get("bytes") or b"")
            await send(message)

        token = json_log.request_id.set(request_id)
        started = perf_counter()
        try:
            await self._app(scope, receive, send_with_headers)
        finally:
            self._done(scope, status, sent, perf_counter() - started)
            json_log.request_id.reset(token)

    def _done(self, scope: Scope, status: int, sent: int, seconds: float) -> None:
        route, method = route_of(scope), scope.get("method", "GET")
        services: Services = scope["app"].state.services
        services.metrics.count(method, route or "none", status, seconds)
        if status == 200 and route in PROBES:
            return
        # The route, not the path: what a client put into a path or a query is not for a log.
        _write(self._access_log, scope, method, route, status, seconds, sent)


def _write(which: AccessLog, scope: Scope, method: str | None, route: str | None, status: int, seconds: float, sent: int) -> None:
    """A line of the access log, if such answers have one."""
    if status < {"off": 1000, "errors": 400, "all": 0}[which]:
        return
    caller: Caller | None = scope["state"].get("caller")
    client = scope.get("client")
    fields = {
        "method": method,
        "route": route,
        "status": status,
        "duration_ms": round(1000 * seconds, 2),
        "client": client[0] if client else None,
        "user": caller and caller.owner,
        "key_id": caller and caller.key_id,
        "bytes": sent,
    }
    access.info("%s %s %d", method or "-", route or "-", status, extra={"fields": fields})


def refusals(services: Services) -> Callable[[tuple[str, int] | None, int, int], Awaitable[list[tuple[bytes, bytes]]]]:
    """What the protocol tells of a head that is none, or too large, before there is a request (`llm_platform.supervisor.http.refuse`)."""

    async def refused(client: tuple[str, int] | None, status: int, sent: int) -> list[tuple[bytes, bytes]]:
        """Counts it for its address and writes its line; the headers that its answer must have."""
        started, request_id = perf_counter(), secrets.token_hex(8)
        allowance = await services.limits.address(client[0] if client else "unknown")
        seconds = perf_counter() - started
        services.metrics.count("OTHER", "none", status, seconds)
        token = json_log.request_id.set(request_id)
        _write(services.settings.access_log, {"client": client, "state": {}}, None, None, status, seconds, sent)
        json_log.request_id.reset(token)
        return [(b"x-request-id", request_id.encode()), *allowance.headers()]

    return refused


def route_of(scope: Scope) -> str | None:
    """The template of the path that was asked for, such as /api/v1/jobs/{job_id}; None where there is nothing."""
    path = getattr(scope.get("route"), "path", None)
    if path is None:
        return scope["path"] if "endpoint" in scope else None
    # A route knows its path below its router only.
    return f"{BASE}{path}" if scope["path"].startswith(f"{BASE}/") and not path.startswith(BASE) else path


class LastResort:
    """A bare INTERNAL_ERROR where a handler fell over; SERVICE_UNAVAILABLE where the database did."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = started or message["type"] in _STARTS
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except asyncio.CancelledError:  # the process ends, and this request has had its time
            if started or not scope["app"].state.services.health.draining:
                raise
            await error_response(ServiceUnavailable("The server is being restarted; send the request again"))(scope, receive, send)
        except Exception as error:
            request_id = json_log.request_id.get()
            log.exception("Request %s failed: %s %r", request_id, scope.get("method", "GET"), scope["path"])
            if started:
                raise
            if isinstance(error, OperationalError | InterfaceError | TimeoutError):  # it is away, or its disk is full
                failure = ServiceUnavailable("The platform's database cannot be used now; try again later", request_id=request_id)
            else:
                failure = PlatformError("An unexpected error occurred; the server's log has the details", request_id=request_id)
            await error_response(failure)(scope, receive, send)


class Cors(CORSMiddleware):
    """Lets pages of the allowed origins use the API and read what its headers say. No cookies are involved, so none are allowed."""

    def __init__(self, app: ASGIApp, origins: list[str]) -> None:
        super().__init__(
            app,
            allow_origins=origins,
            allow_methods=["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"],
            allow_headers=[
                *("Authorization", "Content-Type", "Idempotency-Key", "Last-Event-ID", "X-Request-ID"),
                *("Range", "If-Range", "If-Match", "If-None-Match"),
            ],
            expose_headers=[
                *("X-Request-ID", "X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset", "Retry-After"),
                *("ETag", "Content-Disposition", "Content-Range", "Accept-Ranges", "Server-Timing"),
            ],
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        asked = {"origin", "access-control-request-method"}
        if scope["type"] == "http" and scope["method"] == "OPTIONS" and asked <= set(Headers(scope=scope)):
            # A preflight, which is answered here and counts for nobody: else a user's requests could fail for its address's limit.
            services: Services = scope["app"].state.services
            client = scope.get("client")
            allowance = await services.limits.standing(client[0] if client else "unknown")
            scope["state"]["answer_headers"] += allowance.headers()
        await super().__call__(scope, receive, send)

    def preflight_response(self, request_headers: Headers) -> Response:
        answer = super().preflight_response(request_headers)
        if answer.status_code == 200:
            return answer
        headers = {name: value for name, value in answer.headers.items() if not name.startswith("content-")}
        return error_response(Forbidden(bytes(answer.body).decode()), headers)
