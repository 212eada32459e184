"""Which format a file has, by what is in it. Its extension and what the caller says are claims."""

from __future__ import annotations

import codecs
import json
from dataclasses import dataclass
from pathlib import Path

from llm_platform.data.canonical import Source
from llm_platform.data.packed import is_packed, opened
from llm_platform.data.read_csv import sniff
from llm_platform.data.text import MAX_LINE_BYTES, UTF8_BOM, bom_encoding
from llm_platform.specs import Format

HEAD_BYTES = 256 * 2**10
EXTENSIONS: dict[str, Format] = {
    "csv": "csv", "tsv": "csv", "json": "json", "jsonl": "jsonl", "ndjson": "jsonl", "parquet": "parquet", "pq": "parquet", "txt": "txt",
}  # fmt: skip

_PACKED = {
    b"\x1f\x8b": "gzip", b"PK\x03\x04": "zip", b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz",
    b"7z\xbc\xaf\x27\x1c": "7z", b"\x28\xb5\x2f\xfd": "zstd",
}  # fmt: skip
_FOREIGN = {
    b"%PDF-": "a PDF", b"\x89PNG": "a PNG image", b"\xff\xd8\xff": "a JPEG image", b"GIF8": "a GIF image",
    b"ARROW1": "an Arrow file",
    b"SQLite format 3\x00": "an SQLite database", b"\x7fELF": "a program",
    b"\xd0\xcf\x11\xe0": "an old Office file", b"Obj\x01": "an Avro file",
}  # fmt: skip
_NAMES = {"csv": "CSV", "json": "JSON", "jsonl": "JSONL (one object per line)", "parquet": "Parquet", "txt": "plain text"}


@dataclass(frozen=True)
class _Seen:
    """The format that the content has, and the others that it could be taken for."""

    format: Format
    also: frozenset[Format] = frozenset()


def detect_format(path: Path, filename: str, claimed: Format | None) -> Format:
    """The format to read the file as, once it is unpacked if it is gzip.

    Any text can be plain text or a CSV of one column; nothing else is interchangeable. Raises DatasetError for a file that is
    empty, foreign or packed otherwise, and where the content contradicts `claimed` or the extension (of `x.csv.gz`: csv).
    """
    source = Source(filename)
    with opened(path, source) as file:
        head = file.read(HEAD_BYTES)
    inner, dot, last = filename.rpartition(".")
    if dot and last.lower() in ("gz", "gzip"):
        if not is_packed(path):
            raise source.error("its name says gzip, but the content is not packed", claimed="gzip", seen="unpacked")
        filename = inner
    for magic, name in _PACKED.items():
        if head.startswith(magic):
            twice = "twice, with gzip and " if is_packed(path) else "with "
            raise source.error(f"it is packed {twice}{name}; unpack it and upload what is in it, or pack that with gzip", seen=name)
    for magic, name in _FOREIGN.items():
        if head.startswith(magic):
            raise source.error(f"it is {name}; upload CSV, JSON, JSONL, Parquet or TXT", seen=name)
    seen = _Seen("parquet") if head.startswith((b"PAR1", b"PARE")) else _text_format(path, head, source)
    extension = EXTENSIONS.get(filename.rpartition(".")[2].lower()) if "." in filename else None
    for claim, who in ((claimed, "the format field says"), (extension, "its name says")):
        if claim and claim != seen.format and claim not in seen.also:
            raise source.error(f"{who} {_NAMES[claim]}, but the content is {_NAMES[seen.format]}", claimed=claim, seen=seen.format)
    return claimed or extension or seen.format


def _text_format(path: Path, head: bytes, source: Source) -> _Seen:
    text = _decoded(head)
    whole = len(head) < HEAD_BYTES
    if _is_binary(text):
        raise source.error("it is neither text nor Parquet; upload CSV, JSON, JSONL, Parquet or TXT", seen="binary")
    start = text.lstrip()
    if not start and whole:
        raise source.error("it is empty", rows=0)
    if start.lower().startswith(("<!doctype html", "<html")):
        raise source.error("it is a web page; upload CSV, JSON, JSONL, Parquet or TXT", seen="html")
    json_format = _json_format(path, start, whole, source)
    if json_format:
        return json_format
    _, width, share = sniff(text.encode("utf-8", "replace"), whole=whole)
    regular = width > 1 and share == 1 and text.count("\n") > 0
    also: set[Format] = {"csv", "txt"}
    # A broken first line does not make a JSONL file something else: its reader says which row is broken.
    if any(line.lstrip().startswith("{") for line in start.splitlines()[:10]):
        also.add("jsonl")
    return _Seen("csv" if regular else "txt", frozenset(also))


def _json_format(path: Path, start: str, whole: bool, source: Source) -> _Seen | None:
    """JSON or JSONL if the text begins like one. `start` begins with the first character that is not white space."""
    inner = start[1:].lstrip()[:1]
    if not ((start[:1] == "{" and inner in ('"', "}", "")) or (start[:1] == "[" and inner in tuple('{["]-0123456789'))):
        return None
    line, _, rest = start.partition("\n")
    if not rest and not whole:
        rest = _after_first_line(path, source)
    complete = _is_json(line) if len(line) < len(start) or whole else None  # None: longer than the head, so not known
    if start[0] == "[" and inner in "-0123456789" and not complete:
        return None  # "[1] A footnote" is text
    if complete is not False and rest.lstrip().startswith(("{", "[")):
        return _Seen("jsonl", frozenset({"txt"}))
    if start[0] == "{" and line.strip() != "{":
        # One object on one line is both; an object that breaks off in its line may be a broken JSONL line.
        return _Seen("json", frozenset({"txt", "jsonl"}))
    return _Seen("json", frozenset({"txt"}))


def _after_first_line(path: Path, source: Source) -> str:
    """What follows a first line that is longer than the head: the start of the second line, if there is one in reach."""
    with opened(path, source) as file:
        file.readline(MAX_LINE_BYTES)
        return file.read(2**10).decode("utf-8", "replace").strip()


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _decoded(head: bytes) -> str:
    encoding = bom_encoding(head)
    if encoding:
        return codecs.getincrementaldecoder(encoding)("replace").decode(head).removeprefix("\ufeff")
    # The head may end within a character; an incremental decoder waits for the rest of it.
    return codecs.getincrementaldecoder("utf-8")("replace").decode(head.removeprefix(UTF8_BOM))


def _is_binary(text: str) -> bool:
    """Whether so much is undecodable that it is no slip in a text. NUL bytes do not count: the reader says where they are."""
    odd = sum(text.count(chr(code)) for code in range(32) if chr(code) not in "\t\n\r\f\0") + text.count("\ufffd")
    return odd > max(64, len(text) // 10)
