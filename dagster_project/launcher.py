"""Launches runs as local processes, notices when one dies, and stops one even if its code server is gone.

Dagster's default launcher asks the code server about its runs: a run worker that died together with the code server
stays STARTED for ever, and cancelling it raises. Here the process itself is asked, by its pid and start time.
"""

from __future__ import annotations

import signal
from contextlib import suppress

import psutil
from dagster import DagsterEventType, DagsterRun
from dagster._core.launcher import DefaultRunLauncher
from dagster._core.launcher.base import CheckRunHealthResult, WorkerStatus

CLOCK_SLACK_SECONDS = 2.0


class LocalRunLauncher(DefaultRunLauncher):
    """The default launcher with a health check by pid and a termination that always works."""

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
        with suppress(Exception):  # the code server is away; the process may well be there
            if super().terminate(run_id):
                return True
        run = self._instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            return False
        found = self._worker(run_id)
        process = found[1] if found else None
        if process is None:
            self._instance.report_run_canceled(run, "The run worker was gone already.")
            return True
        process.send_signal(signal.SIGINT)  # which Dagster turns into an orderly interruption
        try:
            process.wait(10)
        except psutil.TimeoutExpired:
            process.kill()
        run = self._instance.get_run_by_id(run_id)
        if run is not None and not run.is_finished:
            self._instance.report_run_canceled(run, "The run worker was stopped by its pid.")
        return True

    def _worker(self, run_id: str) -> tuple[int, psutil.Process | None] | None:
        """(pid, process or None if it is gone) of a run's worker; None if the worker never said its pid."""
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
