"""Starts run workers in milliseconds, by a zygote that has imported Dagster and the definitions.

A run worker that is started from nothing takes two to three seconds for that, most of a short job's time.
"""

from __future__ import annotations

import os
import socket
from importlib import import_module
from pathlib import Path
from typing import NoReturn

from dagster_project import zygote

SOCKET = "run-workers.sock"


def preload() -> None:
    """Imports what run workers import at some time, some of it only where it is used."""
    import_module("dagster._cli.api")
    import_module("dagster._core.storage.local_compute_log_manager")
    import_module("dagster._core.storage.sqlite_storage")
    import_module("dagster_project.definitions")
    import_module("llm_platform.data.preprocess")
    import_module("llm_platform.data.validate")
    import_module("llm_platform.training.charts")
    import_module("matplotlib.backends.backend_agg")
    import_module("matplotlib.figure")
    import_module("polars")
    import_module("pyarrow.parquet")
    import_module("rensa")
    import_module("scipy.sparse.csgraph")


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
    zygote.show_name("run-zygote")
    zygote.serve(home, SOCKET, _run)


def _run(connection: socket.socket) -> int:
    """Becomes the run worker that is asked for."""
    os.setsid()
    zygote.show_name("run-worker")
    with connection:
        args, _ = zygote.receive(connection)
        connection.sendall(str(os.getpid()).encode())
    zygote.reseed()
    from dagster._cli.api import execute_run_command

    execute_run_command.main([args], standalone_mode=False)
    return 0
