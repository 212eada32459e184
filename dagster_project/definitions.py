"""What Dagster loads: every asset, check and job of defs/, with resources picked by settings."""

from __future__ import annotations

import dagster as dg

from dagster_project.defs.comparison import comparison
from dagster_project.defs.dataset import dataset
from dagster_project.defs.evaluation import evaluations
from dagster_project.defs.export import exports
from dagster_project.defs.jobs import pipeline
from dagster_project.defs.notebook import notebook_reports
from dagster_project.defs.preprocessing import preprocessed_splits
from dagster_project.defs.reports import dataset_report, model_report
from dagster_project.defs.retention import nightly_prune, prune
from dagster_project.defs.schedules import weekly_finetuning
from dagster_project.defs.training import adapters
from dagster_project.defs.uploads import uploaded_dataset
from dagster_project.defs.validation import validation, validation_checks
from dagster_project.executors import between_steps
from dagster_project.resources import PlatformResource
from llm_platform.settings import Settings

defs = dg.Definitions(
    assets=[
        *(uploaded_dataset, dataset, validation, preprocessed_splits, adapters, evaluations, comparison, exports, notebook_reports),
        *(dataset_report, model_report),
    ],
    asset_checks=[validation_checks],
    jobs=[pipeline, prune],
    schedules=[weekly_finetuning, nightly_prune],
    executor=dg.in_process_executor,
    resources={"platform": PlatformResource(), **between_steps(Settings())},
)
