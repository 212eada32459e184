"""The entry of the SDK: one connection pool, and the resources of the API as attributes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llm_platform.client import calls
from llm_platform.client.datasets import Datasets
from llm_platform.client.jobs import Jobs
from llm_platform.client.keys import Audit, Keys
from llm_platform.client.logs import Logs
from llm_platform.client.models import Models
from llm_platform.client.notebooks import Notebooks
from llm_platform.client.transport import Transport, connection
from llm_platform.specs.preflight import Preflight
from llm_platform.specs.resources import Health, Usage


class Client:
    """A platform at `base_url`. Use it as a context manager, or `close()` it, to give the connections back.

    `api_key` says who you are to a platform that asks; LLM_PLATFORM_API_KEY of the environment if not given. `timeout` is in
    seconds for each answer (streams and downloads: for each silence); calls that can be repeated safely are tried again up
    to `max_retries` times, with growing pauses, when nobody answers or the platform is busy or fails.
    """

    def __init__(
        self,
        base_url: str = "http://localhost:8000/api/v1",
        *,
        api_key: str | None = None,
        timeout: float = 60.0,
        max_retries: int = 5,
    ) -> None:
        self._transport = Transport(connection(base_url, api_key=api_key, timeout=timeout, max_retries=max_retries))
        self.datasets = Datasets(self._transport)
        self.jobs = Jobs(self._transport)
        self.logs = Logs(self._transport)
        self.models = Models(self._transport)
        self.notebooks = Notebooks(self._transport)
        self.keys = Keys(self._transport)
        self.audit = Audit(self._transport)

    @property
    def base_url(self) -> str:
        return self._transport.connection.base_url

    def health(self) -> Health:
        """How the platform and its services are. An unhealthy platform is an answer, not an exception."""
        return self._transport.run(calls.health())

    def usage(self) -> Usage:
        """How much of each quota you have used; a `limit` of None is none."""
        return self._transport.run(calls.usage())

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
        return self._transport.run(calls.preflight(given, rows, sample_rows))

    def close(self) -> None:
        self._transport.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Client(base_url={self.base_url!r})"
