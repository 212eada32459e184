"""The only file of the API that talks to Dagster."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dagster import (
    AssetKey,
    AssetMaterialization,
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
    MetadataValue,
    RunRecord,
    RunsFilter,
    TableRecord,
)
from dagster._core.definitions.selector import JobSubsetSelector
from dagster._core.storage.tags import MAX_RUNTIME_SECONDS_TAG, PARTITION_NAME_TAG
from dagster._core.workspace.context import WorkspaceProcessContext, WorkspaceRequestContext
from dagster._core.workspace.load_target import WorkspaceFileTarget
from sqlalchemy.engine import RowMapping

from api.orchestration import RunState, RunStatus, UiRun
from llm_platform.dagster_opening import opening_dagster
from llm_platform.errors import TrainingError
from llm_platform.services import running_service
from llm_platform.settings import Settings
from llm_platform.specs import STAGES, Pipeline, run_config, stages

LOCATION = "llm_platform"
REPOSITORY = "__repository__"
JOB = "pipeline"
STAGE_KEYS = frozenset(AssetKey(stage) for stage in STAGES.values())
RUN_ID_TAG = "llm_platform/run_id"
RUN_ID_PARTITIONS = "run_id"
DATASET_ID_PARTITIONS = "dataset_id"
HEARTBEAT_SECONDS = 60.0
"""How old the daemon's heartbeat may be where no supervisor says when it started; it beats every 30 s."""

STATUSES: dict[DagsterRunStatus, RunStatus] = {
    DagsterRunStatus.QUEUED: "pending",
    DagsterRunStatus.NOT_STARTED: "pending",
    DagsterRunStatus.MANAGED: "pending",
    DagsterRunStatus.STARTING: "pending",
    DagsterRunStatus.STARTED: "running",
    DagsterRunStatus.SUSPENDED: "running",
    DagsterRunStatus.CANCELING: "running",
    DagsterRunStatus.SUCCESS: "completed",
    DagsterRunStatus.FAILURE: "failed",
    DagsterRunStatus.CANCELED: "cancelled",
}


class DagsterOrchestrator:
    """The real one: Dagster's instance in `DAGSTER_HOME` and the code location of the workspace file."""

    def __init__(self, settings: Settings) -> None:
        with opening_dagster(settings):
            self._instance = DagsterInstance.from_config(str(settings.dagster_home))
            self._instance.get_daemon_heartbeats()
        workspace = settings.workspace or _workspace(settings)
        self._settings = settings
        self._first_beat: dict[int, float] = {}
        """By the daemon's process id, the first heartbeat that was seen while it ran."""
        self._context = WorkspaceProcessContext(self._instance, WorkspaceFileTarget([str(workspace)]))
        self._lock = threading.Lock()

    def submit(self, run_id: str, dagster_run_id: str, pipeline: Pipeline) -> None:
        run = self._instance.get_run_by_id(dagster_run_id)
        with self._lock:  # a workspace context is not made for several threads at once
            request = self._request()
            if run is None:
                run = self._create(request, run_id, dagster_run_id, pipeline)
            if run.status is DagsterRunStatus.NOT_STARTED:
                self._instance.submit_run(dagster_run_id, request)

    def _request(self) -> WorkspaceRequestContext:
        """The workspace as it is now; a code server that was away when it was last read is read again."""
        request = self._context.create_request_context()
        if LOCATION not in request.code_location_names or not request.has_code_location(LOCATION):
            self._context.reload_code_location(LOCATION)
            request = self._context.create_request_context()
        return request

    def _create(self, request: WorkspaceRequestContext, run_id: str, dagster_run_id: str, pipeline: Pipeline) -> DagsterRun:
        location = request.get_code_location(LOCATION)
        selection = [AssetKey(stage) for stage in stages(pipeline)]
        selector = JobSubsetSelector(
            location_name=location.name,
            repository_name=REPOSITORY,
            job_name=JOB,
            op_selection=None,
            asset_selection=selection,
            asset_check_selection=[],
        )
        job = location.get_job(selector)
        config = run_config(pipeline, gpu_pods=self._settings.gpu_pods)
        self._instance.add_dynamic_partitions(RUN_ID_PARTITIONS, [run_id])
        tags = {**job.tags, RUN_ID_TAG: run_id, PARTITION_NAME_TAG: run_id}
        if most := pipeline.config.global_config.max_runtime or self._settings.max_runtime:
            tags[MAX_RUNTIME_SECONDS_TAG] = str(most)
        plan = location.get_execution_plan(job, config, step_keys_to_execute=None, known_state=None, instance=self._instance)
        snapshot = plan.execution_plan_snapshot
        return self._instance.create_run(
            job_name=JOB,
            run_id=dagster_run_id,
            run_config=config,
            status=DagsterRunStatus.NOT_STARTED,
            tags=tags,
            root_run_id=None,
            parent_run_id=None,
            step_keys_to_execute=snapshot.step_keys_to_execute,
            execution_plan_snapshot=snapshot,
            job_snapshot=job.job_snapshot,
            parent_job_snapshot=job.parent_job_snapshot,
            asset_selection=frozenset(selection),
            asset_check_selection=frozenset(),  # the validation step evaluates its checks itself, for its own run
            resolved_op_selection=job.resolved_op_selection,
            op_selection=None,
            remote_job_origin=job.get_remote_origin(),
            job_code_origin=job.get_python_origin(),
            asset_graph=location.get_repository(REPOSITORY).asset_graph,
        )

    def states(self, dagster_run_ids: Sequence[str]) -> dict[str, RunState]:
        if not dagster_run_ids:
            return {}
        records = self._instance.get_run_records(RunsFilter(run_ids=list(dagster_run_ids)))
        return {record.dagster_run.run_id: _state(record) for record in records}

    def cancel(self, dagster_run_id: str) -> None:
        run = self._instance.get_run_by_id(dagster_run_id)
        if run is not None and not run.is_finished:
            self._instance.run_coordinator.cancel_run(dagster_run_id)

    def ui_runs(self, since: datetime) -> list[UiRun]:
        records = self._instance.get_run_records(RunsFilter(created_after=since), ascending=True)
        # A report on a dataset has a partition too, and is no job.
        records = [record for record in records if STAGE_KEYS & (record.dagster_run.asset_selection or STAGE_KEYS)]
        named = ((record.dagster_run.tags.get(RUN_ID_TAG) or record.dagster_run.tags.get(PARTITION_NAME_TAG), record) for record in records)
        return [UiRun(name, record.dagster_run.run_id, _utc(record.create_timestamp)) for name, record in named if name]

    def record_dataset(self, row: RowMapping) -> None:
        dataset_id = row["dataset_id"]
        self._instance.add_dynamic_partitions(DATASET_ID_PARTITIONS, [dataset_id])
        self._instance.report_runless_asset_event(
            AssetMaterialization("uploaded_dataset", partition=dataset_id, metadata=_dataset_metadata(row), description=row["filename"])
        )

    def healthy(self) -> bool:
        return self._daemon_beats() and self._code_server_answers()

    def _daemon_beats(self) -> bool:
        """A heartbeat of the daemon that runs now: one of an earlier process says nothing."""
        beat = self._instance.get_daemon_heartbeats().get("QUEUED_RUN_COORDINATOR")
        if beat is None:
            return False
        process = running_service(self._settings, "dagster-daemon")
        if process is None:
            return time.time() - beat.timestamp < HEARTBEAT_SECONDS
        # Where the clock was set back, its beats seem to come from before its start: then a further one says that it lives.
        first = self._first_beat.setdefault(process.pid, beat.timestamp)
        return process.alive and (beat.timestamp >= process.started_at or beat.timestamp != first)

    def _code_server_answers(self) -> bool:
        process = running_service(self._settings, "dagster-code")
        return process is None or process.alive

    def close(self) -> None:
        self._context.__exit__(None, None, None)
        self._instance.dispose()


