"""Starts run workers in milliseconds, by a zygote that has imported Dagster and the definitions.

A run worker that is started from nothing takes two to three seconds for that, most of a short job's time.
"""

from __future__ import annotations

import os
import socket
from importlib import import_module
from pathlib import Path
from typing import NoReturn

from dagster_project import run_locks, zygote
from llm_platform.settings import Settings

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
    settings = Settings()
    if settings.dagster_database_url:
        import_module("dagster_postgres")
    if settings.compute_logs_bucket:
        import_module("dagster_aws.s3.compute_log_manager")


def start_run_worker(home: Path, run_id: str, execute_run_args: str) -> int:
    """Asks the zygote of this home to run what `dagster api execute_run` takes; the new process's pid.

    The process holds the lock of its run (`run_locks`). Raises ConnectionError or FileNotFoundError when there is no zygote, or when
    it, or what it forked, died at once: then nothing runs.
    """
    with zygote.connect(home, SOCKET) as connection:
        zygote.send(connection, [run_id, execute_run_args])
        answer = connection.makefile("rb").read()
    if not answer:
        raise ConnectionResetError("The zygote closed the connection without a word")
    return int(answer)


def serve(home: Path) -> NoReturn:
    zygote.show_name("run-zygote")
    zygote.serve(home, SOCKET, lambda connection: _run(home, connection))


def _run(home: Path, connection: socket.socket) -> int:
    """Becomes the run worker that is asked for."""
    os.setsid()
    zygote.show_name("run-worker")
    with connection:
        (run_id, args), _ = zygote.receive(connection)
        run_locks.hold(home, run_id)
        connection.sendall(str(os.getpid()).encode())
    zygote.reseed()
    from dagster._cli.api import execute_run_command

    execute_run_command.main([args], standalone_mode=False)
    return 0
