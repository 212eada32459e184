"""What surrounds every request: an id by which it is found in the server's log, and the last resort for unforeseen errors."""

from __future__ import annotations

import logging
import re
import secrets

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.errors import error_response
from llm_platform.errors import PlatformError

log = logging.getLogger(__name__)

_REQUEST_ID = re.compile(r"[A-Za-z0-9_.-]{1,64}")


class RequestMiddleware:
    """Sends `X-Request-Id` (the client's own, if it sent a plain one), and a bare INTERNAL_ERROR where a handler fell over.

    What lies nearer to the routes adds to `scope["state"]["answer_headers"]` what every answer must have, also that to a failure.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = Headers(scope=scope).get("x-request-id", "")
        if not _REQUEST_ID.fullmatch(request_id):
            request_id = secrets.token_hex(8)
        answer_headers = scope.setdefault("state", {})["answer_headers"] = [(b"x-request-id", request_id.encode())]
        started = False

        async def send_with_headers(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = [*message.get("headers", []), *answer_headers]
            await send(message)

        try:
            await self._app(scope, receive, send_with_headers)
        except Exception:
            log.exception("Request %s failed: %s %r", request_id, scope["method"], scope["path"])
            if started:
                raise
            failure = PlatformError("An unexpected error occurred; the server's log has the details", request_id=request_id)
            await error_response(failure)(scope, receive, send_with_headers)
