"""What the API process keeps while it runs: connections opened at start, Dagster and MLflow as soon as they are imported."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Sequence
from functools import partial

from anyio import CapacityLimiter, to_thread
from sqlalchemy.engine import RowMapping

from api.limits import RateLimits
from api.metrics import Metrics
from api.orchestration import Orchestrator
from api.reads import Reads
from api.rooms import Rooms
from api.streams import Streams
from api.submitter import Submitter
from llm_platform import disk, jobs, oidc
from llm_platform.database import Database
from llm_platform.errors import ServiceUnavailable
from llm_platform.health import HealthMonitor, mlflow_check, redis_check
from llm_platform.model_sync import ModelSync
from llm_platform.registry import Registry
from llm_platform.settings import Settings
from llm_platform.storage import storage_from
from llm_platform.storage.temporary import is_abandoned, remove

RETRY_SECONDS = 5.0
READY_SECONDS = 60.0
MAX_UPLOADS = 16
MAX_CONVERSIONS = 2

log = logging.getLogger(__name__)


class Services:
    """Opened once per process. Until the orchestrator is there, jobs are accepted and kept; the submitter hands them over."""

    def __init__(self, settings: Settings, orchestrator: Orchestrator | None = None) -> None:
        self.settings = settings
        self.database = Database.from_settings(settings)
        self.storage = storage_from(settings)
        self.registry = Registry(settings.resolved_mlflow_url)
        self.model_sync = ModelSync(self.registry, self.database)
        self.streams = Streams(self.database, self._status_of, settings.max_streams_per_client)
        self.rooms = Rooms(self.database)
        self.limits = RateLimits(settings)
        self.oidc = oidc.from_settings(settings)
        counts = self.database.count_submissions, self.database.count_queued
        self.metrics = Metrics(self.streams.open_streams, *counts, partial(disk.free_bytes, settings))
        self.uploads = CapacityLimiter(MAX_UPLOADS)
        self.uploads_of: Counter[str] = Counter()
        self.conversions = CapacityLimiter(MAX_CONVERSIONS)
        self.reads = Reads(self.database, self.refresh)
        self.orchestrator = orchestrator
        self._submitter: Submitter | None = None
        self._closing = threading.Event()
        self._connected = threading.Event()
        checks = {
            "redis": redis_check(settings.redis_url),
            "dagster": self._check_dagster,
            "mlflow": mlflow_check(settings.resolved_mlflow_url, self.registry.check),
            "storage": self.storage.check,
            "disk": partial(disk.check, settings) if settings.min_free_bytes else None,
        }
        self.health = HealthMonitor(checks)
        self._starter = threading.Thread(target=self._start, name="starter", daemon=True)
        self._starter.start()

    def kick(self) -> None:
        """There is work for the submitter."""
        if self._submitter is not None:
            self._submitter.kick()

    def sync_models(self) -> None:
        """Somebody looks at the list of models; where MLflow is a server, people may have changed something there."""
        if self.settings.resolved_mlflow_url.startswith("http"):
            self.model_sync.kick()

    def refresh(self, rows: Sequence[RowMapping]) -> list[RowMapping]:
        """Submissions, with what Dagster says about those that have not ended."""
        return jobs.refresh(self.database, self.orchestrator, rows)

    def drain(self) -> None:
        """The process is about to end: called in the event loop's thread while it still answers."""
        self.health.draining = True
        self.streams.drain()

    async def ready(self) -> None:
        """Returns when Dagster is connected, or after some time without it."""
        await to_thread.run_sync(self._connected.wait, READY_SECONDS)

    def close(self) -> None:
        """Blocks until the threads have ended; the log streams are closed before, in the event loop's thread."""
        self._closing.set()
        self.health.close()
        self.model_sync.close()
        self._starter.join(timeout=5)
        if self._submitter is not None:
            self._submitter.stop()
        if self.orchestrator is not None:
            self.orchestrator.close()
        self.database.close()

    def _status_of(self, run_id: str) -> str | None:
        row = self.database.submission(run_id)
        return None if row is None else self.refresh([row])[0]["status"]

    def _check_dagster(self) -> None:
        if self.orchestrator is None or not self.orchestrator.healthy():
            raise ServiceUnavailable("Dagster does not answer")

    def _start(self) -> None:
        """Imports Dagster, which takes seconds, beside the first requests; tries again until it works."""
        self._sweep()
        while not self._closing.is_set():
            try:
                orchestrator = self.orchestrator or self._connect()
                submitter = Submitter(self.database, orchestrator)
            except Exception:
                log.exception("The orchestrator could not be reached; it is tried again in %g s", RETRY_SECONDS)
                self._closing.wait(RETRY_SECONDS)
                continue
            submitter.start()
            self.orchestrator, self._submitter = orchestrator, submitter
            self._connected.set()
            submitter.kick()
            # Not this thread, for which closing waits: a registry that is away takes half a minute to say so.
            threading.Thread(target=self._warm_up, name="warm-up", daemon=True).start()
            return

    def _warm_up(self) -> None:
        """Imports what the first upload and the first question about a model would wait for, and clears up after killed writers."""
        import pyarrow

        import llm_platform.data.preprocess
        import llm_platform.data.read  # noqa: F401

        pyarrow.set_memory_pool(pyarrow.system_memory_pool())  # Arrow's own keeps what a large upload once took
        try:
            self.storage.sweep()
        except Exception as error:
            log.warning("What killed writers left in the object store could not be swept (%s)", type(error).__name__)
        if self.settings.resolved_mlflow_url.startswith("http"):
            try:
                self.registry.get("model_none")
            except Exception as error:
                log.warning("MLflow is not there yet (%s)", type(error).__name__)

    def _connect(self) -> Orchestrator:
        from api.orchestrator import DagsterOrchestrator

        return DagsterOrchestrator(self.settings)

    def _sweep(self) -> None:
        """Removes what uploads of a killed process left behind."""
        for path in (self.settings.work / "uploads").glob(".tmp~*"):
            if is_abandoned(path.name, path.lstat().st_mtime):
                remove(path)
