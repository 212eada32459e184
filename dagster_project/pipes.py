"""Runs a heavy node as a process of its own, started with Dagster Pipes, of which nothing is left when it ends.

The stock Pipes client leaves a child that ignores SIGTERM alive, and its grandchildren: this one puts the child in a
session of its own and kills the whole group, TERM first, then KILL.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress

import dagster as dg
import psutil
from dagster._utils.interrupts import capture_interrupts

from llm_platform.agents import Node, Platform
from llm_platform.errors import PlatformError, TrainingError, from_body
from llm_platform.specs.results import NodeResult

TERM_SECONDS = 3.0
QUIET_THREADS = {"OMP_WAIT_POLICY": "PASSIVE"}
"""OpenMP's threads spin while they wait, by default: two trainings on one machine then take five times as long (measured)."""
WORKER = [sys.executable, "-m", "dagster_project.worker"]


def run_in_process_group(context: dg.OpExecutionContext, platform: Platform, node: Node) -> NodeResult:
    """The node's result. Raises what the node raised; a killed process is a TrainingError that may be retried."""
    with dg.open_pipes_session(
        context=context,
        context_injector=dg.PipesEnvContextInjector(),
        message_reader=dg.PipesTempFileMessageReader(),
        extras={"node": node.to_dict()},
    ) as session:
        env = QUIET_THREADS | dict(os.environ) | dict(session.get_bootstrap_env_vars()) | {"LLM_PLATFORM_PARENT": str(os.getpid())}
        process = subprocess.Popen(WORKER, env=env, start_new_session=True, stdin=subprocess.DEVNULL)
        try:
            code = process.wait()
        finally:
            with capture_interrupts():  # a second request to stop must not cut the cleaning up short
                _end_group(process)
                _sweep(platform, node)
    if code == 0:
        row = platform.database.node(node.run_id, node.agent_name)
        if row is not None and row["result"] is not None:
            return NodeResult.model_validate(row["result"])
    raise _error(platform, node, code)


def _error(platform: Platform, node: Node, code: int) -> PlatformError:
    row = platform.database.node(node.run_id, node.agent_name)
    if row is not None and row["status"] == "failed" and row["error"] is not None:
        return from_body(row["error"])
    if row is not None and row["status"] == "cancelled":  # told to stop, but not by this run's being cancelled
        return TrainingError(f"{node.agent_class.value} '{node.agent_name}' was interrupted", agent=node.agent_name)
    how = f"was killed by signal {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
    error = TrainingError(f"The process of {node.agent_class.value} '{node.agent_name}' {how}", agent=node.agent_name)
    error.retryable = code < 0
    platform.database.end_node(node.run_id, node.agent_name, "failed", error=error.body())
    return error


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """Ends what is left of the child's process group and session, also a grandchild that outlived it."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(TERM_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for other in psutil.process_iter():
        with suppress(psutil.Error, ProcessLookupError):
            if other.pid != os.getpid() and os.getsid(other.pid) == process.pid:
                other.kill()


def _sweep(platform: Platform, node: Node) -> None:
    """Removes what a killed process could not: folders that were being written, by their .tmp."""
    for path in node.work(platform).rglob("*.tmp"):
        shutil.rmtree(path, ignore_errors=True)