def _workspace(settings: Settings) -> Path:
    """Where a supervisor of this home says that its code server listens, else the file of the project."""
    if running_service(settings, "dagster-code") is not None:
        return settings.root / "workspace.yaml"
    return Path(__file__).resolve().parent.parent / "workspace.yaml"


def _state(record: RunRecord) -> RunState:
    def at(seconds: float | None) -> datetime | None:
        return datetime.fromtimestamp(seconds, UTC) if seconds else None

    run, status, error = record.dagster_run, STATUSES[record.dagster_run.status], None
    most = float(run.tags.get(MAX_RUNTIME_SECONDS_TAG, "inf"))
    # Dagster says that it failed; its worker, which ends a moment later, that it was cancelled.
    if status in ("failed", "cancelled") and record.start_time and record.end_time and record.end_time - record.start_time > most:
        status = "failed"
        error = TrainingError(f"The job was stopped because it ran longer than its max_runtime of {most:g} s", max_runtime=most)
    return RunState(run.run_id, status, at(record.start_time), at(record.end_time), error)


def _utc(value: datetime) -> datetime:
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def _dataset_metadata(row: RowMapping) -> dict[str, Any]:
    """What the asset catalog shows of an upload."""
    profile = row["profile"]
    analysis = profile["analysis"]
    bins = [
        TableRecord({"characters": f"{b['low']:g} to {b['high']:g}", "rows": b["count"], "": _bar(b, profile)})
        for b in profile["histogram"]
    ]
    described: dict[str, Any] = {
        "dagster/row_count": analysis["rows"],
        "file": row["filename"],
        "format": row["format"],
        "bytes": row["size_bytes"],
        "sha256": row["sha256"],
        "address": row["s3_path"],
        "columns": MetadataValue.json(analysis["columns"]),
        "preview": MetadataValue.json(profile["preview"]),
    }
    if bins:
        described["length histogram"] = MetadataValue.table(bins)
    return described


def _bar(item: dict[str, Any], profile: dict[str, Any]) -> str:
    most = max(other["count"] for other in profile["histogram"]) or 1
    return "█" * round(30 * item["count"] / most)
