"""Ends every process that another one has started, wherever it went: its session, and what made sessions of its own."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from contextlib import suppress

import psutil

MARK = "LLM_PLATFORM_NODE"
"""In the environment of a heavy node's process, and so of every program that it starts: the folder that it works in."""
_PR_SET_CHILD_SUBREAPER = 36


def kill_session(leader: int) -> None:
    """`leader` is the pid of the process that made the session. This process is spared."""
    for pid in psutil.pids():
        with suppress(ProcessLookupError, PermissionError):
            if pid != os.getpid() and os.getsid(pid) == leader:
                os.kill(pid, signal.SIGKILL)


def adopt_orphans() -> None:
    """From now on every descendant whose parent has died is a child of this process, so that `kill_descendants` finds it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def kill_descendants() -> None:
    """Until none is left: what is killed may just have started another one. The caller's children are reaped, too."""
    here = psutil.Process()
    while found := here.children(recursive=True):
        for process in found:
            with suppress(psutil.Error):
                process.kill()
        with suppress(ChildProcessError):
            os.waitpid(-1, 0)


def kill_marked(folder: str) -> None:
    """Every program that a node that works in that folder has started, also one that has no parent any more."""
    for process in psutil.process_iter():
        # Another user's environment cannot be read, and a zombie has none.
        with suppress(psutil.Error, OSError):
            if process.environ().get(MARK) == folder:
                process.kill()
