"""The stage `preprocessed_splits`: token ids and loss masks, ready to train on."""

from __future__ import annotations

import dagster as dg

from dagster_project.defs.dataset import dataset
from dagster_project.defs.validation import validation
from dagster_project.pictures import picture
from dagster_project.stage import Described, stage_asset
from llm_platform.agents import Platform
from llm_platform.specs import AgentClass
from llm_platform.specs.results import NodeResult


def _describe(_platform: Platform, results: dict[str, NodeResult]) -> Described:
    from llm_platform.data.report import PreprocessingReport, funnel_png, lengths_png

    described: dict[str, object] = {}
    for name, result in results.items():
        report = PreprocessingReport.model_validate(result.data["report"])
        described[f"{name} funnel"] = picture(funnel_png(report), f"rows of {name}, from input to splits")
        described[f"{name} lengths"] = picture(lengths_png(report), f"lengths of the rows of {name}, in tokens")
        described[f"{name} report"] = dg.MetadataValue.json(result.data["report"])
        described[f"{name} splits"] = result.artifacts["splits"]
    return described


preprocessed_splits = stage_asset(AgentClass.PREPROCESSING, after=[dataset, validation], describe=_describe)
