"""The stage `dataset`: the rows that a run works on."""

from __future__ import annotations

import dagster as dg

from dagster_project.defs.uploads import uploaded_dataset
from dagster_project.stage import Described, stage_asset
from llm_platform.agents import Platform
from llm_platform.specs import AgentClass
from llm_platform.specs.results import NodeResult


def _describe(_platform: Platform, results: dict[str, NodeResult]) -> Described:
    records = [
        dg.TableRecord({"node": name, "source": r.data["source"], "rows": r.data["rows"], "columns": ", ".join(r.data["columns"])})
        for name, r in results.items()
    ]
    return {
        "datasets": dg.MetadataValue.table(records),
        "dagster/row_count": sum(result.data["rows"] for result in results.values()),
    }


dataset = stage_asset(AgentClass.DATASET, after=[uploaded_dataset], describe=_describe)
