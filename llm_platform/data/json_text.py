"""A JSON file as a stream of rows, strictly: no NaN, no key twice in an object, no bottomless nesting, bounded memory."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any, BinaryIO, NoReturn

import orjson

from llm_platform.data.canonical import MAX_COLUMNS, Source, shown
from llm_platform.data.text import CHUNK, MAX_LINE_BYTES, whole_lines

BATCH_ROWS = 4_096
_SPACE = re.compile(r"[ \t\r\n]*")
_OPENS_ROWS = re.compile(r"\[[ \t\r\n]*\{")

Row = dict[str, Any]


_ROUNDED = 2**62


class _Refused(ValueError):
    """Valid for Python's decoder, but not JSON, or not to be read without loss."""


def _object(pairs: list[tuple[str, Any]]) -> Row:
    result = dict(pairs)
    if len(result) != len(pairs):
        twice = next(key for index, (key, _) in enumerate(pairs) if key in dict(pairs[:index]))
        raise _Refused(f"the key {shown(twice)} is given twice in one object")
    return result


def _constant(name: str) -> NoReturn:
    raise _Refused(f"{name} is not JSON; use null or a text")


def _float(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise _Refused(f"the number {shown(text, 30)} is too large")
    return number


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant, parse_float=_float)


def _reason(error: ValueError | RecursionError) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, json.JSONDecodeError):
        return f"broken JSON: {error.msg[0].lower()}{error.msg[1:]} at column {error.colno:,}"
    return str(error) if isinstance(error, _Refused) else "it has a number of too many digits"


def jsonl_rows(file: BinaryIO, source: Source) -> Iterator[list[Row]]:
    """Batches of the objects of a JSONL file; blank lines are none. Raises DatasetError with row and line."""
    row = line = 0
    for piece in whole_lines(file, source, MAX_LINE_BYTES):
        lines = piece.split(b"\n")
        lines.pop()
        found = _quickly(piece, lines)
        if found is None:
            found = list(_strictly(lines, row, line, source))
        row, line = row + len(found), line + len(lines)
        if found:
            yield found


def _strictly(lines: list[bytes], row: int, line: int, source: Source) -> Iterator[Row]:
    for number, text in enumerate(lines, start=line + 1):
        if not text or text.isspace():
            continue
        row += 1
        try:
            value = _DECODER.decode(text.decode("utf-8"))
        except (ValueError, RecursionError) as error:
            raise source.error(f"row {row:,} (line {number:,}): {_reason(error)}", row=row, line=number) from None
        _check_object(value, row, number, source)
        yield value


def _quickly(piece: bytes, lines: list[bytes]) -> list[Row] | None:
    """The objects as `_strictly` reads them, by a decoder that is several times as fast; None where the two might differ."""
    try:
        rows = [orjson.loads(text) for text in lines if text and not text.isspace()]
        if set(map(type, rows)) != {dict}:
            return None
        kinds = Counter(map(type, itertools.chain.from_iterable(map(dict.values, rows))))
        texts = sum(map(len, rows)) + kinds[str]
        if kinds.keys() & {dict, list, float}:
            values = itertools.chain.from_iterable(map(dict.values, rows))
            texts += sum(_count_texts(value) for value in values if type(value) is not str)
    except (orjson.JSONDecodeError, RecursionError):
        return None
    # Of a key that is given twice orjson keeps the last. Every text has two quotes, so then there are more of them in the lines.
    if b"\\" in piece:
        piece = piece.replace(b"\\\\", b"").replace(b'\\"', b"")
    return rows if piece.count(b'"') == 2 * texts else None


def _count_texts(value: Any) -> int:
    """The texts and keys in a value, or far too many where there is an integer so large that orjson makes a float of it."""
    kind = type(value)
    if kind is str:
        return 1
    if kind is dict:
        return len(value) + sum(map(_count_texts, value.values()))
    if kind is list:
        return sum(map(_count_texts, value))
    return _ROUNDED if kind is float and abs(value) >= 2**63 else 0


def _check_object(value: Any, row: int, line: int, source: Source) -> None:
    if type(value) is not dict:
        kind = {list: "a list", str: "a text", bool: "true or false", type(None): "null"}.get(type(value), "a number")
        raise source.error(f"row {row:,} (line {line:,}) is {kind}; every row must be an object", row=row, line=line)


