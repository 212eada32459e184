"""The registry of models: MLflow is the one truth about them, and only this package imports it.

A trained node is one MLflow run of the experiment `llm-platform` and one version of a registered model. A model exists from when
its version does. Everything about it hangs on the run: parameters and the config (tags), curves (`train/...`) and final figures,
dataset inputs, exports (tags), the adapter or the whole model (artifacts).
"""

from __future__ import annotations

import json
import math
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from llm_platform.errors import InvalidConfig, NotFound, ServiceUnavailable
from llm_platform.registry.artifacts import ADAPTER, MERGED, MODEL, log_weights, read_digests
from llm_platform.registry.lineage import CONFIG_SHA256_TAG, REGISTERED_TAG, config_sha256
from llm_platform.registry.models import DatasetInput, MetricPoint, RegisteredModel
from llm_platform.registry.records import (
    CURVES,
    PREFIX,
    describe,
    forms_of,
    gate_tags,
    interval_metrics,
    to_dataset_input,
    to_model,
    to_params,
    to_tags,
)
from llm_platform.registry.store import client, failures, quoted
from llm_platform.specs.comparison import Interval
from llm_platform.specs.gate import GateResult

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.store.artifact.artifact_repo import ArtifactRepository

EXPERIMENT = "llm-platform"
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
        with failures():
            for old in self._runs(model_id):
                if self._version_of(old.info.run_id) is not None:
                    self._end(old, "FINISHED")
                    return old.info.run_id
                self._end(old, "KILLED")
            named = {"model_id": model_id, "run_id": run_id, "agent_name": agent_name, "base_model": base_model}
            named |= {"config": json.dumps(dict(config)), CONFIG_SHA256_TAG: config_sha256(config)}
            tagged = to_tags({**tags, **named})
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
        with failures():
            for first in range(0, len(metrics), BATCH):
                self._client.log_batch(mlflow_run_id, metrics=metrics[first : first + BATCH])

    def register(
        self,
        mlflow_run_id: str,
        folder: Path,
        model_name: str,
        kind: Literal["adapter", "model"] = ADAPTER,
        tags: Mapping[str, str] | None = None,
    ) -> str:
        """Keeps the weights with the run, makes them a version of the registered model, ends the run; returns the version.

        `mlflow.pyfunc` loads both; an adapter's files are kept as they are, a whole model in MLflow's transformers flavor. What is
        registered already stays as it is. `tags` are the model's from its first moment on.
        """
        with failures():
            run = self._client.get_run(mlflow_run_id)
            version = self._version_of(mlflow_run_id)
            if version is None:
                files = log_weights(self._repository(run), folder, kind, mlflow_run_id)
                for key, value in to_tags({**(tags or {}), REGISTERED_TAG: json.dumps(files)}).items():
                    self._client.set_tag(mlflow_run_id, key, value)
                self._make_registered_model(model_name)
                version = self._client.create_model_version(
                    model_name,
                    f"runs:/{mlflow_run_id}/{kind}",
                    run_id=mlflow_run_id,
                    await_creation_for=0,
                    description=describe(run.data.tags),
                    tags={key: value for key, value in run.data.tags.items() if key == f"{PREFIX}model_id"},
                )
            self._end(run, "FINISHED")
        return str(version.version)

    def fail(self, mlflow_run_id: str) -> None:
        """Ends a run as FAILED, unless it has ended."""
        with failures():
            self._end(self._client.get_run(mlflow_run_id), "FAILED")

    def set_metrics(self, model_id: str, metrics: Mapping[str, float], intervals: Mapping[str, Interval] | None = None) -> None:
        """Records final figures and the intervals of some; earlier ones of the same name are history.

        A figure that is not finite is left out.
        """
        from mlflow.entities import Metric

        now = time.time_ns() // 1_000_000
        figures = {**metrics, **interval_metrics(intervals or {})}
        run_id = self._registered(model_id).run_id
        with failures():
            # All at one step: then MLflow takes the latest for the valid one.
            values = [Metric(key, float(value), now, 0) for key, value in figures.items() if math.isfinite(value)]
            self._client.log_batch(run_id, metrics=values)

    def set_export(self, model_id: str, format: str, address: str, sha256: str, gates: Mapping[str, GateResult] | None = None) -> None:
        """Records where an export of the model is, and what the gate found of it or, by `gguf.q8_0` and the like, of its files."""
        run_id = self._registered(model_id).run_id
        written = gate_tags(gates or {})
        with failures():
            before = [key.removeprefix(PREFIX) for key in self._client.get_run(run_id).data.tags]
            # The gate first: between the two the export must not look like one that nobody judged.
            for key, value in to_tags(written).items():
                self._client.set_tag(run_id, key, value)
            self._client.set_tag(run_id, f"{PREFIX}export_sha256.{format}", sha256)
            self._client.set_tag(run_id, f"{PREFIX}export.{format}", address)
            for key in before:
                if PREFIX + key not in to_tags(written) and (key == f"gate.{format}" or key.startswith(f"gate.{format}.")):
                    self._client.delete_tag(run_id, PREFIX + key)

    def log_merged(self, model_id: str, folder: Path) -> str:
        """Keeps an adapter's merged model with its run, as `mlflow.transformers` loads it; the address to load it from."""
        run_id = self._registered(model_id).run_id
        with failures():
            log_weights(self._repository(self._client.get_run(run_id)), folder, MERGED, run_id)
        return f"runs:/{run_id}/{MERGED}"

    def set_tags(self, model_id: str, tags: Mapping[str, str]) -> None:
        """Adds tags of the platform to the model; texts of any length."""
        run_id = self._registered(model_id).run_id
        made = to_tags(tags)
        with failures():
            present = self._client.get_run(run_id).data.tags
            for key, value in made.items():
                self._client.set_tag(run_id, key, value)
            for old in {form for key in tags for form in forms_of(key, present)} - made.keys():  # of a longer, or shorter, text before
                self._client.delete_tag(run_id, old)

    def alias(self, model_name: str, alias: str) -> RegisteredModel | None:
        """The version of a registered model that has the alias; None if none has, or if the platform did not register it."""
        with failures():
            found = self._client.search_registered_models(f"name = {quoted(model_name)}", max_results=1)
            version = found[0].aliases.get(alias) if found else None
            made: Any = None if version is None else self._client.get_model_version(model_name, str(version))
        return self._model(made) if made is not None and f"{PREFIX}model_id" in made.tags else None

    def set_alias(self, model_id: str, alias: str) -> None:
        """Gives the alias to the model, and takes it from whichever version of the same registered model had it."""
        version = self._registered(model_id)
        with failures():
            self._client.set_registered_model_alias(version.name, alias, str(version.version))

    def fetch_adapter(self, model_id: str, local: Path) -> Path:
        """Copies the adapter's files into the folder `local` and returns the folder they are in."""
        run_id = self._registered(model_id).run_id
        local.mkdir(parents=True, exist_ok=True)
        with failures():
            return Path(self._repository(self._client.get_run(run_id)).download_artifacts(ADAPTER, str(local)))

    def curve(self, model: RegisteredModel, key: str) -> list[tuple[int, float]]:
        """The (step, value) points of a training curve, such as `loss`, in order; empty if there is none."""
        with failures():
            history = self._client.get_metric_history(model.mlflow_run_id, CURVES + key)
        return sorted({point.step: point.value for point in history if math.isfinite(point.value)}.items())

    def weights_digests(self, model: RegisteredModel) -> Iterator[tuple[str, int, str]]:
        """Each file of the weights in MLflow, read now: name, size and SHA-256."""
        kind = MODEL if model.training_config.get("method") == "full" else ADAPTER
        with failures():
            run = self._client.get_run(model.mlflow_run_id)
            for name, size, sha256 in read_digests(self._repository(run), kind):
                yield name.removeprefix(f"{kind}/"), size, sha256

    def get(self, model_id: str) -> RegisteredModel | None:
        try:
            version = self._registered(model_id)
            with failures():
                return self._model(self._client.get_model_version(version.name, str(version.version)))
        except NotFound:
            return None

    def all(self, page_size: int = 200) -> Iterator[RegisteredModel]:
        """Every model, in no particular order; a few requests for a thousand of them.

        A version that was copied in MLflow is one model, and one whose run is gone for good, or has lost its tags, is none.
        """
        aliases: dict[tuple[str, str], list[str]] = {}
        versions: dict[str, Any] = {}
        with failures():
            from mlflow.entities import ViewType

            experiment = self._client.get_experiment_by_name(EXPERIMENT)
            if experiment is None:
                return
            for found in _pages(self._client.search_registered_models, max_results=page_size):
                for alias, version in found.aliases.items():
                    aliases.setdefault((found.name, str(version)), []).append(alias)
            for version in _pages(self._client.search_model_versions, max_results=page_size):
                model_id = version.tags.get(f"{PREFIX}model_id")
                if model_id is not None:
                    versions[model_id] = _original([version, *([versions[model_id]] if model_id in versions else [])])
            by_run = {version.run_id: version for version in versions.values()}
            options = {"experiment_ids": [experiment.experiment_id], "run_view_type": ViewType.ALL, "max_results": page_size}
            for run in _pages(self._client.search_runs, **options):
                version = by_run.get(run.info.run_id)
                if version is None:
                    continue
                try:
                    yield to_model(version, run, aliases.get((version.name, str(version.version)), ()))
                except NotFound:
                    continue

    def delete(self, model_id: str) -> None:
        """Removes the model: its version and copies of it, registered models that have no other version, and the run with its
        artifacts."""
        versions = self._versions(model_id)
        with failures():
            run = self._client.get_run(_original(versions).run_id)
            for version in versions:
                self._client.delete_model_version(version.name, str(version.version))
                if not self._client.search_model_versions(f"name = {quoted(version.name)}", max_results=1):
                    self._client.delete_registered_model(version.name)
            self._repository(run).delete_artifacts()
            self._client.delete_run(run.info.run_id)

    def check(self) -> None:
        """Raises ServiceUnavailable, within 2 s where there is a server, if MLflow cannot be used."""
        if not self._remote:
            with failures():
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
        return client(self.tracking_uri)

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
        found = list(self._client.search_model_versions(f"run_id = '{mlflow_run_id}'"))
        return _original(found) if found else None

    def _registered(self, model_id: str) -> Any:
        """The version of a model (typed Any: MLflow declares none of its properties' types). Raises NotFound."""
        return _original(self._versions(model_id))

    def _versions(self, model_id: str) -> list[Any]:
        """The version of a model and its copies. Raises NotFound if there are none."""
        if _MODEL_ID.fullmatch(model_id):
            with failures():
                found = list(self._client.search_model_versions(f"tags.`{PREFIX}model_id` = '{model_id}'"))
            if found:
                return found
        raise NotFound(f"There is no model '{model_id[:200]}'", model_id=model_id[:200])

    def _model(self, version: Any) -> RegisteredModel:
        with failures():
            return to_model(version, self._client.get_run(version.run_id), version.aliases)

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


def _original(versions: Sequence[Any]) -> Any:
    """The first of versions that were copied from each other, as MLflow promotes models from one name to another."""
    return min(versions, key=lambda version: (version.creation_timestamp, version.name, int(version.version)))


def _pages(search: Callable[..., Any], **options: Any) -> Iterator[Any]:
    """Everything that one of MLflow's searches finds."""
    token = None
    while True:
        page = search(**options, page_token=token)
        yield from page
        token = page.token
        if not token:
            return
