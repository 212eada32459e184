"""The stage `comparison`: the models of a run beside each other, and which of them became the champion."""

from __future__ import annotations

import dagster as dg

from dagster_project.defs.evaluation import evaluations
from dagster_project.pictures import picture
from dagster_project.stage import Described, stage_asset
from llm_platform.agents import Platform
from llm_platform.specs import AgentClass
from llm_platform.specs.comparison import Comparison, Promotion
from llm_platform.specs.results import NodeResult


def _describe(_platform: Platform, results: dict[str, NodeResult]) -> Described:
    from llm_platform.evaluation.charts import comparison_png

    described: dict[str, object] = {}
    records: list[dg.TableRecord] = []
    for name, result in results.items():
        comparison = Comparison.model_validate(result.data["comparison"])
        promotion = Promotion.model_validate(result.data["promotion"])
        described[f"{name} chart"] = picture(comparison_png(comparison, result.data["metric"]), f"models of {name}")
        described[f"{name} best"] = promotion.model_id
        described[f"{name} promoted"] = promotion.promoted
        if promotion.reasons:
            described[f"{name} reasons"] = "; ".join(promotion.reasons)
        described |= {f"{name} {kind}": address for kind, address in result.artifacts.items()}
        records += _records(name, comparison)
    return {"comparison": dg.MetadataValue.table(records), **described}


def _records(node: str, comparison: Comparison) -> list[dg.TableRecord]:
    """A line for each model and metric, with the difference to the baseline."""
    against = {item.model_id: item for item in comparison.differences}
    records: list[dg.TableRecord] = []
    for model in comparison.models:
        item = against.get(model.model_id)
        for metric, value in model.metrics.items():
            paired = item.intervals.get(metric) if item else None
            difference = f"{item.differences[metric]:+.4g} ({paired.low:+.3g} to {paired.high:+.3g})" if item and paired else ""
            bound = model.intervals[metric]
            records.append(
                dg.TableRecord(
                    {
                        "node": node,
                        "model": model.model_id,
                        "metric": metric,
                        "value": f"{value:.4g} ({bound.low:.3g} to {bound.high:.3g})",
                        "baseline": comparison.baseline,
                        "difference": difference,
                    }
                )
            )
    return records


comparison = stage_asset(AgentClass.COMPARISON, after=[evaluations], describe=_describe)
