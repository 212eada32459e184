"""Receiving a download, and unpacking an archive where nothing in it can reach outside the folder."""

from __future__ import annotations

import shutil
import tarfile
import tempfile
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any, Self

from llm_platform.errors import StorageError

FILE_SUFFIXES = (".zip", ".tar", ".gz", ".tgz", ".gguf")
"""A target with one of these names a file; any other names a folder (`adapter-v1.0` is one)."""


class Landing:
    """Where a download comes in: a hidden folder beside its target, so that nothing appears there before it is complete."""

    def __init__(self, target: Path) -> None:
        self.name = "download"
        self._target = target
        parent = target if target.is_dir() else target.parent
        parent.mkdir(parents=True, exist_ok=True)
        self._scratch = tempfile.TemporaryDirectory(prefix=".download-", dir=parent)
        self._file = Path(self._scratch.name) / "download"
        self._out = self._file.open("wb")

    def write(self, chunk: bytes) -> None:
        self._out.write(chunk)

    def place(self) -> Path:
        """Moves what came to the target, see `place`. Where it lies."""
        self._out.close()
        return place(self._file, self.name, self._target)

    def keep(self) -> Path:
        """Makes what came the file that is the target."""
        self._out.close()
        return self._file.replace(self._target)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        self._out.close()
        self._scratch.cleanup()


def is_archive(path: Path) -> bool:
    return zipfile.is_zipfile(path) or tarfile.is_tarfile(path)


def unpack(archive: Path, folder: Path) -> None:
    """Puts the archive's files into `folder`; those of the same name are replaced. Nothing appears before all is unpacked.

    A single folder that holds everything is left out, so that the files lie directly in `folder`. Raises StorageError
    when a name or a link in the archive leads elsewhere.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".unpacking-", dir=folder) as scratch:
        source = Path(scratch)
        try:
            _extract(archive, source)
        except (tarfile.TarError, zipfile.BadZipFile) as error:
            raise StorageError(f"The downloaded archive cannot be unpacked: {error}") from error
        entries = list(source.iterdir())
        if len(entries) == 1 and entries[0].is_dir():
            source = entries[0]
        for path in sorted(source.rglob("*")):
            target = folder / path.relative_to(source)
            if path.is_dir():
                target.mkdir(exist_ok=True)
            else:
                path.replace(target)


def _extract(archive: Path, folder: Path) -> None:
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as bundle:
            for info in bundle.infolist():
                # zipfile would quietly rewrite such a name; an archive that has one is not what was asked for.
                name = PurePosixPath(info.filename.replace("\\", "/"))
                if name.is_absolute() or ".." in name.parts or ":" in info.filename:
                    raise StorageError(f"The downloaded archive names a file outside its folder: {info.filename!r}")
            bundle.extractall(folder)
        return
    with tarfile.open(archive) as bundle:
        for member in bundle.getmembers():
            if not (member.isfile() or member.isdir()):
                raise StorageError(f"The downloaded archive holds something that is no file: {member.name!r}")
        bundle.extractall(folder, filter="data")


def place(download: Path, name: str, target: Path) -> Path:
    """Moves a complete download to where the caller wants it: unpacked into a folder, or as the file that `target` names."""
    wants_folder = target.is_dir() or target.suffix not in FILE_SUFFIXES
    if wants_folder and is_archive(download):
        unpack(download, target)
        return target
    file = target / name if wants_folder else target
    file.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(download, file)
    return file
