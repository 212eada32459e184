"""A process that has imported what others need, and forks one of them per request: in milliseconds, not seconds.

`run_workers.py` and `node_workers.py` are the two, run by `zygotes.py`. Each stays single-threaded and holds no connection,
file or lock, since a child would share it: then forking is safe. Anyone who may open its socket in the home folder may
start processes, which is why only its owner may.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import random
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

ANSWER_SECONDS = 30.0
PR_SET_PDEATHSIG = 1
PR_SET_NAME = 15


def connect(home: Path, name: str) -> socket.socket:
    """A connection to the zygote that listens as `name` in the home folder. Raises OSError when there is none."""
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(ANSWER_SECONDS)
    try:
        with _folder(home) as folder:
            connection.connect(f"{folder}/{name}")
    except BaseException:
        connection.close()
        raise
    return connection


def send(connection: socket.socket, request: Any, files: Sequence[int] = ()) -> None:
    """Sends the request, JSON-like, with open file descriptors. Nothing more can be sent on this connection."""
    data = json.dumps(request).encode()
    sent = socket.send_fds(connection, [data], list(files)) if files else 0
    connection.sendall(data[sent:])
    connection.shutdown(socket.SHUT_WR)


def receive(connection: socket.socket, files: int = 0) -> tuple[Any, list[int]]:
    """What was sent: the request, and up to `files` descriptors. Raises ValueError for what is no request, OSError."""
    connection.settimeout(ANSWER_SECONDS)
    data, descriptors, _, _ = socket.recv_fds(connection, 65536, files)
    parts = [data]
    while data := connection.recv(65536):
        parts.append(data)
    return json.loads(b"".join(parts)), descriptors


def freeze() -> None:
    """Keeps the garbage collector of children off what is there now: it would write to, and so copy, every page they share."""
    gc.collect()
    gc.freeze()


def serve(home: Path, name: str, child: Callable[[socket.socket], int]) -> NoReturn:
    """Forks for every connection a process that calls `child` with it and ends with the code that it returns."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # children are reaped by the system
    with socket.socket(socket.AF_UNIX) as listener:
        temporary = home / f"{name}.{os.getpid()}"
        temporary.unlink(missing_ok=True)
        with _folder(home) as folder:
            mask = os.umask(0o177)
            listener.bind(f"{folder}/{temporary.name}")
            os.umask(mask)
        listener.listen(16)
        freeze()
        temporary.replace(home / name)  # so that whoever sees the name can connect
        while True:
            connection, _ = listener.accept()
            with connection, suppress(OSError):  # no process to be had: the connection ends without an answer
                if os.fork() == 0:
                    listener.close()  # else the name would seem to be listened to when this zygote is dead
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    leave(child, connection)


def leave(work: Callable[..., int], *args: Any) -> NoReturn:
    """Does the work and ends the process with its code, at once: taking the interpreter down costs torch more than a second."""
    code = 1
    try:
        code = work(*args)
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def die_with_parent(parent: int) -> None:
    """Asks Linux to kill this process when its parent dies, however it dies. `parent` is the pid that it should have."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)  # it died before we asked


def show_name(name: str) -> None:
    """What `ps` and `top` show as the name of this process; of at most 15 letters."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_NAME, name.encode())


def reseed() -> None:
    """Gives this child random numbers of its own; Python's own generator sees to that itself."""
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed(random.SystemRandom().getrandbits(32))


class _folder:
    """A short name for a folder: a socket's path may have only some 100 characters."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> str:
        self._descriptor = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY)
        return f"/proc/self/fd/{self._descriptor}"

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)
