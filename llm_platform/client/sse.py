"""Server-sent events out of a byte stream.

Not httpx's `iter_lines`: that also splits at characters such as U+2028, which may stand in the middle of a log line.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Event:
    """`kind` is "message" where the stream does not say otherwise."""

    kind: str
    data: str
    id: str | None


def events(chunks: Iterable[bytes]) -> Iterator[Event]:
    """The events of a stream. One that the stream ends in the middle of is not an event."""
    kind, data, cursor = "message", [], None
    for line in _lines(chunks):
        if not line:
            if data or kind != "message":
                yield Event(kind, "\n".join(data), cursor)
            kind, data, cursor = "message", [], None
            continue
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            kind = value
        elif field == "data":
            data.append(value)
        elif field == "id":
            cursor = value


def _lines(chunks: Iterable[bytes]) -> Iterator[str]:
    rest = b""
    for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            yield line.removesuffix(b"\r").decode("utf-8", "replace")
