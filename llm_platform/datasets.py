"""Uploaded datasets: from a file on disk to a row in the table, which is what acceptance means."""

from __future__ import annotations

import ctypes
import re
import secrets
import unicodedata
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast, get_args

from sqlalchemy.engine import RowMapping

from llm_platform import quotas
from llm_platform.database import Database
from llm_platform.errors import InvalidConfig, InvalidInput
from llm_platform.idempotency import key_digest, key_reused
from llm_platform.reporting import ListReporter
from llm_platform.settings import Settings
from llm_platform.specs import Format
from llm_platform.specs.resources import Dataset, DatasetUploaded, Preview, Profile
from llm_platform.storage import MANIFEST, Storage

MAX_FILENAME = 255
MAX_KEY = 100
MAX_UNPACKED = 4
"""How many times as large as the largest upload a file may be when it is unpacked."""
TABLE = "table.parquet"
"""The canonical table's name, beside the original file."""
CATALOG_SAMPLES = 5
"""Rows that Dagster's asset catalog shows."""

_FORMATS = get_args(Format)
_DEVICES = re.compile(r"(CON|PRN|AUX|NUL|COM\d|LPT\d)", re.IGNORECASE)


@dataclass(frozen=True)
class Upload:
    """A file that a client sent, whole, in a folder that is the upload's own. `format` is the client's claim."""

    path: Path
    filename: str
    size_bytes: int
    sha256: str
    format: str | None


def ingest(
    upload: Upload, settings: Settings, database: Database, storage: Storage, owner: str | None = None, key: str | None = None
) -> DatasetUploaded:
    """Reads, profiles and stores a dataset; it exists when this returns, and nothing of it does when this raises.

    An idempotency `key` of the client's makes one dataset of the same file, however often and at once it comes; Conflict is raised
    if the key came with another file. Raises InvalidInput for a format that there is not, DatasetError for a file that is not what it
    says it is or cannot be read, StorageError if it cannot be stored, and Conflict above the owner's quota.
    """
    digest = None if key is None else key_digest(owner, key)
    known = None if digest is None else database.dataset_of_key(digest)
    if known is not None:
        return _same(known, upload)
    try:
        return _ingest(upload, settings, database, storage, owner, digest)
    finally:
        _give_memory_back()


def _ingest(
    upload: Upload, settings: Settings, database: Database, storage: Storage, owner: str | None, key: str | None
) -> DatasetUploaded:
    from llm_platform.data.profile import Profiler, preview
    from llm_platform.data.read import detect_format, to_parquet

    name = display_name(upload.filename)
    table = upload.path.with_name(TABLE)
    seen = detect_format(upload.path, name, known_format(upload.format))
    with Profiler(table.parent) as profiler:
        to_parquet(upload.path, seen, table, name, profiler=profiler, max_unpacked_bytes=MAX_UNPACKED * settings.max_upload_bytes)
        found = profiler.profile(table)
    samples = preview(table, CATALOG_SAMPLES)
    dataset_id = f"ds_{secrets.token_hex(10)}"
    home = f"s3://{settings.datasets_bucket}/{dataset_id}"
    try:
        stored = storage.put_file(upload.path, f"{home}/{storage_key(name)}", move=True, sha256=upload.sha256)
        kept = storage.put_file(table, f"{home}/{TABLE}", move=True)
        made = database.add_dataset(
            key=key,
            check=partial(quotas.check_bytes, owner=owner, settings=settings),
            dataset_id=dataset_id,
            filename=name,
            format=seen,
            size_bytes=upload.size_bytes,
            sha256=upload.sha256,
            s3_path=stored.address,
            table_path=kept.address,
            profile=found.model_dump(mode="json") | {"preview": samples},
            owner=owner,
        )
    except BaseException:
        storage.delete(home)
        raise
    if made != dataset_id:  # the same request was faster elsewhere
        storage.delete(home)
        return _same(database.dataset_of_key(key or ""), upload)
    return DatasetUploaded(
        dataset_id=dataset_id, filename=name, size_bytes=upload.size_bytes, s3_path=stored.address, analysis=found.analysis
    )


