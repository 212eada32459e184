"""Reading a JSON body strictly: bounded, of one type, without what JSON readers disagree about."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from typing import Any, NoReturn

from fastapi import Request

from llm_platform.errors import InvalidInput, PayloadTooLarge

_JSON = re.compile(r"application/(?:[\w.+-]+\+)?json\s*(?:;.*)?", re.IGNORECASE)
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


async def read_json(request: Request, limit: int) -> Any:
    """The body's value. Raises InvalidInput, or PayloadTooLarge as soon as more than `limit` bytes came."""
    if not _JSON.fullmatch(request.headers.get("content-type", "")):
        raise _invalid("Send a JSON body with Content-Type: application/json")
    return parse_json(b"".join([chunk async for chunk in bounded(request, limit)]))


async def bounded(request: Request, limit: int) -> AsyncIterator[bytes]:
    """The body's chunks. Raises PayloadTooLarge before the first one if the client announces too much, else while they come."""
    message = f"The body is larger than the limit of {limit} bytes"
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and (len(announced) > 18 or int(announced) > limit):
        raise PayloadTooLarge(message, limit_bytes=limit)
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            raise PayloadTooLarge(message, limit_bytes=limit)
        yield chunk


def parse_json(body: bytes) -> Any:
    """The value of a JSON text. Raises InvalidInput for what is not JSON to the letter, deep nesting and repeated keys."""
    try:
        value = json.loads(body.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
        if _SURROGATE.search(body):
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except RecursionError:
        raise _invalid("The body is nested too deeply") from None
    except UnicodeError:
        raise _invalid("The body is not valid UTF-8 text") from None
    except json.JSONDecodeError as error:
        raise _invalid(f"The body is not valid JSON: {error.msg} at line {error.lineno}, column {error.colno}") from None
    except ValueError:
        # Python refuses to read integers of thousands of digits.
        raise _invalid("The body has a number that is too long") from None
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        again = next(name for name, _ in pairs if name in seen or seen.add(name))
        raise _invalid(f"The key '{again[:100]}' is given more than once", again[:100])
    return found


def _no_constant(name: str) -> NoReturn:
    raise _invalid(f"{name} is not JSON; numbers must be finite")


def _invalid(message: str, field: str = "body") -> InvalidInput:
    return InvalidInput(message, errors=[{"field": field, "agent": None, "message": message}])
