"""Which processes make up the platform: their command lines, ports and environment.

| service           | what it runs                                              | listens on                       |
|-------------------|-----------------------------------------------------------|----------------------------------|
| api               | the REST API; started first, so that /health answers soon | the host and port that were asked for |
| dagster-code      | one code server, shared by the other Dagster processes    | loopback, a free port            |
| mlflow            | one MLflow worker; artifacts pass through it              | loopback, a free port            |
| dagster-webserver | the Dagster UI                                            | loopback, a free port            |
| dagster-workers   | forks run workers and heavy nodes, with everything imported | two sockets in the home folder |
| dagster-daemon    | the run queue, sensors, schedules, run monitoring         | nothing                          |
"""

from __future__ import annotations

import errno
import ipaddress
import json
import os
import socket
import sqlite3
import sys
from collections.abc import Iterable
from contextlib import closing, suppress
from pathlib import Path

from rich.console import Console

from llm_platform.errors import Conflict, InvalidConfig, PlatformError, ServiceUnavailable
from llm_platform.migrations import VERSION_TABLE, check_known
from llm_platform.registry import serve as mlflow
from llm_platform.settings import Settings, with_driver
from llm_platform.storage import s3_client
from llm_platform.supervisor import dagster_files
from llm_platform.supervisor.dagster_files import LOCATION, workspace_file, write_dagster_files
from llm_platform.supervisor.home import Home
from llm_platform.supervisor.service import Service
from llm_platform.supervisor.supervisor import Supervisor
from llm_platform.supervisor.view import View

_LOOPBACK = "127.0.0.1"


def up(settings: Settings, *, host: str = _LOOPBACK, port: int = 8000, verbose: bool = False, console: Console | None = None) -> int:
    """Runs the platform in the foreground until it is asked to stop. Port 0 is a free one."""
    console = console or Console()
    check_authentication(settings, host)
    with Home(settings.root) as home, listen(host, port) as listener:
        check_tables(settings)
        make_buckets(settings)
        ports = service_ports(settings, ("dagster-code", "mlflow", "dagster-webserver"))
        services = platform_services(settings, listener, host, ports)
        addresses = {
            "API": f"{services[0].url}",
            "API documentation": f"{services[0].url}/docs",
            "Dagster UI": f"http://{_LOOPBACK}:{ports['dagster-webserver']}",
            "MLflow UI": settings.mlflow_url or f"http://{_LOOPBACK}:{ports['mlflow']}",
            "Home folder": str(settings.root),
            "Logs": str(home.logs),
        }
        view = View(console, [service.name for service in services], addresses, home.logs, verbose=verbose)
        write_dagster_files(settings, ports["dagster-code"])
        return Supervisor(home, services, environment=environment(settings, ports["mlflow"]), watcher=view).run()


