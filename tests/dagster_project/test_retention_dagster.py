"""Runs of a real Dagster instance that ended long ago: everything of them goes, and the command that does it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from llm_platform import runlog
from llm_platform.database import Database, now
from llm_platform.settings import Settings
from llm_platform.storage import storage_from

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Dagster's own use of pydantic names that pydantic calls deprecated
    import dagster as dg
    from dagster import DagsterInstance

    from dagster_project.defs.partitions import RUN_ID_TAG, run_ids
    from dagster_project.retention import DagsterHistory

pytestmark = pytest.mark.filterwarnings("ignore")


@dg.asset(partitions_def=run_ids)
def made() -> int:
    print("said by a step")
    return 1


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Settings(home=tmp_path_factory.mktemp("home"))


@pytest.fixture
def instance(settings: Settings) -> Iterator[DagsterInstance]:
    with DagsterInstance.from_config(str(settings.dagster_home)) as found:
        yield found


def run(instance: DagsterInstance, name: str) -> str:
    instance.add_dynamic_partitions(str(run_ids.name), [name])
    return dg.materialize([made], partition_key=name, instance=instance, tags={RUN_ID_TAG: name}).run_id


def test_a_run_goes_with_its_events_its_output_and_its_partition(instance: DagsterInstance, settings: Settings) -> None:
    run_id = run(instance, "one")
    history = DagsterHistory(instance)
    assert history.ended_before(datetime.now(UTC) - timedelta(hours=1)) == []
    (found,) = history.ended_before(datetime.now(UTC) + timedelta(hours=1))
    assert found.run_id == run_id and (found.size_bytes or 0) > 10_000
    assert list(settings.dagster_home.rglob(f"*{run_id}*"))
    for _ in range(2):  # once more changes nothing
        history.forget(run_id)
        assert instance.get_run_by_id(run_id) is None
        assert not instance.has_dynamic_partition(str(run_ids.name), "one")
    assert not list(settings.dagster_home.rglob(f"*{run_id}*"))


def test_a_partition_stays_with_another_run_of_it(instance: DagsterInstance) -> None:
    first, second = run(instance, "two"), run(instance, "two")
    history = DagsterHistory(instance)
    history.forget(first)
    assert instance.has_dynamic_partition(str(run_ids.name), "two") and instance.get_run_by_id(second) is not None
    history.forget(second)
    assert not instance.has_dynamic_partition(str(run_ids.name), "two")


def test_the_command_shows_first_and_removes_when_told(
    instance: DagsterInstance, settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from dagster_project import prune

    run_id = run(instance, "three")
    database, storage = Database.from_settings(settings), storage_from(settings)
    database.accept("three", dagster_run_id=run_id, digest="", pipeline={"nodes": [], "edges": []})
    database.update_submission("three", status="failed", submitted=True, ended_at=now() - timedelta(days=40))
    runlog.append(database, "three", [runlog.line("INFO", "a line of the log")])
    storage.put_bytes(b"x" * 1000, "s3://artifacts/three/adapter/weights.safetensors")

    shown = llm_platform(settings.home, "--older-than", "30d")
    assert "Artifacts of jobs" in shown and "1,000" in shown and "nothing was removed" in shown
    assert storage.exists("s3://artifacts/three/adapter/weights.safetensors")
    # What the command starts, here and now: imports take most of its time.
    monkeypatch.setenv("LLM_PLATFORM_HOME", str(settings.home))
    monkeypatch.setattr(sys, "argv", ["prune", "30", "--yes"])
    capsys.readouterr()
    assert prune.main() == 0
    found = json.loads(capsys.readouterr().out)
    kinds = {item["kind"]: item for item in found["items"]}
    assert set(kinds) == {"log", "artifacts"} and not found["dry_run"], "the run itself is from today"
    assert kinds["artifacts"] == {"kind": "artifacts", "name": "job_three", "size_bytes": 1000}
    assert not storage.exists("s3://artifacts/three/adapter/weights.safetensors") and not runlog.read(database, "three")
    assert instance.get_run_by_id(run_id) is not None
    database.close()


def llm_platform(home: Path, *arguments: str) -> str:
    environment = {**os.environ, "COLUMNS": "200", "LLM_PLATFORM_HOME": str(home)}
    command = [sys.executable, "-m", "llm_platform", "prune", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=400)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_job_tells_what_went(instance: DagsterInstance, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    from dagster_project import resources
    from dagster_project.defs.retention import prune

    monkeypatch.setenv("LLM_PLATFORM_HOME", str(settings.home))
    resources.platform.cache_clear()
    half = settings.work / "uploads" / ".tmp~nowhere~1~1~aa"
    half.parent.mkdir(exist_ok=True)
    half.write_bytes(b"part")
    os.utime(half, (0, 0))
    try:
        for dry_run in (True, False):
            config = {"ops": {"remove_what_is_old": {"config": {"dry_run": dry_run}}}}
            done = prune.execute_in_process(config, instance=instance, resources={"platform": resources.PlatformResource()})
            (output,) = [event for event in done.all_events if event.event_type_value == "STEP_OUTPUT"]
            told = output.step_output_data.metadata
            assert (told["things"].value, told["bytes"].value, told["removed"].value) == (1, 4, not dry_run)
            assert half.exists() == dry_run
    finally:
        resources.platform().close()
        resources.platform.cache_clear()


def test_an_age_that_is_none(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "llm_platform", "prune", "--older-than", "soon", "--home", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1) and "such as 30d" in done.stderr


def test_the_schedule_is_off_until_somebody_switches_it_on() -> None:
    from dagster_project.definitions import defs

    schedule = defs.resolve_schedule_def("nightly_prune")
    assert schedule.default_status is dg.DefaultScheduleStatus.STOPPED and schedule.job_name == "prune"
