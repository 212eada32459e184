"""Removing what is old every night: off until it is switched on in the Dagster UI."""

from typing import Any

import dagster as dg
from pydantic import Field

from dagster_project.resources import PlatformResource
from dagster_project.retention import prune as run_prune


class PruneConfig(dg.Config):
    """How old, and whether it goes."""

    older_than_days: int = Field(default=0, description="Days since a job's end; LLM_PLATFORM_RETENTION_DAYS, if 0.")
    dry_run: bool = Field(default=False, description="Only say what would go.")


@dg.op
def remove_what_is_old(context: dg.OpExecutionContext, config: PruneConfig, platform: PlatformResource) -> dg.Output[None]:
    services = platform.get()
    found = run_prune(services, context.instance, config.older_than_days or services.settings.retention_days, dry_run=config.dry_run)
    for reason in found.skipped:
        context.log.warning(f"Kept: {reason}")
    rows = [dg.TableRecord({"what": kind, "number": count, "bytes": size}) for kind, (count, size) in found.totals().items()]
    shown: dict[str, Any] = {"things": len(found.items), "bytes": found.size_bytes, "removed": not found.dry_run}
    return dg.Output(None, metadata=shown | ({"by kind": dg.MetadataValue.table(rows)} if rows else {}))


@dg.job(description="Removes runs, logs, checkpoints and artifacts of jobs that ended long ago, but nothing that a model is made of.")
def prune() -> None:
    remove_what_is_old()


nightly_prune = dg.ScheduleDefinition(
    name="nightly_prune",
    job=prune,
    cron_schedule="30 4 * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.STOPPED,
    description="Every night at 4:30 UTC, what ended LLM_PLATFORM_RETENTION_DAYS days ago and nobody needs.",
)
