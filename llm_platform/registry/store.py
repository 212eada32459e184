"""What every question to MLflow has in common: a quiet client, names in its filter language, and errors that become the platform's."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from llm_platform.errors import NotFound, ServiceUnavailable

if TYPE_CHECKING:
    from mlflow import MlflowClient


_IMPORTING = threading.Lock()


def load() -> None:
    """Imports MLflow, one thread at a time: its modules import each other in circles, on which two threads can deadlock."""
    # MLflow reads these when it is imported or when it first asks; what the user set wins. No telemetry, nothing printed,
    # and about half a minute of retries: long enough for a restart of the server, short enough for a person.
    defaults = {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "4",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    with _IMPORTING:
        import mlflow  # noqa: F401


def client(tracking_uri: str) -> MlflowClient:
    load()
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)


def quoted(name: str) -> str:
    """A name in MLflow's filter language, which has no way to escape a quote but has two kinds of them."""
    return f'"{name}"' if "'" in name else f"'{name}'"


@contextmanager
def failures() -> Iterator[None]:
    """Turns MLflow's errors into the platform's."""
    load()
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            raise NotFound("The model registry (MLflow) does not know this run or model") from None
        raise ServiceUnavailable(f"The model registry (MLflow) failed: {error.error_code}") from error
    except (OSError, SQLAlchemyError) as error:
        # Errors of `requests` are OSErrors.
        raise ServiceUnavailable(f"The model registry (MLflow) failed: {type(error).__name__}") from error
