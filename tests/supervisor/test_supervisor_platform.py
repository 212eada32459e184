"""The platform's own services, as they are described, and what a person sees; the whole at work is tested in tests/e2e."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from llm_platform.errors import Conflict, InvalidConfig
from llm_platform.settings import Settings
from llm_platform.supervisor.home import Home
from llm_platform.supervisor.platform import (
    check_authentication,
    environment,
    listen,
    platform_services,
    up,
    workspace_file,
    write_dagster_files,
)
from llm_platform.supervisor.service import Child, Service
from llm_platform.supervisor.view import View

PORTS = {"dagster-code": 4001, "mlflow": 4002, "dagster-webserver": 4003}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path, mlflow_url=None)


def test_all_but_the_api_listen_on_loopback_only(settings: Settings) -> None:
    with listen("0.0.0.0", 0) as listener:
        services = {service.name: service for service in platform_services(settings, listener, "0.0.0.0", PORTS)}
        port = listener.getsockname()[1]
    assert {"api", "mlflow", "dagster-code", "dagster-daemon", "dagster-webserver"} <= set(services)
    assert services["api"].url == f"http://127.0.0.1:{port}"
    for name in PORTS:
        command = list(services[name].command)
        assert command[command.index("--host") + 1] == "127.0.0.1" and command[command.index("--port") + 1] == str(PORTS[name])
    assert all(service.command[0] == sys.executable for service in services.values())
    assert services["mlflow"].stop_rank == max(service.stop_rank for service in services.values())
    assert next(iter(services)) == "api", "its /health is the first that a user asks for"


def test_an_mlflow_of_the_operator_is_not_started_but_passed_on(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, mlflow_url="http://mlflow.example.test")
    with listen("127.0.0.1", 0) as listener:
        assert "mlflow" not in [service.name for service in platform_services(settings, listener, "127.0.0.1", PORTS)]
    assert environment(settings, 4002)["LLM_PLATFORM_MLFLOW_URL"] == "http://mlflow.example.test"


def test_the_environment_names_the_home_and_keeps_loopback_off_proxies(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example.test")
    monkeypatch.setenv("NO_PROXY", "internal.example.test")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("HTTP_PROXY", raising=False)
    monkeypatch.setenv("http_proxy", "http://proxy.example.test")
    values = environment(settings, 4002)
    assert values["LLM_PLATFORM_HOME"] == str(settings.root) and values["DAGSTER_HOME"] == str(settings.root / "dagster")
    assert values["LLM_PLATFORM_MLFLOW_URL"] == "http://127.0.0.1:4002"
    assert values["LLM_PLATFORM_AUTHENTICATION"] == "false"
    assert environment(Settings(home=settings.home, authentication=True), 4002)["LLM_PLATFORM_AUTHENTICATION"] == "true"
    assert values["NO_PROXY"] == values["no_proxy"] == "internal.example.test,127.0.0.1,localhost"


def test_dagster_finds_the_code_server_and_our_instance_configuration(settings: Settings) -> None:
    write_dagster_files(settings, 4001)
    workspace = yaml.safe_load(workspace_file(settings).read_text())
    assert workspace == {"load_from": [{"grpc_server": {"host": "127.0.0.1", "port": 4001, "location_name": "llm_platform"}}]}
    assert "run_launcher" in yaml.safe_load((settings.dagster_home / "dagster.yaml").read_text())


def test_an_address_that_cannot_be_used_is_told() -> None:
    with listen("127.0.0.1", 0) as taken, pytest.raises(Conflict, match="--port 0"):
        listen("127.0.0.1", taken.getsockname()[1])
    with pytest.raises(InvalidConfig, match="--host"):
        listen("192.0.2.1", 0)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.0.2.1", "platform.example.test"])
def test_others_are_let_in_only_with_authentication(tmp_path: Path, host: str) -> None:
    with pytest.raises(InvalidConfig, match=r"LLM_PLATFORM_AUTHENTICATION=true.*llm-platform keys create"):
        up(Settings(home=tmp_path / "home"), host=host, port=0)
    assert not (tmp_path / "home").exists(), "refused before anything is started"
    check_authentication(Settings(home=tmp_path, authentication=True), host)
    for local in ("127.0.0.1", "127.0.0.2", "::1", "localhost"):
        check_authentication(Settings(home=tmp_path), local)


def test_a_home_is_free_again_after_its_block(tmp_path: Path) -> None:
    with Home(tmp_path) as home:
        home.publish({"services": {}})
        assert json.loads(home.services_file.read_text()) == {"services": {}}
        with pytest.raises(Conflict, match="--home"), Home(tmp_path):
            raise AssertionError("two at once")
    assert not home.services_file.exists()
    with Home(tmp_path) as again:
        assert again.instance != home.instance


def test_the_view_shows_addresses_when_all_are_ready_and_logs_if_asked(tmp_path: Path) -> None:
    screen = io.StringIO()
    addresses = {"API": "http://127.0.0.1:8000", "Logs": str(tmp_path)}
    view = View(Console(file=screen, width=200), ["api", "mlflow"], addresses, tmp_path, verbose=True)
    children = {name: Child(Service(name, ["true"]), tmp_path / f"{name}.log") for name in ("api", "mlflow")}
    view.ready(children["api"])
    assert "http" not in screen.getvalue()
    view.ready(children["mlflow"])
    assert "http://127.0.0.1:8000" in screen.getvalue() and "Ready after" in screen.getvalue()
    children["api"].log.write_text("first [line]\nsecond, unfini")
    view.tick()
    assert "api | first [line]\n" in screen.getvalue() and "unfini" not in screen.getvalue()
    with children["api"].log.open("a") as log:
        log.write("shed\n")
    view.tick()
    assert "api | second, unfinished\n" in screen.getvalue()
    view.ended(children["api"], -9, 2.0)
    assert "api ended by signal 9; it is started again in 2 s" in screen.getvalue() and "api.log" in screen.getvalue()
