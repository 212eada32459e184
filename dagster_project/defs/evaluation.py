"""The stage `evaluations`: base against tuned, on rows that training never saw."""

from __future__ import annotations

from typing import Any

import dagster as dg

from dagster_project.defs.training import adapters
from dagster_project.stage import Described, stage_asset
from llm_platform.agents import Platform
from llm_platform.specs import AgentClass
from llm_platform.specs.results import NodeResult


def _describe(_platform: Platform, results: dict[str, NodeResult]) -> Described:
    records: list[dg.TableRecord] = []
    described: dict[str, object] = {}
    for name, result in results.items():
        for model, report in result.data["reports"].items():
            parts = {part: report["intervals"].get(part, {}) for part in ("base", "tuned")}
            for metric, value in report["tuned"].items():
                record = {
                    "node": name,
                    "model": model,
                    "metric": metric,
                    "base": _shown((report["base"] or {}).get(metric), parts["base"].get(metric)),
                    "tuned": _shown(value, parts["tuned"].get(metric)),
                    "rows": parts["tuned"].get(metric, {}).get("count", report["samples"]),
                }
                records.append(dg.TableRecord(record))
            for part, confusion in report["confusion"].items():
                described[f"{name} {model} {part} confusion"] = _matrix(confusion)
        described |= {f"{name} {metric}": value for metric, value in result.metrics.items()}
    return {"metrics": dg.MetadataValue.table(records), **described}


def _shown(value: float | None, interval: dict[str, float] | None) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" + (f" ({interval['low']:.3g} to {interval['high']:.3g})" if interval else "")


def _matrix(confusion: dict[str, Any]) -> dg.MarkdownMetadataValue:
    """Rows are the references' labels, columns what was answered."""
    labels = [label.replace("|", "\\|") for label in confusion["labels"]]
    lines = [["", *labels, "(no label)"], ["---"] * (len(labels) + 2)]
    lines += [[label, *map(str, counts)] for label, counts in zip(labels, confusion["rows"], strict=True)]
    return dg.MetadataValue.md("\n".join(f"| {' | '.join(line)} |" for line in lines))


evaluations = stage_asset(AgentClass.EVALUATION, after=[adapters], describe=_describe)
