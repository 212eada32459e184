"""The entry of the SDK: one connection pool, and the resources of the API as attributes."""

from __future__ import annotations

from typing import Any

from llm_platform.client.datasets import Datasets
from llm_platform.client.jobs import Jobs
from llm_platform.client.logs import Logs
from llm_platform.client.models import Models
from llm_platform.client.transport import Transport, parse
from llm_platform.specs.resources import Health


class Client:
    """A platform at `base_url`. Use it as a context manager, or `close()` it, to give the connections back.

    `timeout` is in seconds for each answer (streams and downloads: for each silence); calls that can be repeated safely
    are tried again up to `max_retries` times, with growing pauses, when nobody answers or the platform is busy.
    """

    def __init__(self, base_url: str = "http://localhost:8000/api/v1", *, timeout: float = 60.0, max_retries: int = 5) -> None:
        self._transport = Transport(base_url, timeout=timeout, max_retries=max_retries)
        self.datasets = Datasets(self._transport)
        self.jobs = Jobs(self._transport)
        self.logs = Logs(self._transport)
        self.models = Models(self._transport)

    @property
    def base_url(self) -> str:
        return self._transport.base_url

    def health(self) -> Health:
        """How the platform and its services are. An unhealthy platform is an answer, not an exception."""
        response = self._transport.request("GET", "/health", accept=(503,))
        return parse(Health, response)

    def close(self) -> None:
        self._transport.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Client(base_url={self.base_url!r})"
