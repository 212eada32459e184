"""`client.models`: what was trained, its card, and its files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import PrivateAttr

from llm_platform.client import calls
from llm_platform.client.archives import Landing
from llm_platform.client.calls import Export, Metrics
from llm_platform.client.display import Comparison, card
from llm_platform.client.pages import Page
from llm_platform.client.transport import Transport
from llm_platform.specs import resources
from llm_platform.specs.resources import ModelFiles, ModelSummary


class ModelView(resources.Model):
    """What `Model` of both clients have in common."""

    def shown(self) -> dict[str, Any]:
        """What a notebook shows of a model."""
        names = ("model_id", "model_name", "base_model", "run_id", "dataset_id", "created_at", "aliases", "metrics", "training_config")
        return {name: getattr(self, name) for name in names} | {"exports": list(self.exports)}

    def _repr_html_(self) -> str:
        return card("Model", self.shown())


class Model(ModelView):
    """A trained model, with the calls that concern it."""

    _models: Models | None = PrivateAttr(default=None)

    def download(self, format: Export = "adapter", path: str | Path = ".") -> Path:
        """See `Models.download`."""
        return self._owner.download(self.model_id, format=format, path=path)

    def card(self) -> str:
        """The model card, as Markdown."""
        return self._owner.card(self.model_id)

    @property
    def _owner(self) -> Models:
        if self._models is None:
            raise RuntimeError("This model did not come from a client; use client.models.get(model_id)")
        return self._models


class Models:
    def __init__(self, transport: Transport) -> None:
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
    ) -> Page[ModelSummary]:
        """Newest first, or as `sort` says: created_at, name or a metric, with "-" before it from high to low.

        Only models that have all that is asked for, such as `min_metric={"exact_match": 0.8}`.
        """
        filters = {"base_model": base_model, "name": name, "alias": alias, "sort": sort}
        pages = calls.models(limit, **filters, min_metric=min_metric, max_metric=max_metric)
        return self._transport.page(pages, offset)

    def get(self, model_id: str | None) -> Model:
        """One model. `None`, which is the `model_id` of a job that registered no model, raises NotFound."""
        model = self._transport.run(calls.model(model_id, Model))
        model._models = self
        return model

    def compare(self, model_ids: Sequence[str]) -> Comparison:
        """Models on the examples that all of them were evaluated on, each against the first.

        Raises InvalidConfig if one of them was not evaluated, or on other examples.
        """
        return self._transport.run(calls.compare(model_ids))

    def card(self, model_id: str) -> str:
        """The model card, as Markdown."""
        return self._transport.run(calls.model_card(model_id))

    def files(self, model_id: str, *, format: Export = "adapter") -> ModelFiles:
        """The files of an export, each with its digest and, where the platform stores in an S3, an address to fetch it from directly."""
        return self._transport.run(calls.model_files(model_id, format))

    def download(self, model_id: str, *, format: Export = "adapter", path: str | Path = ".") -> Path:
        """Streams an export to `path` and returns where it lies.

        A folder gets the unpacked files; a name that ends like a file's, such as `adapter.zip`, gets the archive as it
        comes. Nothing appears there before the download is complete.
        """
        call = calls.model_download(model_id, format)
        with Landing(Path(path)) as landing:
            with self._transport.stream(call) as response:
                landing.name = calls.file_name(response) or f"{format}.bin"
                for chunk in response.iter_bytes():
                    landing.write(chunk)
            return landing.place()
