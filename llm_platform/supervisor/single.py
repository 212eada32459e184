"""One service of the platform in place of this process: `llm-platform serve NAME`, what each container runs.

The command lines and environments are those of `llm-platform up`, with the address that is asked for. Services of one home folder must
see each other's processes (one machine, or containers that share a process namespace): runs are watched and stopped by process id.
"""

from __future__ import annotations

import os
import socket
from typing import NoReturn

from llm_platform.settings import Settings
from llm_platform.supervisor.dagster_files import write_dagster_files
from llm_platform.supervisor.platform import check_authentication, environment, listen, make_buckets, mlflow_service, platform_services
from llm_platform.supervisor.service import Service

PORTS = {"api": 8000, "dagster-code": 4000, "dagster-webserver": 3000, "mlflow": 5000}
"""Where a service listens, if nothing else is asked for; those that are not here listen to nobody."""


def serve(settings: Settings, name: str, *, host: str, port: int | None, advertise: str | None) -> NoReturn:
    """Becomes the service. `advertise` is the name under which the others find the code server; else it is `host`.

    Raises InvalidConfig for an API that others can reach without authentication, Conflict for a port in use.
    """
    port = PORTS.get(name, 0) if port is None else port
    if name == "api":
        check_authentication(settings, host)
    listener = listen(host, port) if name == "api" else socket.socket()
    if name in {"dagster-code", "mlflow"}:
        make_buckets(settings)
    if name == "dagster-code":
        write_dagster_files(settings, port, advertise or host)
    if name != "mlflow" and settings.mlflow_url is None:
        # Beside `llm-platform up` on the same home, whose MLflow it uses. Raises ServiceUnavailable where none is known.
        settings = settings.model_copy(update={"mlflow_url": settings.resolved_mlflow_url})
    service = _service(settings, name, listener, host, port)
    for descriptor in service.pass_fds:
        os.set_inheritable(descriptor, True)
    command = list(service.command)
    os.execvpe(command[0], command, {**environment(settings, port), **service.environment})


def _service(settings: Settings, name: str, listener: socket.socket, host: str, port: int) -> Service:
    if name == "mlflow":
        return mlflow_service(settings, port, {"MALLOC_ARENA_MAX": "2"}, host)
    services = platform_services(settings, listener, host, dict.fromkeys(PORTS, port), bind=host)
    return next(service for service in services if service.name == name)
