"""The one job that every pipeline is a run of, over the stages that it has nodes for."""

import dagster as dg

from llm_platform.specs import STAGES

pipeline = dg.define_asset_job(
    "pipeline",
    selection=dg.AssetSelection.assets(*STAGES.values()).without_checks(),
    executor_def=dg.in_process_executor,
    description="A pipeline config: each stage's nodes in its asset's config.",
)
