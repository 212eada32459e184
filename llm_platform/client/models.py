"""`client.models`: what was trained, its card, and its files."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import httpx
from pydantic import PrivateAttr

from llm_platform.client.archives import place
from llm_platform.client.pages import Page
from llm_platform.client.transport import Transport, parse
from llm_platform.errors import NotFound
from llm_platform.specs import resources
from llm_platform.specs.comparison import Comparison
from llm_platform.specs.resources import ModelFiles, ModelList, ModelSummary

Format = Literal["adapter", "merged", "gguf"]


class Model(resources.Model):
    """A trained model, with the calls that concern it."""

    _models: Models | None = PrivateAttr(default=None)

    def download(self, format: Format = "adapter", path: str | Path = ".") -> Path:
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
        min_metric: Mapping[str, float] | None = None,
        max_metric: Mapping[str, float] | None = None,
        sort: str | None = None,
    ) -> Page[ModelSummary]:
        """Models for which every filter holds, newest first.

        `min_metric={"exact_match": 0.8}` asks for at least that, `max_metric` for at most. `sort` is `created_at`, `name` or a metric,
        with `-` before it from high to low. Raises InvalidInput for a metric that no model has.
        """
        thresholds = {"min_metric": min_metric, "max_metric": max_metric}
        given: dict[str, Any] = {"base_model": base_model, "name": name, "alias": alias, "sort": sort}
        given |= {field: [f"{metric}:{value}" for metric, value in (known or {}).items()] for field, known in thresholds.items()}
        params = {"limit": limit, "offset": offset} | {field: value for field, value in given.items() if value is not None}
        page = parse(ModelList, self._transport.request("GET", "/models", params=params))
        return Page(page.models, page.total, page.limit, page.offset, page.has_more)

    def get(self, model_id: str | None) -> Model:
        """One model. `None`, which is the `model_id` of a job that registered no model, raises NotFound."""
        model = parse(Model, self._transport.request("GET", _path(model_id)))
        model._models = self
        return model

    def compare(self, model_ids: Sequence[str]) -> Comparison:
        """Models on the examples that all of them were evaluated on, each against the first.

        Raises InvalidConfig if one of them was not evaluated, or on other examples.
        """
        return parse(Comparison, self._transport.request("GET", "/models/compare", params={"ids": ",".join(model_ids)}))

    def card(self, model_id: str) -> str:
        """The model card, as Markdown."""
        return self._transport.request("GET", f"{_path(model_id)}/card").text

    def files(self, model_id: str, *, format: Format = "adapter") -> ModelFiles:
        """The files of an export, each with its digest and, where the platform stores in an S3, an address to fetch it from directly."""
        return parse(ModelFiles, self._transport.request("GET", f"{_path(model_id)}/files", params={"format": format}))

    def download(self, model_id: str, *, format: Format = "adapter", path: str | Path = ".") -> Path:
        """Streams an export to `path` and returns where it lies.

        A folder gets the unpacked files; a name that ends like a file's, such as `adapter.zip`, gets the archive as it
        comes. Nothing appears there before the download is complete.
        """
        target = Path(path)
        parent = target if target.is_dir() else target.parent
        parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".download-", dir=parent) as scratch:
            file = Path(scratch) / "download"
            with self._transport.stream(f"{_path(model_id)}/download", params={"format": format}) as response:
                with file.open("wb") as out:
                    for chunk in response.iter_bytes():
                        out.write(chunk)
                name = _file_name(response) or f"{format}.bin"
            return place(file, name, target)


def _path(model_id: str | None) -> str:
    if model_id is None:
        raise NotFound("There is no model id: the job has registered no model (yet)")
    return f"/models/{quote(model_id, safe='')}"


def _file_name(response: httpx.Response) -> str | None:
    """The last part of the name in Content-Disposition: the platform does not choose folders on this machine."""
    for part in response.headers.get("content-disposition", "").split(";"):
        key, _, value = part.strip().partition("=")
        if key.lower() == "filename":
            name = Path(value.strip('"').replace("\\", "/")).name
            return name if name not in ("", ".", "..") else None
    return None
