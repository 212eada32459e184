"""What must hold whatever was killed: each function names what does not. They are asked when all jobs have ended."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Sequence
from typing import Any

import httpx
from dagster import DagsterInstance, DagsterRunStatus, RunsFilter
from filelock import FileLock, Timeout

from llm_platform.registry import Registry
from llm_platform.reporting import ConsoleReporter
from llm_platform.verify import verify
from tests.faults.harness import RUN_PROCESSES, Faulty

FINAL = ("completed", "failed", "cancelled")


def lost(platform: Faulty, accepted: Sequence[str]) -> list[str]:
    """Run ids that were answered with 2xx and are not among the jobs."""
    listed: set[str] = set()
    page: list[dict[str, Any]] = [{}]
    while page:
        query = {"limit": 100, "offset": len(listed)}
        page = platform.running.http.get("/jobs", params=query).raise_for_status().json()["items"]
        listed |= {job["run_id"] for job in page}
    return [run_id for run_id in accepted if run_id not in listed]


def unexplained(job: dict[str, Any]) -> list[str]:
    """A job that did not complete says why, in the specification's words, and can be tried again."""
    if job["status"] == "completed":
        return []
    error = (job["result"] or {}).get("error") or {}
    if job["status"] == "failed" and error.get("error") and error.get("message"):
        return []
    return [f"{job['run_id']} is {job['status']} with the error {error}"]


def twice(platform: Faulty, run_id: str, tries: int) -> list[str]:
    """A completed job has one Dagster run that succeeded, at most one more for each retry, and one version per model."""
    found: list[str] = []
    with DagsterInstance.from_config(str(platform.settings.dagster_home)) as instance:
        runs = instance.get_runs(RunsFilter(tags={"llm_platform/run_id": run_id}))
    succeeded = [run for run in runs if run.status is DagsterRunStatus.SUCCESS]
    if len(succeeded) != 1 or len(runs) > tries:
        found.append(f"{run_id}: {len(runs)} Dagster runs, {len(succeeded)} of them succeeded, for {tries} tries")
    versions = _versions(platform, run_id)
    if len(versions) != 1:
        found.append(f"{run_id}: {len(versions)} registered versions")
    return found


def _versions(platform: Faulty, run_id: str) -> list[dict[str, Any]]:
    """Of the registered models, those of this job's one training."""
    url = f"{platform.settings.mlflow_url}/api/2.0/mlflow/model-versions/search"
    wanted = {"filter": f"tag.`llm_platform.model_id` = 'model_{run_id}'", "max_results": 100}
    return httpx.get(url, params=wanted, timeout=30).raise_for_status().json().get("model_versions", [])


def held(platform: Faulty) -> list[str]:
    """Places in Dagster's queue, GPU locks and processes that an ended job still has."""
    with DagsterInstance.from_config(str(platform.settings.dagster_home)) as instance:
        unfinished = [run for run in instance.get_runs() if not run.is_finished]
    found = [f"the Dagster run {run.run_id} is {run.status.value}" for run in unfinished]
    locks = (platform.settings.cache.expanduser() / "gpus").glob(f"{platform.environment['CUDA_VISIBLE_DEVICES']}.*.lock")
    for path in locks:
        try:
            with FileLock(path, blocking=False):
                pass
        except Timeout:
            found.append(f"{path.name} is held")
    return found + [f"the process {name} is there" for name in platform.named(*RUN_PROCESSES, "tail").values()]


def half_written(platform: Faulty, run_id: str) -> list[str]:
    """Every byte of what the API lists of a job's model is what was recorded of it, from the API and from the object store."""
    found: list[str] = []
    http, model_id = platform.running.http, f"model_{run_id}"
    files = http.get(f"/models/{model_id}/files").raise_for_status().json()["files"]
    tar = http.get(f"/models/{model_id}/download", params={"format": "adapter"}).raise_for_status().content
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        members = {member.name: archive.extractfile(member) for member in archive if member.isfile()}
        digests = {name: hashlib.sha256(file.read()).hexdigest() for name, file in members.items() if file is not None}
    for file in files:
        there = [digest for name, digest in digests.items() if name == file["path"] or name.endswith("/" + file["path"])]
        if there != [file["sha256"]]:
            found.append(f"{model_id}: {file['path']} was downloaded as {there}, not {file['sha256']}")
    settings = platform.settings
    registry = Registry(settings.resolved_mlflow_url)
    for link in verify(model_id, registry, platform.storage, settings, ConsoleReporter()).links:
        found += [f"{model_id}: {link.name}: {problem}" for problem in link.problems]
    return found


def broken_log(platform: Faulty, run_id: str) -> list[str]:
    """A log's cursors are 1, 2, 3 ... to its total, without gap or repeat, in the stream as in the history."""
    total = platform.running.http.get(f"/logs/history/{run_id}", params={"limit": 1}).raise_for_status().json()["total"]
    with platform.running.http.stream("GET", f"/logs/stream/{run_id}") as stream:
        seen = [text.removeprefix("id: ") for text in stream.iter_lines() if text.startswith("id: ")]
    expected = [f"{run_id}:{number}" for number in range(1, total + 1)]
    return [] if seen == expected else [f"{run_id}: the stream has {len(seen)} lines, not 1 to {total} in order"]
