"""Keeps the process of a heavy node on a machine where no zygote is: `python -m dagster_project.keeper COMMAND...`

    an actor of the Ray cluster ──starts──> keeper ──starts──> COMMAND, in a session of its own
             └── the keeper's standard input and output ──┘

A byte on the input asks it to end the process: TERM first, then KILL. When the input ends, whoever asked for the process is gone, and
its whole session is killed. On the output the keeper tells the exit code, negative for a signal. COMMAND's own output goes to the
file that `OUTPUT` names.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from dagster_project import worker
from dagster_project.sessions import kill_session

COMMAND = [sys.executable, "-m", "dagster_project.keeper"]
OUTPUT = "LLM_PLATFORM_OUTPUT"
TERM_SECONDS = 3.0


def main(command: list[str]) -> int:
    if os.fork():  # Ray kills the children of a worker that ends, and this one has to clean up behind it
        return 0
    os.setsid()
    environment = {**os.environ, worker.PARENT: str(os.getpid())}
    with Path(os.environ[OUTPUT]).open("ab") as output:
        process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True)
    end = os.pidfd_open(process.pid)
    either = select.poll()
    either.register(end, select.POLLIN)
    either.register(0, select.POLLIN)
    if end not in dict(either.poll()) and os.read(0, 16):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        either.poll(1000 * TERM_SECONDS)
    kill_session(process.pid)
    code = process.wait()
    with suppress(OSError):
        os.write(1, str(code).encode())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
