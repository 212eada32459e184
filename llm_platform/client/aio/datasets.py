"""`client.datasets` of `AsyncClient`."""

from __future__ import annotations

from pathlib import Path

from llm_platform.client import calls
from llm_platform.client.aio.pages import AsyncListing
from llm_platform.client.aio.transport import AsyncTransport
from llm_platform.client.progress import Progress, WatchedFile
from llm_platform.specs.agents import Format
from llm_platform.specs.resources import Dataset, DatasetUploaded, Preview, Profile


class AsyncDatasets:
    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    async def upload(self, path: str | Path, format: Format | None = None, *, on_progress: Progress | None = None) -> DatasetUploaded:
        """See `Datasets.upload`."""
        path = Path(path)
        with WatchedFile(path, on_progress) as file:
            return await self._transport.run(calls.upload(path.name, file, format))

    async def get(self, dataset_id: str) -> Dataset:
        return await self._transport.run(calls.dataset(dataset_id))

    async def preview(self, dataset_id: str, *, limit: int = 10) -> Preview:
        """See `Datasets.preview`."""
        return await self._transport.run(calls.preview(dataset_id, limit))

    async def profile(self, dataset_id: str, *, tokenizer: str | None = None) -> Profile:
        """See `Datasets.profile`."""
        return await self._transport.run(calls.profile(dataset_id, tokenizer))

    def list(self, *, limit: int = 20, offset: int = 0) -> AsyncListing[Dataset]:
        """See `Datasets.list`."""
        return self._transport.listing(calls.datasets(limit), offset)
