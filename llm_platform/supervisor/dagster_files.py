"""What Dagster reads from the home folder: its instance configuration, made from the settings, and where its code server listens.

Neither file holds a secret: Dagster takes its database's URL from the environment, and S3's keys are AWS's own variables.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

from llm_platform.errors import InvalidConfig
from llm_platform.settings import Settings

LOCATION = "llm_platform"
LOOPBACK = "127.0.0.1"
DATABASE = "LLM_PLATFORM_DAGSTER_DATABASE_URL"


def workspace_file(settings: Settings) -> Path:
    return settings.root / "workspace.yaml"


def write_dagster_files(settings: Settings, code_port: int, code_host: str = LOOPBACK) -> None:
    """Written anew at every start, so that an upgrade and changed settings reach old homes."""
    _replace(settings.dagster_home / "dagster.yaml", dagster_yaml(settings))
    server = {"host": code_host, "port": code_port, "location_name": LOCATION}
    _replace(workspace_file(settings), json.dumps({"load_from": [{"grpc_server": server}]}) + "\n")  # JSON is YAML


def _replace(path: Path, text: str) -> None:
    """At once: who reads while a code server is started again must not find half a file, and with it an instance of defaults."""
    temporary = path.with_name(f"{path.name}.new")
    temporary.write_text(text)
    temporary.replace(path)


def dagster_yaml(settings: Settings) -> str:
    """The embedded instance's configuration, and behind it what the settings replace: the storage, and where compute logs go."""
    spec = importlib.util.find_spec("dagster_project")
    if spec is None or not spec.submodule_search_locations:
        raise InvalidConfig(
            "The package dagster_project is not installed; install the platform with its extra: pip install 'llm-platform[server]'"
        )
    replaced: dict[str, Any] = {}
    if settings.dagster_database_url:
        replaced["storage"] = {"postgres": {"postgres_url": {"env": DATABASE}}}
    if settings.compute_logs_bucket:
        replaced["compute_logs"] = {
            "module": "dagster_aws.s3.compute_log_manager",
            "class": "S3ComputeLogManager",
            "config": {
                "bucket": settings.compute_logs_bucket,
                "endpoint_url": settings.s3_endpoint,
                "region": settings.s3_region,
                "local_dir": str(settings.dagster_home / "compute_logs"),
                "skip_empty_files": True,
            },
        }
    text = (Path(next(iter(spec.submodule_search_locations))) / "dagster.yaml").read_text()
    return text + "".join(f"\n{name}: {json.dumps(value)}\n" for name, value in replaced.items())
