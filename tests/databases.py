"""A pytest plugin: empty databases of each kind that the platform's tables must work on, SQLite and a real Postgres from PyPI.

A test module takes it by `pytest_plugins = ["tests.databases"]`; each of its tests that wants a `database` then runs on both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count

import pytest

from llm_platform.database import Database
from tests.servers import databases

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
