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
    for thread in threading.enumerate():
        if thread.name == f"stop-{run.run_id}":
            thread.join()  # it still asks the instance, which ends with this test
    assert status_of(instance, run) is dg.DagsterRunStatus.CANCELED


def test_without_a_zygote_nothing_is_started(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        start_run_worker(tmp_path, "{}")


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
            pid = start_run_worker(long, "this is no run")
            while psutil.pid_exists(pid):
                os.sched_yield()
            assert zygote.poll() is None, "a run worker that fails takes nothing with it"
        finally:
            zygote.terminate()
        assert zygote.stderr is not None
        assert "Traceback" in zygote.stderr.read()
