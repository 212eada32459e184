"""What Dagster remembers of ended runs, and the removal of it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from dagster import DagsterInstance, DagsterRun, DagsterRunStatus, RunsFilter
from dagster._core.storage.event_log import SqliteEventLogStorage
from dagster._core.storage.tags import PARTITION_NAME_TAG

from dagster_project.defs.partitions import RUN_ID_TAG, run_ids
from llm_platform.agents import Platform
from llm_platform.registry import Registry
from llm_platform.retention import Pruned, Retention, before

_ENDED = [DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED]
_PAGE = 500


@dataclass(frozen=True)
class EndedRun:
    run_id: str
    size_bytes: int | None


class DagsterHistory:
    """The runs of an instance: their rows, events, and what their steps printed."""

    def __init__(self, instance: DagsterInstance) -> None:
        self._instance = instance

    def ended_before(self, cutoff: datetime) -> list[EndedRun]:
        return [EndedRun(run.run_id, self._size(run.run_id)) for run in self._runs(cutoff)]

    def forget(self, run_id: str) -> None:
        run = self._instance.get_run_by_id(run_id)
        if run is None or not run.is_finished:
            return
        # Its row, by which it is found, goes last.
        self._instance.compute_log_manager.delete_logs(prefix=[run_id])
        for path in self._folders(run_id):
            shutil.rmtree(path, ignore_errors=True)
        self._forget_partition(run)
        self._instance.event_log_storage.delete_events(run_id)
        for path in self._files(run_id):
            path.unlink(missing_ok=True)
        self._instance.run_storage.delete_run(run_id)

    def _runs(self, cutoff: datetime) -> Iterator[DagsterRun]:
        cursor = None
        while True:
            records = self._instance.get_run_records(
                RunsFilter(statuses=_ENDED, updated_before=cutoff, created_before=cutoff), limit=_PAGE, cursor=cursor
            )
            yield from (record.dagster_run for record in records if (record.end_time or 0) < cutoff.timestamp())
            if len(records) < _PAGE:
                return
            cursor = records[-1].dagster_run.run_id

    def _forget_partition(self, run: DagsterRun) -> None:
        """The run id in the list of partitions, with its last run."""
        partition, name = run.tags.get(PARTITION_NAME_TAG), str(run_ids.name)
        if RUN_ID_TAG not in run.tags or partition is None:
            return
        if self._instance.get_runs_count(RunsFilter(tags={PARTITION_NAME_TAG: partition})) == 1:
            self._instance.delete_dynamic_partition(name, partition)

    def _size(self, run_id: str) -> int | None:
        files = [*self._files(run_id), *(file for folder in self._folders(run_id) for file in folder.rglob("*"))]
        sizes = [file.stat().st_size for file in files if file.is_file()]
        return sum(sizes) if sizes else None

    def _files(self, run_id: str) -> list[Path]:
        """SQLite keeps each run's events in a file of its own."""
        events = self._instance.event_log_storage
        if not isinstance(events, SqliteEventLogStorage):
            return []
        database = events.path_for_shard(run_id)
        return [Path(f"{database}{suffix}") for suffix in ("", "-wal", "-shm")]

    def _folders(self, run_id: str) -> list[Path]:
        """What its steps handed to each other, and printed."""
        return [Path(self._instance.storage_directory(), run_id)]


def prune(platform: Platform, instance: DagsterInstance, days: float, *, dry_run: bool) -> Pruned:
    """Removes, or only finds, what ended so many days ago and nobody needs."""
    registry = Registry(platform.settings.resolved_mlflow_url)
    history = DagsterHistory(instance)
    return Retention(platform.settings, platform.database, platform.storage, registry, history, before(days)).run(dry_run=dry_run)
