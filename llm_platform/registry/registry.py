"""The registry of models: MLflow is the one truth about them, and only this package imports it.

A trained node is one MLflow run of the experiment `llm-platform` and one version of a registered model. A model exists from when
its version does. Everything about it hangs on the run: parameters and the config (tags), curves (`train/...`) and final figures,
dataset inputs, exports (tags), the adapter or the whole model (artifacts).
"""

from __future__ import annotations

import json
import math
import os
import re
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from llm_platform.errors import InvalidConfig, NotFound, ServiceUnavailable
from llm_platform.registry.models import DatasetInput, MetricPoint, RegisteredModel
from llm_platform.registry.records import CURVES, PREFIX, interval_metrics, split_tag, to_dataset_input, to_model, to_params, to_tags
from llm_platform.specs.comparison import Interval

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.store.artifact.artifact_repo import ArtifactRepository

EXPERIMENT = "llm-platform"
ADAPTER: Literal["adapter"] = "adapter"
MODEL: Literal["model"] = "model"
BATCH = 1000
"""Most metrics of one request."""

_MODEL_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,199}")
_PARAMS = 100
_CHECK_SECONDS = 1.5


class Registry:
    """MLflow at `tracking_uri`: a server (`http://...`) or a database (`sqlite:///...`) without one.

    Without a server, artifacts are files below `artifacts` (`mlartifacts` beside the SQLite file if not given). That is where
    `llm_platform.registry.serve` should keep them too: then both ways find what the other one wrote.

    Every method raises NotFound for a model or run that is not there, and ServiceUnavailable when MLflow fails; MLflow's own
    messages, which hold paths and addresses, are not passed on. Importing MLflow takes 2 s, so that is left to the first use.
    """

    def __init__(self, tracking_uri: str, artifacts: Path | None = None) -> None:
        self.tracking_uri = tracking_uri
        self._remote = tracking_uri.startswith(("http://", "https://"))
        if artifacts is None and not self._remote:
            if not tracking_uri.startswith("sqlite:///"):
                raise InvalidConfig("MLflow in a database without a server needs a folder for its artifacts")
            artifacts = Path(tracking_uri.removeprefix("sqlite:///")).resolve().parent / "mlartifacts"
        self._artifacts = artifacts

    def begin(
        self,
        model_id: str,
        run_id: str,
        agent_name: str,
        model_name: str,
        base_model: str,
        config: Mapping[str, Any],
        tags: Mapping[str, str],
        datasets: Sequence[DatasetInput],
    ) -> str:
        """Starts the MLflow run of a model and returns its id.

        `config` is the training config, JSON-like; `tags` (digests and the like) get the platform's prefix. A run of the same model
        that was left unfinished is ended as KILLED. If the model is registered already, its run is returned as it is.
        """
        from mlflow.entities import Metric, Param, RunTag

        _check_model_id(model_id)
        with _failures():
            for old in self._runs(model_id):
                if self._version_of(old.info.run_id) is not None:
                    self._end(old, "FINISHED")
                    return old.info.run_id
                self._end(old, "KILLED")
            named = {"model_id": model_id, "run_id": run_id, "agent_name": agent_name, "base_model": base_model}
            tagged = to_tags({**tags, **named, **split_tag("config", json.dumps(dict(config)))})
            run = self._client.create_run(self._experiment(), tags=tagged, run_name=f"{model_name} {run_id}")
            params = [Param(name, value) for name, value in to_params(config).items()]
            for first in range(0, len(params), _PARAMS):
                self._client.log_batch(run.info.run_id, metrics=list[Metric](), params=params[first : first + _PARAMS], tags=list[RunTag]())
            if datasets:
                self._client.log_inputs(run.info.run_id, datasets=[to_dataset_input(dataset) for dataset in datasets])
        return run.info.run_id

    def log_metrics(self, mlflow_run_id: str, points: Sequence[MetricPoint]) -> None:
        """Writes points of training curves, in batches."""
        from mlflow.entities import Metric

        metrics = [Metric(CURVES + point.key, point.value, point.timestamp_ms, point.step) for point in points]
        with _failures():
            for first in range(0, len(metrics), BATCH):
                self._client.log_batch(mlflow_run_id, metrics=metrics[first : first + BATCH])

    def register(self, mlflow_run_id: str, folder: Path, model_name: str, kind: Literal["adapter", "model"] = ADAPTER) -> str:
        """Keeps the weights with the run, makes them a version of the registered model, ends the run; returns the version.

        An adapter's files are kept as they are, a whole model in MLflow's transformers flavor. What is registered already stays as
        it is.
        """
        with _failures():
            run = self._client.get_run(mlflow_run_id)
            version = self._version_of(mlflow_run_id)
            if version is None:
                self._log_weights(run, folder, kind)
                self._make_registered_model(model_name)
                version = self._client.create_model_version(
                    model_name,
                    f"runs:/{mlflow_run_id}/{kind}",
                    run_id=mlflow_run_id,
                    await_creation_for=0,
                    tags={key: value for key, value in run.data.tags.items() if key == f"{PREFIX}model_id"},
                )
            self._end(run, "FINISHED")
        return str(version.version)

    def _log_weights(self, run: Run, folder: Path, kind: str) -> None:
        if kind == ADAPTER:
            self._repository(run).log_artifacts(str(folder), ADAPTER)
            return
        from llm_platform.registry.flavor import save_flavor

        with tempfile.TemporaryDirectory(dir=folder.parent) as work:  # beside the model: there is room for it on that disk
            save_flavor(folder, Path(work, MODEL))
            self._repository(run).log_artifacts(str(Path(work, MODEL)), MODEL)

    def fail(self, mlflow_run_id: str) -> None:
        """Ends a run as FAILED, unless it has ended."""
        with _failures():
            self._end(self._client.get_run(mlflow_run_id), "FAILED")

    def set_metrics(self, model_id: str, metrics: Mapping[str, float], intervals: Mapping[str, Interval] | None = None) -> None:
        """Records final figures and the intervals of some; earlier ones of the same name are history.

        A figure that is not finite is left out.
        """
        from mlflow.entities import Metric

        now = time.time_ns() // 1_000_000
        figures = {**metrics, **interval_metrics(intervals or {})}
        run_id = self._registered(model_id).run_id
        with _failures():
            # All at one step: then MLflow takes the latest for the valid one.
            values = [Metric(key, float(value), now, 0) for key, value in figures.items() if math.isfinite(value)]
            self._client.log_batch(run_id, metrics=values)

    def set_export(self, model_id: str, format: str, address: str, sha256: str) -> None:
        """Records where an export of the model is."""
        run_id = self._registered(model_id).run_id
        with _failures():
            self._client.set_tag(run_id, f"{PREFIX}export_sha256.{format}", sha256)
            self._client.set_tag(run_id, f"{PREFIX}export.{format}", address)

    def set_tags(self, model_id: str, tags: Mapping[str, str]) -> None:
        """Adds tags of the platform to the model."""
        run_id = self._registered(model_id).run_id
        with _failures():
            for key, value in to_tags(tags).items():
                self._client.set_tag(run_id, key, value)

    def alias(self, model_name: str, alias: str) -> RegisteredModel | None:
        """The version of a registered model that has the alias; None if none has, or if the platform did not register it."""
        with _failures():
            found = self._client.search_registered_models(f"name = {_quoted(model_name)}", max_results=1)
            version = found[0].aliases.get(alias) if found else None
            made = None if version is None else self._client.get_model_version(model_name, version)
        return self._model(made) if made is not None and f"{PREFIX}model_id" in made.tags else None

    def set_alias(self, model_id: str, alias: str) -> None:
        """Gives the alias to the model, and takes it from whichever version of the same registered model had it."""
        version = self._registered(model_id)
        with _failures():
            self._client.set_registered_model_alias(version.name, alias, str(version.version))

    def log_text(self, model_id: str, text: str, artifact_path: str) -> None:
        """Keeps a text with the model, as the artifact `artifact_path` (relative, with `/`)."""
        run_id = self._registered(model_id).run_id
        folder, _, name = artifact_path.rpartition("/")
        with _failures(), tempfile.TemporaryDirectory() as work:
            file = Path(work, name)
            file.write_text(text, encoding="utf-8")
            self._repository(self._client.get_run(run_id)).log_artifact(str(file), folder or None)

    def fetch_adapter(self, model_id: str, local: Path) -> Path:
        """Copies the adapter's files into the folder `local` and returns the folder they are in."""
        run_id = self._registered(model_id).run_id
        local.mkdir(parents=True, exist_ok=True)
        with _failures():
            return Path(self._repository(self._client.get_run(run_id)).download_artifacts(ADAPTER, str(local)))

    def get(self, model_id: str) -> RegisteredModel | None:
        try:
            version = self._registered(model_id)
        except NotFound:
            return None
        return self._model(version)

    def all(self, page_size: int = 200) -> Iterator[RegisteredModel]:
        """Every model, in no particular order."""
        token = None
        while True:
            with _failures():
                page = self._client.search_model_versions(max_results=page_size, page_token=token)
            for version in page:
                if f"{PREFIX}model_id" in version.tags:
                    yield self._model(version)
            token = page.token
            if not token:
                return

    def delete(self, model_id: str) -> None:
        """Removes the model: its version, a registered model that has no other version, and the run with its artifacts."""
        version = self._registered(model_id)
        with _failures():
            run = self._client.get_run(version.run_id)
            self._client.delete_model_version(version.name, version.version)
            if not self._client.search_model_versions(f"name = {_quoted(version.name)}", max_results=1):
                self._client.delete_registered_model(version.name)
            self._repository(run).delete_artifacts()
            self._client.delete_run(version.run_id)

    def check(self) -> None:
        """Raises ServiceUnavailable, within 2 s where there is a server, if MLflow cannot be used."""
        if not self._remote:
            with _failures():
                self._client.search_experiments(max_results=1)
            return
        try:
            # Not by MLflow's client, which goes on trying for minutes.
            with urllib.request.urlopen(f"{self.tracking_uri.rstrip('/')}/health", timeout=_CHECK_SECONDS):
                return
        except (OSError, ValueError, urllib.error.HTTPError):
            raise ServiceUnavailable("The model registry (MLflow) does not answer") from None

    @cached_property
    def _client(self) -> MlflowClient:
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
        from mlflow import MlflowClient

        return MlflowClient(tracking_uri=self.tracking_uri, registry_uri=self.tracking_uri)

    def _experiment(self) -> str:
        from mlflow.exceptions import MlflowException

        found = self._client.get_experiment_by_name(EXPERIMENT)
        if found is None:
            location = None if self._artifacts is None else (self._artifacts / EXPERIMENT).as_uri()
            try:
                return self._client.create_experiment(EXPERIMENT, artifact_location=location)
            except MlflowException:
                # Somebody else was faster, or it is a real failure, which the next line tells.
                found = self._client.get_experiment_by_name(EXPERIMENT)
                if found is None:
                    raise
        if found.lifecycle_stage == "deleted":
            self._client.restore_experiment(found.experiment_id)
        return found.experiment_id

    def _runs(self, model_id: str) -> list[Run]:
        experiment = self._client.get_experiment_by_name(EXPERIMENT)
        if experiment is None:
            return []
        return list(self._client.search_runs([experiment.experiment_id], f"tags.`{PREFIX}model_id` = '{model_id}'", max_results=1000))

    def _version_of(self, mlflow_run_id: str) -> ModelVersion | None:
        return next(iter(self._client.search_model_versions(f"run_id = '{mlflow_run_id}'", max_results=1)), None)

    def _registered(self, model_id: str) -> Any:
        """The version of a model (typed Any: MLflow declares none of its properties' types). Raises NotFound."""
        if _MODEL_ID.fullmatch(model_id):
            with _failures():
                found = self._client.search_model_versions(f"tags.`{PREFIX}model_id` = '{model_id}'", max_results=1)
            if found:
                return found[0]
        raise NotFound(f"There is no model '{model_id[:200]}'", model_id=model_id[:200])

    def _model(self, version: Any) -> RegisteredModel:
        with _failures():
            return to_model(version, self._client.get_run(version.run_id))

    def _make_registered_model(self, name: str) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def _end(self, run: Run, status: str) -> None:
        if run.info.status in ("RUNNING", "SCHEDULED"):
            self._client.set_terminated(run.info.run_id, status)

    def _repository(self, run: Run) -> ArtifactRepository:
        """Where the run's artifacts are. MLflow's own way fails without a server for runs that were made through one."""
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        uri = str(run.info.artifact_uri)
        if self._artifacts is not None and uri.startswith("mlflow-artifacts:/"):
            uri = (self._artifacts / uri.removeprefix("mlflow-artifacts:/").lstrip("/")).as_uri()
        return get_artifact_repository(uri, tracking_uri=self.tracking_uri)


def _check_model_id(model_id: str) -> None:
    if not _MODEL_ID.fullmatch(model_id):
        raise InvalidConfig("A model id consists of letters, digits, '_', '.' and '-'", model_id=model_id[:200])


def _quoted(name: str) -> str:
    """A name in MLflow's filter language, which has no way to escape a quote but has two kinds of them."""
    return f'"{name}"' if "'" in name else f"'{name}'"


@contextmanager
def _failures() -> Iterator[None]:
    """Turns MLflow's errors into the platform's."""
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