def platform_services(
    settings: Settings, listener: socket.socket, host: str, ports: dict[str, int], bind: str = _LOOPBACK
) -> list[Service]:
    """The services of the embedded profile; MLflow is left out where the settings name a server of the operator's.

    `host` is the API's address; the others, which ask nobody for a key, listen on `bind`.
    """
    python = sys.executable
    api_port = listener.getsockname()[1]
    reachable = _LOOPBACK if host in {"0.0.0.0", "::", ""} else host
    api_url = f"http://[{reachable}]:{api_port}" if ":" in reachable else f"http://{reachable}:{api_port}"
    webserver_url = f"http://{_LOOPBACK}:{ports['dagster-webserver']}"
    # Threads that allocate get arenas of their own, whose pages glibc rarely gives back. Not for the code server: what it starts trains.
    few_arenas = {"MALLOC_ARENA_MAX": "2"}
    api = Service(
        "api",
        (python, "-m", "llm_platform.supervisor.serve", str(listener.fileno()), "api.main:create_app"),
        # Polars has an allocator of its own, which would keep what reading an upload took.
        environment={**few_arenas, "_RJEM_MALLOC_CONF": "dirty_decay_ms:0,muzzy_decay_ms:0"},
        url=api_url,
        probe=f"{api_url}/health",
        pass_fds=(listener.fileno(),),
        grace=settings.drain_delay + settings.drain_seconds + 5.0,
        hands_over=True,
    )
    code = Service(
        "dagster-code",
        [
            *(python, "-m", "dagster_project.instance", "dagster", "api", "grpc"),
            *("-m", "dagster_project.definitions", "--location-name", LOCATION),
            *("--host", bind, "--port", str(ports["dagster-code"]), "--use-python-environment-entry-point"),
        ],
        probe=f"tcp://{_LOOPBACK}:{ports['dagster-code']}",
        stop_rank=1,
    )
    webserver = Service(
        "dagster-webserver",
        [
            *(python, "-m", "dagster_project.instance", "dagster_webserver", "-w", str(workspace_file(settings))),
            *("--host", bind, "--port", str(ports["dagster-webserver"]), "--suppress-warnings"),
        ],
        environment=few_arenas,
        url=webserver_url,
        probe=f"{webserver_url}/server_info",
        after=("dagster-code",),
        stop_rank=1,
    )
    daemon = Service(
        "dagster-daemon",
        (python, "-m", "dagster_project.instance", "dagster_project.daemon", "run", "-w", str(workspace_file(settings))),
        environment=few_arenas,
        after=("dagster-code",),
        stop_rank=1,
    )
    workers = Service(
        "dagster-workers",
        (python, "-m", "dagster_project.zygotes"),
        after=("dagster-code",),
        stop_rank=1,
    )
    services = [api, code, daemon, workers, webserver]
    if settings.mlflow_url is None:
        services.insert(2, mlflow_service(settings, ports["mlflow"], few_arenas))
    return services


def mlflow_service(settings: Settings, port: int, environment: dict[str, str], bind: str = _LOOPBACK) -> Service:
    url = f"http://{_LOOPBACK}:{port}"
    s3 = {"MLFLOW_S3_ENDPOINT_URL": settings.s3_endpoint} if settings.mlflow_artifacts and settings.s3_endpoint else {}
    return Service(
        "mlflow",
        mlflow.command(settings.resolved_mlflow_artifacts, port, bind),
        environment={**environment, mlflow.DATABASE: settings.resolved_mlflow_database_url, **s3},
        url=url,
        probe=f"{url}/health",
        stop_rank=2,
        grace=2.0,
    )


def environment(settings: Settings, mlflow_port: int) -> dict[str, str]:
    """What all services and everything that they start inherit."""
    inherited = dict(os.environ)
    if any(name.lower() in {"http_proxy", "all_proxy"} for name in inherited):
        inherited["NO_PROXY"] = inherited["no_proxy"] = ",".join(
            filter(None, [inherited.get("NO_PROXY") or inherited.get("no_proxy"), _LOOPBACK, "localhost"])
        )
    return {
        **inherited,
        **_secrets(settings),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{inherited.get('PATH', os.defpath)}",
        "PYTHONUNBUFFERED": "1",
        "LLM_PLATFORM_HOME": str(settings.root),
        "LLM_PLATFORM_AUTHENTICATION": str(settings.authentication).lower(),
        "LLM_PLATFORM_MLFLOW_URL": settings.mlflow_url or f"http://{_LOOPBACK}:{mlflow_port}",
        "LLM_PLATFORM_WORKSPACE": str(workspace_file(settings)),
        "DAGSTER_HOME": str(settings.dagster_home),
        "DAGSTER_DISABLE_TELEMETRY": "yes",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "GIT_PYTHON_REFRESH": "quiet",
    }