def _same(row: RowMapping | None, upload: Upload) -> DatasetUploaded:
    """The answer that the upload of this dataset got. Raises Conflict if it was of another file."""
    if row is None or row["sha256"] != upload.sha256 or row["filename"] != display_name(upload.filename):
        raise key_reused("file", "file")
    if known_format(upload.format) not in (None, row["format"]):
        raise key_reused("format", "file")
    analysis = row["profile"]["analysis"]
    return DatasetUploaded(
        dataset_id=row["dataset_id"], filename=row["filename"], size_bytes=row["size_bytes"], s3_path=row["s3_path"], analysis=analysis
    )


def _give_memory_back() -> None:
    """To the system, what the C library keeps free: it would keep some for every thread that ever read a file."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc alone has it
    if trim is not None:
        trim(0)


def known_format(claimed: str | None) -> Format | None:
    """The format that a client named. Raises InvalidInput."""
    if claimed is None or claimed in _FORMATS:
        return cast("Format | None", claimed)
    message = f"There is no format '{claimed[:50]}'; the formats are {', '.join(_FORMATS)}"
    raise InvalidInput(message, errors=[{"field": "format", "message": message}])


def display_name(filename: str) -> str:
    """What the file is called where people see it: the last part of the path, without what could mislead or harm a reader."""
    last = re.split(r"[/\\]", filename)[-1]
    # Control and format characters (NUL, line ends, right-to-left marks), lone surrogates, private and unassigned ones.
    name = "".join(char for char in last if not unicodedata.category(char).startswith("C")).strip(" .")
    if _DEVICES.fullmatch(name.partition(".")[0].strip()):
        name = f"_{name}"
    return _shortened(name, MAX_FILENAME) or "dataset"


def storage_key(name: str) -> str:
    """The safe ASCII form of a display name; never one of the names that the platform itself gives."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    key = re.sub(r"[^A-Za-z0-9._-]+", "_", plain).lstrip("._-") or "dataset"
    return f"original-{key}" if key.lower() in (TABLE, MANIFEST) else _shortened(key, MAX_KEY)


def _shortened(name: str, most: int) -> str:
    """At most so many characters, the extension kept."""
    if len(name) <= most:
        return name
    stem, dot, extension = name.rpartition(".")
    return f"{stem[: most - 1 - len(extension)]}.{extension}" if dot and len(extension) < 20 else name[:most]


def view(row: RowMapping) -> Dataset:
    """The dataset as the API shows it; `row` is one of a list, or a whole one."""
    analysis = row["analysis"] if "analysis" in row else row["profile"]["analysis"]
    return Dataset(
        dataset_id=row["dataset_id"],
        filename=row["filename"],
        format=row["format"],
        rows=analysis["rows"],
        columns=analysis["columns"],
        created_at=row["created_at"],
        s3_path=row["s3_path"],
    )


def preview(row: RowMapping, limit: int, settings: Settings, storage: Storage) -> Preview:
    """The first rows, at most `limit`."""
    from llm_platform.data.profile import preview as first_rows

    table = storage.as_local(row["table_path"], settings.work / "inputs")
    samples: list[dict[str, Any]] = first_rows(table, limit)
    return Preview(dataset_id=row["dataset_id"], samples=samples, total_rows=row["profile"]["analysis"]["rows"])


def profile(row: RowMapping, tokenizer: str | None, settings: Settings, storage: Storage) -> Profile:
    """What is in the dataset; lengths in tokens too if the name of a base model is given as `tokenizer`.

    Raises InvalidConfig for a model that there is not, or that is not on this machine.
    """
    found = Profile.model_validate({name: value for name, value in row["profile"].items() if name != "preview"})
    if tokenizer is None:
        return found
    from llm_platform.data.profile import token_lengths
    from llm_platform.training.base_model import check_name, is_ready, resolve

    check_name(tokenizer, settings)
    if not is_ready(tokenizer, settings):
        message = f"Base model '{tokenizer}' is not on this machine yet; it comes with the first job that uses it"
        raise InvalidConfig(message, errors=[{"field": "tokenizer", "agent": None, "message": "not on this machine"}])
    table = storage.as_local(row["table_path"], settings.work / "inputs")
    folder = resolve(tokenizer, settings, ListReporter())
    return found.model_copy(update={"tokens": token_lengths(table, found, folder, tokenizer)})
