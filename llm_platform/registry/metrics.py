"""Training curves on their way to MLflow, so that a training step never waits for a server."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from types import TracebackType

from llm_platform.errors import PlatformError
from llm_platform.registry.models import MetricPoint
from llm_platform.registry.registry import BATCH, Registry

MAX_WAITING = 100_000
"""Points kept while MLflow does not answer; then the oldest are given up."""


class MetricBuffer:
    """Collects points and writes them every `seconds` in a thread of its own. Close it, or use it in a `with` block."""

    def __init__(self, registry: Registry, mlflow_run_id: str, seconds: float = 2.0) -> None:
        self._registry = registry
        self._mlflow_run_id = mlflow_run_id
        self._seconds = seconds
        self._waiting: deque[MetricPoint] = deque(maxlen=MAX_WAITING)
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)
        self._thread.start()

    def add(self, points: Sequence[MetricPoint]) -> None:
        with self._lock:
            self._waiting.extend(points)

    def close(self) -> None:
        """Writes what is left. Raises ServiceUnavailable, or NotFound if the run was deleted, when MLflow does not take it."""
        if self._closing.is_set():
            return
        self._closing.set()
        self._thread.join()
        self._flush()

    def __enter__(self) -> MetricBuffer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self.close()
        except PlatformError:
            # What went wrong inside the block is what the caller must hear of.
            if error is None:
                raise

    def _run(self) -> None:
        while not self._closing.wait(self._seconds):
            try:
                self._flush()
            except PlatformError:
                continue

    def _flush(self) -> None:
        while True:
            with self._lock:
                batch = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
            if not batch:
                return
            try:
                self._registry.log_metrics(self._mlflow_run_id, batch)
            except PlatformError:
                with self._lock:
                    self._waiting.extendleft(reversed(batch[: MAX_WAITING - len(self._waiting)]))
                raise
