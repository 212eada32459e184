from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from llm_platform.settings import Settings
from llm_platform.storage import Storage, storage_from
from tests.servers import S3Server, rclone_s3


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with rclone_s3(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture(scope="session")
def s3_settings(s3_server: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    home = tmp_path_factory.mktemp("home")
    return Settings(home=home, s3_endpoint=s3_server.endpoint, s3_access_key=s3_server.access_key, s3_secret_key=s3_server.secret_key)


@pytest.fixture(scope="session")
def s3(s3_settings: Settings) -> Storage:
    return storage_from(s3_settings)


@pytest.fixture(params=["local", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    """Both implementations. The S3 is one for all tests: each uses keys of its own."""
    if request.param == "local":
        return storage_from(Settings(home=tmp_path / "home"))
    return request.getfixturevalue("s3")


@pytest.fixture
def base(request: pytest.FixtureRequest) -> str:
    """An address below which nobody else writes."""
    return f"s3://artifacts/{request.node.originalname}"
