"""What Prometheus reads of this API process. Jobs and the queue are counted in the database, so every process says the same of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from http import HTTPMethod
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from llm_platform.specs.resources import JobStatus

_METHODS = frozenset(HTTPMethod)


class Metrics:
    """The process's figures. `jobs` gives how many jobs are in each state, `queue` how many wait to be handed to Dagster, `free` the
    free bytes of the home folder's disk."""

    def __init__(
        self, open_streams: Callable[[], int], jobs: Callable[[], Mapping[str, int]], queue: Callable[[], int], free: Callable[[], int]
    ) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "llm_platform_http_requests", "Requests that were answered.", ["method", "route", "status"], registry=self.registry
        )
        self._seconds = Histogram(
            "llm_platform_http_request_duration_seconds",
            "Time from a request to the end of its answer.",
            ["method", "route"],
            registry=self.registry,
        )
        self._limited = Counter("llm_platform_rate_limited_requests", "Requests that were answered with 429.", registry=self.registry)
        self.upload_bytes = Counter("llm_platform_upload_bytes", "Bytes of files that were received whole.", registry=self.registry)
        streams = Gauge("llm_platform_open_log_streams", "Log streams that are open.", registry=self.registry)
        streams.set_function(open_streams)
        room = Gauge("llm_platform_disk_free_bytes", "Free bytes of the home folder's disk.", registry=self.registry)
        room.set_function(free)
        self.registry.register(_Stored(jobs, queue))

    def count(self, method: str, route: str, status: int, seconds: float) -> None:
        """One request. A client that left before there was an answer has status 0."""
        method = method if method in _METHODS else "OTHER"
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(method, route).observe(seconds)
        if status == 429:
            self._limited.inc()


class _Stored(Collector):
    """Read when Prometheus asks."""

    def __init__(self, jobs: Callable[[], Mapping[str, int]], queue: Callable[[], int]) -> None:
        self._jobs = jobs
        self._queue = queue

    def describe(self) -> Iterable[Metric]:
        return []

    def collect(self) -> Iterable[Metric]:
        jobs = GaugeMetricFamily("llm_platform_jobs", "Jobs in each state.", labels=["status"])
        found = self._jobs()
        for status in get_args(JobStatus):
            jobs.add_metric([status], found.get(status, 0))
        yield jobs
        yield GaugeMetricFamily("llm_platform_queue_depth", "Jobs that wait to be handed to Dagster.", self._queue())
