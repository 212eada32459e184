"""Starts the processes of heavy nodes in milliseconds, by a zygote that has imported torch, transformers and peft.

A process that is started from nothing takes five to nine seconds for that. Each node's process has a keeper, too, that
lives as long as it does:

    zygote ──forks──> keeper ──forks──> the node's process, in a session of its own
                        │
                        └── the connection to the run worker

The keeper tells the run worker the exit code. It kills the node's session when the run worker dies, and in any case what the
node's process leaves behind, also in sessions of their own; the node's process dies with its keeper. The zygote may die: nothing
that runs depends on it.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from dagster_project import worker, zygote
from dagster_project.sessions import adopt_orphans, kill_descendants, kill_session
from llm_platform.agents import preload

SOCKET = "node-workers.sock"
READ_AT_IMPORT = (
    "BNB_",
    "GOMP_",
    "HF_",
    "KMP_",
    "LD_",
    "MALLOC_",
    "MKL_",
    "OMP_",
    "OPENBLAS_",
    "PYTHON",
    "PYTORCH_",
    "TORCH",
    "TRANSFORMERS_",
)
"""How the names of variables begin that libraries read when they are imported, so that it is too late to change them."""
_NUMBER = struct.Struct("i")


class NodeWorker:
    """The run worker's handle of a node's process; it has the part of `subprocess.Popen` that is used of one."""

    def __init__(self, home: Path, env: Mapping[str, str]) -> None:
        """Starts the process with this environment and with the caller's folder, standard output and standard error.

        Raises OSError when there is no zygote or it does not answer: then nothing runs.
        """
        self._connection = zygote.connect(home, SOCKET)
        try:
            zygote.send(self._connection, {"env": dict(env), "folder": str(Path.cwd())}, [1, 2])
            self.pid = self._number()
            with suppress(ProcessLookupError):  # it has ended already
                self._end = os.pidfd_open(self.pid)
        except BaseException:
            self.close()
            raise

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, negative for a signal. Raises subprocess.TimeoutExpired if it runs longer than that many seconds."""
        if self._code is None:
            if self._end is not None:
                ended = select.poll()
                ended.register(self._end, select.POLLIN)
                if not ended.poll(None if timeout is None else 1000 * timeout):
                    raise subprocess.TimeoutExpired(worker.COMMAND, timeout or 0)
            try:
                self._code = self._number()
            except OSError:  # the keeper was killed, and the process with it
                self._code = -signal.SIGKILL
            self.close()
        return self._code

    def close(self) -> None:
        """Gives the process up: its keeper kills it if it still runs."""
        self._connection.close()
        if self._end is not None:
            os.close(self._end)
            self._end = None

    _end: int | None = None
    _code: int | None = None

    def _number(self) -> int:
        data = self._connection.recv(_NUMBER.size)
        if len(data) < _NUMBER.size:
            raise ConnectionResetError("the connection ended without an answer")
        return _NUMBER.unpack(data)[0]


def serve(home: Path) -> NoReturn:
    zygote.show_name("node-zygote")
    born = dict(os.environ)
    os.environ.update(worker.QUIET_THREADS | born)
    # Else a look for GPUs, as libraries take one when they are imported, makes CUDA unusable in every child.
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
    preload.everything()
    zygote.serve(home, SOCKET, lambda connection: keep(connection, born))


def keep(connection: socket.socket, born: Mapping[str, str]) -> int:
    """Starts the process that is asked for and stays until it has ended, or until nobody is there any more who asked for it."""
    zygote.show_name("node-keeper")
    os.setsid()  # what is sent to the zygote's group is not for this one
    adopt_orphans()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):  # nor is a request to stop, before the node's process has ended
        signal.signal(number, signal.SIG_IGN)
    request, files = zygote.receive(connection, files=2)
    keeper = os.getpid()
    pid = os.fork()
    if pid == 0:
        zygote.leave(_become, connection, request, files, keeper, born)
    for descriptor in files:
        os.close(descriptor)
    with connection:
        end = os.pidfd_open(pid)
        either = select.poll()
        either.register(end, select.POLLIN)
        either.register(connection, 0)  # a hang-up is always reported
        if end not in dict(either.poll()):
            kill_session(pid)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        kill_descendants()
        with suppress(OSError):
            connection.sendall(_NUMBER.pack(code))
    return 0


def _become(connection: socket.socket, request: Mapping[str, Any], files: list[int], keeper: int, born: Mapping[str, str]) -> int:
    """Becomes the process of the node."""
    os.setsid()
    zygote.die_with_parent(keeper)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    with Path(os.devnull).open() as nothing:
        os.dup2(nothing.fileno(), 0)
    for target, descriptor in enumerate(files, start=1):
        os.dup2(descriptor, target)
        os.close(descriptor)
    with connection:  # from here on it may be told to stop; if nobody is there any more, this raises
        connection.sendall(_NUMBER.pack(os.getpid()))
    os.chdir(request["folder"])
    env = {**request["env"], worker.PARENT: str(keeper)}
    fits = all(
        env.get(name) in (born.get(name), os.environ.get(name)) for name in env.keys() | born.keys() if name.startswith(READ_AT_IMPORT)
    )
    if not fits or sys.modules["torch"].cuda._is_in_bad_fork():
        os.execve(sys.executable, worker.COMMAND, env)  # what was imported does not fit: a new Python, slower but right
    os.environ.clear()
    os.environ.update(env)
    zygote.reseed()
    return worker.main()
