"""A model's record in MLflow's own terms: tags, parameters, metrics, datasets; and back."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from llm_platform.errors import NotFound
from llm_platform.registry.models import DatasetInput, RegisteredModel
from llm_platform.specs.comparison import Interval
from llm_platform.specs.gate import GateResult

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
_PART = re.compile(r"\.\d+", re.ASCII)


def to_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """Tags as MLflow keeps them; a text that is too long for one becomes several, `key.0`, `key.1`, ..."""
    found: dict[str, str] = {}
    for key, value in tags.items():
        if len(value) <= _TAG_LENGTH:
            found[PREFIX + key] = value
            continue
        parts = range(0, len(value), _TAG_LENGTH)
        found |= {f"{PREFIX}{key}.{number}": value[first : first + _TAG_LENGTH] for number, first in enumerate(parts)}
    return found


def forms_of(key: str, tags: Iterable[str]) -> list[str]:
    """The tags of MLflow that hold the platform's tag `key`, whole or in parts."""
    return [tag for tag in tags if tag == PREFIX + key or _PART.fullmatch(tag.removeprefix(f"{PREFIX}{key}"))]


def _from_tags(found: Mapping[str, str]) -> dict[str, str]:
    """The platform's tags, without prefix, put together."""
    whole: dict[str, str] = {}
    parts: dict[str, dict[int, str]] = {}
    for tag, value in found.items():
        if tag.startswith(PREFIX):
            key, dot, number = tag.removeprefix(PREFIX).rpartition(".")
            if dot and number.isdigit():
                parts.setdefault(key, {})[int(number)] = value
            else:
                whole[tag.removeprefix(PREFIX)] = value
    return whole | {key: "".join(pieces[number] for number in sorted(pieces)) for key, pieces in parts.items()}


def gate_tags(gates: Mapping[str, GateResult]) -> dict[str, str]:
    return {f"gate.{name}": gate.model_dump_json() for name, gate in gates.items()}


def describe(tags: Mapping[str, str]) -> str:
    """What MLflow's pages show of a version until somebody writes something better; `tags` are the run's."""
    base, run_id, node = (tags.get(PREFIX + name, "?") for name in ("base_model", "run_id", "agent_name"))
    return f"Fine-tuned from {base} by the node {node} of the job {run_id}."


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
    values = {"digest": dataset.digest} | {key: value for key, value in profile.items() if key in DatasetInput.model_fields}
    return DatasetInput(name=dataset.name, source_address=json.loads(dataset.source).get("uri", ""), **values)


def to_model(version: Any, run: Run, aliases: Iterable[str]) -> RegisteredModel:
    """Raises NotFound if somebody took the platform's tags from the run."""
    tags = _from_tags(run.data.tags)
    if missing := {"model_id", "run_id", "agent_name", "base_model"} - tags.keys():
        raise NotFound(f"The run in MLflow has lost the tags {', '.join(PREFIX + name for name in sorted(missing))}")
    exports = {key.removeprefix("export."): tags.pop(key) for key in list(tags) if key.startswith("export.")}
    digests = {key.removeprefix("export_sha256."): tags.pop(key) for key in list(tags) if key.startswith("export_sha256.")}
    gates = {key.removeprefix("gate."): GateResult.model_validate_json(tags.pop(key)) for key in list(tags) if key.startswith("gate.")}
    return RegisteredModel(
        model_id=tags.pop("model_id"),
        run_id=tags.pop("run_id"),
        agent_name=tags.pop("agent_name"),
        base_model=tags.pop("base_model"),
        # Not the name at the beginning: it may have been renamed in MLflow.
        model_name=str(version.name),
        version=str(version.version),
        aliases=sorted(aliases),
        description=version.description or "",
        mlflow_run_id=run.info.run_id,
        datasets=[_to_dataset(item.dataset) for item in run.inputs.dataset_inputs] if run.inputs else [],
        training_config=json.loads(tags.pop("config", "{}")),
        metrics={key: value for key, value in run.data.metrics.items() if not key.startswith((CURVES, INTERVALS)) and math.isfinite(value)},
        intervals=_to_intervals(run.data.metrics),
        exports={name: address for name, address in exports.items() if name in digests},
        export_digests={name: digest for name, digest in digests.items() if name in exports},
        gates=gates,
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
