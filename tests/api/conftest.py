"""A running API over real HTTP, with everything real but Dagster."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.api.api_harness import Api, Start


@pytest.fixture(scope="session")
def start(tmp_path_factory: pytest.TempPathFactory) -> Start:
    return Start(tmp_path_factory.mktemp("api"))


@pytest.fixture
def api(start: Start) -> Iterator[Api]:
    """An API of the test's own."""
    with start() as found:
        yield found


@pytest.fixture(scope="session")
def shared(start: Start) -> Iterator[Api]:
    """One API for the tests that only ask, with a file and a dataset in it."""
    with start(max_upload_bytes=2_000_000, max_body_bytes=200_000) as found:
        found.put()
        yield found
