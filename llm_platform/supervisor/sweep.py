"""Find and end every process of an instance, also those that left its process tree, its sessions and its process groups.

Children inherit their environment, so a marker in it is what no grandchild loses by becoming a daemon or by outliving its parent.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Collection

import psutil

MARKER = "LLM_PLATFORM_INSTANCE"
_UNKILLABLE_AFTER = 5.0
"""Seconds after which a process that ignores even SIGKILL (it hangs in the kernel) is given up."""


def marked(instance: str, *, spare: Collection[int] = ()) -> list[psutil.Process]:
    """The living processes that carry the marker of `instance`, but for this one and those to `spare`."""
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        if process.pid == os.getpid() or process.pid in spare:
            continue
        # The environment of another user's process cannot be read, and that of a zombie is gone: neither is ours to end.
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get(MARKER) == instance:
                found.append(process)
    return found


def sweep(instance: str, *, grace: float = 3.0, spare: Collection[int] = (), hurry: Callable[[], bool] = lambda: False) -> int:
    """Ends what is marked with `instance`: SIGTERM, SIGKILL after `grace` seconds, until none is left. How many were there.

    When `hurry` becomes true, what is left is killed at once.
    """
    since: dict[psutil.Process, float] = {}
    deadline = time.monotonic() + grace + _UNKILLABLE_AFTER
    while found := marked(instance, spare=spare):
        now = time.monotonic()
        if now > deadline:
            break
        for process in found:
            with contextlib.suppress(psutil.Error):
                if now - since.setdefault(process, now) >= grace or hurry():
                    process.kill()
                elif since[process] == now:
                    process.terminate()
        time.sleep(0.05)
    return len(since)
