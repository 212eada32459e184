"""The stage `evaluations`: base against tuned, on rows that training never saw."""

from __future__ import annotations

import dagster as dg

from dagster_project.defs.training import adapters
from dagster_project.stage import Described, stage_asset
from llm_platform.agents import Platform
from llm_platform.specs import AgentClass
from llm_platform.specs.results import NodeResult


def _describe(_platform: Platform, results: dict[str, NodeResult]) -> Described:
    records = [
        dg.TableRecord(
            {"node": name, "model": model, "metric": metric, "base": _shown((report["base"] or {}).get(metric)), "tuned": _shown(value)}
        )
        for name, result in results.items()
        for model, report in result.data["reports"].items()
        for metric, value in report["tuned"].items()
    ]
    figures = {f"{name} {metric}": value for name, result in results.items() for metric, value in result.metrics.items()}
    return {"metrics": dg.MetadataValue.table(records), **figures}


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


evaluations = stage_asset(AgentClass.EVALUATION, after=[adapters], describe=_describe)
