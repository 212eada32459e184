from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from llm_platform.registry import Registry
from tests.servers import mlflow_server


@pytest.fixture(scope="session")
def mlflow_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mlflow")


@pytest.fixture(scope="session")
def mlflow_url(mlflow_home: Path) -> Iterator[str]:
    with mlflow_server(mlflow_home) as url:
        yield url


@pytest.fixture(scope="session")
def served(mlflow_url: str) -> Registry:
    return Registry(mlflow_url)


@pytest.fixture(scope="session")
def serverless(mlflow_url: str, mlflow_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """A registry in a database of its own. MLflow takes seconds to create one, so it is a copy of the server's, taken first."""
    home = tmp_path_factory.mktemp("serverless")
    shutil.copy(mlflow_home / "mlflow.db", home / "mlflow.db")
    return Registry(f"sqlite:///{home / 'mlflow.db'}")


@pytest.fixture(params=["serverless", "served"])
def registry(request: pytest.FixtureRequest) -> Registry:
    """MLflow both ways. Each is one for all tests: each test uses models of its own."""
    request.getfixturevalue("serverless")
    return request.getfixturevalue(request.param)


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    folder = tmp_path / "adapter"
    (folder / "deep").mkdir(parents=True)
    (folder / "adapter_config.json").write_text("{}")
    (folder / "deep" / "adapter_model.safetensors").write_bytes(bytes(range(256)) * 100)
    return folder
