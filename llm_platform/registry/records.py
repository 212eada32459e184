"""A model's record in MLflow's own terms: tags, parameters, metrics, datasets; and back."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from llm_platform.registry.models import DatasetInput, RegisteredModel
from llm_platform.specs.comparison import Interval

if TYPE_CHECKING:
    from mlflow.entities import Run

PREFIX = "llm_platform."
"""Of the platform's tags."""
CURVES = "train/"
"""Of the metrics that are training curves."""
INTERVALS = "interval/"
"""Of the metrics that bound others: `interval/accuracy.low`, `.high` and `.count`."""

_PARAM_LENGTH = 6000
_TAG_LENGTH = 5000
_DIGEST_LENGTH = 36


def to_tags(tags: Mapping[str, str]) -> dict[str, str]:
    return {PREFIX + key: value[:_TAG_LENGTH] for key, value in tags.items()}


def split_tag(key: str, text: str) -> dict[str, str]:
    """A long text as several tags, `key.0`, `key.1`, ..."""
    return {f"{key}.{first // _TAG_LENGTH}": text[first : first + _TAG_LENGTH] for first in range(0, len(text), _TAG_LENGTH)}


def to_params(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """The config as MLflow's parameters: nested names dotted, lists as JSON."""
    flat: dict[str, str] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat |= to_params(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = (value if isinstance(value, str) else json.dumps(value))[:_PARAM_LENGTH]
    return flat


def to_dataset_input(dataset: DatasetInput) -> Any:
    """MLflow's digest holds only 36 characters; the whole one is in the profile."""
    from mlflow import entities

    source = json.dumps({"uri": dataset.source_address})
    profile = dataset.model_dump_json(exclude={"name", "source_address"})
    return entities.DatasetInput(
        entities.Dataset(dataset.name, dataset.digest[:_DIGEST_LENGTH], "s3", source, profile=profile),
        [entities.InputTag("mlflow.data.context", "training")],
    )


def _to_dataset(dataset: Any) -> DatasetInput:
    profile = json.loads(dataset.profile or "{}")
    values = {"digest": dataset.digest} | {key: profile[key] for key in ("digest", "rows", "dataset_id") if key in profile}
    return DatasetInput(name=dataset.name, source_address=json.loads(dataset.source).get("uri", ""), **values)


def to_model(version: Any, run: Run) -> RegisteredModel:
    tags = {key.removeprefix(PREFIX): value for key, value in run.data.tags.items() if key.startswith(PREFIX)}
    parts = {int(key.removeprefix("config.")): tags.pop(key) for key in list(tags) if key.startswith("config.")}
    exports = {key.removeprefix("export."): tags.pop(key) for key in list(tags) if key.startswith("export.")}
    digests = {key.removeprefix("export_sha256."): tags.pop(key) for key in list(tags) if key.startswith("export_sha256.")}
    return RegisteredModel(
        model_id=tags.pop("model_id"),
        run_id=tags.pop("run_id"),
        agent_name=tags.pop("agent_name"),
        base_model=tags.pop("base_model"),
        # Not the name at the beginning: it may have been renamed in MLflow.
        model_name=str(version.name),
        version=str(version.version),
        mlflow_run_id=run.info.run_id,
        datasets=[_to_dataset(item.dataset) for item in run.inputs.dataset_inputs] if run.inputs else [],
        training_config=json.loads("".join(parts[index] for index in sorted(parts)) or "{}"),
        metrics={key: value for key, value in run.data.metrics.items() if not key.startswith((CURVES, INTERVALS)) and math.isfinite(value)},
        intervals=_to_intervals(run.data.metrics),
        exports={name: address for name, address in exports.items() if name in digests},
        export_digests={name: digest for name, digest in digests.items() if name in exports},
        created_at=datetime.fromtimestamp(version.creation_timestamp / 1000, UTC),
        tags=tags,
    )


def interval_metrics(intervals: Mapping[str, Interval]) -> dict[str, float]:
    """The bounds of figures as MLflow's metrics."""
    return {
        f"{INTERVALS}{name}.{part}": float(value) for name, interval in intervals.items() for part, value in interval.model_dump().items()
    }


def _to_intervals(metrics: Mapping[str, float]) -> dict[str, Interval]:
    names = [key.removeprefix(INTERVALS).removesuffix(".count") for key in metrics if key.startswith(INTERVALS) and key.endswith(".count")]
    return {
        name: Interval(
            low=metrics[f"{INTERVALS}{name}.low"],
            high=metrics[f"{INTERVALS}{name}.high"],
            count=int(metrics[f"{INTERVALS}{name}.count"]),
        )
        for name in names
    }
