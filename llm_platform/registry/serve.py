"""MLflow's tracking server in one process: `python -m llm_platform.registry.serve --artifacts PLACE --port N`.

Its database is the one of the environment variable `LLM_PLATFORM_MLFLOW_DATABASE_URL`: a URL with a password has no place in a
command line, which every user of the machine can read.

`mlflow server` itself starts a parent process that only waits, and by default a job runner of eight more: 1,602 MiB in ten
processes, 471 MiB in two without jobs. The same server without them is one process of 270 MiB that starts in 3 s instead of 5.7 s
(measured with MLflow 3.17.2). Its handover to the worker is by environment variables, whose names are taken from MLflow, so that
an MLflow that calls them differently fails at once.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

DATABASE = "LLM_PLATFORM_MLFLOW_DATABASE_URL"


def command(artifacts: Path | str, port: int, host: str = "127.0.0.1") -> list[str]:
    """The command line of a server; artifacts go through it, to a folder or an s3:// address."""
    flags = {"--artifacts": str(artifacts), "--host": host, "--port": str(port)}
    return [sys.executable, "-m", "llm_platform.registry.serve", *(part for flag in flags.items() for part in flag)]


def main() -> None:
    parser = argparse.ArgumentParser(prog="llm_platform.registry.serve")
    parser.add_argument("--artifacts", required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    args = parser.parse_args()
    database = os.environ[DATABASE]
    # Nothing of MLflow may phone home or start helpers.
    os.environ |= {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}

    from mlflow.server import constants

    root = "mlflow-artifacts:/"
    os.environ |= {
        constants.BACKEND_STORE_URI_ENV_VAR: database,
        constants.ARTIFACT_ROOT_ENV_VAR: root,
        constants.ARTIFACTS_DESTINATION_ENV_VAR: args.artifacts,
        constants.SERVE_ARTIFACTS_ENV_VAR: "true",
    }

    import uvicorn
    from mlflow.server.fastapi_app import app
    from mlflow.server.handlers import initialize_backend_stores

    # Before the port opens: who sees the server can use it at once.
    initialize_backend_stores(database, database, root)
    uvicorn.run(app, host=args.host, port=args.port, access_log=False)


if __name__ == "__main__":
    main()
