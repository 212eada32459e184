"""A heavy node's process that does not stop when it is told, and one whose children went into sessions of their own: nothing is left."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from dagster_project.pipes import _end_group
from dagster_project.sessions import MARK, kill_marked
from tests.dagster_project.test_node_workers import Zygote
from tests.e2e.conftest import wait_for

GONE_SECONDS = 60.0
RUNAWAYS = """
import signal, subprocess, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
program = subprocess.Popen(["sleep", "1000"], start_new_session=True)
fork = os.fork()
if fork == 0:
    os.setsid()
    if os.fork() == 0:  # a daemon: its parent is gone, its session is its own
        os.setsid()
        with open({told!r} + ".tmp", "w") as file:
            file.write(f"{{program.pid}} {{os.getpid()}}")
        os.rename({told!r} + ".tmp", {told!r})
        time.sleep(1000)
    os._exit(0)
os.waitpid(fork, 0)
while True:
    {then}
"""
STUBBORN = "time.sleep(1000)"


@pytest.fixture(scope="module")
def zygote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zygote]:
    made = Zygote(tmp_path_factory.mktemp("home"))
    yield made
    made.process.kill()
    made.process.wait()


class Node:
    """A node's process that ignores SIGTERM, with a program and a daemon of its own."""

    def __init__(self, zygote: Zygote, tmp_path: Path, then: str = STUBBORN) -> None:
        told = tmp_path / "pids"
        self.folder = str(tmp_path)
        self.process = zygote.start(RUNAWAYS.format(told=str(told), then=then), **{MARK: self.folder})
        wait_for(told.exists, GONE_SECONDS, "the daemon is there")
        program, daemon = map(int, told.read_text().split())
        self.all = [psutil.Process(pid) for pid in (self.process.pid, program, daemon)]
        assert len({os.getsid(one.pid) for one in self.all}) == 3

    def wait_until_gone(self, *processes: psutil.Process) -> None:
        wait_for(lambda: not any(map(_lives, processes or self.all)), GONE_SECONDS, "all its processes are gone")


def _lives(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_node_that_ignores_sigterm_is_killed_with_all_it_started(zygote: Zygote, tmp_path: Path) -> None:
    node = Node(zygote, tmp_path)
    _end_group(node.process)
    assert node.process.wait() == -signal.SIGKILL
    node.wait_until_gone()


def test_what_a_node_leaves_behind_when_it_ends_well_is_killed(zygote: Zygote, tmp_path: Path) -> None:
    go = tmp_path / "go"
    node = Node(zygote, tmp_path, then=f"if os.path.exists({str(go)!r}): break\n    time.sleep(0.01)")
    go.touch()
    assert node.process.wait() == 0
    node.wait_until_gone()


def test_what_a_node_started_dies_with_the_run_worker(zygote: Zygote, tmp_path: Path) -> None:
    node = Node(zygote, tmp_path)
    node.process.close()  # as when the run worker is killed
    node.wait_until_gone()


def test_a_program_that_has_lost_node_and_keeper_is_found_by_its_mark(zygote: Zygote, tmp_path: Path) -> None:
    node = Node(zygote, tmp_path)
    os.kill(psutil.Process(node.process.pid).ppid(), signal.SIGKILL)
    assert node.process.wait() == -signal.SIGKILL
    _, program, daemon = node.all
    assert _lives(program)
    kill_marked(node.folder)
    node.wait_until_gone(program)
    daemon.kill()  # a fork has no environment of its own: what is stopped with the platform finds it by that of the zygote
