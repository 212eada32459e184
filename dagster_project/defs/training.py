"""The stage `adapters`: one trained and registered model per node."""

from __future__ import annotations

import dagster as dg

from dagster_project.defs.preprocessing import preprocessed_splits
from dagster_project.pictures import picture
from dagster_project.stage import Described, stage_asset
from llm_platform.agents import Platform
from llm_platform.agents.models import weights
from llm_platform.specs import AgentClass
from llm_platform.specs.results import NodeResult


def _describe(_platform: Platform, results: dict[str, NodeResult]) -> Described:
    from llm_platform.training.charts import loss_png
    from llm_platform.training.result import TrainingResult

    described: dict[str, object] = {}
    for name, result in results.items():
        training = TrainingResult.model_validate(result.data["training"])
        described[f"{name} loss curve"] = picture(loss_png(training), f"training loss of {name}")
        described[f"{name} model"] = result.model_ids[0]
        described[f"{name} final loss"] = training.final_loss
        if training.validation_loss is not None:
            described[f"{name} validation loss"] = training.validation_loss
        described[f"{name} steps"] = training.steps
        described[f"{name} epochs"] = training.epochs
        described[f"{name} seconds"] = training.seconds
        described[f"{name} tokens per second"] = training.tokens_per_second
        described[f"{name} peak memory (MB)"] = training.peak_memory_mb
        kind, address = weights(result)
        described[f"{name} {kind}"] = address
        described[f"{name} registry"] = dg.MetadataValue.text(f"{result.data['model_name']}, version {result.data['version']}")
    return described


adapters = stage_asset(AgentClass.TRAINING, after=[preprocessed_splits], describe=_describe)
