"""The entry of the SDK for asyncio."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

from llm_platform.client import calls
from llm_platform.client.aio.datasets import AsyncDatasets
from llm_platform.client.aio.jobs import AsyncJobs
from llm_platform.client.aio.keys import AsyncAudit, AsyncKeys
from llm_platform.client.aio.logs import AsyncLogs
from llm_platform.client.aio.models import AsyncModels
from llm_platform.client.aio.notebooks import AsyncNotebooks
from llm_platform.client.aio.transport import AsyncTransport
from llm_platform.client.transport import connection
from llm_platform.specs.preflight import Preflight
from llm_platform.specs.resources import Health, Usage


class AsyncClient:
    """`Client` for asyncio: the same arguments, resources and errors. Use it with `async with`, or `await close()` it."""

    def __init__(
        self,
        base_url: str = "http://localhost:8000/api/v1",
        *,
        api_key: str | None = None,
        timeout: float = 60.0,
        max_retries: int = 5,
    ) -> None:
        self._transport = AsyncTransport(connection(base_url, api_key=api_key, timeout=timeout, max_retries=max_retries))
        self.datasets = AsyncDatasets(self._transport)
        self.jobs = AsyncJobs(self._transport)
        self.logs = AsyncLogs(self._transport)
        self.models = AsyncModels(self._transport)
        self.notebooks = AsyncNotebooks(self._transport)
        self.keys = AsyncKeys(self._transport)
        self.audit = AsyncAudit(self._transport)

    @property
    def base_url(self) -> str:
        return self._transport.connection.base_url

    async def health(self) -> Health:
        """See `Client.health`."""
        return await self._transport.run(calls.health())

    async def usage(self) -> Usage:
        """See `Client.usage`."""
        return await self._transport.run(calls.usage())

    async def preflight(
        self,
        pipeline_config: Mapping[str, Any] | None = None,
        *,
        dataset_id: str | None = None,
        config: Mapping[str, Any] | None = None,
        training: Mapping[str, Any] | None = None,
        rows: Sequence[int] = (0, 1, 2),
        sample_rows: int = 10_000,
    ) -> Preflight:
        """See `Client.preflight`."""
        given = {"pipeline_config": pipeline_config, "dataset_id": dataset_id, "config": config, "training": training}
        return await self._transport.run(calls.preflight(given, rows, sample_rows))

    async def close(self) -> None:
        await self._transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: Any) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"AsyncClient(base_url={self.base_url!r})"
