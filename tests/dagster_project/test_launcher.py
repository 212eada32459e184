"""Whether a dead run worker is noticed, and the zygote that starts living ones."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import psutil
import pytest
from dagster._core.events import EngineEventData
from dagster._core.launcher.base import WorkerStatus

from dagster_project import run_locks
from dagster_project.launcher import LocalRunLauncher
from dagster_project.run_workers import SOCKET, start_run_worker


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as made:
        yield made


def started_run(instance: dg.DagsterInstance, pid: int) -> dg.DagsterRun:
    @dg.job
    def empty() -> None: ...

    run = instance.create_run_for_job(empty, status=dg.DagsterRunStatus.STARTED)
    instance.report_engine_event(f"Started process for run (pid: {pid}).", run, EngineEventData.in_process(pid))
    return run


def status_of(instance: dg.DagsterInstance, run: dg.DagsterRun) -> dg.DagsterRunStatus:
    found = instance.get_run_by_id(run.run_id)
    assert found is not None
    return found.status


def launcher_of(instance: dg.DagsterInstance) -> LocalRunLauncher:
    launcher = LocalRunLauncher()
    launcher.register_instance(instance)
    return launcher


def test_a_living_worker_is_healthy_and_a_dead_one_is_not(instance: dg.DagsterInstance) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        run = started_run(instance, process.pid)
        launcher = launcher_of(instance)
        assert launcher.check_run_worker_health(run).status is WorkerStatus.RUNNING
        process.kill()
        process.wait()
        assert launcher.check_run_worker_health(run).status is WorkerStatus.FAILED


def test_a_recycled_pid_is_not_the_worker(instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        run = started_run(instance, process.pid)
        later = time.time() + 3600  # as if the process had started long after the run's worker
        monkeypatch.setattr(psutil.Process, "create_time", lambda _self: later)
        assert launcher_of(instance).check_run_worker_health(run).status is WorkerStatus.FAILED
        process.kill()


def test_terminating_a_run_whose_worker_is_gone_ends_it(instance: dg.DagsterInstance) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    run = started_run(instance, process.pid)
    assert launcher_of(instance).terminate(run.run_id)
    assert status_of(instance, run) is dg.DagsterRunStatus.CANCELED


def test_terminating_stops_a_worker_that_no_code_server_knows(instance: dg.DagsterInstance) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        run = started_run(instance, process.pid)
        assert launcher_of(instance).terminate(run.run_id)
        process.wait(15)
    join_threads(f"stop-{run.run_id}")
    assert status_of(instance, run) is dg.DagsterRunStatus.CANCELED


HOLD = """
import sys
from pathlib import Path
from dagster_project import run_locks
run_locks.hold(Path(sys.argv[1]), sys.argv[2])
print("held", flush=True)
input()
"""


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.FAILURE),
        (dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.FAILURE),
        (dg.DagsterRunStatus.CANCELING, dg.DagsterRunStatus.CANCELED),
    ],
)
def test_the_end_of_a_worker_is_noticed_at_once_also_by_a_daemon_that_did_not_launch_it(
    instance: dg.DagsterInstance,
    before: dg.DagsterRunStatus,
    after: dg.DagsterRunStatus,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LLM_PLATFORM_HOME", str(tmp_path))

    @dg.job
    def empty() -> None: ...

    run = instance.create_run_for_job(empty, status=before)
    command = [sys.executable, "-c", HOLD, str(tmp_path), run.run_id]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        launcher = launcher_of(instance)
        launcher.take_over()
        pid, lives = run_locks.holder(tmp_path, run.run_id)
        assert (pid, lives) == (process.pid, True)
        monkeypatch.setattr(psutil.Process, "create_time", lambda _self: time.time() + 3600)  # as after a jump of the clock
        assert launcher.check_run_worker_health(run).status is WorkerStatus.RUNNING
        assert status_of(instance, run) is before
        process.kill()
        process.wait()
        join_threads(f"watch-{run.run_id}")
    assert status_of(instance, run) is after
    assert not run_locks.known(tmp_path, run.run_id)


def test_a_launch_that_never_came_to_a_worker_ends(instance: dg.DagsterInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_PLATFORM_HOME", str(tmp_path))
    monkeypatch.setattr("dagster_project.launcher.LAUNCH_SECONDS", 0.2)

    @dg.job
    def empty() -> None: ...

    run = instance.create_run_for_job(empty, status=dg.DagsterRunStatus.STARTING)
    launcher_of(instance).take_over()
    join_threads(f"watch-{run.run_id}")
    assert status_of(instance, run) is dg.DagsterRunStatus.FAILURE


def join_threads(name: str) -> None:
    """They still ask the instance, which ends with the test."""
    for thread in threading.enumerate():
        if thread.name == name:
            thread.join(60)
            assert not thread.is_alive()


def test_without_a_zygote_nothing_is_started(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        start_run_worker(tmp_path, "run", "{}")


def test_the_zygote_forks_for_its_owner_alone(tmp_path: Path) -> None:
    long = tmp_path / ("a" * 60) / ("b" * 60)  # longer than the path of a socket may be
    long.mkdir(parents=True)
    source = "import sys; from pathlib import Path; from dagster_project import run_workers; run_workers.serve(Path(sys.argv[1]))"
    with subprocess.Popen([sys.executable, "-c", source, str(long)], stderr=subprocess.PIPE, text=True) as zygote:
        try:
            while not (long / SOCKET).exists():
                assert zygote.poll() is None
                os.sched_yield()
            assert (long / SOCKET).stat().st_mode & 0o077 == 0
            pid = start_run_worker(long, "run", "this is no run")
            while psutil.pid_exists(pid):
                os.sched_yield()
            assert zygote.poll() is None, "a run worker that fails takes nothing with it"
        finally:
            zygote.terminate()
        assert zygote.stderr is not None
        assert "Traceback" in zygote.stderr.read()
