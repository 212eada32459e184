"""Who asks, and how much: every request passes here before any route sees it."""

from __future__ import annotations

import ipaddress

from anyio import to_thread
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from api.errors import error_response
from api.limits import Allowance
from api.services import Services
from llm_platform import keys
from llm_platform.errors import Forbidden, PlatformError, RateLimited, Unauthorized
from llm_platform.keys import OPERATOR, Caller

OPEN = ("/health", "/api/v1/health", "/docs", "/openapi.json")
"""What needs no key: it says nothing of anybody."""
READING = ("GET", "HEAD", "OPTIONS")


class Guard:
    """Counts each request and refuses those above the limit or without a right, before their bodies are read.

    Handlers find the Caller in `request.state.caller`. A request without a good key counts for its address, so that keys cannot
    be tried faster than anything else.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        services: Services = scope["app"].state.services
        refusal: PlatformError | None = None
        owner = None
        try:
            caller = await _caller(scope, services)
            owner = caller.owner
            caller.need("read" if scope["method"] in READING else "write")
            scope["state"]["caller"] = caller
        except PlatformError as error:
            refusal = error
        client = scope.get("client")
        allowance = await (services.limits.address(client[0] if client else "unknown") if owner is None else services.limits.user(owner))
        scope["state"]["answer_headers"] += allowance.headers()
        if not allowance.allowed:
            answer = error_response(_too_many(allowance), {"Retry-After": str(allowance.retry_after)})
        elif refusal is not None and scope["path"] not in OPEN:
            answer = error_response(refusal, {"WWW-Authenticate": "Bearer"} if isinstance(refusal, Unauthorized) else {})
        else:
            answer = self._app
        await answer(scope, receive, send)


async def _caller(scope: Scope, services: Services) -> Caller:
    """Raises Unauthorized; and Forbidden where there is no authentication, but others could come."""
    if not services.settings.authentication:
        if not _is_loopback(scope):
            raise Forbidden("Without authentication the platform answers on loopback only; set LLM_PLATFORM_AUTHENTICATION=true")
        return OPERATOR
    scheme, _, key = Headers(scope=scope).get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        raise Unauthorized("Send your API key in the header 'Authorization: Bearer KEY'")
    return await to_thread.run_sync(keys.caller, key.strip(), services.database)


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
