"""Folders that appear whole or not at all: written under a temporary name, flushed to disk, renamed."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from llm_platform.errors import StorageError

PARTIAL = ".tmp"
"""Suffix of a folder that is not complete; whoever finds one that nobody writes may remove it."""


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """Yields an empty folder beside `target` that becomes `target` (replacing it) when the block ends without an exception.

    On any exception, `Cancelled` and `KeyboardInterrupt` included, nothing of it stays. After a kill a `*.tmp` folder may
    stay; the next call for the same target removes it. Raises StorageError if the disk refuses.
    """
    partial = target.with_name(target.name + PARTIAL)
    replaced = target.with_name(target.name + ".old" + PARTIAL)
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        yield partial
        for path in sorted(partial.rglob("*")):
            _sync(path)
        _sync(partial)
        shutil.rmtree(replaced, ignore_errors=True)
        if target.exists():
            target.rename(replaced)
        partial.rename(target)
        _sync(target.parent)
    except (OSError, SafetensorError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        raise StorageError(f"Could not write '{target.name}': {reason or type(error).__name__}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(replaced, ignore_errors=True)


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
