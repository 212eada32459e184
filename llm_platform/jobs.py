"""A job's life as clients see it: accepted, watched, cancelled, tried again.

The submission table makes a job durable, Dagster says in which state its run is, and the nodes' own reports say what came
out. Dagster is known here only as `Runs`, so that the library imports none of it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import secrets
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Any, Protocol

from sqlalchemy.engine import RowMapping

from llm_platform import disk, quotas, signals
from llm_platform.acceptance import Checks
from llm_platform.database import FINAL, Database
from llm_platform.errors import Conflict, NotFound, PlatformError
from llm_platform.idempotency import key_digest, key_reused
from llm_platform.keys import Caller
from llm_platform.runlog import append, line
from llm_platform.settings import Settings
from llm_platform.specs import AgentClass, Pipeline, parse_job_request
from llm_platform.specs.resources import ErrorBody, Job, JobCancelled, JobCreated, JobNode, JobResult, JobStatus, Progress
from llm_platform.storage import Storage

NAMESPACE = uuid.UUID("6b1f1a3e-6c0e-5d0a-9a55-8e6a6b5f0a11")
"""Of the uuid5 that turns a run id into the id of its first Dagster run."""

log = logging.getLogger(__name__)


class RunState(Protocol):
    """What Dagster says about one run."""

    @property
    def status(self) -> JobStatus: ...
    @property
    def started_at(self) -> datetime | None: ...
    @property
    def ended_at(self) -> datetime | None: ...
    @property
    def error(self) -> PlatformError | None: ...


class Runs(Protocol):
    """The part of the orchestrator that jobs need."""

    def states(self, dagster_run_ids: Sequence[str]) -> Mapping[str, RunState]: ...

    def cancel(self, dagster_run_id: str) -> None: ...


def job_id(run_id: str) -> str:
    return f"job_{run_id}"


def dagster_run_id(run_id: str) -> str:
    """Always the same for a run id, so that submitting twice cannot make two runs."""
    return str(uuid.uuid5(NAMESPACE, run_id))


def accept(body: Any, settings: Settings, database: Database, storage: Storage, caller: Caller, key: str | None = None) -> JobCreated:
    """The job of a POST /jobs body, written down before it is answered.

    The same body under the same run id is the same job; an idempotency `key` of a client's choice stands for a run id, where
    the body has none. Raises InvalidInput, InvalidConfig or DatasetError with everything
    that is known to fail, Conflict if the run id already stands for another pipeline, RateLimited above the owner's quota,
    and ServiceUnavailable where the disk is nearly full.
    """
    pipeline = parse_job_request(body)
    keyed = key if pipeline.config.run_id is None else None
    if keyed:
        pipeline = _with_run_id(pipeline, key_digest(caller.owner, keyed)[:16])
    known = database.submission(pipeline.config.run_id) if pipeline.config.run_id else None
    if known is None:
        disk.check(settings)
        Checks(pipeline, settings, database, storage, caller).run()
    if pipeline.config.run_id is None:
        pipeline = _with_run_id(pipeline, secrets.token_hex(8))
    run_id, digest = pipeline.config.run_id or "", pipeline_digest(pipeline)
    row = known
    if row is None:
        config = pipeline.config.model_dump(mode="json")
        first, check = dagster_run_id(run_id), partial(quotas.check_jobs, owner=caller.owner, settings=settings)
        row, _ = database.accept(run_id, dagster_run_id=first, digest=digest, pipeline=config, owner=caller.owner, check=check)
    if row["digest"] != digest or not caller.may_see(row["owner"]):
        if keyed:
            raise key_reused("pipeline", "body")
        raise Conflict(f"Run id '{run_id}' is taken by another pipeline; choose another, or leave it out", run_id=run_id)
    # Asked again, the answer is the same as long as the job goes on; of one that ended, its end is what a client must know.
    status = row["status"] if row["status"] in FINAL else "pending"
    return JobCreated(job_id=job_id(run_id), run_id=run_id, status=status, created_at=row["created_at"])


def pipeline_digest(pipeline: Pipeline) -> str:
    """SHA-256 of the pipeline config without its run id, in canonical JSON."""
    config = pipeline.config.model_dump(mode="json", exclude={"run_id"})
    if config["global_config"]["max_runtime"] is None:  # jobs of versions that did not know it keep their digest
        del config["global_config"]["max_runtime"]
    return hashlib.sha256(json.dumps(config, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _with_run_id(pipeline: Pipeline, run_id: str) -> Pipeline:
    return replace(pipeline, config=pipeline.config.model_copy(update={"run_id": run_id}))


def refresh(database: Database, runs: Runs | None, rows: Sequence[RowMapping]) -> list[RowMapping]:
    """The rows as they are now: what Dagster says about the open ones is copied first, final states once and for all.

    Without an orchestrator (it starts later than the API), or while it fails, the rows are the last that is known.
    """
    open_ = {row["dagster_run_id"]: row for row in rows if row["submitted"] and row["status"] not in FINAL}
    if runs is None or not open_:
        return list(rows)
    try:
        states = runs.states(list(open_))
    except Exception:
        log.warning("Dagster does not say in which state runs are; the last known states stand", exc_info=True)
        return list(rows)
    changed: dict[str, RowMapping] = {}
    for dagster_id, row in open_.items():
        if _copy(database, row, states.get(dagster_id)) and (fresh := database.submission(row["run_id"])):
            changed[row["run_id"]] = fresh
    return [changed.get(row["run_id"], row) for row in rows]


def _copy(database: Database, row: RowMapping, state: RunState | None) -> bool:
    """True if the row may have changed."""
    run_id, dagster_id = row["run_id"], row["dagster_run_id"]
    if state is None:
        error = ErrorBody(error="INTERNAL_ERROR", message="The Dagster run of this job was deleted", metadata={"run_id": run_id})
        database.finish(run_id, dagster_id, "failed", started_at=row["started_at"], ended_at=None, error=error.model_dump())
    elif state.status in FINAL:
        body = state.error.body() if state.error else None
        database.finish(run_id, dagster_id, state.status, started_at=state.started_at, ended_at=state.ended_at, error=body)
    elif state.status != row["status"]:
        database.update_submission(run_id, only_open=True, of_run=dagster_id, status=state.status, started_at=state.started_at)
    else:
        return False
    return True


def cancel(run_id: str, database: Database, runs: Runs | None, *, keep: bool = False) -> JobCancelled:
    """Stops a job. One that is not yet a Dagster run never becomes one. Raises NotFound, or Conflict if it has ended.

    With `keep` a training that runs ends after its step, keeps what it has as a model, and the run worker then ends the run; where
    none runs the job is stopped at once. Asked again without `keep`, nobody waits for that any more.
    What cannot be stopped now (the orchestrator is starting or failing) is remembered and done by `finish_cancels`.
    """
    row = database.submission(run_id)
    if row is None:
        raise NotFound(f"There is no job '{job_id(run_id)}'", job_id=job_id(run_id))
    if row["attempts"] == 0 and database.withdraw(run_id):
        return _cancelled(database, run_id, keep)
    (row,) = refresh(database, runs, [database.submission(run_id) or row])
    if keep and row["status"] not in FINAL and (running := signals.ask_to_keep(database, run_id)):
        if not row["keep_requested"]:  # a request that is repeated is one request
            names = ", ".join(running)
            append(database, run_id, [line("INFO", f"Asked to stop and keep: {names} ends after its current step, and the job with it")])
        return JobCancelled(job_id=job_id(run_id), status="cancelled", keeps=[*_trained(database, run_id), *running])
    if not database.update_submission(run_id, only_open=True, cancel_requested=True):
        status = (database.submission(run_id) or row)["status"]
        if status != "cancelled":
            raise Conflict(f"Job '{job_id(run_id)}' has {status}; only a job that has not ended can be cancelled", status=status)
    elif runs is not None:
        _stop(database, runs, database.submission(run_id) or row)
    return _cancelled(database, run_id, keep)


def _cancelled(database: Database, run_id: str, keep: bool) -> JobCancelled:
    """The answer for a job in which no training runs that could keep anything."""
    if not keep:
        return JobCancelled(job_id=job_id(run_id), status="cancelled")
    kept = _trained(database, run_id)
    if not kept:
        append(database, run_id, [line("WARN", "Cancelled without a training that runs: there was nothing to keep")])
    return JobCancelled(job_id=job_id(run_id), status="cancelled", keeps=kept)


def _trained(database: Database, run_id: str) -> list[str]:
    """The training nodes whose models are there."""
    trained = (AgentClass.TRAINING.value, "completed")
    return [node["agent_name"] for node in database.nodes([run_id])[run_id] if (node["agent_class"], node["status"]) == trained]


def checkpoint(run_id: str, database: Database) -> None:
    """Asks the training that runs to write a checkpoint after its current step. Raises Conflict where none runs."""
    if not signals.ask_for_checkpoint(database, run_id):
        raise Conflict(f"No training of job '{job_id(run_id)}' runs now, so there is nothing to write a checkpoint of")


def retry(row: RowMapping, settings: Settings, database: Database) -> JobCreated:
    """Gives a failed or cancelled job, as `refresh` last saw it, a new run: finished nodes are reused, training continues.

    Raises Conflict for a job that goes on or has completed, and for one whose pipeline only Dagster knows.
    """
    run_id, name, status = row["run_id"], job_id(row["run_id"]), row["status"]
    if status not in ("failed", "cancelled"):
        state = "has completed" if status == "completed" else f"is {status}"
        raise Conflict(f"Job '{name}' {state}; only a failed or cancelled job can be tried again", status=status)
    if row["pipeline"] is None:
        raise Conflict(f"Job '{name}' was launched in the Dagster UI; re-execute its run there", status=status)
    disk.check(settings)
    # Derived, so that whoever tries again after the same run means the same new run.
    following = str(uuid.uuid5(NAMESPACE, f"{run_id} after {row['dagster_run_id']}"))
    check = partial(quotas.check_jobs, owner=row["owner"], settings=settings)
    if not database.retry(run_id, dagster_run_id=following, instead_of=row["dagster_run_id"], check=check):
        raise Conflict(f"Job '{name}' is already being tried again", status="pending")
    done = [node["agent_name"] for node in database.nodes([run_id])[run_id] if node["status"] == "completed"]
    reused = f"; what finished is used again: {', '.join(done)}" if done else ""
    append(database, run_id, [line("INFO", f"The job is tried again{reused}")])
    return JobCreated(job_id=name, run_id=run_id, status="pending", created_at=row["created_at"])


def finish_cancels(database: Database, runs: Runs) -> None:
    """Stops what was asked to stop and still goes on: asked before its Dagster run was there, or before the API died."""
    for row in database.open_submissions():
        if row["cancel_requested"]:
            _stop(database, runs, row)


def _stop(database: Database, runs: Runs, row: RowMapping) -> None:
    try:
        # A claim whose holder died may have left a Dagster run behind that the table does not know.
        if row["submitted"] or row["dagster_run_id"] in runs.states([row["dagster_run_id"]]):
            runs.cancel(row["dagster_run_id"])
        else:
            database.withdraw(row["run_id"])
    except Exception:
        log.warning("Job %s could not be cancelled now; it is tried again", job_id(row["run_id"]), exc_info=True)
    refresh(database, runs, [database.submission(row["run_id"]) or row])


def view(row: RowMapping, nodes: Sequence[RowMapping], models: Sequence[str]) -> Job:
    """The job as the API shows it: its submission, its nodes in the order they started, its model ids."""
    return Job(
        job_id=job_id(row["run_id"]),
        run_id=row["run_id"],
        model_id=models[0] if models else None,
        status=row["status"],
        created_at=row["created_at"],
        started_at=row["started_at"],
        ended_at=row["ended_at"],
        progress=_progress(row, nodes),
        result=_result(row, nodes, models) if row["status"] in FINAL else None,
        nodes=_nodes(row, nodes),
    )


def views(database: Database, rows: Sequence[RowMapping]) -> list[Job]:
    """The same for several rows, with two queries for all of them."""
    run_ids = [row["run_id"] for row in rows]
    with database.read():
        nodes, models = database.nodes(run_ids), database.models_of(run_ids)
    return [view(row, nodes[row["run_id"]], models[row["run_id"]]) for row in rows]


def _progress(row: RowMapping, nodes: Sequence[RowMapping]) -> Progress:
    total = len(row["pipeline"]["nodes"]) if row["pipeline"] else len(nodes)
    return Progress(
        completed_agents=[node["agent_name"] for node in nodes if node["status"] == "completed"],
        current_agent=next((node["agent_name"] for node in nodes if node["status"] == "running"), None),
        total_agents=total,
    )


def _nodes(row: RowMapping, nodes: Sequence[RowMapping]) -> list[JobNode]:
    """In the order of the pipeline, or where only Dagster knows it, in that of their starts."""
    started = {node["agent_name"]: node for node in nodes}
    waiting = {"status": "pending", "attempts": 0, "started_at": None, "ended_at": None}
    planned = row["pipeline"]["nodes"] if row["pipeline"] else nodes
    shown = ((node, started.get(node["agent_name"], waiting)) for node in planned)
    return [
        JobNode(
            agent_name=node["agent_name"],
            agent_class=node["agent_class"],
            status=state["status"],
            attempts=state["attempts"],
            started_at=state["started_at"],
            ended_at=state["ended_at"],
        )
        for node, state in shown
    ]


def _result(row: RowMapping, nodes: Sequence[RowMapping], models: Sequence[str]) -> JobResult:
    results = {node["agent_name"]: node["result"] for node in nodes if node["result"]}
    return JobResult(
        models=list(models),
        datasets=list(dict.fromkeys(source for result in results.values() for source in result["datasets"])),
        artifacts={f"{name}.{kind}": address for name, result in results.items() for kind, address in result["artifacts"].items()},
        metrics={name: result["metrics"] for name, result in results.items() if result["metrics"]},
        error=_error(row, nodes) if row["status"] == "failed" else None,
    )


def _error(row: RowMapping, nodes: Sequence[RowMapping]) -> ErrorBody:
    """Why the job failed: what its first failed node said, and in the metadata what the others said."""
    failed = sorted((node for node in nodes if node["status"] == "failed" and node["error"]), key=lambda node: node["ended_at"])
    stopped = next((node["agent_name"] for node in nodes if node["status"] == "cancelled"), None)
    if not failed and row["error"] is None and stopped is not None:
        again = "retry the job" if row["pipeline"] else "re-execute its run in the Dagster UI"
        message = f"The platform was stopped while '{stopped}' ran; {again}, and it goes on from what it had finished"
        return ErrorBody(error="INTERNAL_ERROR", message=message, metadata={"agent": stopped})
    if not failed:
        generic = {"error": "INTERNAL_ERROR", "message": "The job failed without saying why; its log may tell more"}
        return ErrorBody.model_validate(row["error"] or generic)
    first = failed[0]
    metadata = {"agent": first["agent_name"], **first["error"].get("metadata", {})}
    if len(failed) > 1:
        metadata["failed"] = [{"agent": node["agent_name"], **node["error"]} for node in failed]
    return ErrorBody(error=first["error"]["error"], message=first["error"]["message"], metadata=metadata)
