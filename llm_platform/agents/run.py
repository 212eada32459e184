"""Runs one node: reuses a finished result, records how it went, and turns every failure into the specification's error."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from sqlalchemy.exc import OperationalError

from llm_platform import gpus
from llm_platform.agents import comparison, evaluation, export, notebook, preprocessing, sources, training
from llm_platform.agents.node import Node, Platform, Work, load_upstream
from llm_platform.errors import Cancelled, PlatformError, StorageError, TrainingError
from llm_platform.reporting import ConsoleReporter, Reporter
from llm_platform.settings import Settings
from llm_platform.specs import AgentClass, TrainingConfig
from llm_platform.specs.results import NodeResult
from llm_platform.training.devices import ranks_folder

AGENTS: dict[AgentClass, Callable[[Work], NodeResult]] = {
    AgentClass.DATASET: sources.run_dataset,
    AgentClass.VALIDATION: sources.run_validation,
    AgentClass.PREPROCESSING: preprocessing.run_preprocessing,
    AgentClass.TRAINING: training.run_training,
    AgentClass.EVALUATION: evaluation.run_evaluation,
    AgentClass.COMPARISON: comparison.run_comparison,
    AgentClass.EXPORT: export.run_export,
    AgentClass.NOTEBOOK: notebook.run_notebook,
}


def needs_process(platform: Platform, node: Node) -> bool:
    """Whether the node is heavy: it holds models in memory, or starts processes, that must be gone when it ends."""
    if node.agent_class is AgentClass.PREPROCESSING:
        return not preprocessing.tokenizer_is_ready(platform, node)
    return node.agent_class not in (AgentClass.DATASET, AgentClass.VALIDATION)


def run_node(platform: Platform, node: Node, reporter: Reporter) -> NodeResult:
    """The node's result, computed or reused. Raises PlatformError, having recorded it; whatever stops it is recorded too."""
    database = platform.database
    upstream = load_upstream(platform, node)
    digest = node.digest(upstream)
    known = database.node(node.run_id, node.agent_name)
    if known is not None and known["status"] == "completed" and known["digest"] == digest:
        reporter.info("Already done by an earlier attempt; its result is used")
        return NodeResult.model_validate(known["result"]).model_copy(update={"reused": True})
    database.start_node(node.run_id, node.agent_name, node.agent_class.value, digest)
    try:
        with _gpus(platform, node, reporter):
            result = AGENTS[node.agent_class](Work(platform, node, upstream, reporter))
    except Cancelled:
        database.end_node(node.run_id, node.agent_name, "cancelled")
        raise
    except Exception as caught:
        error = caught if isinstance(caught, PlatformError) else _unexpected(node, caught)
        reporter.error(error.message)
        partial = node.partial.model_dump(mode="json") if node.partial else None
        database.end_node(node.run_id, node.agent_name, "failed", result=partial, error=error.body())
        raise error from caught
    except BaseException:  # the process is told to go
        database.end_node(node.run_id, node.agent_name, "cancelled")
        raise
    database.end_node(node.run_id, node.agent_name, "completed", result=result.model_dump(mode="json"))
    return result


def help_train(settings: Settings) -> None:
    """What a process does that was placed beside rank 0 of a training: takes its GPU, and the steps that rank 0 tells it to."""
    from llm_platform.training.ranks import beside

    with gpus.claimed(1, settings, ConsoleReporter()):
        beside()


def _gpus(platform: Platform, node: Node, reporter: Reporter) -> AbstractContextManager[object]:
    if isinstance(node.config, TrainingConfig):
        return gpus.claimed(1 if ranks_folder() else node.config.devices, platform.settings, reporter)
    if node.agent_class in (AgentClass.EVALUATION, AgentClass.EXPORT):
        return gpus.claimed(1, platform.settings, reporter)
    return nullcontext()


def _unexpected(node: Node, caught: Exception) -> PlatformError:
    """What a client may know of an error that nobody foresaw; the traceback goes to the process's standard error."""
    traceback.print_exception(caught)
    if isinstance(caught, (OSError, OperationalError)):
        return StorageError(f"{node.agent_class.value} '{node.agent_name}' could not read or write ({type(caught).__name__})")
    if isinstance(caught, MemoryError):
        return TrainingError(f"{node.agent_class.value} '{node.agent_name}' ran out of memory")
    return PlatformError(f"{node.agent_class.value} '{node.agent_name}' failed unexpectedly ({type(caught).__name__}); see the run's log")
