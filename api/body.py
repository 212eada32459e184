"""Reading a JSON body strictly: bounded, of one type, without what JSON readers disagree about."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

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
    constants: list[_Constant] = []

    def constant(name: str) -> _Constant:
        constants.append(_Constant(name))
        return constants[-1]

    try:
        value = json.loads(body.decode("utf-8"), object_pairs_hook=_unique, parse_constant=constant)
        if constants:
            raise _invalid(f"{constants[0].name} is not JSON; numbers must be finite", _path_to(constants[0], value))
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


class _Constant:
    """A NaN or an Infinity: where it stands is known only when all has been read."""

    def __init__(self, name: str) -> None:
        self.name = name


class _Place(NamedTuple):
    """Where something stands: linked, for paths written out could be as long as the body times its depth."""

    within: _Place | None
    name: str


def _path_to(wanted: object, value: Any) -> str:
    """The path of an object in what was read, such as pipeline_config.nodes.2.config.learning_rate."""
    rest: list[tuple[_Place | None, Any]] = [(None, value)]
    while rest:
        place, found = rest.pop()
        if found is wanted:
            names: list[str] = []
            while place is not None:
                names.append(place.name)
                place = place.within
            return ".".join(reversed(names))[:500] or "body"
        items = found.items() if isinstance(found, dict) else enumerate(found)
        rest += [(_Place(place, str(name)), item) for name, item in items if item is wanted or isinstance(item, dict | list)]
    return "body"


def _invalid(message: str, field: str = "body") -> InvalidInput:
    return InvalidInput(message, errors=[{"field": field, "agent": None, "message": message}])
