"""Launches runs as local processes, notices when one dies, and stops one even if its code server is gone.

Dagster's default launcher asks the code server about its runs: a run worker that died together with the code server
stays STARTED for ever, and cancelling it raises; one that dies before it said STARTED is given two minutes for that. Here runs are
started by the zygote, in milliseconds, and a thread for each waits for the end of its process, by the lock that it holds. Where there
is no zygote (`dagster dev`) the code server starts them, as Dagster does it, and their processes are asked by pid and start time.
"""

from __future__ import annotations

import signal
import threading
import time
from contextlib import suppress

import psutil
from dagster import DagsterEventType, DagsterRun, DagsterRunStatus, RunsFilter
from dagster._core.launcher import DefaultRunLauncher, LaunchRunContext
from dagster._core.launcher.base import CheckRunHealthResult, WorkerStatus
from dagster._core.storage.tags import GRPC_INFO_TAG
from dagster._grpc.types import ExecuteRunArgs
from dagster._serdes import ConfigurableClassData, serialize_value

from dagster_project import run_locks
from dagster_project.run_workers import start_run_worker
from llm_platform.settings import Settings

CLOCK_SLACK_SECONDS = 2.0
STOP_SECONDS = 10.0
"""More than a heavy node's process is given to end (see `dagster_project.pipes`)."""
LAUNCH_SECONDS = 10.0
"""How long a launch that a daemon was killed in may take to show a run worker: the zygote may be busy forking it."""
GONE = "The process that ran this job died; try the job again, and it goes on from what it had finished"


class LocalRunLauncher(DefaultRunLauncher):
    """The default launcher with a health check by pid and a termination that always works."""

    def launch_run(self, context: LaunchRunContext) -> None:
        run = context.dagster_run
        if run.job_code_origin is None:
            super().launch_run(context)
            return
        args = ExecuteRunArgs(job_origin=run.job_code_origin, run_id=run.run_id, instance_ref=self._instance.get_ref())
        try:
            start_run_worker(Settings().root, run.run_id, serialize_value(args))
        except (ConnectionError, FileNotFoundError):
            super().launch_run(context)
        else:
            self._watch(run.run_id)

    def take_over(self) -> None:
        """Watches the runs that an earlier daemon launched, and ends those whose workers died meanwhile."""
        unfinished = [DagsterRunStatus.STARTING, DagsterRunStatus.STARTED, DagsterRunStatus.CANCELING]
        for run in self._instance.get_runs(RunsFilter(statuses=unfinished)):
            if run_locks.known(Settings().root, run.run_id) or run.status is DagsterRunStatus.STARTING:
                self._watch(run.run_id)

    def _watch(self, run_id: str) -> None:
        threading.Thread(target=self._end_with_worker, args=(run_id,), name=f"watch-{run_id}", daemon=True).start()

    def _end_with_worker(self, run_id: str) -> None:
        """When the worker has ended and its run has not, ends the run. Should this fail, Dagster's monitoring does it in seconds."""
        home = Settings().root
        deadline = time.monotonic() + LAUNCH_SECONDS
        while not run_locks.known(home, run_id) and time.monotonic() < deadline:
            time.sleep(0.1)
        run_locks.wait(home, run_id)
        run = self._instance.get_run_by_id(run_id)
        if not run_locks.known(home, run_id) and self._worker(run_id) is not None:
            return  # started by a code server: Dagster's monitoring asks about it
        if run is not None and not run.is_finished:
            if run.status is DagsterRunStatus.CANCELING:
                self._instance.report_run_canceled(run, "The run worker was killed while it was stopped.")
            else:
                self._instance.report_run_failed(run, GONE)
        run_locks.forget(home, run_id)

    def __init__(self, inst_data: ConfigurableClassData | None = None) -> None:
        super().__init__(inst_data)
        self._interrupted: set[str] = set()

    @property
    def supports_check_run_worker_health(self) -> bool:
        return True

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        found = self._worker(run.run_id)
        if found is None:
            return CheckRunHealthResult(WorkerStatus.RUNNING, "The run worker has not said its pid yet")
        pid, process = found
        if process is None:
            return CheckRunHealthResult(WorkerStatus.FAILED, f"The run worker (pid {pid}) is gone", run_worker_id=str(pid))
        return CheckRunHealthResult(WorkerStatus.RUNNING, run_worker_id=str(pid))

    def terminate(self, run_id: str) -> bool:
        run = self._instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            return False
        if GRPC_INFO_TAG in run.tags:
            with suppress(Exception):  # the code server that started it is away; the process may well be there
                if super().terminate(run_id):
                    return True
        elif run.status is not DagsterRunStatus.CANCELING:
            self._instance.report_run_canceling(run)
        found = self._worker(run_id)
        process = found[1] if found else None
        if process is None:
            self._instance.report_run_canceled(run, "The run worker was gone already.")
        else:
            self._interrupt(run_id, process)
        return True

    def _interrupt(self, run_id: str, process: psutil.Process) -> None:
        """Once per run: every further signal would disturb it while it cleans up."""
        if run_id not in self._interrupted:
            self._interrupted.add(run_id)
            threading.Thread(target=self._stop, args=(run_id, process), name=f"stop-{run_id}", daemon=True).start()

    def _stop(self, run_id: str, process: psutil.Process) -> None:
        """Interrupts a run worker, which then cleans up and says that it was cancelled; kills it if it does not."""
        with suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGINT)
            try:
                process.wait(STOP_SECONDS)
            except psutil.TimeoutExpired:
                process.kill()
        run = self._instance.get_run_by_id(run_id)
        if run is not None and not run.is_finished:
            self._instance.report_run_canceled(run, "The run worker was stopped by its pid.")

    def _worker(self, run_id: str) -> tuple[int, psutil.Process | None] | None:
        """(pid, process or None if it is gone) of a run's worker; None if the worker never said its pid."""
        with suppress(FileNotFoundError):
            pid, lives = run_locks.holder(Settings().root, run_id)
            with suppress(psutil.NoSuchProcess):
                return pid, psutil.Process(pid) if lives else None
            return pid, None
        for record in self._instance.all_logs(run_id, of_type=DagsterEventType.ENGINE_EVENT):
            event = record.dagster_event
            pid = event.event_specific_data.metadata.get("pid") if event and event.event_specific_data else None  # type: ignore[union-attr]
            if pid is None:
                continue
            number = int(str(pid.value))
            with suppress(psutil.NoSuchProcess):
                process = psutil.Process(number)
                # A pid that was given to another process later started after the event.
                if process.create_time() <= record.timestamp + CLOCK_SLACK_SECONDS and process.status() != psutil.STATUS_ZOMBIE:
                    return number, process
            return number, None
        return None
