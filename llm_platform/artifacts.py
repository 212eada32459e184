"""Deleting what a job left in the object store, but nothing that somebody else needs.

Only the run's own folder is touched: tables and splits are shared by all runs, named by their content, and lie elsewhere. Of the
folder stays what belongs to the run's models, unless they are to go too, and what the pipeline of another job reads.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterable
from contextlib import suppress
from datetime import timedelta
from typing import Any

from sqlalchemy.engine import RowMapping

from llm_platform.acceptance import CACHE
from llm_platform.comparisons import EVALUATION_TAG
from llm_platform.database import FINAL, Database
from llm_platform.errors import Conflict, NotFound
from llm_platform.jobs import job_id
from llm_platform.registry import Registry
from llm_platform.settings import Settings
from llm_platform.specs.resources import ArtifactsDeleted, KeptArtifact
from llm_platform.storage import Stat, Storage

HOLD = timedelta(minutes=10)
"""How long a deletion that was killed keeps others from the job."""


def delete(
    row: RowMapping,
    settings: Settings,
    database: Database,
    storage: Storage,
    registry: Registry,
    *,
    models: bool,
    needed: Collection[str] = (),
) -> ArtifactsDeleted:
    """Deletes an ended job's artifacts and unfinished work; with `models` its models too. Doing it again deletes what is left.

    Addresses that are `needed` stay. A node that lost something is done again by a retry. Raises Conflict for a job that has not ended, is
    being deleted or tried again, or, with `models`, whose model a job that has not ended names.
    """
    run_id, name = row["run_id"], job_id(row["run_id"])
    if row["status"] not in FINAL:
        raise Conflict(f"Job '{name}' is {row['status']}; only the artifacts of a job that has ended can be deleted", status=row["status"])
    if run_id == CACHE:
        raise Conflict(f"What job '{name}' made lies beside what all jobs share, and is not deleted")
    if not database.hold(run_id, HOLD):
        raise Conflict(f"Job '{name}' is being tried again, or its artifacts are being deleted; ask for it and try again")
    try:
        return _Deletion(run_id, settings, database, storage, registry, needed).run(models)
    finally:
        database.release(run_id)


def deletable(
    run_id: str, settings: Settings, database: Database, storage: Storage, registry: Registry, needed: Collection[str]
) -> list[Stat]:
    """The files that `delete` without `models` would remove."""
    return [] if run_id == CACHE else _Deletion(run_id, settings, database, storage, registry, needed).files()


class _Deletion:
    def __init__(
        self, run_id: str, settings: Settings, database: Database, storage: Storage, registry: Registry, needed: Collection[str]
    ) -> None:
        self._run_id = run_id
        self._settings = settings
        self._database = database
        self._storage = storage
        self._registry = registry
        self._root = f"s3://{settings.artifacts_bucket}/{run_id}"
        self._needed = {address: "needed by a model" for address in needed if address.startswith(f"{self._root}/")}

    def files(self) -> list[Stat]:
        nodes = self._database.nodes([self._run_id])[self._run_id]
        _, stays = self._sorted(nodes, self._kept(nodes))
        return [file for file in self._storage.list_files(self._root) if not any(_within(file.address, address) for address in stays)]

    def _kept(self, nodes: Iterable[RowMapping]) -> dict[str, str]:
        return self._needed | self._read_by_others() | self._of_models(self._models(nodes))

    def _sorted(self, nodes: Iterable[RowMapping], kept: Collection[str]) -> tuple[set[str], list[str]]:
        """(artifacts that go, addresses that stay)."""
        made = {address for node in nodes for address in _artifacts(node).values() if address.startswith(f"{self._root}/")}
        doomed = {address for address in made if not _meets(address, kept)}
        # A folder stays as a whole, or its manifest would list what is not there.
        return doomed, [*kept, *(made - doomed)]

    def run(self, models: bool) -> ArtifactsDeleted:
        nodes = self._database.nodes([self._run_id])[self._run_id]
        owned = self._models(nodes)
        kept = self._read_by_others() if models else self._kept(nodes)
        if models:
            self._delete_models(owned)
        doomed, stays = self._sorted(nodes, kept)
        before = sum(file.size_bytes for file in self._storage.list_files(self._root))
        self._forget(nodes, doomed, owned if models else set())
        for address in sorted(doomed):
            self._storage.delete(address)
        for file in self._storage.list_files(self._root):
            if not any(_within(file.address, address) for address in stays):
                self._storage.delete(file.address)
        for node in nodes:
            shutil.rmtree(self._settings.work / self._run_id / node["agent_name"], ignore_errors=True)
        after = sum(file.size_bytes for file in self._storage.list_files(self._root))
        return ArtifactsDeleted(
            job_id=job_id(self._run_id),
            deleted=sorted(doomed),
            kept=[KeptArtifact(address=address, reason=reason) for address, reason in sorted(kept.items())],
            models=sorted(owned) if models else [],
            freed_bytes=before - after,
        )

    def _models(self, nodes: Iterable[RowMapping]) -> set[str]:
        """The models that this run trained; its nodes may also have evaluated or exported those of others."""
        named = {*self._database.models_of([self._run_id])[self._run_id]}
        named |= {model_id for node in nodes for model_id in (node["result"] or {}).get("model_ids", [])}
        own = f"model_{self._run_id}"
        return {model_id for model_id in named if model_id == own or model_id.startswith(f"{own}.")}

    def _of_models(self, model_ids: Iterable[str]) -> dict[str, str]:
        found = [model for model_id in model_ids if (model := self._registry.get(model_id))]
        parts = [(address, model.model_id) for model in found for address in (*model.exports.values(), model.tags.get(EVALUATION_TAG))]
        return {address: f"of model {model_id}" for address, model_id in parts if address and address.startswith(f"{self._root}/")}

    def _read_by_others(self) -> dict[str, str]:
        """What other jobs' pipelines read, also of those that have ended, since they can be tried again."""
        found: dict[str, str] = {}
        for row in self._database.pipelines_with(f"{self._root}/"):
            for node in row["pipeline"]["nodes"]:
                path = node["config"].get("file_path")
                if row["run_id"] != self._run_id and isinstance(path, str) and path.startswith(f"{self._root}/"):
                    found[path] = f"read by job {job_id(row['run_id'])}"
        return found

    def _delete_models(self, model_ids: set[str]) -> None:
        for model_id in model_ids:
            for row in self._database.pipelines_with(f'"{model_id}"'):
                if row["status"] not in FINAL:
                    raise Conflict(
                        f"Job '{job_id(row['run_id'])}', which has not ended, names model '{model_id}'",
                        model_id=model_id,
                        run_id=row["run_id"],
                    )
        for model_id in model_ids:
            with suppress(NotFound):
                self._registry.delete(model_id)
        self._database.delete_models(model_ids)

    def _forget(self, nodes: Iterable[RowMapping], doomed: set[str], model_ids: set[str]) -> None:
        """Before the files go: whoever asks meanwhile is not told of what is about to vanish."""
        for node in nodes:
            artifacts = _artifacts(node)
            left = {kind: address for kind, address in artifacts.items() if address not in doomed}
            if left != artifacts:
                result = dict(node["result"]) | {"artifacts": left}
                result["model_ids"] = [model_id for model_id in result.get("model_ids", []) if model_id not in model_ids]
                self._database.spoil_node(self._run_id, node["agent_name"], result)


def _artifacts(node: RowMapping) -> dict[str, Any]:
    return (node["result"] or {}).get("artifacts", {})


def _within(address: str, folder: str) -> bool:
    return address == folder or address.startswith(f"{folder}/")


def _meets(address: str, others: Iterable[str]) -> bool:
    return any(_within(address, other) or _within(other, address) for other in others)
