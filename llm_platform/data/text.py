"""Text files as strict UTF-8: one fast pass over the bytes that finds what must be refused, and where it is."""

from __future__ import annotations

import codecs
import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from llm_platform.data.canonical import MAX_CELL_BYTES, Source

CHUNK = 1 * 2**20
MAX_LINE_BYTES = 4 * MAX_CELL_BYTES
"""Longest line of a JSONL file and longest element of a JSON file."""

UTF8_BOM = codecs.BOM_UTF8
_UTF32 = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)
_UTF16 = {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}


class TextProblem(Exception):
    """Something at a byte offset of the UTF-8 file; the reader of the format turns it into a DatasetError with its row."""

    def __init__(self, what: str, offset: int) -> None:
        super().__init__(what)
        self.what = what
        self.offset = offset


def bom_encoding(head: bytes) -> str | None:
    """The encoding that a byte order mark names, or None. UTF-32 is told apart from UTF-16 by its two more zero bytes."""
    if head.startswith(_UTF32):
        return "utf-32"
    return next((name for mark, name in _UTF16.items() if head.startswith(mark)), None)


@contextlib.contextmanager
def utf8(path: Path, source: Source, folder: Path) -> Iterator[tuple[BinaryIO, TextProblem | None]]:
    """The file as UTF-8 bytes, opened after its byte order mark, and the first problem in it if there is one.

    A UTF-16 file is rewritten to a temporary file in `folder` first.
    """
    with contextlib.ExitStack() as stack:
        file: BinaryIO = stack.enter_context(path.open("rb"))
        encoding = bom_encoding(file.read(4))
        file.seek(0)
        problem = None
        if encoding == "utf-32":
            raise source.error("it is UTF-32; save it as UTF-8")
        if encoding:
            copy = stack.enter_context(tempfile.TemporaryFile(dir=folder))
            problem = _transcode(file, copy, encoding)
            file = copy
            file.seek(0)
        start = len(UTF8_BOM) if file.read(3) == UTF8_BOM else 0
        file.seek(start)
        problem = problem or _first_problem(file, start)
        file.seek(start)
        yield file, problem


def _transcode(file: BinaryIO, out: BinaryIO, encoding: str) -> TextProblem | None:
    """Writes `file` as UTF-8; what comes after a broken byte is left out, since the problem ends the reading anyway."""
    decoder = codecs.getincrementaldecoder(encoding)()
    file.seek(2)
    while True:
        chunk = file.read(CHUNK)
        data = decoder.getstate()[0] + chunk  # what the decoder is about to look at
        try:
            out.write(decoder.decode(chunk, final=not chunk).encode("utf-8"))
        except UnicodeDecodeError as error:
            out.write(data[: error.start].decode(encoding).encode("utf-8"))
            offset = out.tell()
            out.write(b"?")
            out.flush()
            return TextProblem("is not valid UTF-16", offset)
        if not chunk:
            out.flush()
            return None


def _first_problem(file: BinaryIO, offset: int) -> TextProblem | None:
    """The first invalid UTF-8 or NUL byte from here on, by its offset in the file; `offset` is where the file stands."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    while True:
        chunk = file.read(CHUNK)
        held = len(decoder.getstate()[0])  # bytes of a character that the chunk before began
        nul = chunk.find(b"\0")
        try:
            decoder.decode(chunk, final=not chunk)
        except UnicodeDecodeError as error:
            wrong = error.start - held
            if nul < 0 or wrong < nul:
                return TextProblem("is not valid UTF-8", offset + wrong)
        if nul >= 0:
            return TextProblem("has a NUL byte", offset + nul)
        if not chunk:
            return None
        offset += len(chunk)


def count_lines(file: BinaryIO, end: int) -> int:
    """The number, from 1, of the line that has the byte at offset `end`. Moves the file's position."""
    file.seek(0)
    line, left = 1, end
    while left > 0 and (chunk := file.read(min(CHUNK, left))):
        line += chunk.count(b"\n")
        left -= len(chunk)
    return line


def whole_lines(file: BinaryIO, source: Source, most: int) -> Iterator[bytes]:
    """The rest of the file in pieces of about CHUNK bytes, each of whole lines that end in a newline, the last one too.

    Raises DatasetError for a line of more than `most` bytes, before it is in memory.
    """
    number, rest = 0, bytearray()
    while chunk := file.read(CHUNK):
        end = chunk.rfind(b"\n") + 1
        if end:
            piece = b"".join((rest, memoryview(chunk)[:end]))
            number += piece.count(b"\n")
            yield piece
            rest = bytearray(memoryview(chunk)[end:])
        else:
            rest += chunk
        if len(rest) > most:
            row = number + 1
            raise source.error(f"line {row:,} is longer than {most // 2**20} MiB", row=row, line=row)
    if rest:
        yield bytes(rest.removesuffix(b"\r")) + b"\n"


def is_blank(file: BinaryIO) -> bool:
    """True if only white space follows. Keeps the position."""
    start = file.tell()
    blank = True
    while blank and (chunk := file.read(CHUNK)):
        blank = not chunk.strip()
    file.seek(start)
    return blank
