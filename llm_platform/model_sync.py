"""Keeps the list of models in step with MLflow, where people delete, rename and give aliases too."""

from __future__ import annotations

import logging
import threading
import time

from llm_platform.database import Database
from llm_platform.errors import PlatformError
from llm_platform.models import reindex
from llm_platform.registry import Registry

SECONDS = 10.0
"""Least time between two looks at MLflow."""

log = logging.getLogger(__name__)


class ModelSync:
    """Reindexes in a thread, when it is asked to and the last time is long enough ago. Nobody waits for it."""

    def __init__(self, registry: Registry, database: Database, seconds: float = SECONDS) -> None:
        self._registry, self._database, self._seconds = registry, database, seconds
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._next = 0.0

    def kick(self) -> None:
        """Somebody looks at the list: what changed in MLflow should be in it when they look again."""
        with self._lock:
            if time.monotonic() < self._next or (self._thread is not None and self._thread.is_alive()):
                return
            self._thread = threading.Thread(target=self._run, name="model-sync", daemon=True)
            self._thread.start()

    def close(self) -> None:
        if self._thread is not None:
            self._thread.join(timeout=5)

    def _run(self) -> None:
        try:
            reindex(self._registry, self._database)
        except PlatformError as error:
            log.warning("The list of models could not be brought up to date: %s", error.message)
        finally:
            self._next = time.monotonic() + self._seconds
