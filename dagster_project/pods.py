"""A run's steps as pods of their own: Dagster's executor for Kubernetes, and what it leaves undone.

    the run's pod ──a Kubernetes job per step──> the step's pod, which runs its node as a run worker does elsewhere

Of a pod that died the run's pod hears in seconds, and starts another one where the job may try again, as other executors do with a
process that died. And the pod of a step ends with its run: when the run's own pod is killed, Kubernetes would let it train on, beside
that of a retry.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import dagster as dg
from dagster._core.events import DagsterEvent
from dagster._core.execution.context.system import IStepContext
from dagster._core.execution.plan.objects import StepRetryData
from dagster._core.execution.plan.state import KnownExecutionState
from dagster._core.executor.base import Executor
from dagster._core.executor.step_delegating import StepDelegatingExecutor
from dagster_k8s import k8s_job_executor
from dagster_shared.error import SerializableErrorInfo

from dagster_project.executors import retry_wait

LOOK_SECONDS = 5
"""How often the run's pod looks whether those of its steps live, and they whether their run goes on."""
log = logging.getLogger(__name__)


class PodExecutor(StepDelegatingExecutor):
    """Dagster's, made again with other habits."""

    @classmethod
    def of(cls, made: StepDelegatingExecutor) -> PodExecutor:
        return cls(
            made._step_handler,
            made.retries,
            check_step_health_interval_seconds=LOOK_SECONDS,
            max_concurrent=made._max_concurrent,
            tag_concurrency_limits=made._tag_concurrency_limits,
            should_verify_step=made._should_verify_step,
            step_dependency_config=made.step_dependency_config,
        )

    def log_failure_or_retry_event_after_error(
        self, step_context: IStepContext, err_info: SerializableErrorInfo, known_state: KnownExecutionState
    ) -> DagsterEvent:
        """For a pod that ended without a word of its own; what a node says itself, it says in `dagster_project.stage`."""
        config: Any = step_context.dagster_run.run_config
        stage = config.get("ops", {}).get(step_context.node_handle.path[0], {})
        attempt = known_state.get_retry_state().get_attempt_count(step_context.step.key)
        if attempt >= stage.get("config", {}).get("max_retries", 0):
            return super().log_failure_or_retry_event_after_error(step_context, err_info, known_state)
        return DagsterEvent.step_retry_event(step_context, StepRetryData(err_info, seconds_to_wait=retry_wait(attempt)))


_SCHEMA: Any = k8s_job_executor.config_schema


@dg.executor(name=k8s_job_executor.name, config_schema=_SCHEMA, requirements=k8s_job_executor._requirements_fn)
def pods(context: dg.InitExecutorContext) -> Executor:
    """Each step in a pod, by a Kubernetes job."""
    create = k8s_job_executor.executor_creation_fn
    assert create is not None
    made = create(context)
    assert isinstance(made, StepDelegatingExecutor)
    return PodExecutor.of(made)


@contextmanager
def ends_with_run(context: dg.OpExecutionContext) -> Iterator[None]:
    """Interrupts the block as a request to stop would, when the run has ended without it."""
    left = threading.Event()

    def look() -> None:
        while not left.wait(LOOK_SECONDS):
            try:
                run = context.instance.get_run_by_id(context.run_id)
            except Exception:
                log.warning("Dagster does not say how the run is; the next look is soon", exc_info=True)
                continue
            if run is None or run.is_finished:
                os.kill(os.getpid(), signal.SIGINT)
                return

    watch = threading.Thread(target=look, name="ends-with-run", daemon=True)
    watch.start()
    try:
        yield
    finally:
        left.set()
        watch.join()
