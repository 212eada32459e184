"""Names of things half-written, from which anyone can tell whether their writer is still alive."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MAX_AGE = 86_400.0
"""Seconds after which a half-written thing is given up, whoever writes it."""

_NAME = re.compile(r"\.tmp~(?P<host>[^~]*)~(?P<pid>\d+)~(?P<start>\d+)~[0-9a-f]+")


def temporary_name() -> str:
    """A fresh name with the host, the process id and the process's start time (a process id is soon used again)."""
    pid = os.getpid()
    host = re.sub(r"[^A-Za-z0-9.-]", "_", socket.gethostname())[:64]
    return f".tmp~{host}~{pid}~{_start_time(pid) or 0}~{secrets.token_hex(6)}"


def is_abandoned(name: str, modified: float) -> bool:
    """True if the writer of a thing of that name, last written to at `modified` (seconds since 1970), is gone or far too slow."""
    if time.time() - modified > MAX_AGE:
        return True
    match = _NAME.fullmatch(name)
    if match is None or temporary_name().split("~")[1] != match["host"] or match["start"] == "0":
        return False
    return _start_time(int(match["pid"])) != int(match["start"])


def remove(path: Path) -> None:
    """Removes a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def temporary(folder: Path) -> Iterator[Path]:
    """A fresh path in `folder`; whatever is still there at the end is removed, also when the work is interrupted."""
    path = folder / temporary_name()
    try:
        yield path
    finally:
        remove(path)


def _start_time(pid: int) -> int | None:
    """Clock ticks from the boot to the start of a process; None if there is no such process (or no /proc)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    state, *rest = stat.rpartition(")")[2].split()
    # A zombie is dead for our purpose: it will never write again.
    return None if state == "Z" else int(rest[18])
