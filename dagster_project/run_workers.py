"""Starts run workers in milliseconds, by a zygote that has imported Dagster and the definitions.

A run worker that is started from nothing takes two to three seconds for that, most of a short job's time.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import NoReturn

from dagster_project import zygote

SOCKET = "run-workers.sock"
PRELOADED = (
    "dagster._cli.api",
    "dagster._core.storage.local_compute_log_manager",
    "dagster._core.storage.sqlite_storage",
    "dagster_project.definitions",
    "llm_platform.data.preprocess",
    "llm_platform.data.validate",
    "llm_platform.training.charts",
    "matplotlib.backends.backend_agg",
    "matplotlib.figure",
    "polars",
    "pyarrow.parquet",
    "rensa",
    "scipy.sparse.csgraph",
    "upath",
)
"""What run workers import at some time, some of it only where it is used."""


def start_run_worker(home: Path, execute_run_args: str) -> int:
    """Asks the zygote of this home to run what `dagster api execute_run` takes; the new process's pid.

    Raises ConnectionError or FileNotFoundError when there is no zygote: then nothing was started.
    """
    with zygote.connect(home, SOCKET) as connection:
        zygote.send(connection, execute_run_args)
        answer = connection.makefile("rb").read()
    if not answer:
        raise RuntimeError("The zygote closed the connection without a word")
    return int(answer)


def serve(home: Path) -> NoReturn:
    zygote.serve(home, SOCKET, _run)


def _run(connection: socket.socket) -> int:
    """Becomes the run worker that is asked for."""
    os.setsid()
    with connection:
        args, _ = zygote.receive(connection)
        connection.sendall(str(os.getpid()).encode())
    zygote.reseed()
    from dagster._cli.api import execute_run_command

    execute_run_command.main([args], standalone_mode=False)
    return 0
