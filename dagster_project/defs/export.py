"""The stage `exports`: the trained models in the formats that people load."""

from __future__ import annotations

from dagster_project.defs.comparison import comparison
from dagster_project.defs.training import adapters
from dagster_project.stage import Described, stage_asset
from llm_platform.agents import Platform
from llm_platform.specs import AgentClass
from llm_platform.specs.results import NodeResult


def _describe(_platform: Platform, results: dict[str, NodeResult]) -> Described:
    return {f"{name} {kind}": address for name, result in results.items() for kind, address in result.artifacts.items()}


exports = stage_asset(AgentClass.EXPORT, after=[adapters, comparison], describe=_describe)
