"""The service `dagster-workers`: `python -m dagster_project.zygotes` runs both zygotes, and starts one again that has died.

    zygotes ──forks──> run_workers    forks run workers
            ──forks──> node_workers   imports torch and the like on top, forks the processes of heavy nodes

Both are forks of one process, so that what both import is in memory once.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import NoReturn

from dagster_project import node_workers, run_workers, zygote
from llm_platform.settings import Settings

PAUSE_SECONDS = 1.0


def main() -> None:
    home = Settings().root
    run_workers.preload()
    zygote.freeze()
    roles: dict[int, Callable[[Path], NoReturn]] = {_fork(role, home): role for role in (run_workers.serve, node_workers.serve)}
    signal.signal(signal.SIGTERM, _end)
    while True:
        pid, _ = os.wait()
        time.sleep(PAUSE_SECONDS)
        role = roles.pop(pid)
        roles[_fork(role, home)] = role


def _fork(role: Callable[[Path], NoReturn], home: Path) -> int:
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        zygote.die_with_parent(parent)
        zygote.leave(role, home)
    return pid


def _end(_number: int, _frame: FrameType | None) -> NoReturn:
    """At once: its zygotes, which hold nothing, die with it."""
    os._exit(0)


if __name__ == "__main__":
    main()
