"""TrainingAgent: trains an adapter or all weights, keeps them, and registers them as a model."""

from __future__ import annotations

import json
import shutil
import time
from typing import Any

from llm_platform.agents.models import project
from llm_platform.agents.node import Work
from llm_platform.registry import DatasetInput, MetricBuffer, MetricPoint
from llm_platform.reporting import Forwarding, Reporter
from llm_platform.specs import AgentClass, TrainingConfig
from llm_platform.specs.results import NodeResult
from llm_platform.training import base_model


class _Recorded(Forwarding):
    """Also hands training figures to MLflow."""

    def __init__(self, inner: Reporter, buffer: MetricBuffer) -> None:
        super().__init__(inner)
        self._buffer = buffer

    def metric(self, message: str, *, step: int, epoch: float, **values: float) -> None:
        super().metric(message, step=step, epoch=epoch, **values)
        at = int(time.time() * 1000)
        self._buffer.add([MetricPoint(key=name, value=value, step=step, timestamp_ms=at) for name, value in values.items()])


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
        tags=_tags(splits_data, base_model.license_of(base)),
        datasets=[
            DatasetInput(
                name=item["dataset_id"] or item["source"].rsplit("/", 1)[-1],
                digest=item["digest"],
                source_address=item["address"],
                rows=item["rows"],
                dataset_id=item["dataset_id"],
            )
            for item in splits_data["sources"]
        ],
    )
    kind = "model" if config.method == "full" else "adapter"
    out = node.work(platform) / kind
    checkpoints = node.work(platform) / "checkpoints"
    try:
        with MetricBuffer(registry, mlflow_run) as buffer:
            recorded = _Recorded(reporter, buffer)
            result = train(config, base, splits, out, checkpoints, recorded, base_name=base_name, threads=platform.settings.threads)
        address = f"s3://{platform.settings.artifacts_bucket}/{node.key}/{kind}"
        reporter.info(f"Saving the {kind}")
        stored = platform.storage.put_folder(out, address)
        version = registry.register(mlflow_run, out, model_name, kind)
    except BaseException:
        registry.fail(mlflow_run)
        raise
    figures = {"final_loss": result.final_loss, "train_seconds": result.seconds, "train_tokens_per_second": result.tokens_per_second}
    if result.validation_loss is not None:
        figures["validation_loss"] = result.validation_loss
    registry.set_metrics(model_id, figures)
    registry.set_export(model_id, "merged" if kind == "model" else kind, address, stored.sha256)  # a whole model has nothing to merge
    project(platform, model_id)
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


def _tags(splits: dict[str, Any], licence: str | None) -> dict[str, str]:
    tags = {"splits_digest": splits["digest"], "preprocessing_funnel": json.dumps(splits["report"]["funnel"])}
    return tags | ({"base_license": licence} if licence else {})
