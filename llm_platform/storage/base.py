"""The interface of the object store, and what both of its implementations share.

An address names a *file*, or a *folder*: several files and a `manifest.json` that lists them with their digests. A folder whose
manifest is not there does not exist, so that it appears and vanishes as a whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO

from llm_platform.errors import InvalidConfig, NotFound, RangeNotSatisfiable, StorageError
from llm_platform.storage.address import Address, to_address
from llm_platform.storage.temporary import temporary

MANIFEST = "manifest.json"
CHUNK = 2**20
"""Bytes that are read or written at a time."""

_FORMAT = "llm-platform-folder-1"


@dataclass(frozen=True)
class Stored:
    """A file as it was stored."""

    address: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class StoredFolder:
    """A folder as it was stored: its files by relative name, and the digest of its manifest, which stands for all of them."""

    address: str
    files: dict[str, Stored]
    sha256: str

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files.values())


@dataclass(frozen=True)
class Stat:
    """What is known about an address without reading it. `sha256` is None for a file that was not put there by the platform."""

    address: str
    size_bytes: int
    sha256: str | None
    modified: datetime
    is_folder: bool


class Storage(ABC):
    """Where bytes live.

    Every method raises InvalidConfig for what is not an address, NotFound for what is not there, and StorageError when the store
    fails; no message contains a path or a secret.
    """

    @abstractmethod
    def put_file(self, local: Path, address: str, move: bool = False, sha256: str | None = None) -> Stored:
        """Stores a file, replacing what was there; it appears whole or not at all. With `move`, `local` is gone afterwards.

        `sha256` is the file's digest where the caller has just taken it; the file is then not read again for it.
        """

    @abstractmethod
    def put_bytes(self, data: bytes, address: str) -> Stored:
        """The same for bytes in memory."""

    @abstractmethod
    def put_folder(self, local: Path, address: str) -> StoredFolder:
        """Stores a folder; it appears whole or not at all. A folder that is there is left if it is identical, else replaced."""

    @abstractmethod
    def folder(self, address: str) -> StoredFolder:
        """The files of a folder, from its manifest."""

    @abstractmethod
    def local_path(self, address: str) -> Path | None:
        """The file or folder itself where it is on this machine (never to be written to); None where it must be fetched."""

    @abstractmethod
    def read_range(self, address: str, start: int = 0, end: int | None = None, chunk: int = CHUNK) -> Iterator[bytes]:
        """The bytes of a file from `start` to before `end`, in pieces of at most `chunk`.

        What is not there, or a `start` past the end (RangeNotSatisfiable), raises at once, not at the first piece. An `end` past
        the end means the end.
        """

    @abstractmethod
    def stat(self, address: str) -> Stat | None:
        """None if there is neither a file nor a whole folder."""

    @abstractmethod
    def list_files(self, address: str) -> list[Stat]:
        """The files below an address, in order of their names; empty if there are none."""

    @abstractmethod
    def delete(self, address: str) -> None:
        """Removes a file, or everything below an address. What is not there is no error."""

    @abstractmethod
    def presigned_url(self, address: str, seconds: int) -> str | None:
        """A URL from which anyone can read the file for so long; None where there is no such thing."""

    @abstractmethod
    def check(self) -> None:
        """Raises StorageError within 2 s if the store cannot be used."""

    @abstractmethod
    def sweep(self, dry_run: bool = False) -> int:
        """Removes what dead writers left half-written, and says how many of them there were; with `dry_run` it only says so."""

    @abstractmethod
    def children(self, bucket: str, folder: str = "") -> list[str]:
        """Names directly below a bucket or one of its folders, of files and folders alike, in order; none if it is not there."""

    def exists(self, address: str) -> bool:
        return self.stat(address) is not None

    def fetch_file(self, address: str, local: Path) -> None:
        """Copies a file to `local`, which appears whole or not at all. Raises StorageError if its digest is not the recorded one."""
        found = self.stat(address)
        if found is None or found.is_folder:
            raise missing(address)
        local.parent.mkdir(parents=True, exist_ok=True)
        with temporary(local.parent) as temp:
            self._fetch(address, temp, found.sha256)
            temp.replace(local)

    def fetch_folder(self, address: str, local: Path) -> None:
        """Copies a folder, its manifest included, to `local`, which is replaced. Raises StorageError if a digest is wrong."""
        folder = self.folder(address)
        local.parent.mkdir(parents=True, exist_ok=True)
        with temporary(local.parent) as temp:
            temp.mkdir()
            for name, file in folder.files.items():
                target = temp / name
                target.parent.mkdir(parents=True, exist_ok=True)
                self._fetch(file.address, target, file.sha256)
            (temp / MANIFEST).write_bytes(manifest(folder.files))
            if local.exists():
                shutil.rmtree(local)
            temp.rename(local)

    def as_local(self, address: str, work: Path) -> Path:
        """A path of the file or folder: the stored one where that is possible, else a copy below `work`, reused while it is right."""
        if path := self.local_path(address):
            return path
        found = self.stat(address)
        if found is None:
            raise missing(address)
        local = work / hashlib.sha256(found.address.encode()).hexdigest()[:16] / to_address(address).name
        if found.is_folder:
            if not _is_copy(local, found.sha256):
                self.fetch_folder(address, local)
        elif found.sha256 is None or not local.is_file() or file_sha256(local)[1] != found.sha256:
            self.fetch_file(address, local)
        return local

    def _fetch(self, address: str, target: Path, sha256: str | None) -> None:
        with target.open("xb") as file:
            digest = hashlib.sha256()
            for piece in self.read_range(address):
                digest.update(piece)
                file.write(piece)
        if sha256 is not None and digest.hexdigest() != sha256:
            raise StorageError(f"'{address}' was damaged: its SHA-256 is not the recorded one", address=address)


def missing(address: str | Address) -> NotFound:
    return NotFound(f"There is nothing at '{address}'", address=str(address))


def clip_range(start: int, end: int | None, size: int) -> tuple[int, int]:
    """A range within a file of `size` bytes. Raises RangeNotSatisfiable."""
    if start < 0 or start > size or (end is not None and end < start):
        raise RangeNotSatisfiable(f"The range does not lie within the file's {size} bytes", size_bytes=size)
    return start, size if end is None else min(end, size)


def copy_hashed(source: IO[bytes], target: IO[bytes] | None = None) -> tuple[int, str]:
    """The size and SHA-256 of what is left in `source`, copied to `target` on the way."""
    digest, size = hashlib.sha256(), 0
    while piece := source.read(CHUNK):
        digest.update(piece)
        size += len(piece)
        if target is not None:
            target.write(piece)
    return size, digest.hexdigest()


def file_sha256(path: Path) -> tuple[int, str]:
    """The size and SHA-256 of a file."""
    with path.open("rb") as file:
        return copy_hashed(file)


def folder_files(local: Path) -> list[str]:
    """Relative names, with `/`, of the files of a folder that is to be stored. Raises NotFound or InvalidConfig.

    A manifest that a fetch left there is not one of them; a foreign file of that name is refused.
    """
    if not local.is_dir():
        raise NotFound("The folder that was to be stored is not there")
    paths = [Path(base, name) for base, _, files in os.walk(local) for name in files]
    # A pipe would block its reader for ever.
    if other := [path.name for path in paths if not path.is_file()]:
        raise InvalidConfig(f"A stored folder holds files only; '{other[0]}' is none")
    names = sorted(path.relative_to(local).as_posix() for path in paths)
    if MANIFEST in names:
        try:
            parse_manifest((local / MANIFEST).read_bytes(), to_address("s3://folder/local"))
        except StorageError:
            raise InvalidConfig(f"A stored folder cannot have a file named '{MANIFEST}'; the platform writes its own") from None
        names.remove(MANIFEST)
    return names


def manifest(files: dict[str, Stored]) -> bytes:
    """The manifest of a folder: equal bytes for equal files."""
    listed = {name: {"size_bytes": file.size_bytes, "sha256": file.sha256} for name, file in files.items()}
    return json.dumps({"format": _FORMAT, "files": listed}, sort_keys=True, indent=1).encode()


def parse_manifest(data: bytes, address: Address) -> StoredFolder:
    """The folder that a manifest describes. Raises StorageError for what is no manifest of ours."""
    try:
        content = json.loads(data)
        if content["format"] != _FORMAT:
            raise ValueError
        files = {
            str(name): Stored(str(address.child(name)), int(file["size_bytes"]), str(file["sha256"]))
            for name, file in content["files"].items()
        }
    except (ValueError, TypeError, KeyError, AttributeError, InvalidConfig):
        raise StorageError(f"The manifest of '{address}' is damaged", address=str(address)) from None
    return StoredFolder(str(address), files, hashlib.sha256(data).hexdigest())


def _is_copy(local: Path, sha256: str | None) -> bool:
    """True if `local` was fetched whole (it appeared at once, manifest included) from the folder with that digest."""
    try:
        data = (local / MANIFEST).read_bytes()
        if hashlib.sha256(data).hexdigest() != sha256:
            return False
        files = parse_manifest(data, to_address("s3://folder/local")).files
        return all((local / name).stat().st_size == file.size_bytes for name, file in files.items())
    except OSError:
        return False
