"""The clock is set, by minutes or hours, while the platform runs: what lives is not taken for dead, what is claimed is not lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import psutil
import pytest
from dagster import DagsterInstance
from dagster._daemon.types import DaemonHeartbeat

from api.orchestrator import DagsterOrchestrator
from llm_platform.database import Database, now
from llm_platform.services import running_service, start_time
from llm_platform.settings import Settings

pytest_plugins = ["tests.databases"]
HOUR = 3600.0


def set_clock(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """As the system shows it: the time of the boot moves with the clock, and with it the start of every process."""
    boot_time = psutil.boot_time() + seconds
    before = psutil.Process().create_time()
    monkeypatch.setattr("psutil._pslinux.boot_time", lambda: boot_time)
    assert psutil.Process().create_time() == pytest.approx(before + seconds, abs=1.5)


def write_services(home: Path, name: str, pid: int, started_at: float, boot_time: float) -> None:
    supervisor = {"pid": os.getpid(), "started_at": started_at, "boot_time": boot_time}
    services = {name: {"pid": pid, "started_at": started_at, "url": None, "restarts": 0}}
    (home / "services.json").write_text(json.dumps({"supervisor": supervisor, "services": services}))


@pytest.mark.skipif(sys.platform != "linux", reason="other systems show the start of a process in another way")
@pytest.mark.parametrize("seconds", [HOUR, -HOUR])
def test_a_service_lives_however_the_clock_is_set(seconds: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    boot_time = psutil.boot_time()
    with subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        started_at = start_time(psutil.Process(process.pid), boot_time)
        write_services(tmp_path, "dagster-code", process.pid, started_at, boot_time)
        set_clock(monkeypatch, seconds)
        settings = Settings(home=tmp_path)
        found = running_service(settings, "dagster-code")
        assert found is not None and found.alive
        write_services(tmp_path, "dagster-code", process.pid, started_at - 10, boot_time)  # an earlier process had this pid
        found = running_service(settings, "dagster-code")
        assert found is not None and not found.alive


def test_a_daemon_beats_also_when_its_beats_come_from_before_its_start(tmp_path: Path) -> None:
    (tmp_path / "workspace.yaml").write_text("load_from: []\n")
    (tmp_path / "dagster").mkdir()
    (tmp_path / "dagster" / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    orchestrator = DagsterOrchestrator(Settings(home=tmp_path, workspace=tmp_path / "workspace.yaml"))
    daemon, boot_time = psutil.Process(), psutil.boot_time()
    set_back = 2 * HOUR  # after the daemon was started
    write_services(tmp_path, "dagster-daemon", daemon.pid, start_time(daemon, boot_time + set_back), boot_time + set_back)
    with DagsterInstance.from_config(str(tmp_path / "dagster")) as instance:
        beat(instance, time.time())
        assert not orchestrator.healthy(), "it may be of a daemon that is dead"
        beat(instance, time.time() + 1)
        assert orchestrator.healthy()
    orchestrator.close()


def beat(instance: DagsterInstance, timestamp: float) -> None:
    instance.add_daemon_heartbeat(DaemonHeartbeat(timestamp, "QUEUED_RUN_COORDINATOR", "daemon", []))


def test_a_claim_that_was_made_before_the_clock_was_set_back_is_free(database: Database) -> None:
    for run_id in ("go-on", "cancel"):
        database.accept(run_id, dagster_run_id=f"d-{run_id}", digest="x", pipeline={"nodes": []})
    assert len(database.claim(10, 60)) == 2
    assert database.claim(10, 60) == []
    for run_id in ("go-on", "cancel"):
        database.update_submission(run_id, claimed_until=now() + timedelta(hours=1))
    assert database.withdraw("cancel")
    assert [row["run_id"] for row in database.claim(10, 60)] == ["go-on"]
