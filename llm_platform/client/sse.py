"""Server-sent events out of a byte stream.

Not httpx's `iter_lines`: that also splits at characters such as U+2028, which may stand in the middle of a log line.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Event:
    """`kind` is "message" where the stream does not say otherwise."""

    kind: str
    data: str
    id: str | None


class Events:
    """Cuts a stream into events. One that the stream ends in the middle of is not an event."""

    def __init__(self) -> None:
        self._rest = b""
        self._begin()

    def feed(self, chunk: bytes) -> Iterator[Event]:
        """The events that end in this piece of the stream."""
        *whole, self._rest = (self._rest + chunk).split(b"\n")
        for raw in whole:
            line = raw.removesuffix(b"\r").decode("utf-8", "replace")
            if line:
                self._take(line)
                continue
            if self._data or self._kind != "message":
                yield Event(self._kind, "\n".join(self._data), self._id)
            self._begin()

    def _begin(self) -> None:
        self._kind, self._id = "message", None
        self._data: list[str] = []

    def _take(self, line: str) -> None:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "event":
            self._kind = value
        elif name == "data":
            self._data.append(value)
        elif name == "id":
            self._id = value
