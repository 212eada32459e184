"""The entry of the SDK: one connection pool, and the resources of the API as attributes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from llm_platform.client.datasets import Datasets
from llm_platform.client.jobs import Jobs
from llm_platform.client.logs import Logs
from llm_platform.client.models import Models
from llm_platform.client.notebooks import Notebooks
from llm_platform.client.transport import Transport, parse
from llm_platform.specs.preflight import Preflight
from llm_platform.specs.resources import Health


class Client:
    """A platform at `base_url`. Use it as a context manager, or `close()` it, to give the connections back.

    `api_key` says who you are to a platform that asks; LLM_PLATFORM_API_KEY of the environment if not given. `timeout` is in
    seconds for each answer (streams and downloads: for each silence); calls that can be repeated safely are tried again up
    to `max_retries` times, with growing pauses, when nobody answers or the platform is busy.
    """

    def __init__(
        self,
        base_url: str = "http://localhost:8000/api/v1",
        *,
        api_key: str | None = None,
        timeout: float = 60.0,
        max_retries: int = 5,
    ) -> None:
        api_key = api_key or os.environ.get("LLM_PLATFORM_API_KEY") or None
        self._transport = Transport(base_url, timeout=timeout, max_retries=max_retries, api_key=api_key)
        self.datasets = Datasets(self._transport)
        self.jobs = Jobs(self._transport)
        self.logs = Logs(self._transport)
        self.models = Models(self._transport)
        self.notebooks = Notebooks(self._transport)

    @property
    def base_url(self) -> str:
        return self._transport.base_url

    def health(self) -> Health:
        """How the platform and its services are. An unhealthy platform is an answer, not an exception."""
        response = self._transport.request("GET", "/health", accept=(503,))
        return parse(Health, response)

    def preflight(
        self,
        pipeline_config: Mapping[str, Any] | None = None,
        *,
        dataset_id: str | None = None,
        config: Mapping[str, Any] | None = None,
        training: Mapping[str, Any] | None = None,
        rows: Sequence[int] = (0, 1, 2),
        sample_rows: int = 10_000,
    ) -> Preflight:
        """What a pipeline, or a dataset with a preprocessing config, would do: counts, tokens, loss masks, steps, time, memory.

        Raises what submitting the same would raise; what is wrong with the rows is in the answer's `errors`.
        """
        given = {"pipeline_config": pipeline_config, "dataset_id": dataset_id, "config": config, "training": training}
        body = {name: value for name, value in given.items() if value is not None}
        response = self._transport.request("POST", "/preflight", json={**body, "rows": list(rows), "sample_rows": sample_rows})
        return parse(Preflight, response)

    def close(self) -> None:
        self._transport.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Client(base_url={self.base_url!r})"
