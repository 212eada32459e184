"""Trained models as clients see them: listed from the projection, described by the registry, downloaded from the object store."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Literal

import sqlalchemy as sa
from sqlalchemy.engine import RowMapping

from llm_platform import tables
from llm_platform.database import Database
from llm_platform.errors import Conflict, NotFound, RangeNotSatisfiable
from llm_platform.registry import RegisteredModel, Registry
from llm_platform.specs.gate import gate_names
from llm_platform.specs.resources import Model, ModelFile, ModelFiles, ModelSummary
from llm_platform.storage import Stat, Storage

DownloadFormat = Literal["adapter", "merged", "gguf"]
PRESIGNED_SECONDS = 3600
"""How long the presigned address of a file is good for."""
Piece = bytes | tuple[str, int]
"""A part of an archive: bytes, or the address and size of a stored file."""


def summary(row: RowMapping) -> ModelSummary:
    """One line of the list, from the projection."""
    return ModelSummary(
        model_id=row["model_id"],
        run_id=row["run_id"],
        model_name=row["model_name"],
        base_model=row["base_model"],
        created_at=row["created_at"],
        metrics=row["metrics"],
        exports=list(row["exports"]),
        aliases=sorted(row["aliases"] or ()),
    )


def details(model: RegisteredModel) -> Model:
    """Everything that the registry knows; `dataset_id` is the first uploaded dataset it was trained on."""
    return Model(
        model_id=model.model_id,
        run_id=model.run_id,
        model_name=model.model_name,
        base_model=model.base_model,
        dataset_id=next(iter(model.dataset_ids), None),
        training_config=model.training_config,
        metrics=model.metrics,
        exports=model.exports,
        created_at=model.created_at,
        aliases=model.aliases,
        gates=model.gates,
    )


def registered(model_id: str, registry: Registry) -> RegisteredModel:
    """The model. Raises NotFound."""
    model = registry.get(model_id)
    if model is None:
        raise NotFound(f"There is no model '{model_id}'", model_id=model_id)
    return model


def reindex(registry: Registry, database: Database) -> int:
    """Makes the projection what the registry is; how many models there are.

    Other processes may write both meanwhile: what is not in the projection before the registry is read is left alone, and what is
    missing in the registry is looked for once more before it is taken out.
    """
    with database.read() as connection:
        before = {row["model_id"]: dict(row) for row in connection.execute(sa.select(tables.models)).mappings()}
    rows = {str(row["model_id"]): row for row in map(projection, registry.all())}
    for model_id, row in rows.items():
        if row != before.get(model_id):
            database.put_model(**row)
    database.delete_models([model_id for model_id in before.keys() - rows.keys() if registry.get(model_id) is None])
    return len(rows)


def projection(model: RegisteredModel) -> dict[str, object]:
    """What the platform's database keeps of a model."""
    fields = ("model_id", "run_id", "model_name", "base_model", "metrics", "exports", "created_at")
    return {**{name: getattr(model, name) for name in fields}, "aliases": dict.fromkeys(model.aliases, True)}


@dataclass(frozen=True)
class Archive:
    """A tar of an exported folder that is never built: its size and every byte of it are known from the files' sizes.

    So it streams with bounded memory, has a length and an entity tag before the first byte, and any range of it can be read.
    """

    filename: str
    etag: str
    size: int
    pieces: tuple[Piece, ...]

    def read(self, storage: Storage, start: int, end: int) -> Iterator[bytes]:
        """The bytes from `start` to before `end`."""
        at = 0
        for piece in self.pieces:
            size = len(piece) if isinstance(piece, bytes) else piece[1]
            low, high = max(start - at, 0), min(end - at, size)
            if low < high:
                yield from [piece[low:high]] if isinstance(piece, bytes) else storage.read_range(piece[0], low, high)
            at += size


