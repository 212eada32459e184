"""What runs on a node of a Ray cluster: an actor that starts the process of a heavy node there, and knows nothing else of it.

It holds the CPUs and GPUs that Ray has given it. When it dies, however it dies, the process's keeper kills the process.
"""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import ray

from dagster_project import keeper, worker

GIVEN_BY_RAY = ("OMP_NUM_THREADS", "RAY_")
"""What Ray sets for its own workers; the settings say how many threads a training has."""
KILLED = -9


class Host:
    """Of several threads: `stop` is called while `run` waits."""

    def __init__(self) -> None:
        self._keeper: subprocess.Popen[bytes] | None = None
        self._stopped = False

    def address(self) -> tuple[str, int]:
        """This machine's address in the cluster, and a port of it that is free now."""
        with socket.create_server(("", 0)) as server:
            return ray.util.get_node_ip_address(), server.getsockname()[1]

    def run(self, command: Sequence[str], env: Mapping[str, str], output: str) -> int | None:
        """Runs this machine's Python with such arguments, to its end: the exit code, negative for a signal.

        `env` goes over this machine's environment, and what the process prints to the file `output`. None where the file's folder is
        not there: this machine does not see the platform's home folder.
        """
        if not Path(output).parent.is_dir():
            return None
        own = {name: value for name, value in os.environ.items() if not name.startswith(GIVEN_BY_RAY)}
        self._keeper = subprocess.Popen(
            [*keeper.COMMAND, *worker.COMMAND[:1], *command],
            env={**worker.QUIET_THREADS, **own, **env, keeper.OUTPUT: output},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._keeper.stdin and self._keeper.stdout
        if self._stopped:
            self.stop()
        code = self._keeper.stdout.read()
        self._keeper.wait()
        return int(code) if code else KILLED

    def stop(self) -> None:
        """Asks the process to end; `run` returns soon."""
        self._stopped = True
        if self._keeper and self._keeper.stdin:
            try:
                self._keeper.stdin.write(b"x")
                self._keeper.stdin.flush()
            except OSError:
                return  # it has ended
