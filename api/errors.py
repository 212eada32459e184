"""One table from everything that can go wrong to the specification's error body."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from llm_platform.errors import InvalidInput, NotFound, PlatformError, RangeNotSatisfiable, RateLimited
from llm_platform.specs.resources import ErrorBody

_BODY = {"application/json": {"schema": {"$ref": f"#/components/schemas/{ErrorBody.__name__}"}}}
RESPONSES: dict[int | str, dict[str, Any]] = {
    "4XX": {"content": _BODY, "description": "The request cannot be fulfilled; the body says why."},
    "5XX": {"content": _BODY, "description": "The platform failed."},
}
"""What OpenAPI says about errors, for every route."""


def error_response(error: PlatformError, headers: Mapping[str, str] | None = None) -> Response:
    """The answer that an error becomes. Escaped to ASCII, it can hold whatever a client sent."""
    body = json.dumps(error.body(), default=str).encode()
    return Response(body, error.status, {**_headers(error), **(headers or {})}, "application/json")


def _headers(error: PlatformError) -> dict[str, str]:
    if isinstance(error, RangeNotSatisfiable) and "size_bytes" in error.metadata:
        return {"Content-Range": f"bytes */{error.metadata['size_bytes']}"}
    return {"Retry-After": "5"} if isinstance(error, RateLimited) else {}


def install(app: FastAPI) -> None:
    """Registers the handlers; what none of them knows is answered by the middleware."""
    handlers: dict[type[Exception], Callable[[Request, Any], Response]] = {
        PlatformError: lambda _, error: error_response(error),
        RequestValidationError: lambda _, error: error_response(_invalid(error)),
        HTTPException: _http_error,
        # Nobody is there any more to read it.
        ClientDisconnect: lambda _, error: Response(status_code=HTTPStatus.BAD_REQUEST),
    }
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)


def _invalid(error: RequestValidationError) -> InvalidInput:
    """FastAPI's list of errors as ours; the first part of each location only says where (query, path) the field is."""
    found = [{"field": ".".join(str(part) for part in item["loc"][1:]), "agent": None, "message": item["msg"]} for item in error.errors()]
    return InvalidInput("Input validation failed", errors=found)


def _http_error(request: Request, error: HTTPException) -> Response:
    """What Starlette itself refuses: unknown paths and methods."""
    if error.status_code == HTTPStatus.NOT_FOUND:
        return error_response(NotFound("There is nothing at this path", path=request.url.path[:200]))
    headers = {"Allow": ", ".join(_methods(request))} if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED else error.headers
    response = error_response(InvalidInput(f"{HTTPStatus(error.status_code).phrase}: {request.method} {request.url.path[:200]}"), headers)
    response.status_code = error.status_code
    return response


def _methods(request: Request) -> list[str]:
    """What may be done at the request's path. Starlette itself names the methods of the first route that has this path only."""
    path, paths = request.url.path, request.app.openapi()["paths"]
    named = [template for template in paths if re.fullmatch(re.sub(r"{[^}]+}", "[^/]+", template), path)]
    # A path without parameters goes before one with them.
    found = path if path in paths else named[0] if named else None
    return sorted(name.upper() for name in paths[found]) if found else ["GET"]
