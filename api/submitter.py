"""Empties the outbox: accepted submissions become Dagster runs, uploads become materializations, final states come back.

Everything it does can be done again: it may be killed at any line, and several API processes may run one each.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from api.orchestration import Orchestrator
from llm_platform import jobs
from llm_platform.database import Database, now
from llm_platform.errors import PlatformError
from llm_platform.runlog import append, line
from llm_platform.specs import parse_pipeline

SWEEP_SECONDS = 2.0
LEASE_SECONDS = 15.0
"""How long a submission waits whose process was killed before it was a Dagster run; one that lives renews its claims."""
BATCH = 20
MAX_ATTEMPTS = 200
MAX_WAIT_SECONDS = 30.0
UI_WINDOW = timedelta(minutes=10)

log = logging.getLogger(__name__)


class Submitter:
    """A thread that is kicked when there is work and looks by itself every few seconds."""

    def __init__(self, database: Database, orchestrator: Orchestrator) -> None:
        self._database = database
        self._orchestrator = orchestrator
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._seen_until = datetime.fromtimestamp(0, UTC)
        self._thread = threading.Thread(target=self._loop, name="submitter", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def kick(self) -> None:
        self._wake.set()

    def stop(self) -> None:
        self._stopping.set()
        self._wake.set()
        self._thread.join(timeout=10)

    def _loop(self) -> None:
        while not self._stopping.is_set():
            self._wake.wait(SWEEP_SECONDS)
            self._wake.clear()
            for step in (self._submit, self._cancel, self._record, self._adopt, self._refresh):
                if self._stopping.is_set():
                    return
                try:
                    step()
                except Exception:
                    log.exception("%s failed; it is tried again in %g s", step.__name__, SWEEP_SECONDS)

    def _submit(self) -> None:
        rows = self._database.claim(BATCH, LEASE_SECONDS)
        if not rows:
            return
        with self._renewed({row["run_id"] for row in rows}) as claimed:
            for row in rows:
                self._try(row)
                claimed.discard(row["run_id"])

    def _try(self, row: Any) -> None:
        try:
            self._make_run(row)
        except PlatformError as error:
            self._give_up(row["run_id"], error)
        except Exception as error:
            log.warning("run %s could not be made (attempt %d): %s", row["run_id"], row["attempts"] + 1, error)
            if row["attempts"] + 1 >= MAX_ATTEMPTS:
                self._give_up(row["run_id"], PlatformError("The job could not be handed to the orchestrator"))
            else:
                wait = min(MAX_WAIT_SECONDS, SWEEP_SECONDS * (row["attempts"] + 1))
                self._database.update_submission(row["run_id"], claimed_until=now() + timedelta(seconds=wait))

    @contextmanager
    def _renewed(self, claimed: set[str]) -> Iterator[set[str]]:
        """While the block runs, nobody else takes the submissions that are in the set."""
        left = threading.Event()

        def renew() -> None:
            while not left.wait(LEASE_SECONDS / 5):
                try:
                    self._database.renew(list(claimed), LEASE_SECONDS)
                except SQLAlchemyError:
                    log.warning("claims were not renewed; they are soon", exc_info=True)

        thread = threading.Thread(target=renew, name="claims", daemon=True)
        thread.start()
        try:
            yield claimed
        finally:
            left.set()
            thread.join()

    def _make_run(self, row: Any) -> None:
        run_id = row["run_id"]
        self._orchestrator.submit(run_id, row["dagster_run_id"], parse_pipeline(row["pipeline"]))
        self._database.update_submission(run_id, submitted=True, claimed_until=None)

    def _give_up(self, run_id: str, error: PlatformError) -> None:
        append(self._database, run_id, [line("ERROR", error.message)])
        self._database.update_submission(run_id, only_open=True, status="failed", error=error.body(), ended_at=now())

    def _cancel(self) -> None:
        jobs.finish_cancels(self._database, self._orchestrator)

    def _record(self) -> None:
        for row in self._database.unrecorded_datasets():
            self._orchestrator.record_dataset(row)
            self._database.mark_recorded(row["dataset_id"])

    def _adopt(self) -> None:
        """Runs launched in the Dagster UI, a job's newest run first among them, become jobs before they start."""
        started = now()
        runs = self._orchestrator.ui_runs(self._seen_until - UI_WINDOW if self._seen_until.year > 1970 else self._seen_until)
        for run in {run.run_id: run for run in runs}.values():  # the newest of each run id
            known = self._database.submission(run.run_id)
            # The run before a retry is the newest one until the retry's own is made.
            if known is None or (
                known["dagster_run_id"] != run.dagster_run_id and (known["retried_at"] or known["created_at"]) < run.created_at
            ):
                self._database.adopt(run.run_id, dagster_run_id=run.dagster_run_id, created_at=run.created_at)
        self._seen_until = started

    def _refresh(self) -> None:
        jobs.refresh(self._database, self._orchestrator, self._database.open_submissions())
