"""A fine-tuning every week: off until it is switched on in the Dagster UI."""

import json
from dataclasses import replace
from datetime import UTC

import dagster as dg

from dagster_project.defs.jobs import pipeline
from dagster_project.defs.partitions import RUN_ID_TAG, run_ids
from dagster_project.resources import PlatformResource
from llm_platform.acceptance import Checks
from llm_platform.agents import Platform
from llm_platform.errors import InvalidConfig
from llm_platform.specs import Pipeline, parse_pipeline, run_config, stages

KEY = "weekly/pipeline.json"
"""Where in the datasets bucket the pipeline config lies; only an operator can put it there."""


@dg.schedule(
    name="weekly_finetuning",
    job=pipeline,
    cron_schedule="0 3 * * 1",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.STOPPED,
    description=f"Every Monday at 3:00 UTC, the pipeline of s3://datasets/{KEY}, as the run weekly-DATE.",
)
def weekly_finetuning(context: dg.ScheduleEvaluationContext, platform: PlatformResource) -> dg.RunRequest | dg.SkipReason:
    services = platform.get()
    address = f"s3://{services.settings.datasets_bucket}/{KEY}"
    if not services.storage.exists(address):
        return dg.SkipReason(f"There is no pipeline config at {address}; put one there with: llm-platform cp pipeline.json {address}")
    run_id = f"weekly-{context.scheduled_execution_time.astimezone(UTC):%Y-%m-%d}"
    found = _pipeline(services, address, run_id)
    context.instance.add_dynamic_partitions(str(run_ids.name), [run_id])
    return dg.RunRequest(
        run_key=run_id,
        run_config=run_config(found, gpu_pods=services.settings.gpu_pods),
        partition_key=run_id,
        asset_selection=[dg.AssetKey(stage) for stage in stages(found)],
        tags={RUN_ID_TAG: run_id},
    )


def _pipeline(platform: Platform, address: str, run_id: str) -> Pipeline:
    """The config, checked as a submission is. Raises what is wrong with it, which the tick then shows."""
    try:
        body = json.loads(b"".join(platform.storage.read_range(address)))
    except ValueError as error:
        raise InvalidConfig(f"{address} is no JSON: {error}", address=address) from None
    given = body.get("pipeline_config", body) if isinstance(body, dict) else body
    found = parse_pipeline(given)
    found = replace(found, config=found.config.model_copy(update={"run_id": run_id}))
    Checks(found, platform.settings, platform.database, platform.storage).run()
    return found
