"""Who asks, and how much: every request passes here before any route sees it."""

from __future__ import annotations

import ipaddress
import logging
from urllib.parse import quote

from anyio import to_thread
from sqlalchemy.exc import SQLAlchemyError
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.errors import error_response
from api.limits import Allowance
from api.services import Services
from llm_platform import audit, keys
from llm_platform.errors import Forbidden, PlatformError, RateLimited, Unauthorized
from llm_platform.keys import OPERATOR, Caller
from llm_platform.settings import Settings
from llm_platform.specs.channel import KEY_PROTOCOL

OPEN = ("/health", "/api/v1/health", "/docs", "/openapi.json")
"""What needs no key: it says nothing of anybody."""
METRICS = "/metrics"
READING = ("GET", "HEAD", "OPTIONS")

log = logging.getLogger(__name__)


def without_key(settings: Settings) -> tuple[str, ...]:
    """The paths that everybody may ask."""
    return (*OPEN, METRICS) if settings.metrics_open else OPEN


class Guard:
    """Counts each request and refuses those above the limit or without a right, before their bodies are read.

    Handlers find the Caller in `request.state.caller`. A request without a good key counts for its address, so that keys cannot
    be tried faster than anything else.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        services: Services = scope["app"].state.services
        refusal: PlatformError | None = None
        owner = None
        try:
            if scope["type"] == "websocket":
                _check_origin(scope, services)
            caller = scope["state"]["caller"] = await identify(scope, services)
            owner = caller.owner
            caller.need("read" if _method(scope) in READING else "write")
        except PlatformError as error:
            refusal = error
        except Exception:  # the database is away; its answer has the headers all the same
            scope["state"]["answer_headers"] += (await _allowance(scope, services, None)).headers()
            raise
        allowance = await _allowance(scope, services, owner)
        scope["state"]["answer_headers"] += allowance.headers()
        if not allowance.allowed:
            answer = error_response(_too_many(allowance), {"Retry-After": str(allowance.retry_after)})
        elif refusal is not None and scope["path"] not in without_key(services.settings):
            answer = error_response(refusal, {"WWW-Authenticate": "Bearer"} if isinstance(refusal, Unauthorized) else {})
        else:
            answer = self._app

        async def audited(message: Message) -> None:
            if message["type"] in ("http.response.start", "websocket.http.response.start") and message["status"] in (401, 403):
                await to_thread.run_sync(_denied, scope, services)
            await send(message)

        await answer(scope, receive, audited)


def _denied(scope: Scope, services: Services) -> None:
    client = scope.get("client")
    target = f"{_method(scope)} {quote(scope['path'])}"
    try:
        audit.record(services.database, scope["state"].get("caller"), "access.denied", target, client[0] if client else None)
    except SQLAlchemyError:
        log.exception("A denied access could not be written into the audit log")


def _method(scope: Scope) -> str:
    """A WebSocket begins as a GET."""
    return scope.get("method", "GET")


async def _allowance(scope: Scope, services: Services, owner: str | None) -> Allowance:
    """Counts a request, or a command on a channel."""
    client = scope.get("client")
    return await (services.limits.address(client[0] if client else "unknown") if owner is None else services.limits.user(owner))


async def count(scope: Scope, services: Services, owner: str | None) -> None:
    """Counts what comes without a request of its own. Raises RateLimited."""
    allowance = await _allowance(scope, services, owner)
    if not allowance.allowed:
        raise _too_many(allowance)


def _check_origin(scope: Scope, services: Services) -> None:
    """Raises Forbidden for a page of another site: browsers let every page open a WebSocket, and leave it to the server to say no."""
    headers = Headers(scope=scope)
    origin = headers.get("origin")
    if origin is None or {origin, "*"} & set(services.settings.cors_origins):
        return
    # The scheme says nothing: behind a proxy that speaks TLS, the page's is another than this connection's.
    if origin.partition("://")[2] != headers.get("host"):
        raise Forbidden("Pages of this origin may not open a channel; LLM_PLATFORM_CORS_ORIGINS says which may", origin=origin[:200])


def _key(scope: Scope) -> str:
    """The key that was sent, in the header or, by a browser's WebSocket, as a subprotocol. Raises Unauthorized if there is none."""
    scheme, _, key = Headers(scope=scope).get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and key.strip():
        return key.strip()
    for offered in scope.get("subprotocols", []):
        if offered.startswith(KEY_PROTOCOL) and offered != KEY_PROTOCOL:
            return offered.removeprefix(KEY_PROTOCOL)
    raise Unauthorized("Send your API key in the header 'Authorization: Bearer KEY'")


async def identify(scope: Scope, services: Services) -> Caller:
    """For whom a request speaks. Raises Unauthorized; and Forbidden where there is no authentication, but others could come."""
    if not services.settings.authentication:
        if not _is_loopback(scope):
            raise Forbidden("Without authentication the platform answers on loopback only; set LLM_PLATFORM_AUTHENTICATION=true")
        return OPERATOR
    key = _key(scope)
    if services.oidc is not None and not key.startswith(f"{keys.PREFIX}_"):
        return await to_thread.run_sync(services.oidc.caller, key)
    return await to_thread.run_sync(keys.caller, key, services.database)


def _is_loopback(scope: Scope) -> bool:
    """Whether the request came to a loopback address of this machine, or through a socket file."""
    host, port = scope.get("server") or ("", None)
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return port is None or host == "localhost"


def _too_many(allowance: Allowance) -> RateLimited:
    return RateLimited(
        f"More than {allowance.limit} requests in a minute; go on in {allowance.retry_after} seconds",
        limit=allowance.limit,
        reset=allowance.reset,
        retry_after_seconds=allowance.retry_after,
    )
