"""TrainingAgent: trains an adapter or all weights, keeps them, and registers them as a model."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

from llm_platform.agents.models import project
from llm_platform.agents.node import Work
from llm_platform.registry import DatasetInput, MetricBuffer, MetricPoint
from llm_platform.registry.card import CONTAMINATION_TAG, FUNNEL_TAG, LICENSE_TAG, PREPROCESSING_TAG, STOPPED_TAG, TRAINING_TAG
from llm_platform.registry.lineage import BASE_FILES_TAG, SPLITS_SHA256_TAG, SPLITS_TAG, WEIGHTS_SHA256_TAG, WEIGHTS_TAG
from llm_platform.reporting import Forwarding, Reporter
from llm_platform.signals import listening
from llm_platform.specs import AgentClass, TrainingConfig
from llm_platform.specs.results import NodeResult
from llm_platform.storage import Storage, StoredFolder
from llm_platform.training import base_model
from llm_platform.training.result import TrainingResult


class _Recorded(Forwarding):
    """Also hands training figures to MLflow."""

    def __init__(self, inner: Reporter, buffer: MetricBuffer) -> None:
        super().__init__(inner)
        self._buffer = buffer

    def metric(self, message: str, *, step: int, epoch: float, **values: float) -> None:
        super().metric(message, step=step, epoch=epoch, **values)
        at = int(time.time() * 1000)
        figures = {"epoch": epoch, **values}
        self._buffer.add([MetricPoint(key=name, value=value, step=step, timestamp_ms=at) for name, value in figures.items()])


def run_training(work: Work) -> NodeResult:
    """The address of what was trained in `artifacts.adapter` (method full: `artifacts.model`); the model in `model_ids` and `data`."""
    from llm_platform.training.train import train

    config = work.node.config
    assert isinstance(config, TrainingConfig)
    platform, node, reporter = work.platform, work.node, work.reporter
    (source,) = work.of(AgentClass.PREPROCESSING)
    splits_data = source.result.data
    base_name = splits_data["base_model"]
    base = base_model.resolve(base_name, platform.settings, reporter)
    splits = platform.storage.as_local(source.result.artifacts["splits"], platform.settings.work / "inputs")

    model_id = f"model_{node.run_id}" if node.peers == 1 else f"model_{node.run_id}.{node.agent_name}"
    model_name = config.model_name or f"{base_name.rsplit('/', 1)[-1]}-finetuned"
    registry = platform.registry
    mlflow_run = registry.begin(
        model_id=model_id,
        run_id=node.run_id,
        agent_name=node.agent_name,
        model_name=model_name,
        base_model=base_name,
        config=config.model_dump(mode="json"),
        tags=_tags(source.result, platform.storage, base),
        datasets=[
            DatasetInput(
                name=item["dataset_id"] or item["source"].rsplit("/", 1)[-1],
                digest=item["digest"],
                source_address=item["address"],
                rows=item["rows"],
                dataset_id=item["dataset_id"],
                sha256=_sha256_at(platform.storage, item["address"]),
                file_address=(item.get("file") or {}).get("address"),
                file_sha256=(item.get("file") or {}).get("sha256"),
            )
            for item in splits_data["sources"]
        ],
    )
    kind = "model" if config.method == "full" else "adapter"
    out = node.work(platform) / kind
    checkpoints = node.work(platform) / "checkpoints"
    threads = platform.settings.threads
    try:
        # A model that was kept stays what it is, if this run was killed before it could say so: then no step more is taken.
        kept = checkpoints.exists() and (known := registry.get(model_id)) is not None and STOPPED_TAG in known.tags
        with MetricBuffer(registry, mlflow_run) as buffer, listening(platform.database, node.run_id, stop=kept) as control:
            recorded = _Recorded(reporter, buffer)
            result = train(config, base, splits, out, checkpoints, recorded, base_name=base_name, threads=threads, control=control)
        address = f"s3://{platform.settings.artifacts_bucket}/{node.key}/{kind}"
        reporter.info(f"Saving the {kind}")
        stored = platform.storage.put_folder(out, address)
        stopped = {STOPPED_TAG: f"on request, after step {result.steps}"} if result.stopped_on_request else {}
        version = registry.register(mlflow_run, out, model_name, kind, stopped | _trained(result, stored))
    except BaseException:
        registry.fail(mlflow_run)
        raise
    figures = {"final_loss": result.final_loss, "train_seconds": result.seconds, "train_tokens_per_second": result.tokens_per_second}
    if result.validation_loss is not None:
        figures["validation_loss"] = result.validation_loss
    registry.set_metrics(model_id, figures)
    registry.set_export(model_id, "merged" if kind == "model" else kind, address, stored.sha256)  # a whole model has nothing to merge
    project(platform, model_id)
    if not result.stopped_on_request:  # see `kept` above
        shutil.rmtree(node.work(platform), ignore_errors=True)
    reporter.info(f"Model registered: {model_name}, version {version}", model_id=model_id)
    return NodeResult(
        artifacts={kind: address},
        datasets=source.result.datasets,
        metrics=figures,
        model_ids=[model_id],
        data={
            "training": result.model_dump(mode="json"),
            "mlflow_run_id": mlflow_run,
            "version": version,
            "model_name": model_name,
            "base_model": base_name,
            "splits": source.result.artifacts["splits"],
            "preprocessing": splits_data["config"],
        },
    )


def _tags(prepared: NodeResult, storage: Storage, base: Path) -> dict[str, str]:
    """What the model is made from, for its card and its lineage."""
    splits, licence = prepared.data, base_model.license_of(base)
    tags = {
        "splits_digest": splits["digest"],
        FUNNEL_TAG: json.dumps(splits["report"]["funnel"]),
        PREPROCESSING_TAG: json.dumps(splits["config"]),
        SPLITS_TAG: prepared.artifacts["splits"],
        BASE_FILES_TAG: json.dumps(base_model.file_digests(base)),
    }
    contamination = splits["report"]["contamination"]
    optional = {
        SPLITS_SHA256_TAG: _sha256_at(storage, prepared.artifacts["splits"]),
        # Without the examples: what people wrote stays in the object store.
        CONTAMINATION_TAG: json.dumps({**contamination, "examples": []}) if contamination else None,
        LICENSE_TAG: licence,
    }
    return tags | {name: value for name, value in optional.items() if value is not None}


def _trained(result: TrainingResult, stored: StoredFolder) -> dict[str, str]:
    """How training went (its curves are metrics), and what came of it."""
    facts = result.model_dump_json(exclude={"losses", "validation_losses"})
    return {TRAINING_TAG: facts, WEIGHTS_TAG: stored.address, WEIGHTS_SHA256_TAG: stored.sha256}


def _sha256_at(storage: Storage, address: str) -> str | None:
    found = storage.stat(address)
    return found.sha256 if found else None
