"""A job whose steps the executor of pods starts as processes; the step dies as often as the file `deaths` in its folder says."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._core.definitions.executor_definition import multiple_process_executor_requirements
from dagster._core.events import DagsterEvent
from dagster._core.execution.retries import RetryMode
from dagster._core.executor.step_delegating import CheckStepHealthResult, StepDelegatingExecutor, StepHandler, StepHandlerContext

from dagster_project.pods import PodExecutor


class Processes(StepHandler):
    """As dagster-k8s does it with pods."""

    def __init__(self) -> None:
        super().__init__()
        self._started: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def name(self) -> str:
        return "Processes"

    def launch_step(self, step_handler_context: StepHandlerContext) -> Iterator[DagsterEvent]:
        args = step_handler_context.execute_step_args
        env = {item["name"]: item["value"] for item in args.get_command_env()}
        command = [sys.executable, "-m", *args.get_command_args(skip_serialized_namedtuple=True)]
        self._started[_key(step_handler_context)] = subprocess.Popen(command, env=os.environ | env)
        return iter(())

    def check_step_health(self, step_handler_context: StepHandlerContext) -> CheckStepHealthResult:
        if self._started[_key(step_handler_context)].poll():
            return CheckStepHealthResult.unhealthy("it died")
        return CheckStepHealthResult.healthy()

    def terminate_step(self, step_handler_context: StepHandlerContext) -> Iterator[DagsterEvent]:
        for process in self._started.values():
            process.kill()
        return iter(())


def _key(context: StepHandlerContext) -> str:
    keys = context.execute_step_args.step_keys_to_execute
    assert keys is not None and len(keys) == 1
    return keys[0]


@dg.executor(name="processes", requirements=multiple_process_executor_requirements())
def processes(_context: dg.InitExecutorContext) -> PodExecutor:
    return PodExecutor.of(StepDelegatingExecutor(Processes(), RetryMode.ENABLED, sleep_seconds=0.05, should_verify_step=True))


@dg.op(config_schema={"folder": str})
def work_node(context: dg.OpExecutionContext) -> None:
    folder = Path(context.op_config["folder"])
    attempts = len(list(folder.glob("attempt-*")))
    (folder / f"attempt-{attempts}").touch()
    if attempts < int((folder / "deaths").read_text()):
        os._exit(9)


@dg.config_mapping(config_schema={"folder": str, "max_retries": int})
def to_node(value: Any) -> dict[str, Any]:
    return {"work_node": {"config": {"folder": value["folder"]}}}


@dg.graph(config=to_node)
def work() -> None:
    work_node()


@dg.job(executor_def=processes)
def everything() -> None:
    work()
