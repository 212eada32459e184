"""Which run workers live: each holds the lock of a file from its first moment to its last, however it ends.

The system gives a dead process's lock back at once. Asking for it needs no clock, which may be set meanwhile, and no pid, which another
process may have by now. A child of the worker does not inherit it.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path


def hold(home: Path, run_id: str) -> None:
    """Locks the file of a run for this process, which is to be its worker."""
    path = _path(home, run_id)
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}")
    file = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)  # open as long as this process is there
    fcntl.lockf(file, fcntl.LOCK_EX)
    os.write(file, str(os.getpid()).encode())
    temporary.rename(path)  # so that whoever sees it finds it locked


def known(home: Path, run_id: str) -> bool:
    """Whether the run ever had a worker that holds, or held, its lock."""
    return _path(home, run_id).exists()


def holder(home: Path, run_id: str) -> tuple[int, bool]:
    """(pid of the run's worker, whether it lives). Raises FileNotFoundError if there never was one."""
    with _path(home, run_id).open() as file:
        pid = int(file.read())
        try:
            fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return pid, True
    return pid, False


def wait(home: Path, run_id: str) -> None:
    """Until the worker has ended; at once if there is none."""
    with suppress(FileNotFoundError), _path(home, run_id).open() as file:
        fcntl.lockf(file, fcntl.LOCK_SH)


def forget(home: Path, run_id: str) -> None:
    """When the run has ended."""
    _path(home, run_id).unlink(missing_ok=True)


def _path(home: Path, run_id: str) -> Path:
    return home / "run-workers" / f"{run_id}.pid"
