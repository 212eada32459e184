"""Starts run workers in milliseconds: a process that has imported everything, and forks one per run.

Run as `python -m dagster_project.zygote`. A run worker that is started from nothing takes two to three seconds to
import Dagster and the definitions, most of a short job's time. This process stays single-threaded, so forking it is
safe; it holds no connection, since a child must not share one. Anyone who may open the socket in the home folder may
start runs, which is why only its owner may.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import traceback
from contextlib import suppress
from pathlib import Path

from llm_platform.settings import Settings

SOCKET = "run-workers.sock"
ANSWER_SECONDS = 30.0


def start_run_worker(home: Path, execute_run_args: str) -> int:
    """Asks the zygote of this home to run what `dagster api execute_run` takes; the new process's pid.

    Raises ConnectionError or FileNotFoundError when there is no zygote: then nothing was started.
    """
    with socket.socket(socket.AF_UNIX) as connection:
        with _folder(home) as folder:
            connection.connect(f"{folder}/{SOCKET}")
        connection.settimeout(ANSWER_SECONDS)
        connection.sendall(json.dumps(execute_run_args).encode())
        connection.shutdown(socket.SHUT_WR)
        answer = connection.makefile("rb").read()
    if not answer:
        raise RuntimeError("The zygote closed the connection without a word")
    return int(answer)


class _folder:
    """A short name for a folder: a socket's path may have only some 100 characters."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> str:
        self._descriptor = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY)
        return f"/proc/self/fd/{self._descriptor}"

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)


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
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # children are reaped by the system
    with socket.socket(socket.AF_UNIX) as listener:
        with suppress(FileNotFoundError):
            (home / SOCKET).unlink()
        with _folder(home) as folder:
            mask = os.umask(0o177)
            listener.bind(f"{folder}/{SOCKET}")
            os.umask(mask)
        listener.listen(16)
        while True:
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(ANSWER_SECONDS)
                with suppress(OSError, ValueError):
                    args = json.loads(connection.makefile("rb").read())
                    pid = os.fork()
                    if pid == 0:
                        listener.close()
                        connection.close()
                        _child(args)
                    connection.sendall(str(pid).encode())


def _child(execute_run_args: str) -> None:
    """Becomes the run worker; never returns."""
    code = 1
    try:
        os.setsid()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        from dagster._cli.api import execute_run_command

        execute_run_command.main([execute_run_args], standalone_mode=False)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main()
