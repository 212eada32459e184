"""What the settings of a profile become: Dagster's configuration, environments and command lines; and where no secret may be."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from llm_platform.database import Database
from llm_platform.errors import Conflict, ServiceUnavailable
from llm_platform.migrations import VERSION_TABLE
from llm_platform.settings import Settings
from llm_platform.supervisor.dagster_files import dagster_yaml
from llm_platform.supervisor.platform import check_tables, environment, listen, make_buckets, platform_services, service_ports, up
from tests.servers import free_port, rclone_s3

PORTS = {"dagster-code": 4001, "mlflow": 4002, "dagster-webserver": 4003}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        home=tmp_path,
        dagster_database_url="postgresql://ada:open-sesame@127.0.0.1/dagster",
        mlflow_database_url="postgresql://ada:open-sesame@127.0.0.1/mlflow",
        mlflow_artifacts="s3://mlflow/models",
        s3_endpoint="http://127.0.0.1:9",
        s3_access_key="open-sesame-key",
        s3_secret_key="open-sesame-secret",
        s3_region="eu-central-1",
        compute_logs_bucket="logs",
    )


def test_dagster_takes_its_database_from_the_environment(settings: Settings) -> None:
    text = dagster_yaml(settings)
    assert "open-sesame" not in text
    config = yaml.safe_load(text)
    assert config["storage"] == {"postgres": {"postgres_url": {"env": "LLM_PLATFORM_DAGSTER_DATABASE_URL"}}}
    assert (config["compute_logs"]["config"]["bucket"], config["run_launcher"]["class"]) == ("logs", "LocalRunLauncher")
    values = environment(settings, 4002)
    assert values["LLM_PLATFORM_DAGSTER_DATABASE_URL"] == "postgresql+psycopg2://ada:open-sesame@127.0.0.1/dagster"
    assert (values["AWS_SECRET_ACCESS_KEY"], values["AWS_DEFAULT_REGION"]) == ("open-sesame-secret", "eu-central-1")
    embedded = yaml.safe_load(dagster_yaml(Settings(home=settings.home)))
    assert "storage" not in embedded and "compute_logs" not in embedded


def test_no_command_line_has_a_secret(settings: Settings) -> None:
    with listen("127.0.0.1", 0) as listener:
        services = {service.name: service for service in platform_services(settings, listener, "127.0.0.1", PORTS)}
    assert not [word for service in services.values() for word in service.command if "open-sesame" in word]
    mlflow = services["mlflow"]
    assert mlflow.environment["LLM_PLATFORM_MLFLOW_DATABASE_URL"] == "postgresql+psycopg2://ada:open-sesame@127.0.0.1/mlflow"
    assert mlflow.environment["MLFLOW_S3_ENDPOINT_URL"] == "http://127.0.0.1:9" and "s3://mlflow/models" in mlflow.command
    assert "open-sesame" not in repr(settings)


@pytest.mark.parametrize(
    "wrong",
    [
        {"dagster_database_url": "sqlite:///open-sesame.db"},
        {"dagster_database_url": "postgresql://open-sesame/one", "mlflow_database_url": "postgresql://open-sesame/one"},
        {"compute_logs_bucket": "logs"},
        {"mlflow_artifacts": "/open-sesame"},
    ],
)
def test_settings_that_cannot_work_together_are_refused(tmp_path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as raised:
        Settings(home=tmp_path, **wrong)
    assert "open-sesame" not in str(raised.value)


def test_mlflow_without_its_server_is_told(settings: Settings) -> None:
    with pytest.raises(ServiceUnavailable, match="LLM_PLATFORM_MLFLOW_URL"):
        assert settings.resolved_mlflow_url


def test_ports_are_remembered_unless_they_are_taken(settings: Settings) -> None:
    first = service_ports(settings, PORTS)
    assert service_ports(settings, PORTS) == first and len(set(first.values())) == 3
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", first["mlflow"]))
        taken.listen()
        again = service_ports(settings, PORTS)
    assert again["mlflow"] != first["mlflow"] and again["dagster-code"] == first["dagster-code"]
    (settings.root / "ports.json").write_text("[not ports")
    assert service_ports(settings, PORTS).keys() == PORTS.keys()


def test_buckets_that_dagster_and_mlflow_do_not_make_are_made(settings: Settings, tmp_path: Path) -> None:
    with rclone_s3(tmp_path / "s3") as server:
        keys = {"s3_endpoint": server.endpoint, "s3_access_key": server.access_key, "s3_secret_key": server.secret_key}
        ready = settings.model_copy(update={**keys, "s3_region": "us-east-1"})
        make_buckets(ready)
        make_buckets(ready)
        assert sorted(path.name for path in server.root.iterdir()) == ["logs", "mlflow"]


def test_a_database_that_cannot_be_used_is_told_before_anything_starts(tmp_path: Path) -> None:
    database = Database.from_settings(Settings(home=tmp_path))
    check_tables(Settings(home=tmp_path))
    with database.write() as connection:
        connection.exec_driver_sql(f"UPDATE {VERSION_TABLE} SET version_num = '9999'")
    database.close()
    with pytest.raises(Conflict, match="newer version of the platform"):
        up(Settings(home=tmp_path), port=0)
    away = f"postgresql://ada:open-sesame@127.0.0.1:{free_port()}/platform"
    with pytest.raises(ServiceUnavailable, match="llm-platform check") as raised:
        up(Settings(home=tmp_path / "other", database_url=away), port=0)
    assert "open-sesame" not in str(raised.value)
