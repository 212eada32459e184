"""Kills every process of a session, also those that left its first process's group or outlived it."""

from __future__ import annotations

import os
import signal
from contextlib import suppress

import psutil


def kill_session(leader: int) -> None:
    """`leader` is the pid of the process that made the session. This process is spared."""
    for pid in psutil.pids():
        with suppress(ProcessLookupError, PermissionError):
            if pid != os.getpid() and os.getsid(pid) == leader:
                os.kill(pid, signal.SIGKILL)
