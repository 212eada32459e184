"""The one job that every pipeline is a run of, over the stages that it has nodes for."""

import dagster as dg

from dagster_project.executors import step_executor
from llm_platform.settings import Settings
from llm_platform.specs import STAGES

pipeline = dg.define_asset_job(
    "pipeline",
    selection=dg.AssetSelection.assets(*STAGES.values()).without_checks(),
    executor_def=step_executor(Settings()),
    description="A pipeline config: each stage's nodes in its asset's config.",
)