class JsonText:
    """A cursor over JSON text that is read bit by bit; it holds one value and one chunk at a time.

    `limit` ends the text at that offset of the file.
    """

    def __init__(self, file: BinaryIO, source: Source, limit: int | None = None) -> None:
        self._file, self._source, self._limit = file, source, limit
        self._buffer, self._position, self._rest = "", 0, b""
        self._lines = 0  # line ends before the buffer
        self.row = 0  # rows that were begun

    def rows(self) -> Iterator[list[Row]]:
        """Batches of rows of a list of objects, of an object that holds one list of objects, or of one object."""
        opening = self._peek()
        if opening == "[":
            yield from self._list()
        elif opening == "{":
            yield from self._wrapper()
        else:
            raise self._error("the file must hold a list of objects, or one object")
        if self._peek():
            raise self._error("there is more text after the end of the JSON value")

    def _wrapper(self) -> Iterator[list[Row]]:
        self._take("{")
        members: Row = {}
        rows_of: str | None = None
        while self._peek() != "}":
            if members or rows_of is not None:
                self._take(",")
            key = self._value()
            if not isinstance(key, str) or key in members or key == rows_of:
                raise self._error("the keys of an object must be texts, each given once")
            self._take(":")
            if not self._opens_rows():
                members[key] = self._value()
            elif rows_of is None:
                rows_of = key
                yield from self._list()
            else:
                raise self._error(f"it holds two lists of rows, {shown(rows_of)} and {shown(key)}; upload one per file", row=None)
            if len(members) > MAX_COLUMNS:
                raise self._error(f"the outermost object has more than {MAX_COLUMNS:,} members")
        self._take("}")
        if rows_of is None and list(members.values()) != [[]]:
            self.row = 1
            yield [members]
        elif members and self._source.reporter:
            left = ", ".join(shown(key) for key in list(members)[:10])
            self._source.reporter.info(f"The rows are the list {shown(str(rows_of))}; what stands beside it is left out: {left}")

    def _list(self) -> Iterator[list[Row]]:
        self._take("[")
        batch: list[Row] = []
        size = 0
        while self._peek() != "]":
            if self.row:
                self._take(",")
                self._peek()
            self.row += 1
            before = self._consumed
            value = self._value()
            if type(value) is not dict:
                _check_object(value, self.row, self._line(), self._source)
            batch.append(value)
            size += self._consumed - before
            if len(batch) >= BATCH_ROWS or size >= CHUNK:
                yield batch
                batch, size = [], 0
        self._take("]")
        if batch:
            yield batch

    _dropped = 0

    @property
    def _consumed(self) -> int:
        return self._dropped + self._position

    def _value(self) -> Any:
        """The value at the cursor. A value that breaks off is tried again with more text, twice as much each time."""
        self._peek()
        while True:
            try:
                value, end = _DECODER.raw_decode(self._buffer, self._position)
            except json.JSONDecodeError as error:
                if self._more():
                    continue
                raise self._error(_reason(error), at=error.pos) from None
            except (ValueError, RecursionError) as error:
                raise self._error(_reason(error)) from None
            if end == len(self._buffer) and self._more():
                continue  # a number may go on
            self._position = end
            return value

    def _peek(self) -> str:
        """The next character that is not white space, with the cursor on it; empty at the end."""
        while True:
            found = _SPACE.match(self._buffer, self._position)
            self._position = found.end() if found else self._position
            if self._position < len(self._buffer):
                return self._buffer[self._position]
            if not self._more():
                return ""

    def _opens_rows(self) -> bool:
        """Whether a list follows whose first element is an object."""
        if self._peek() != "[":
            return False
        while not self._buffer[self._position + 1 :].lstrip() and self._more():
            pass
        return _OPENS_ROWS.match(self._buffer, self._position) is not None

    def _take(self, character: str) -> None:
        found = self._peek()
        if found != character:
            seen = shown(found) if found else "the end of the file"
            raise self._error(f"broken JSON: expected {character!r}, found {seen}")
        self._position += 1

    def _more(self) -> bool:
        """Drops what was consumed and reads on; False at the end of the file."""
        kept = len(self._buffer) - self._position
        if kept > MAX_LINE_BYTES:
            raise self._error(f"it is broken, or longer than {MAX_LINE_BYTES // 2**20} MiB")
        size = max(CHUNK, kept)
        if self._limit is not None:
            size = min(size, self._limit - self._file.tell())
        data = self._rest + self._file.read(max(0, size))
        # A character of several bytes may be cut; its bytes wait for the next read.
        text = data.decode("utf-8", errors="ignore") if self._limit is not None else _whole_characters(data)
        self._rest = data[len(text.encode("utf-8")) :]
        if not text:
            return False
        self._lines += self._buffer.count("\n", 0, self._position)
        self._dropped += self._position
        self._buffer = self._buffer[self._position :] + text
        self._position = 0
        return True

    def _line(self, at: int | None = None) -> int:
        return self._lines + self._buffer.count("\n", 0, self._position if at is None else at) + 1

    def _error(self, message: str, at: int | None = None, **metadata: Any) -> Exception:
        line = self._line(at)
        where = f"row {self.row:,} (line {line:,})" if self.row else f"line {line:,}"
        return self._source.error(f"{where}: {message}", **({"row": self.row, "line": line} | metadata))


def _whole_characters(data: bytes) -> str:
    for cut in range(4):
        try:
            return data[: len(data) - cut].decode("utf-8")
        except UnicodeDecodeError:
            continue
    raise AssertionError("the file was checked to be UTF-8")
