"""What has become old, and may go: found and removed one thing at a time (`llm-platform prune`, and a schedule in Dagster).

A job that ended before the cutoff keeps its row, its nodes' figures and its models; its Dagster run, its log, its checkpoints and those of
its artifacts go that nobody needs. What a registered model is made of, and what was made of it, always stays, and so does everything
that a job reads or may still read which goes on or ended later. Each removal can be done again: what is killed in between is finished
by the next.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Literal, Protocol, get_args

import sqlalchemy as sa

from llm_platform import artifacts
from llm_platform.database import FINAL, Database, now
from llm_platform.errors import Conflict
from llm_platform.jobs import job_id
from llm_platform.registry import Registry
from llm_platform.retention_needs import Needs
from llm_platform.settings import Settings
from llm_platform.specs.base import Resource
from llm_platform.storage import Storage
from llm_platform.storage.temporary import is_abandoned, remove
from llm_platform.tables import datasets, log_lines, submissions

Kind = Literal["upload", "dataset", "half-written", "work", "copy", "run", "log", "artifacts", "cache"]

UNFINISHED = timedelta(days=1)
"""How old what nobody finished must be, whatever the cutoff."""
LOG_BATCH = 5000
"""Log lines that are deleted in one transaction, so that writers get their turn."""


class EndedRun(Protocol):
    """A run of the orchestrator that has ended. `size_bytes` is None where it cannot be told."""

    @property
    def run_id(self) -> str: ...
    @property
    def size_bytes(self) -> int | None: ...


class History(Protocol):
    """What the orchestrator remembers of runs."""

    def ended_before(self, cutoff: datetime) -> Sequence[EndedRun]: ...

    def forget(self, run_id: str) -> None:
        """The run, its events and what its steps printed. Doing it again does nothing."""
        ...


class Item(Resource):
    """One thing that goes, or went. `size_bytes` is null where it cannot be told."""

    kind: Kind
    name: str
    size_bytes: int | None


class Pruned(Resource):
    """What there was to remove."""

    dry_run: bool
    cutoff: datetime
    items: list[Item]
    skipped: list[str]

    @property
    def size_bytes(self) -> int:
        return sum(item.size_bytes or 0 for item in self.items)

    def totals(self) -> dict[Kind, tuple[int, int]]:
        """How many things of each kind, and their bytes."""
        found = {kind: [item.size_bytes or 0 for item in self.items if item.kind == kind] for kind in get_args(Kind)}
        return {kind: (len(sizes), sum(sizes)) for kind, sizes in found.items() if sizes}


@dataclass(frozen=True)
class Removal:
    item: Item
    do: Callable[[], object]


class Retention:
    """Everything that ended before `cutoff`."""

    def __init__(
        self, settings: Settings, database: Database, storage: Storage, registry: Registry, history: History, cutoff: datetime
    ) -> None:
        self._settings = settings
        self._database = database
        self._storage = storage
        self._registry = registry
        self._history = history
        self._cutoff = cutoff
        self._skipped: list[str] = []

    def run(self, *, dry_run: bool, told: Callable[[Item], None] = lambda item: None) -> Pruned:
        """Removes it, or only says what it is. `told` hears of each thing when it is found.

        Raises ServiceUnavailable, before it has removed any artifact, where MLflow does not say what its models need.
        """
        items: list[Item] = []
        # Jobs forget what they made before the shared results are looked at, which they then no longer need.
        for step in (
            self._uploads,
            self._orphans,
            self._half_written,
            self._work,
            self._copies,
            self._runs,
            self._logs,
            self._artifacts,
            self._cache,
        ):
            for removal in step():
                told(removal.item)
                if not dry_run:
                    try:
                        removal.do()
                    except Conflict as error:
                        self._skipped.append(error.message)
                        continue
                items.append(removal.item)
        return Pruned(dry_run=dry_run, cutoff=self._cutoff, items=items, skipped=self._skipped)

    # what nobody finished

    def _uploads(self) -> Iterator[Removal]:
        for path in sorted((self._settings.work / "uploads").glob(".tmp~*")):
            if is_abandoned(path.name, path.lstat().st_mtime):
                yield _path("upload", path)

    def _orphans(self) -> Iterator[Removal]:
        """Folders of uploads that were killed between storing the file and saying so."""
        bucket = self._settings.datasets_bucket
        with self._database.read() as connection:
            known = set(connection.execute(sa.select(datasets.c.dataset_id)).scalars())
        for name in self._storage.children(bucket):
            if not is_dataset_id(name) or name in known:
                continue
            files = self._storage.list_files(f"s3://{bucket}/{name}")
            if files and max(file.modified for file in files) < now() - UNFINISHED and self._database.dataset(name) is None:
                size = sum(file.size_bytes for file in files)
                yield Removal(Item(kind="dataset", name=name, size_bytes=size), partial(self._storage.delete, f"s3://{bucket}/{name}"))

    def _half_written(self) -> Iterator[Removal]:
        if count := self._storage.sweep(dry_run=True):
            yield Removal(Item(kind="half-written", name=f"{count} in the object store", size_bytes=None), self._storage.sweep)

    def _work(self) -> Iterator[Removal]:
        """Checkpoints of jobs that will not go on from them, and folders of killed processes."""
        for path in sorted(self._settings.work.iterdir()):
            if path.suffix == ".tmp" and _used(path) < time.time() - UNFINISHED.total_seconds():
                yield _path("work", path)
            row = self._database.submission(path.name)
            if row is None or row["status"] not in FINAL or path.name in ("inputs", "uploads"):
                continue
            patience = UNFINISHED if row["status"] == "completed" else now() - self._cutoff
            if row["ended_at"] < now() - patience:
                yield Removal(_path("work", path).item, partial(self._remove_work, path))

    def _remove_work(self, path: Path) -> None:
        if not self._database.hold(path.name, artifacts.HOLD):
            raise Conflict(f"Job '{job_id(path.name)}' is being tried again; its checkpoints stay")
        try:
            remove(path)
        finally:
            self._database.release(path.name)

    def _copies(self) -> Iterator[Removal]:
        """Files that were fetched from S3 for jobs."""
        folder = self._settings.work / "inputs"
        old = [path for path in sorted(folder.iterdir()) if _used(path) < self._cutoff.timestamp()] if folder.is_dir() else []
        if old and self._database.open_submissions():
            self._skipped.append(f"{len(old)} copies of stored files stay while jobs wait or run")
            return
        for path in old:
            yield _path("copy", path)

    # what is old

    def _runs(self) -> Iterator[Removal]:
        going_on = {row["dagster_run_id"] for row in self._database.open_submissions()}
        for run in self._history.ended_before(self._cutoff):
            if run.run_id not in going_on:
                yield Removal(Item(kind="run", name=run.run_id, size_bytes=run.size_bytes), partial(self._history.forget, run.run_id))

    def _logs(self) -> Iterator[Removal]:
        lines, size = sa.func.count(), sa.func.sum(sa.func.length(log_lines.c.message))
        query = (
            sa.select(log_lines.c.run_id, lines, size)
            .join(submissions, submissions.c.run_id == log_lines.c.run_id)
            .where(submissions.c.status.in_(FINAL), submissions.c.ended_at < self._cutoff)
            .group_by(log_lines.c.run_id)
            .order_by(log_lines.c.run_id)
        )
        with self._database.read() as connection:
            found = connection.execute(query).all()
        for run_id, _, characters in found:
            yield Removal(Item(kind="log", name=job_id(run_id), size_bytes=characters), partial(self._delete_log, run_id))

    def _delete_log(self, run_id: str) -> None:
        """From the end, so that what a killed deletion leaves begins with the first line. Its cursor stays: no number comes twice."""
        while True:
            last = sa.select(log_lines.c.seq).where(log_lines.c.run_id == run_id).order_by(log_lines.c.seq.desc()).limit(LOG_BATCH)
            ended = sa.exists().where(
                submissions.c.run_id == run_id, submissions.c.status.in_(FINAL), submissions.c.ended_at < self._cutoff
            )
            with self._database.write() as connection:
                seqs = list(connection.execute(last.where(ended)).scalars())
                if seqs:
                    connection.execute(sa.delete(log_lines).where(log_lines.c.run_id == run_id, log_lines.c.seq >= seqs[-1]))
            if len(seqs) < LOG_BATCH:
                return

    def _artifacts(self) -> Iterator[Removal]:
        stored = set(self._storage.children(self._settings.artifacts_bucket))
        query = sa.select(submissions).where(submissions.c.status.in_(FINAL), submissions.c.ended_at < self._cutoff)
        with self._database.read() as connection:
            rows = [row for row in connection.execute(query.order_by(submissions.c.run_id)).mappings() if row["run_id"] in stored]
        if not rows:
            return
        needs = self._needs()
        tools = self._settings, self._database, self._storage, self._registry
        for row in rows:
            if files := artifacts.deletable(row["run_id"], *tools, needs.addresses):
                item = Item(kind="artifacts", name=job_id(row["run_id"]), size_bytes=sum(file.size_bytes for file in files))
                yield Removal(item, partial(artifacts.delete, row, *tools, models=False, needed=needs.addresses))

    def _cache(self) -> Iterator[Removal]:
        """Tables, prepared rows and answers of base models, which jobs find by their content. A job that needs one again makes it again."""
        bucket, cache = self._settings.artifacts_bucket, artifacts.CACHE
        needs: Needs | None = None
        for kind in self._storage.children(bucket, cache):
            for name in self._storage.children(bucket, f"{cache}/{kind}"):
                address = f"s3://{bucket}/{cache}/{kind}/{name}"
                stat = self._storage.stat(address)
                if stat is None or stat.modified >= self._cutoff:
                    continue
                needs = needs or self._needs()
                if needs.meets(address):
                    continue
                if needs.unsettled():
                    self._skipped.append("Shared results stay while jobs run that may be about to read them")
                    return
                yield Removal(
                    Item(kind="cache", name=f"{kind}/{name}", size_bytes=stat.size_bytes), partial(self._delete_cached, address, needs)
                )

    def _delete_cached(self, address: str, needs: Needs) -> None:
        needs.forget(address)
        if needs.unsettled():
            raise Conflict("A job began that may be about to read shared results; the rest of them stays")
        self._storage.delete(address)

    def _needs(self) -> Needs:
        return Needs(self._database, self._registry, self._cutoff)


def is_dataset_id(name: str) -> bool:
    """Whether a folder's name is one that an upload gave it."""
    digits = name.removeprefix("ds_")
    return name.startswith("ds_") and len(digits) == 20 and all(digit in "0123456789abcdef" for digit in digits)


def before(days: float) -> datetime:
    return datetime.now(UTC) - timedelta(days=days)


def _path(kind: Kind, path: Path) -> Removal:
    files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
    return Removal(Item(kind=kind, name=path.name, size_bytes=sum(file.lstat().st_size for file in files)), partial(remove, path))


def _used(path: Path) -> float:
    """When anything of it was last read or written, in seconds since 1970."""
    files = [path, *(path.rglob("*") if path.is_dir() else ())]
    return max(max(file.lstat().st_mtime, file.lstat().st_atime) if file.is_file() else file.lstat().st_mtime for file in files)
