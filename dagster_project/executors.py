"""Which nodes an executor places elsewhere, and what they ask of it: `LLM_PLATFORM_EXECUTOR` is `local`, `ray` or `k8s`.

`local` and `ray` run the steps of a run one after the other in the run worker, which starts a process for each heavy node, here or on
the Ray cluster (`ray_workers`). `k8s` gives each step a pod; those of heavy nodes have GPUs.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import dagster as dg

from llm_platform.agents import Node
from llm_platform.settings import Settings
from llm_platform.specs import AgentClass, TrainingConfig
from llm_platform.specs.kubernetes import gpu_container

FIRST_RETRY_SECONDS = 1.0
HEAVY = frozenset({AgentClass.TRAINING, AgentClass.EVALUATION, AgentClass.EXPORT})
"""The nodes that compute with a model; all others run where the run worker is, or in a pod without a GPU."""


def devices(node: Node) -> int:
    """How many GPUs a heavy node is given, or processes where there are none."""
    return node.config.devices if isinstance(node.config, TrainingConfig) else 1


def step_executor(settings: Settings) -> dg.ExecutorDefinition:
    """Dagster's executor of a run's steps. Raises ModuleNotFoundError if it is that of Kubernetes, and dagster-k8s is missing."""
    if settings.executor != "k8s":
        return dg.in_process_executor
    from dagster_project.pods import pods

    return pods


def with_run(context: dg.OpExecutionContext, settings: Settings) -> AbstractContextManager[None]:
    """A block of a step that does not outlive its run; where the steps run in the run worker, nothing can."""
    if settings.executor != "k8s":
        return nullcontext()
    from dagster_project.pods import ends_with_run

    return ends_with_run(context)


def between_steps(settings: Settings) -> dict[str, Any]:
    """The resource by which steps hand results on: where they have pods of their own, files in the home folder, which all of them see."""
    if settings.executor != "k8s":
        return {}
    return {"io_manager": dg.FilesystemIOManager(base_dir=str(settings.dagster_home / "storage"))}


def retry_wait(attempt: int) -> float:
    """Seconds before a step is tried again; `attempt` counts from 0."""
    return FIRST_RETRY_SECONDS * 2**attempt


def node_tags(agent_class: AgentClass, settings: Settings) -> dict[str, Any]:
    """Tags of a stage's node step: on Kubernetes a heavy one has a GPU. More, for a training on several, are in the run's config."""
    return {"dagster-k8s/config": gpu_container(1)} if settings.gpu_pods and agent_class in HEAVY else {}