def _secrets(settings: Settings) -> dict[str, str]:
    """What Dagster and MLflow take from their environment, because their configuration files are no place for it."""
    secrets = {}
    if settings.dagster_database_url:
        secrets[dagster_files.DATABASE] = with_driver(settings.dagster_database_url)
    if settings.s3_access_key and settings.s3_secret_key:
        secrets |= {"AWS_ACCESS_KEY_ID": settings.s3_access_key, "AWS_SECRET_ACCESS_KEY": settings.s3_secret_key}
    if settings.s3_endpoint:
        secrets["AWS_DEFAULT_REGION"] = settings.s3_region
    return secrets


def check_tables(settings: Settings) -> None:
    """Raises Conflict for tables of a newer version, and ServiceUnavailable for a database that cannot be reached."""
    if settings.database_url is None:
        file = settings.root / "platform.db"
        if file.exists():  # not by SQLAlchemy, which the supervisor need not import
            with closing(sqlite3.connect(file)) as connection, suppress(sqlite3.OperationalError):
                check_known(connection.execute(f"SELECT version_num FROM {VERSION_TABLE}").fetchone()[0])
        return
    from sqlalchemy.exc import SQLAlchemyError

    from llm_platform.database import Database

    try:
        Database.from_settings(settings).close()
    except SQLAlchemyError as error:
        raise ServiceUnavailable(
            f"The platform's database cannot be used ({type(error).__name__}); 'llm-platform check' says more"
        ) from None


def make_buckets(settings: Settings) -> None:
    """Makes the buckets into which Dagster and MLflow write, which do not make them. Raises StorageError."""
    wanted = [settings.compute_logs_bucket, settings.mlflow_artifacts and settings.mlflow_artifacts.removeprefix("s3://").split("/")[0]]
    buckets = [bucket for bucket in wanted if bucket]
    if buckets:
        from llm_platform.storage.s3 import S3Storage  # boto3 is slow to import, and an extra

        S3Storage(s3_client(settings)).make_buckets(buckets)


def service_ports(settings: Settings, names: Iterable[str]) -> dict[str, int]:
    """A port for each service: the one of the last start, if it is free, so that bookmarks and further API processes find it again."""
    file = settings.root / "ports.json"
    try:
        last = json.loads(file.read_text())
        ports = {name: free_port(int(last.get(name, 0))) for name in names}
    except (OSError, ValueError, TypeError, AttributeError):
        ports = {name: free_port() for name in names}
    file.write_text(json.dumps(ports))
    return ports


def check_authentication(settings: Settings, host: str) -> None:
    """Raises InvalidConfig for an address that others can reach, where everybody who does could do everything."""
    if settings.authentication or host == "localhost":
        return
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise InvalidConfig(
            f"Refused to listen on '{host}' without authentication: whoever reaches it could read and change everything. "
            "Set LLM_PLATFORM_AUTHENTICATION=true and make a key with 'llm-platform keys create NAME', or leave --host out.",
            host=host,
        )


def listen(host: str, port: int) -> socket.socket:
    """A listening TCP socket, or an error that says what to do."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(2048)
        except BaseException:
            listener.close()
            raise
    except OSError as error:
        raise _refusal(host, port, error) from error
    return listener


def _refusal(host: str, port: int, error: OSError) -> PlatformError:
    if error.errno == errno.EADDRINUSE:
        return Conflict(f"Port {port} on {host} is in use. Choose another with --port NUMBER, or a free one with --port 0.", port=port)
    if error.errno == errno.EACCES:
        return InvalidConfig(f"Port {port} needs more rights than this user has. Choose one above 1023 with --port NUMBER.", port=port)
    return InvalidConfig(f"Cannot listen on {host}: {error.strerror or error}. Choose an address of this machine with --host.", host=host)


def free_port(wanted: int = 0) -> int:
    """The wanted port of loopback, or any other that is free if it is taken."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_LOOPBACK, wanted))
        except (OSError, OverflowError):
            probe.bind((_LOOPBACK, 0))
        return probe.getsockname()[1]
