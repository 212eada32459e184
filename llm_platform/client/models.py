"""`client.models`: what was trained, its card, and its files."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
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
from llm_platform.specs.resources import ModelList, ModelSummary

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

    def list(self, *, limit: int = 20, offset: int = 0, base_model: str | None = None) -> Page[ModelSummary]:
        """Newest first."""
        params: dict[str, Any] = {"limit": limit, "offset": offset} | ({} if base_model is None else {"base_model": base_model})
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
