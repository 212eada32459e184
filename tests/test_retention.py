"""What is old goes, on a local store and on a real S3, and nothing that a model, a job or a dataset needs."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from llm_platform import retention, runlog
from llm_platform.comparisons import EVALUATION_TAG
from llm_platform.database import Database, now
from llm_platform.registry import DatasetInput, Registry
from llm_platform.registry.lineage import SPLITS_TAG, WEIGHTS_TAG, lineage
from llm_platform.retention import Pruned, Retention
from llm_platform.retention_view import age_days
from llm_platform.settings import Settings
from llm_platform.specs import AgentClass
from llm_platform.specs.results import NodeResult
from llm_platform.storage import LocalStorage, Storage, storage_from
from tests.servers import rclone_s3

# MLflow's own, about the libraries that it uses.
pytestmark = pytest.mark.filterwarnings("ignore")

ORPHAN, KNOWN = "ds_" + "a" * 20, "ds_" + "b" * 20
DATA = (AgentClass.DATASET, AgentClass.PREPROCESSING)


@dataclass(frozen=True)
class Run:
    run_id: str
    size_bytes: int | None = 10


@dataclass
class Remembered:
    """What an orchestrator remembers."""

    runs: list[str]
    asked: list[datetime] = field(default_factory=list[datetime])

    def ended_before(self, cutoff: datetime) -> Sequence[Run]:
        self.asked.append(cutoff)
        return [Run(run_id) for run_id in self.runs]

    def forget(self, run_id: str) -> None:
        self.runs.remove(run_id)


@dataclass
class House:
    """A platform in which everything that has ended is old, but for the job `fresh`."""

    settings: Settings
    database: Database
    storage: Storage
    registry: Registry
    history: Remembered

    def prune(self, *, dry_run: bool = False, storage: Storage | None = None) -> Pruned:
        store, cutoff = storage or self.storage, now() + timedelta(hours=1)
        return Retention(self.settings, self.database, store, self.registry, self.history, cutoff).run(dry_run=dry_run)

    def job(self, run_id: str, status: str, made: dict[AgentClass, dict[str, str]], *, hours: float = 0) -> None:
        """A job whose nodes have completed; it ends so many hours from now."""
        pipeline = {"nodes": [{"agent_name": agent.value, "agent_class": agent.value, "config": {}} for agent in made], "edges": []}
        self.database.accept(run_id, dagster_run_id=f"run-{run_id}", digest="", pipeline=pipeline)
        ended = None if status == "running" else now() + timedelta(hours=hours)
        self.database.update_submission(run_id, status=status, submitted=True, ended_at=ended)
        for agent, addresses in made.items():
            self.database.start_node(run_id, agent.value, agent.value, "digest")
            result = NodeResult(artifacts=addresses).model_dump(mode="json")
            self.database.end_node(run_id, agent.value, "completed", result=result)
            for address in addresses.values():
                if not self.storage.exists(address):
                    self.storage.put_bytes(b"bytes", address)
        runlog.append(self.database, run_id, [runlog.line("INFO", f"{run_id} says {number}") for number in range(3)])
        work = self.settings.work / run_id / "train"
        work.mkdir(parents=True)
        (work / "step-1").write_bytes(b"half")

    def files(self) -> set[str]:
        found = [
            file.address
            for bucket in ("datasets", "artifacts")
            for name in self.storage.children(bucket)
            for file in self.below(bucket, name)
        ]
        return {address.removeprefix("s3://") for address in found}

    def below(self, bucket: str, name: str) -> list[Any]:
        below = self.storage.list_files(f"s3://{bucket}/{name}")
        stat = None if below else self.storage.stat(f"s3://{bucket}/{name}")
        return [stat] if stat else below

    def logs(self) -> list[str]:
        return [run_id for run_id in ("old", "gone", "fresh", "going") if runlog.read(self.database, run_id, limit=1)]

    def works(self) -> set[str]:
        return {path.name for path in self.settings.work.iterdir()} - {"uploads", "inputs"}


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """With the model of the job `old`."""
    folder = tmp_path_factory.mktemp("registry")
    weights = folder / "weights"
    weights.mkdir()
    (weights / "weights.safetensors").write_bytes(b"w")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = Registry(f"sqlite:///{folder / 'mlflow.db'}")
        data = DatasetInput(
            name="rows",
            digest="d",
            source_address=cached("tables/model.parquet"),
            file_address=f"s3://datasets/{KNOWN}/rows.csv",
            sha256="0",
        )
        begun = found.begin("model_old", "old", "train", "tuned", "base", {}, {SPLITS_TAG: cached("splits/model")}, [data])
        found.register(begun, weights, "tuned", tags={WEIGHTS_TAG: made("old/adapter")})
        found.set_export("model_old", "adapter", made("old/adapter"), "0" * 64)
        found.set_tags("model_old", {EVALUATION_TAG: made("other/evaluations/old")})
    return found


def made(key: str) -> str:
    return f"s3://artifacts/{key}"


def cached(key: str) -> str:
    return f"s3://artifacts/cache/{key}"


@pytest.fixture(params=["local", "s3"])
def house(request: pytest.FixtureRequest, tmp_path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    monkeypatch.setattr(retention, "UNFINISHED", timedelta(hours=-1))  # what was made just now is old enough
    with ExitStack() as stack:
        options: dict[str, Any] = {"home": tmp_path / "home"}
        if request.param == "s3":
            server = stack.enter_context(rclone_s3(tmp_path / "s3"))
            options |= {"s3_endpoint": server.endpoint, "s3_access_key": server.access_key, "s3_secret_key": server.secret_key}
        settings = Settings(**options)
        database = Database.from_settings(settings)
        stack.callback(database.close)
        yield furnished(House(settings, database, storage_from(settings), registry, Remembered(["run-old", "run-going"])))


def furnished(house: House) -> House:
    folder = house.settings.root / "made"
    folder.mkdir()
    (folder / "weights.safetensors").write_bytes(b"w" * 100)
    for key in ("old/adapter", "gone/adapter", "other/evaluations/old", "cache/splits/model", "cache/splits/gone"):
        house.storage.put_folder(folder, made(key))
    for key in (
        f"{KNOWN}/rows.csv",
        f"{KNOWN}/table.parquet",
        f"{ORPHAN}/rows.csv",
        f"{ORPHAN}/table.parquet",
        "by_hand/rows.csv",
        "ds_mine.csv",
    ):
        house.storage.put_bytes(b"question,answer\n", f"s3://datasets/{key}")
    house.database.add_dataset(
        dataset_id=KNOWN, filename="rows.csv", format="csv", size_bytes=16, sha256="0", s3_path=f"s3://datasets/{KNOWN}/rows.csv",
        table_path=f"s3://datasets/{KNOWN}/table.parquet", profile={}, owner=None,
    )  # fmt: skip
    house.job(
        "old",
        "completed",
        {
            AgentClass.DATASET: {"table": cached("tables/model.parquet")},
            AgentClass.PREPROCESSING: {"splits": cached("splits/model")},
            AgentClass.TRAINING: {"adapter": made("old/adapter")},
            AgentClass.COMPARISON: {"comparison": made("old/comparisons/best")},
        },
    )
    house.job(
        "gone",
        "failed",
        {
            AgentClass.DATASET: {"table": cached("tables/shared.parquet")},
            AgentClass.PREPROCESSING: {"splits": cached("splits/gone")},
            AgentClass.TRAINING: {"adapter": made("gone/adapter")},
        },
    )
    house.job(
        "other", "completed", {AgentClass.EVALUATION: {"evaluation": made("other/evaluations/old"), "more": made("other/evaluations/b")}}
    )
    house.job(
        "fresh",
        "completed",
        {AgentClass.DATASET: {"table": cached("tables/shared.parquet")}, AgentClass.NOTEBOOK: {"html": made("fresh/n.html")}},
        hours=2,
    )
    house.job("going", "running", {AgentClass.DATASET: {"table": cached("tables/going.parquet")}})
    uploads = house.settings.work / "uploads"
    uploads.mkdir()
    half, fresh = uploads / ".tmp~nowhere~1~1~aa", uploads / ".tmp~nowhere~1~1~bb"
    for path in (half, fresh):
        path.write_bytes(b"part of a file")
    os.utime(half, (time.time() - 2 * 86400, time.time() - 2 * 86400))
    (house.settings.work / "preflight-x.tmp").mkdir()
    (house.settings.work / "inputs" / "0123").mkdir(parents=True)
    (house.settings.work / "inputs" / "0123" / "table.parquet").write_bytes(b"a copy")
    return house


GOES = {
    f"datasets/{ORPHAN}/rows.csv",
    f"datasets/{ORPHAN}/table.parquet",
    "artifacts/old/comparisons/best",
    "artifacts/gone/adapter/manifest.json",
    "artifacts/gone/adapter/weights.safetensors",
    "artifacts/other/evaluations/b",
    "artifacts/cache/splits/gone/manifest.json",
    "artifacts/cache/splits/gone/weights.safetensors",
}


def test_what_nobody_needs_goes_and_all_else_stays(house: House) -> None:
    before, rows = house.files(), house.database.nodes(["gone"])["gone"]
    planned = house.prune(dry_run=True)
    assert house.files() == before and house.logs() == ["old", "gone", "fresh", "going"] and house.history.runs == ["run-old", "run-going"]
    assert house.database.nodes(["gone"])["gone"] == rows
    found = house.prune()
    assert [(item.kind, item.name) for item in found.items] == [(item.kind, item.name) for item in planned.items]
    assert before - house.files() == GOES
    assert house.logs() == ["fresh", "going"]
    assert house.works() == {"fresh", "going"}
    assert [path.name for path in (house.settings.work / "uploads").iterdir()] == [".tmp~nowhere~1~1~bb"]
    assert house.history.runs == ["run-going"]
    for link in lineage(next(iter(house.registry.all()))):
        assert link.address is None or house.storage.exists(link.address), link.title
    again = house.prune()
    assert again.items == [] and again.skipped == found.skipped == ["1 copies of stored files stay while jobs wait or run"]
    house.database.update_submission("going", status="completed", ended_at=now() + timedelta(hours=2))
    assert [(item.kind, item.name, item.size_bytes) for item in house.prune().items if item.kind == "copy"] == [("copy", "0123", 6)]
    assert not list((house.settings.work / "inputs").iterdir())


def test_a_job_whose_results_went_makes_them_again_when_it_is_tried_again(house: House) -> None:
    house.prune()
    nodes = {node["agent_class"]: node for node in house.database.nodes(["gone"])["gone"]}
    for agent in (AgentClass.PREPROCESSING, AgentClass.TRAINING):
        assert (nodes[agent.value]["digest"], nodes[agent.value]["result"]["artifacts"]) == ("", {}), agent
    assert nodes[AgentClass.DATASET.value]["digest"] == "digest", "its table is there, since another job has it"
    last = runlog.append(house.database, "gone", [runlog.line("INFO", "again")])
    assert last == 4, "a cursor that somebody has means the same line for ever"


def test_shared_results_stay_while_a_job_may_be_about_to_read_them(house: House) -> None:
    house.database.start_node("going", AgentClass.DATASET.value, AgentClass.DATASET.value, "again")
    found = house.prune()
    assert "Shared results" in " ".join(found.skipped)
    assert house.storage.exists(cached("splits/gone"))
    house.database.end_node("going", AgentClass.DATASET.value, "completed", result=NodeResult().model_dump(mode="json"))
    house.prune()
    assert not house.storage.exists(cached("splits/gone"))


class Dying(LocalStorage):
    """Its process is killed when it is about to remove a second thing."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.left = 1

    def delete(self, address: str) -> None:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        super().delete(address)


@pytest.mark.parametrize("house", ["local"], indirect=True)
def test_a_removal_that_was_killed_is_finished_by_the_next(house: House) -> None:
    before, killed = house.files(), 0
    while True:
        try:
            house.prune(storage=Dying(house.settings.root / "objects"))
            break
        except KeyboardInterrupt:
            killed += 1
            assert killed < 20
    assert killed >= 3
    assert before - house.files() == GOES and house.works() == {"fresh", "going"} and house.logs() == ["fresh", "going"]


@pytest.mark.parametrize(("text", "days"), [("30d", 30), ("12h", 0.5), ("2w", 14)])
def test_ages(text: str, days: float) -> None:
    assert age_days(text) == days
