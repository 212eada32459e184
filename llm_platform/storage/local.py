"""The object store in a folder of this machine."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import stat as modes
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import IO

from llm_platform.errors import Conflict, InvalidConfig, NotFound, StorageError
from llm_platform.storage.address import Address, to_address
from llm_platform.storage.base import (
    CHUNK,
    MANIFEST,
    Stat,
    Storage,
    Stored,
    StoredFolder,
    clip_range,
    copy_hashed,
    folder_files,
    manifest,
    missing,
    parse_manifest,
)
from llm_platform.storage.temporary import is_abandoned, remove, temporary

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class LocalStorage(Storage):
    """Objects are files `<root>/<bucket>/<key>`, so that a person can look at them and put more there by hand.

    Beside the buckets are `.tmp`, for what is half-written (the root must be one file system, since it is renamed into place),
    and `.sums`, for the digests of files. A digest counts only while size and time of the file are the recorded ones.
    """

    def __init__(self, root: Path) -> None:
        self._root = root.expanduser().resolve()
        self._temp = self._root / ".tmp"
        self._sums = self._root / ".sums"
        with _failures("the store"):
            self._temp.mkdir(parents=True, exist_ok=True)
            self._sums.mkdir(exist_ok=True)

    def put_file(self, local: Path, address: str, move: bool = False, sha256: str | None = None) -> Stored:
        target = to_address(address)
        if not local.is_file():
            raise NotFound("The file that was to be stored is not there")
        with _failures(target), local.open("rb") as source:
            if not move or local.is_symlink() or os.fstat(source.fileno()).st_dev != self._temp.stat().st_dev:
                stored = self._write(source, target)
                if move:
                    local.unlink()
                return stored
            size, digest = (os.fstat(source.fileno()).st_size, sha256) if sha256 else copy_hashed(source)
            os.fsync(source.fileno())
            return self._place(local, Stored(str(target), size, digest))

    def put_bytes(self, data: bytes, address: str) -> Stored:
        target = to_address(address)
        with _failures(target):
            return self._write(BytesIO(data), target)

    def put_folder(self, local: Path, address: str) -> StoredFolder:
        target = to_address(address)
        path = self._path(target)
        with _failures(target), temporary(self._temp) as temp:
            files = {}
            temp.mkdir()
            for name in folder_files(local):
                copy = temp / name
                copy.parent.mkdir(parents=True, exist_ok=True)
                with (local / name).open("rb") as source:
                    files[name] = Stored(str(target.child(name)), *_write_new(copy, source))
            data = manifest(files)
            _write_new(temp / MANIFEST, BytesIO(data))
            for base, _, _ in os.walk(temp):
                _sync_folder(Path(base))
            stored = parse_manifest(data, target)
            if not self._has_folder(path, stored.sha256, target):
                self._make_parent(path, target)
                _swap(temp, path)
                _sync_folder(path.parent)
            return stored

    def folder(self, address: str) -> StoredFolder:
        target = to_address(address)
        with _failures(target):
            return parse_manifest((self._path(target) / MANIFEST).read_bytes(), target)

    def local_path(self, address: str) -> Path | None:
        if self.stat(address) is None:
            raise missing(address)
        return self._path(to_address(address))

    def read_range(self, address: str, start: int = 0, end: int | None = None, chunk: int = CHUNK) -> Iterator[bytes]:
        target = to_address(address)
        path = self._path(target)
        with _failures(target):
            info = path.stat()
        if not modes.S_ISREG(info.st_mode):
            raise missing(target)
        start, end = clip_range(start, end, info.st_size)
        return _read(path, target, start, end, chunk)

    def stat(self, address: str) -> Stat | None:
        target = to_address(address)
        path = self._path(target)
        try:
            info = path.stat()
            if modes.S_ISDIR(info.st_mode):
                folder = parse_manifest((path / MANIFEST).read_bytes(), target)
                modified = (path / MANIFEST).stat().st_mtime
                return Stat(str(target), folder.size_bytes, folder.sha256, datetime.fromtimestamp(modified, UTC), True)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise _failure(error, target) from None
        return self._file_stat(target, info) if modes.S_ISREG(info.st_mode) else None

    def list_files(self, address: str) -> list[Stat]:
        target = to_address(address)
        path = self._path(target)
        found = []
        with _failures(target):
            if (path / MANIFEST).is_file():
                modified = datetime.fromtimestamp((path / MANIFEST).stat().st_mtime, UTC)
                files = self.folder(str(target)).files.values()
                return [Stat(file.address, file.size_bytes, file.sha256, modified, False) for file in files]
            for base, _, names in os.walk(path):
                for name in names:
                    file = Path(base, name)
                    if file.is_file() and not file.is_symlink():
                        found.append(self._file_stat(target.child(file.relative_to(path).as_posix()), file.stat()))
        return sorted(found, key=lambda item: item.address)

    def delete(self, address: str) -> None:
        target = to_address(address)
        path = self._path(target)
        with _failures(target), temporary(self._temp) as temp:
            try:
                # Renamed first: a folder vanishes at once, then its files go.
                path.rename(temp)
            except (FileNotFoundError, NotADirectoryError):
                return
            _sync_folder(path.parent)
            self._sum_file(target).unlink(missing_ok=True)
            for base, _, names in os.walk(temp):
                for name in names:
                    self._sum_file(target.child(Path(base, name).relative_to(temp).as_posix())).unlink(missing_ok=True)

    def presigned_url(self, address: str, seconds: int) -> str | None:
        return None

    def check(self) -> None:
        with _failures("the store"), temporary(self._temp) as temp:
            temp.write_bytes(b"check")

    def sweep(self, dry_run: bool = False) -> int:
        with _failures("the store"):
            left = [path for path in self._temp.iterdir() if is_abandoned(path.name, path.lstat().st_mtime)]
            for path in left if not dry_run else []:
                remove(path)
        return len(left)

    def children(self, bucket: str, folder: str = "") -> list[str]:
        path = self._path(Address(bucket, folder)) if folder else self._root / bucket
        with _failures(f"bucket {bucket}"):
            return sorted(entry.name for entry in path.iterdir()) if path.is_dir() else []

    def _path(self, address: Address) -> Path:
        """Where an address is. Raises InvalidConfig if a symbolic link on the way leads out of the bucket."""
        bucket = self._root / address.bucket
        path = bucket / address.key
        try:
            real = path.resolve()
        except (OSError, RuntimeError):
            raise _outside(address) from None
        if not real.is_relative_to(bucket):
            raise _outside(address)
        return real

    def _write(self, source: IO[bytes], address: Address) -> Stored:
        with temporary(self._temp) as temp:
            return self._place(temp, Stored(str(address), *_write_new(temp, source)))

    def _place(self, temp: Path, stored: Stored) -> Stored:
        """Renames a synced file to its place and records its digest."""
        address = to_address(stored.address)
        path = self._path(address)
        self._make_parent(path, address)
        info = temp.stat()
        record = {"sha256": stored.sha256, "size": info.st_size, "mtime_ns": info.st_mtime_ns}
        if path.is_dir():
            raise Conflict(f"'{address}' is a folder; it cannot become a file", address=str(address))
        sums = self._sum_file(address)
        sums.parent.mkdir(exist_ok=True)
        with temporary(self._temp) as record_temp:
            record_temp.write_text(json.dumps(record))
            with _locked(sums.parent):  # else the file of one writer may stay with the record of another
                temp.replace(path)
                # Second: should this not happen any more, the file has no recorded digest, never a wrong one.
                record_temp.replace(sums)
        _sync_folder(path.parent)
        return stored

    def _make_parent(self, path: Path, address: Address) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise Conflict(f"'{address}' lies below a file", address=str(address)) from None

    def _has_folder(self, path: Path, digest: str, address: Address) -> bool:
        """True if the very folder is there already. Raises Conflict if what is there is not a folder that may be replaced."""
        if path.is_file() or (path.is_dir() and not (path / MANIFEST).is_file() and any(path.iterdir())):
            raise Conflict(f"Other files are stored at '{address}'", address=str(address))
        found = self.stat(str(address))
        return found is not None and found.sha256 == digest

    def _sum_file(self, address: Address) -> Path:
        name = sha256(str(address).encode()).hexdigest()
        return self._sums / name[:2] / name

    def _file_stat(self, address: Address, info: os.stat_result) -> Stat:
        digest = None
        try:
            record = json.loads(self._sum_file(address).read_bytes())
            if (record["size"], record["mtime_ns"]) == (info.st_size, info.st_mtime_ns):
                digest = record["sha256"]
        except (OSError, ValueError):
            pass
        return Stat(str(address), info.st_size, digest, datetime.fromtimestamp(info.st_mtime, UTC), False)


def _read(path: Path, address: Address, start: int, end: int, chunk: int) -> Iterator[bytes]:
    with _failures(address), path.open("rb") as file:
        file.seek(start)
        while start < end:
            piece = file.read(min(chunk, end - start))
            if not piece:
                raise StorageError(f"'{address}' became shorter while it was read", address=str(address))
            start += len(piece)
            yield piece


def _write_new(path: Path, source: IO[bytes]) -> tuple[int, str]:
    """Copies to a new file, down to the disk; its size and SHA-256."""
    with path.open("xb") as file:
        result = copy_hashed(source, file)
        file.flush()
        os.fsync(file.fileno())
    return result


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One writer at a time, of this process or another; the system lets go of a lock whose holder died."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _swap(new: Path, path: Path) -> None:
    """Puts the folder `new` at `path` in one step; what was there is then at `new`."""
    if not path.exists():
        new.rename(path)
        return
    exchange, here = 2, -100  # RENAME_EXCHANGE, AT_FDCWD
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is not None and renameat2(here, os.fsencode(new), here, os.fsencode(path), exchange) == 0:
        return
    # A system or file system without exchange: the folder is missing for a moment, but never mixed.
    with temporary(new.parent) as old:
        path.rename(old)
        new.rename(path)


@contextmanager
def _failures(address: Address | str) -> Iterator[None]:
    """Turns errors of the operating system into the platform's."""
    try:
        yield
    except OSError as error:
        raise _failure(error, address) from None


def _failure(error: OSError, address: Address | str) -> Exception:
    if isinstance(address, Address) and isinstance(error, FileNotFoundError | NotADirectoryError | IsADirectoryError):
        return missing(address)
    if error.errno in _FULL:
        return StorageError("The object store's disk is full")
    return StorageError(f"The object store failed at '{address}': {os.strerror(error.errno or errno.EIO)}", address=str(address))


def _outside(address: Address) -> InvalidConfig:
    reason = "the address leads out of its bucket by a symbolic link"
    return InvalidConfig(reason[0].upper() + reason[1:], errors=[{"field": "file_path", "agent": None, "message": reason}])
