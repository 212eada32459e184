"""Files packed with gzip, known by their first bytes: a look into them, and unpacking them in bounded space."""

from __future__ import annotations

import contextlib
import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

from llm_platform.data.canonical import Source

MAGIC = b"\x1f\x8b"
MAX_UNPACKED_BYTES = 20 * 2**30
MAX_GROWTH = 100
FREE_BYTES = 64 * 2**20
"""A file may unpack to FREE_BYTES plus MAX_GROWTH times its size; text packs 3 to 10 times, the worst bomb 1,032 times."""

CHUNK = 2**20


def is_packed(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


@contextlib.contextmanager
def opened(path: Path, source: Source) -> Iterator[BinaryIO]:
    """The file as it is when unpacked. Raises DatasetError, also out of the block, if what is packed is broken."""
    if not is_packed(path):
        with path.open("rb") as file:
            yield file
        return
    try:
        with gzip.open(path) as file:
            yield cast(BinaryIO, file)
    except EOFError:
        raise source.error("its gzip data is truncated: it ends before the end that was announced") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        why = "the checksum is wrong" if "CRC" in str(error) else "the length is wrong" if "length" in str(error) else "it is damaged"
        raise source.error(f"its gzip data is corrupt: {why}") from None


@contextlib.contextmanager
def unpacked(path: Path, source: Source, copy: Path, limit: int) -> Iterator[Path]:
    """The unpacked file: `path` itself, or `copy`, which is gone when the block ends.

    Raises DatasetError for a file that is truncated, corrupt, grows to more than `limit` bytes, or far more than its size.
    """
    if not is_packed(path):
        yield path
        return
    allowed = min(limit, FREE_BYTES + MAX_GROWTH * path.stat().st_size)
    try:
        with opened(path, source) as file, copy.open("xb") as out:
            size = 0
            while chunk := file.read(CHUNK):
                size += len(chunk)
                if size > allowed:
                    raise source.error(f"it unpacks to more than the {allowed:,} bytes allowed for its size", allowed=allowed)
                out.write(chunk)
        yield copy
    finally:
        copy.unlink(missing_ok=True)
