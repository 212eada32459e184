"""Runs a heavy node as a process of its own, started with Dagster Pipes, of which nothing is left when it ends.

It is forked by the service `dagster-workers`, which has everything imported; where there is none (`dagster dev`, or it is just
being restarted), a new Python is started, which takes seconds longer and is the same otherwise.

The stock Pipes client leaves a child that ignores SIGTERM alive, and its grandchildren: this one puts the child in a
session of its own and kills the whole group, TERM first, then KILL.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import dagster as dg
from dagster._utils.interrupts import capture_interrupts

from dagster_project import worker
from dagster_project.node_workers import NodeWorker
from dagster_project.sessions import MARK, kill_marked, kill_session
from llm_platform.agents import Node, Platform
from llm_platform.errors import PlatformError, TrainingError, from_body
from llm_platform.notebook_process import kill_all
from llm_platform.specs import AgentClass
from llm_platform.specs.results import NodeResult

TERM_SECONDS = 3.0


def run_in_process_group(context: dg.OpExecutionContext, platform: Platform, node: Node) -> NodeResult:
    """The node's result. Raises what the node raised; a killed process is a TrainingError that may be retried."""
    with dg.open_pipes_session(
        context=context,
        context_injector=dg.PipesEnvContextInjector(),
        message_reader=dg.PipesTempFileMessageReader(),
        extras={"node": node.to_dict()},
    ) as session:
        folder = str(node.work(platform))
        env = worker.QUIET_THREADS | dict(os.environ) | dict(session.get_bootstrap_env_vars()) | {MARK: folder}
        process = _start(platform.settings.root, env)
        try:
            code = process.wait()
        finally:
            with capture_interrupts():  # a second request to stop must not cut the cleaning up short
                _end_group(process)
                kill_marked(folder)
                sweep(platform, node)
    return outcome(platform, node, code)


def outcome(platform: Platform, node: Node, code: int) -> NodeResult:
    """What a node's process that ended with this exit code has made. Raises what it raised."""
    if code == 0:
        row = platform.database.node(node.run_id, node.agent_name)
        if row is not None and row["result"] is not None:
            return NodeResult.model_validate(row["result"])
    raise _error(platform, node, code)


def _start(home: Path, env: Mapping[str, str]) -> subprocess.Popen[bytes] | NodeWorker:
    try:
        return NodeWorker(home, env)
    except OSError:
        env = {**env, worker.PARENT: str(os.getpid())}
        return subprocess.Popen(worker.COMMAND, env=env, start_new_session=True, stdin=subprocess.DEVNULL)


def _error(platform: Platform, node: Node, code: int) -> PlatformError:
    row = platform.database.node(node.run_id, node.agent_name)
    if row is not None and row["status"] == "failed" and row["error"] is not None:
        return from_body(row["error"])
    if row is not None and row["status"] == "cancelled":  # told to stop, but not by this run's being cancelled
        return TrainingError(f"{node.agent_class.value} '{node.agent_name}' was interrupted", agent=node.agent_name)
    how = f"was killed by signal {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
    if code == -signal.SIGKILL:
        how += ". Where nobody killed it, the system did, for want of memory: lower batch_size, or max_length in preprocessing"
    error = TrainingError(f"The process of {node.agent_class.value} '{node.agent_name}' {how}", agent=node.agent_name)
    error.retryable = code < 0
    platform.database.end_node(node.run_id, node.agent_name, "failed", error=error.body())
    return error


def _end_group(process: subprocess.Popen[bytes] | NodeWorker) -> None:
    """Ends what is left of the child's process group and session, also a grandchild that outlived it."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(TERM_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    kill_session(process.pid)


def sweep(platform: Platform, node: Node) -> None:
    """Removes what a killed process could not: what a notebook started, and folders that were being written, by their .tmp."""
    if node.agent_class is AgentClass.NOTEBOOK:
        kill_all(node.work(platform))
    for path in node.work(platform).rglob("*.tmp"):
        shutil.rmtree(path, ignore_errors=True)
