"""Receiving an uploaded file: a streaming multipart parser that writes each byte once, with every quantity bounded."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
from collections import deque
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Self

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, MultipartState, parse_options_header
from starlette.concurrency import run_in_threadpool

from api.body import bounded
from llm_platform.datasets import Upload
from llm_platform.errors import InvalidInput, PayloadTooLarge, PlatformError, StorageError
from llm_platform.storage.temporary import temporary

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

MAX_PARTS = 8
MAX_FIELD_BYTES = 1024
MAX_HEADER_BYTES = 32 * 1024
"""A file name may be thousands of characters; it is cut later, not refused."""
FORM_BYTES = 64 * 1024
"""How much longer than the file the whole form may be."""
BATCH_BYTES = 2**20
"""Bytes that are handed to worker threads at a time: hashing and writing them would hold up other requests."""
AHEAD = 4
"""Batches that may wait for a thread."""
SYNC_BYTES = 64 * 2**20
"""Bytes after which the disk is told to begin writing, so that not everything is left to the end."""
STALL_SECONDS = 60.0


@asynccontextmanager
async def received(request: Request, folder: Path, limit: int, refusal: PlatformError | None = None) -> AsyncIterator[Upload]:
    """The form's file, in a fresh folder below `folder` that is gone when the block ends.

    Raises InvalidInput for what is not a form with one `file` and perhaps a `format`, PayloadTooLarge while streaming, and
    `refusal` in its place where one is given.
    """
    kind, options = parse_options_header(request.headers.get("content-type"))
    if kind != b"multipart/form-data" or not options.get(b"boundary"):
        raise invalid("Send multipart/form-data with a field 'file'", "file")
    folder.mkdir(parents=True, exist_ok=True)
    with temporary(folder) as home:
        home.mkdir()
        with (home / "upload").open("xb", buffering=0) as out, _Form(out, limit) as form:
            try:
                parser = MultipartParser(options[b"boundary"], form.callbacks(), max_header_size=MAX_HEADER_BYTES)
                await _feed(request, limit + FORM_BYTES, parser, form)
                await run_in_threadpool(form.finish)
            except PayloadTooLarge as error:
                raise refusal or error from None
            except FormParserError:
                raise invalid("The body is not a well-formed multipart form, or one of its headers is too long", "body") from None
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                raise StorageError("There is no room left for the upload") from None
        yield form.upload(home / "upload")


async def _feed(request: Request, limit: int, parser: MultipartParser, form: _Form) -> None:
    """Gives the body to the parser. While a thread works on some batches, the next ones are received."""
    with ThreadPoolExecutor(1, "parse") as thread:
        working: deque[Future[None]] = deque()
        async for batch in _batches(request, limit):
            if len(working) == AHEAD:
                await asyncio.wrap_future(working.popleft())
            working.append(thread.submit(_parse, parser, form, batch))
        for batch in working:
            await asyncio.wrap_future(batch)


def _parse(parser: MultipartParser, form: _Form, batch: Sequence[bytes]) -> None:
    for chunk in batch:
        # A boundary begins with a carriage return, which is found three times as fast as a boundary.
        if parser.state == MultipartState.PART_DATA and parser.index == 0 and b"\r" not in chunk:
            form.data(chunk, 0, len(chunk))
        else:
            parser.write(chunk)
    form.write()


async def _batches(request: Request, limit: int) -> AsyncIterator[list[bytes]]:
    waiting: list[bytes] = []
    size = 0
    chunks = bounded(request, limit)
    try:
        while True:
            async with asyncio.timeout(STALL_SECONDS):
                chunk = await anext(chunks, None)
            if chunk:
                waiting.append(chunk)
                size += len(chunk)
            if waiting and (size >= BATCH_BYTES or chunk is None):
                yield waiting
                waiting, size = [], 0
            if chunk is None:
                return
    except TimeoutError:
        raise invalid(f"The upload stalled: nothing came for {STALL_SECONDS:.0f} s", "body") from None


class _Form:
    """Takes the parser's events. The file's bytes go to `out` and its hash, a field's to memory.

    Bytes are hashed in a thread of its own while they are written and the next ones are parsed.
    """

    def __init__(self, out: FileIO, limit: int) -> None:
        self._out = out
        self._limit = limit
        self._sha256 = hashlib.sha256()
        self._hasher, self._syncer = ThreadPoolExecutor(1, "hash"), ThreadPoolExecutor(1, "sync")
        self._hashed: deque[Future[None]] = deque()
        self._synced: Future[None] | None = None
        self._sync_at = SYNC_BYTES
        self._pieces: list[memoryview] = []
        self._size = 0
        self._parts = 0
        self._header = (bytearray(), bytearray())
        self._disposition = b""
        self._field = ""
        self._filename: str | None = None
        self._values: dict[str, bytearray] = {}
        self._ended = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # The event loop is not to wait for the disk; what a thread still does to a closed file comes to nothing.
        self._hasher.shutdown(wait=False, cancel_futures=True)
        self._syncer.shutdown(wait=False, cancel_futures=True)

    def finish(self) -> None:
        """Waits until the file is hashed and on the disk."""
        while self._hashed:
            self._hashed.popleft().result()
        if self._synced:
            self._synced.result()
        os.fsync(self._out.fileno())

    def _hash(self, pieces: list[memoryview]) -> None:
        for piece in pieces:
            self._sha256.update(piece)

    def callbacks(self) -> MultipartCallbacks:
        return {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, start, end: self._header[0].extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._header[1].extend(data[start:end]),
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_finished,
            "on_part_data": self.data,
            "on_end": self._end,
        }

    def upload(self, path: Path) -> Upload:
        if not self._ended:
            raise invalid("The form ends before its closing boundary", "body")
        if self._filename is None:
            raise invalid("field required", "file")
        claimed = self._values.get("format")
        text = claimed.decode("utf-8", "replace").strip() if claimed else None
        return Upload(path, self._filename, self._size, self._sha256.hexdigest(), text or None)

    def _begin(self) -> None:
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise invalid(f"The form has more than {MAX_PARTS} parts; it takes 'file' and 'format'", "body")
        self._disposition = b""

    def _header_end(self) -> None:
        if self._header[0].lower() == b"content-disposition":
            self._disposition = bytes(self._header[1])
        self._header = (bytearray(), bytearray())

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        name = options.get(b"name", b"").decode("utf-8", "replace")
        if name not in ("file", "format"):
            raise invalid(f"unknown field '{name[:100]}'; the form takes 'file' and 'format'", name[:100] or "body")
        if name in self._values or (name == "file" and self._filename is not None):
            raise invalid(f"'{name}' is given more than once", name)
        self._field = name
        if name == "file":
            if b"filename" not in options:
                raise invalid("'file' must be a file, with a file name", "file")
            self._filename = options[b"filename"].decode("utf-8", "replace")
        else:
            self._values[name] = bytearray()

    def data(self, data: bytes, start: int, end: int) -> None:
        """Takes bytes of the part that is being received."""
        if self._field != "file":
            self._values[self._field] += data[start:end]
            if len(self._values[self._field]) > MAX_FIELD_BYTES:
                raise invalid(f"'{self._field}' is longer than {MAX_FIELD_BYTES} bytes", self._field)
            return
        self._size += end - start
        if self._size > self._limit:
            raise PayloadTooLarge(f"The file is larger than the limit of {self._limit} bytes", limit_bytes=self._limit)
        self._pieces.append(memoryview(data)[start:end])

    def write(self) -> None:
        """Hashes and writes what came of the file."""
        pieces, self._pieces = self._pieces, []
        if len(self._hashed) == AHEAD:
            self._hashed.popleft().result()
        self._hashed.append(self._hasher.submit(self._hash, pieces))
        written = os.writev(self._out.fileno(), pieces) if pieces else 0
        for piece in pieces:  # a disk that is nearly full, or a signal, can cut a write short
            rest, written = piece[written:], max(0, written - len(piece))
            while rest:
                rest = rest[self._out.write(rest) :]
        if self._size >= self._sync_at and (self._synced is None or self._synced.done()):
            self._synced = self._syncer.submit(os.fdatasync, self._out.fileno())
            self._sync_at = self._size + SYNC_BYTES

    def _end(self) -> None:
        self._ended = True


def invalid(message: str, field: str) -> InvalidInput:
    return InvalidInput(f"Input validation failed: {message}", errors=[{"field": field, "agent": None, "message": message}])
