"""What a forked process of a node is given, what of it is told, and when it dies. Its work is the code that a variable names."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from dagster_project.node_workers import SOCKET, NodeWorker

ZYGOTE = """
import os, sys
from pathlib import Path
import torch
from dagster_project import node_workers, worker, zygote

def work():
    exec(os.environ["WORK"])
    return 0

worker.main = work
born = dict(os.environ)
zygote.serve(Path(sys.argv[1]), node_workers.SOCKET, lambda connection: node_workers.keep(connection, born))
"""
FOR_EVER = "import signal; print('here', flush=True); signal.pause()"


class Zygote:
    def __init__(self, home: Path) -> None:
        self.home = home
        self.process = subprocess.Popen([sys.executable, "-c", ZYGOTE, str(home)])
        while not (home / SOCKET).exists():
            assert self.process.poll() is None
            os.sched_yield()

    def start(self, work: str, **environment: str) -> NodeWorker:
        return NodeWorker(self.home, os.environ | environment | {"WORK": work})


@pytest.fixture(scope="module")
def zygote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zygote]:
    made = Zygote(tmp_path_factory.mktemp("home"))
    yield made
    made.process.kill()
    made.process.wait()


def wait_until_gone(*pids: int) -> None:
    for pid in pids:
        with suppress(psutil.NoSuchProcess):
            while psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                os.sched_yield()


def test_environment_folder_output_and_exit_code_are_those_of_a_subprocess(
    zygote: Zygote, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("INHERITED", "yes")
    work = """
print(os.environ["INHERITED"], os.environ["CUDA_VISIBLE_DEVICES"], os.environ.get("GONE"), os.getcwd(), os.getsid(0) == os.getpid())
print("and an error", file=sys.stderr, flush=True)
os._exit(7)
"""
    process = zygote.start(f"import sys\n{work.replace('os._exit', 'sys.stdout.flush(); os._exit')}", CUDA_VISIBLE_DEVICES="3")
    assert process.wait() == 7
    out, err = capfd.readouterr()
    assert out == f"yes 3 None {tmp_path} True\n"
    assert err == "and an error\n"


def test_a_variable_that_libraries_read_when_they_are_imported_takes_a_new_python(
    zygote: Zygote, capfd: pytest.CaptureFixture[str]
) -> None:
    assert zygote.start("raise AssertionError", OMP_NUM_THREADS="7").wait() == 2
    assert "started by the platform's Dagster assets" in capfd.readouterr().err


def test_threads_work_in_a_fork_and_random_numbers_are_its_own(zygote: Zygote, capfd: pytest.CaptureFixture[str]) -> None:
    work = """
import numpy
torch.set_num_threads(2)
assert (torch.ones(600, 600) @ torch.ones(600, 600)).sum().item() == 600**3 and torch.get_num_threads() == 2
print(numpy.random.rand(), flush=True)
"""
    drawn = []
    for _ in range(2):
        assert zygote.start(work).wait() == 0
        drawn.append(capfd.readouterr().out)
    assert drawn[0] != drawn[1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_signal_that_ended_it_is_told(zygote: Zygote, number: signal.Signals) -> None:
    process = zygote.start(FOR_EVER)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0)
    os.killpg(process.pid, number)
    assert process.wait() == -number


def test_all_of_its_session_dies_with_whoever_asked_for_it(zygote: Zygote, tmp_path: Path) -> None:
    told = tmp_path / "pid"
    work = f"""
import subprocess
child = subprocess.Popen(["sleep", "1000"], process_group=0)
open({str(told)!r} + ".tmp", "w").write(str(child.pid))
os.rename({str(told)!r} + ".tmp", {str(told)!r})
child.wait()
"""
    process = zygote.start(work)
    while not told.exists():
        os.sched_yield()
    process.close()
    wait_until_gone(process.pid, int(told.read_text()))


def test_it_dies_with_its_keeper(zygote: Zygote) -> None:
    process = zygote.start(FOR_EVER)
    keeper = psutil.Process(process.pid).ppid()
    os.kill(keeper, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    wait_until_gone(process.pid)
