"""`client.models` of `AsyncClient`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from anyio import to_thread
from pydantic import PrivateAttr

from llm_platform.client import calls
from llm_platform.client.aio.pages import AsyncListing
from llm_platform.client.aio.transport import AsyncTransport
from llm_platform.client.archives import Landing
from llm_platform.client.calls import Export, Metrics
from llm_platform.client.display import Comparison
from llm_platform.client.models import ModelView
from llm_platform.specs.resources import ModelFiles, ModelSummary


class AsyncModel(ModelView):
    """A trained model, with the calls that concern it."""

    _models: AsyncModels | None = PrivateAttr(default=None)

    async def download(self, format: Export = "adapter", path: str | Path = ".") -> Path:
        """See `Models.download`."""
        return await self._owner.download(self.model_id, format=format, path=path)

    async def card(self) -> str:
        """The model card, as Markdown."""
        return await self._owner.card(self.model_id)

    @property
    def _owner(self) -> AsyncModels:
        if self._models is None:
            raise RuntimeError("This model did not come from a client; use client.models.get(model_id)")
        return self._models


class AsyncModels:
    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    def list(
        self,
        *,
        limit: int = 20,
        offset: int = 0,
        base_model: str | None = None,
        name: str | None = None,
        alias: str | None = None,
        min_metric: Metrics | None = None,
        max_metric: Metrics | None = None,
        sort: str | None = None,
    ) -> AsyncListing[ModelSummary]:
        """See `Models.list`."""
        filters = {"base_model": base_model, "name": name, "alias": alias, "sort": sort}
        pages = calls.models(limit, **filters, min_metric=min_metric, max_metric=max_metric)
        return self._transport.listing(pages, offset)

    async def get(self, model_id: str | None) -> AsyncModel:
        """See `Models.get`."""
        model = await self._transport.run(calls.model(model_id, AsyncModel))
        model._models = self
        return model

    async def compare(self, model_ids: Sequence[str]) -> Comparison:
        """See `Models.compare`."""
        return await self._transport.run(calls.compare(model_ids))

    async def card(self, model_id: str) -> str:
        """The model card, as Markdown."""
        return await self._transport.run(calls.model_card(model_id))

    async def files(self, model_id: str, *, format: Export = "adapter") -> ModelFiles:
        """See `Models.files`."""
        return await self._transport.run(calls.model_files(model_id, format))

    async def download(self, model_id: str, *, format: Export = "adapter", path: str | Path = ".") -> Path:
        """See `Models.download`."""
        call = calls.model_download(model_id, format)
        with Landing(Path(path)) as landing:
            async with self._transport.stream(call) as response:
                landing.name = calls.file_name(response) or f"{format}.bin"
                async for chunk in response.aiter_bytes():
                    landing.write(chunk)
            return await to_thread.run_sync(landing.place)
