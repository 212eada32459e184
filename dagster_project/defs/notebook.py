"""The stage `notebook_reports`: executed notebooks, rendered in the Dagster UI."""

from __future__ import annotations

import dagster as dg

from dagster_project.defs.comparison import comparison
from dagster_project.defs.dataset import dataset
from dagster_project.defs.evaluation import evaluations
from dagster_project.defs.export import exports
from dagster_project.defs.preprocessing import preprocessed_splits
from dagster_project.defs.training import adapters
from dagster_project.defs.validation import validation
from dagster_project.stage import Described, stage_asset
from llm_platform.agents import Platform
from llm_platform.specs import AgentClass
from llm_platform.specs.results import NodeResult


def _describe(platform: Platform, results: dict[str, NodeResult]) -> Described:
    described: dict[str, object] = {}
    for name, result in results.items():
        local = platform.storage.as_local(result.artifacts["notebook"], platform.settings.work / "inputs")
        described[f"{name} notebook"] = dg.MetadataValue.notebook(str(local))
        described[f"{name} address"] = result.artifacts["notebook"]
    return described


notebook_reports = stage_asset(
    AgentClass.NOTEBOOK,
    after=[dataset, validation, preprocessed_splits, adapters, evaluations, comparison, exports],
    describe=_describe,
)
