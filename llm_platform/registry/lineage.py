"""A model's lineage as a chain of hashes: what it was made from, down to the bytes of the files.

Each link has the SHA-256 that was recorded of its bytes, and a hash over that and the hashes of the links that it was made from. So the
hash of a link stands for everything before it, and two models with equal hashes are the same bytes from the same bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from llm_platform.registry.artifacts import files_digest
from llm_platform.registry.models import RegisteredModel

Kind = Literal["dataset", "table", "base model", "rows", "config", "weights", "registered", "export"]

BASE_FILES_TAG = "base_files"
"""JSON object: the SHA-256 of each file of the base model that decides what it answers."""
SPLITS_TAG = "splits"
"""Address of the prepared rows."""
SPLITS_SHA256_TAG = "splits_sha256"
CONFIG_SHA256_TAG = "config_sha256"
WEIGHTS_TAG = "weights"
"""Address of the trained weights in the object store."""
WEIGHTS_SHA256_TAG = "weights_sha256"
REGISTERED_TAG = "registered_files"
"""JSON object: the SHA-256 of each file of the weights in MLflow."""


class Link(BaseModel):
    """One thing of the lineage. `sha256` is of its bytes as they were when it was recorded; None if that was not recorded.

    `files` has those of its files, where the registry knows them. `hash` changes with `sha256` and with each of `inputs`.
    """

    model_config = ConfigDict(frozen=True)

    kind: Kind
    name: str
    address: str | None = None
    sha256: str | None
    files: dict[str, str] = {}
    inputs: list[str] = []
    hash: str

    @property
    def title(self) -> str:
        return f"{self.kind} {self.name}"


def config_sha256(config: Mapping[str, Any]) -> str:
    """The SHA-256 of a training config, whatever the order of its fields."""
    return hashlib.sha256(json.dumps(dict(config), sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def lineage(model: RegisteredModel) -> list[Link]:
    """The links in the order in which they were made: data and base model first, exports last."""
    found: list[Link] = []

    def add(kind: Kind, name: str, sha256: str | None, inputs: Sequence[str], **more: Any) -> str:
        known = {link.title: link.hash for link in found}
        made = chained(kind, name, sha256, [known[title] for title in inputs])
        found.append(Link(kind=kind, name=name, sha256=sha256, inputs=list(inputs), hash=made, **more))
        return found[-1].title

    tables = []
    for number, dataset in enumerate(model.datasets, 1):
        name = dataset.name if len(model.datasets) == 1 else f"{number} {dataset.name}"
        file = add("dataset", name, dataset.file_sha256, [], address=dataset.file_address)
        tables.append(add("table", name, dataset.sha256, [file], address=dataset.source_address))
    base_files: dict[str, str] = json.loads(model.tags.get(BASE_FILES_TAG, "{}"))
    base = add("base model", model.base_model, files_digest(base_files) if base_files else None, [], files=base_files)
    rows = add("rows", "prepared", model.tags.get(SPLITS_SHA256_TAG), [*tables, base], address=model.tags.get(SPLITS_TAG))
    config = add("config", "training", model.tags.get(CONFIG_SHA256_TAG), [])
    kind = "model" if model.training_config.get("method") == "full" else "adapter"
    made_from = [base, rows, config]
    weights = add("weights", kind, model.tags.get(WEIGHTS_SHA256_TAG), made_from, address=model.tags.get(WEIGHTS_TAG))
    registered: dict[str, str] = json.loads(model.tags.get(REGISTERED_TAG, "{}"))
    add("registered", kind, files_digest(registered) if registered else None, [weights], files=registered)
    for format, address in sorted(model.exports.items()):
        add("export", format, model.export_digests[format], [weights], address=address)
    return found


def head(links: Sequence[Link]) -> str:
    """One hash for the whole chain."""
    return hashlib.sha256(json.dumps([link.hash for link in links]).encode()).hexdigest()


def chained(kind: str, name: str, sha256: str | None, inputs: Sequence[str]) -> str:
    """The hash of a link; `inputs` are the hashes of those that it was made from."""
    return hashlib.sha256(json.dumps([kind, name, sha256, *inputs]).encode()).hexdigest()
