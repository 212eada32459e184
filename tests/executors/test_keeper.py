"""The keeper of a heavy node's process on a machine of a Ray cluster: what it tells of the process, and when it ends it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from dagster_project import keeper

SAYS = "import os, sys; print(os.environ['GIVEN'], os.getsid(0) == os.getpid()); print('and an error', file=sys.stderr); sys.exit(7)"
ON_TERM = "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(5)); print('here', flush=True); signal.pause()"
IGNORES = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('here', flush=True)\nwhile True: signal.pause()"
HAS_A_CHILD = """
import subprocess
child = subprocess.Popen(["sleep", "1000"], process_group=0)
print(child.pid, flush=True)
child.wait()
"""

Start = Callable[[str], "subprocess.Popen[bytes]"]


@pytest.fixture
def start(tmp_path: Path) -> Start:
    def run(code: str) -> subprocess.Popen[bytes]:
        env = os.environ | {keeper.OUTPUT: str(tmp_path / "output"), "GIVEN": "yes"}
        command = [*keeper.COMMAND, sys.executable, "-c", code]
        return subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    return run


def told(process: subprocess.Popen[bytes]) -> str:
    """The exit code, as the keeper tells it."""
    assert process.stdout is not None and process.stdin is not None
    with process.stdout, process.stdin:
        code = process.stdout.read().decode()
    assert process.wait() == 0
    return code


def printed(path: Path) -> str:
    """What the process has printed, as soon as that is something."""
    while not path.exists() or not path.read_text().endswith("\n"):
        os.sched_yield()
    return path.read_text()


def test_it_tells_the_exit_code_and_the_output_is_in_the_file(start: Start, tmp_path: Path) -> None:
    assert told(start(SAYS)) == "7"
    assert sorted((tmp_path / "output").read_text().splitlines()) == ["and an error", "yes True"]


@pytest.mark.parametrize(("code", "ends"), [(ON_TERM, "5"), (IGNORES, "-9")])
def test_a_byte_asks_it_to_end_the_process_and_it_insists(start: Start, tmp_path: Path, code: str, ends: str) -> None:
    process = start(code)
    printed(tmp_path / "output")
    assert process.stdin is not None
    process.stdin.write(b"x")
    process.stdin.flush()
    assert told(process) == ends


def test_all_of_the_session_dies_when_whoever_asked_for_it_has_gone(start: Start, tmp_path: Path) -> None:
    process = start(HAS_A_CHILD)
    child = int(printed(tmp_path / "output"))
    assert process.stdin is not None and process.stdout is not None
    process.stdin.close()
    with process.stdout:
        assert process.stdout.read() == b"-9"
    process.wait()
    with suppress(psutil.NoSuchProcess):
        while psutil.Process(child).status() != psutil.STATUS_ZOMBIE:
            os.sched_yield()
