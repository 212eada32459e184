"""Backup and restore of the embedded profile, where everything is in the home folder: `llm-platform backup` and `restore`.

A backup may be taken while the platform runs. The databases are copied first, each as it is at one moment; then the files. What a
database names was written before the database named it, so nothing that it names is missing. Work in progress (checkpoints) and the
services' logs are left out: a job that ran has failed after a restore, and a retry reuses its finished nodes.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from llm_platform.errors import Conflict, InvalidConfig, NotFound
from llm_platform.settings import Settings
from llm_platform.storage.temporary import remove, temporary_name

LABEL = "backup.json"
_KEPT = ("platform.db", "mlflow.db", "dagster", "objects", "mlartifacts")
"""What of a home folder is kept; the rest is made anew at every start, or is work in progress."""
_LEFT_OUT = ("-wal", "-shm", "-journal", ".lock", ".sock")
_ELSEWHERE = ("database_url", "dagster_database_url", "mlflow_url", "mlflow_database_url", "s3_endpoint")


def backup(settings: Settings, target: Path) -> int:
    """Copies the home folder to a new folder, which appears whole or not at all; its size in bytes. Raises Conflict if it is there."""
    _check_embedded(settings)
    if target.exists():
        raise Conflict(f"{target} is there already; a backup makes a new folder")
    folder = target.with_name(temporary_name())
    folder.mkdir(parents=True, mode=0o700)  # it holds everybody's data
    try:
        for source in _databases(settings.root):
            _copy_database(source, folder / source.relative_to(settings.root))
        size = sum(_copy_file(source, folder / source.relative_to(settings.root)) for source in _files(settings.root))
        size += sum(path.stat().st_size for path in _databases(folder))
        label = {"version": version("llm-platform"), "created_at": datetime.now(UTC).isoformat()}
        (folder / LABEL).write_text(json.dumps(label) + "\n")
        folder.rename(target)
    except BaseException:
        remove(folder)
        raise
    return size


def restore(settings: Settings, source: Path) -> None:
    """Makes the home folder from a backup. Raises NotFound where there is none, Conflict if the home folder holds a platform already."""
    _check_embedded(settings)
    if not (source / LABEL).is_file():
        raise NotFound(f"{source} is no backup: it has no {LABEL}")
    if any(settings.root.iterdir()):
        raise Conflict(f"{settings.root} is not empty; restore into another folder with --home")
    # Inside the home folder, which may be a volume of its own; nothing is in its place before everything is there.
    folder = settings.root / temporary_name()
    try:
        for name in _KEPT:
            if (source / name).is_dir():
                shutil.copytree(source / name, folder / name, symlinks=True)
            elif (source / name).exists():
                folder.mkdir(exist_ok=True)
                shutil.copy2(source / name, folder / name)
        for path in folder.iterdir():
            path.rename(settings.root / path.name)
    finally:
        remove(folder)


def _check_embedded(settings: Settings) -> None:
    elsewhere = [f"LLM_PLATFORM_{name.upper()}" for name in _ELSEWHERE if getattr(settings, name) is not None]
    if elsewhere:
        raise InvalidConfig(
            f"{', '.join(elsewhere)}: not everything is in the home folder. Back the databases up with pg_dump and the buckets with "
            "your object store's own means; docs/deployment.md shows how."
        )


def _databases(root: Path) -> Iterator[Path]:
    """The platform's own first: what it says of the others may be older than they are, but never newer."""
    yield from (root / name for name in ("platform.db", "mlflow.db") if (root / name).exists())
    yield from sorted((root / "dagster").rglob("*.db"))


def _files(root: Path) -> Iterator[Path]:
    for name in _KEPT:
        for folder, folders, files in os.walk(root / name):
            folders[:] = [item for item in folders if not item.startswith(".tmp")]
            for file in files:
                if not file.startswith(".tmp") and not file.endswith((".db", *_LEFT_OUT)):
                    yield Path(folder, file)


def _copy_database(source: Path, target: Path) -> None:
    """All pages in one step, so it is the database of one moment, whoever writes to it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with (
        closing(sqlite3.connect(f"{source.resolve().as_uri()}?mode=ro", uri=True, timeout=60)) as old,
        closing(sqlite3.connect(target)) as new,
    ):
        old.backup(new)


def _copy_file(source: Path, target: Path) -> int:
    """The bytes copied: none if the file was deleted meanwhile, and with it what named it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        shutil.copy2(source, target, follow_symlinks=False)
    except FileNotFoundError:
        return 0
    return target.lstat().st_size
