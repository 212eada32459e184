"""Starts run workers in milliseconds: `python -m dagster_project.run_workers`, the service `dagster-runs`.

A run worker that is started from nothing takes two to three seconds to import Dagster and the definitions, most of a
short job's time.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

from dagster_project import zygote
from llm_platform.settings import Settings

SOCKET = "run-workers.sock"


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


def main() -> None:
    home = Settings().root
    import dagster._cli.api
    import polars
    import pyarrow.parquet

    import dagster_project.definitions
    import llm_platform.data.preprocess
    import llm_platform.data.validate

    assert dagster._cli.api and dagster_project.definitions and polars and pyarrow.parquet
    assert llm_platform.data.preprocess and llm_platform.data.validate
    zygote.serve(home, SOCKET, run)


def run(connection: socket.socket) -> int:
    """Becomes the run worker that is asked for."""
    os.setsid()
    with connection:
        args, _ = zygote.receive(connection)
        connection.sendall(str(os.getpid()).encode())
    zygote.reseed()
    from dagster._cli.api import execute_run_command

    execute_run_command.main([args], standalone_mode=False)
    return 0


if __name__ == "__main__":
    main()