def archive(model: RegisteredModel, wanted: DownloadFormat, storage: Storage) -> Archive:
    """The archive of one export. Raises NotFound if the model was not exported in that format, Conflict if the gate rejected it."""
    address, files = _exported(model, wanted, storage)
    base = f"{address}/"
    folder = f"{model.model_id}-{wanted}"
    pieces: list[Piece] = []
    for file in files:
        entry = tarfile.TarInfo(f"{folder}/{file.address.removeprefix(base)}")
        # Nothing of the moment goes in: the same export is the same archive, byte for byte, on every server.
        entry.size, entry.mode = file.size_bytes, 0o644
        pieces += [entry.tobuf(tarfile.PAX_FORMAT), (file.address, file.size_bytes), b"\0" * (-file.size_bytes % tarfile.BLOCKSIZE)]
    size = sum(len(piece) if isinstance(piece, bytes) else piece[1] for piece in pieces)
    # An archive ends with two empty blocks, filled up to a whole record.
    end = 2 * tarfile.BLOCKSIZE
    pieces.append(b"\0" * (end + -(size + end) % tarfile.RECORDSIZE))
    digest = sha256()
    for file in files:
        digest.update(f"{file.address}\0{file.size_bytes}\0{file.sha256 or file.modified.isoformat()}\n".encode())
    return Archive(f"{folder}.tar", f'"{digest.hexdigest()}"', size + len(pieces[-1]), tuple(pieces))


def files(model: RegisteredModel, wanted: DownloadFormat, storage: Storage) -> ModelFiles:
    """The files of one export, with addresses from which they can be read directly where the store has such. Raises as `archive`."""
    address, found = _exported(model, wanted, storage)
    expires = datetime.now(UTC) + timedelta(seconds=PRESIGNED_SECONDS)
    listed = [
        ModelFile(
            path=file.address.removeprefix(f"{address}/"),
            size_bytes=file.size_bytes,
            sha256=file.sha256,
            url=storage.presigned_url(file.address, PRESIGNED_SECONDS),
        )
        for file in found
    ]
    signed = any(file.url for file in listed)
    return ModelFiles(model_id=model.model_id, format=wanted, address=address, files=listed, expires_at=expires if signed else None)


def _exported(model: RegisteredModel, wanted: DownloadFormat, storage: Storage) -> tuple[str, list[Stat]]:
    """The address and the files of an export that may be had."""
    address = model.exports.get(wanted)
    if address is None:
        have = ", ".join(model.exports) or "none"
        raise NotFound(f"Model '{model.model_id}' was not exported as '{wanted}'; it has {have}", exports=list(model.exports))
    _check_gate(model, wanted)
    found = storage.list_files(address)
    if not found:
        raise NotFound(f"The '{wanted}' export of model '{model.model_id}' is no longer stored", address=address)
    return address, found


def _check_gate(model: RegisteredModel, wanted: DownloadFormat) -> None:
    gates = {name: model.gates[name] for name in gate_names(wanted, model.gates)}
    if gates and not any(gate.accepted for gate in gates.values()):
        why = "; ".join(f"{name}: {reason}" for name, gate in gates.items() for reason in gate.reasons)
        raise Conflict(
            f"The '{wanted}' export of model '{model.model_id}' was rejected: it does not answer as the evaluated model does ({why})",
            model_id=model.model_id,
            gates={name: gate.model_dump(mode="json") for name, gate in gates.items()},
        )


def parse_range(header: str | None, size: int) -> tuple[int, int] | None:
    """(start, end) of a Range header, the end excluded; None for the whole. Raises RangeNotSatisfiable for all but one good range."""
    if header is None:
        return None
    unit, _, text = header.partition("=")
    first, dash, last = (part.strip() for part in text.partition("-"))
    if unit.strip().lower() != "bytes" or not dash or not all(not part or (part.isascii() and part.isdigit()) for part in (first, last)):
        raise RangeNotSatisfiable("Ask for one range, such as 'bytes=0-1023'", size_bytes=size)
    if len(first) > 18 or len(last) > 18 or not (first or last):
        raise RangeNotSatisfiable(f"The range does not lie within the archive's {size} bytes", size_bytes=size)
    if not first:
        start, end = max(size - int(last), 0), size
    else:
        start, end = int(first), min(int(last) + 1, size) if last else size
    if start >= end:
        raise RangeNotSatisfiable(f"The range does not lie within the archive's {size} bytes", size_bytes=size)
    return start, end
