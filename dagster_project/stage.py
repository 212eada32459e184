"""The one factory of stage assets: plan, one step per node, collect.

    plan ──> node[a] ──┐
         ──> node[b] ──┴──> collect ──> the asset's materialization

Each node is a step of its own, visible by its name. A node that fails leaves the others of its stage alone; the stage
then has no materialization and later stages do not run.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import dagster as dg
from dagster._core.errors import DagsterExecutionInterruptedError
from dagster._core.storage.tags import MAX_RUNTIME_SECONDS_TAG

from dagster_project.config import stage_config
from dagster_project.defs.partitions import RUN_ID_TAG, run_ids
from dagster_project.executors import HEAVY, node_tags, retry_wait, with_run
from dagster_project.pipes import run_in_process_group
from dagster_project.resources import PlatformResource
from llm_platform.agents import Node, Platform, needs_process, run_node
from llm_platform.database import now
from llm_platform.errors import InvalidConfig, PlatformError
from llm_platform.runlog import RunLogReporter
from llm_platform.settings import Settings
from llm_platform.signals import keep_asked
from llm_platform.specs import STAGES, AgentClass
from llm_platform.specs.agents import CONFIGS
from llm_platform.specs.base import NAME, problems
from llm_platform.specs.results import NodeResult

Described = Mapping[str, Any]
"""Metadata of a materialization, by label."""


def stage_asset(
    agent_class: AgentClass,
    *,
    after: Sequence[dg.AssetsDefinition | dg.AssetSpec],
    describe: Callable[[Platform, dict[str, NodeResult]], Described],
    observe: Callable[[dg.OpExecutionContext, Platform, Node], None] | None = None,
) -> dg.AssetsDefinition:
    """The asset of all nodes of one class.

    `after` are the assets of earlier stages, `describe` makes the materialization's metadata from the results by node
    name, `observe` is called after each node, whether it failed or not.
    """
    stage = STAGES[agent_class]
    schema = stage_config(agent_class).to_config_schema().as_field()
    upstream = {
        asset.key.path[-1]: dg.AssetIn(key=asset.key, dagster_type=dg.Nothing, partition_mapping=_mapping(asset)) for asset in after
    }

    @dg.op(name=f"{stage}_plan", out=dg.DynamicOut(dict), ins={name: dg.In(dg.Nothing) for name in upstream}, config_schema=schema)
    def plan(context: dg.OpExecutionContext, platform: PlatformResource) -> Iterator[dg.DynamicOutput[dict[str, Any]]]:
        _adopt(context, platform.get())
        planned = context.op_config
        keys: set[str] = set()
        for node in planned["nodes"]:
            key = _mapping_key(node["agent_name"], keys)
            keys.add(key)
            body = {**node, "run_id": context.partition_key, "agent_class": agent_class.value, "peers": len(planned["nodes"])}
            yield dg.DynamicOutput({"node": body, "max_retries": planned["max_retries"]}, mapping_key=key)

    @dg.op(name=f"{stage}_node", out=dg.Out(dict), tags=node_tags(agent_class, Settings()))
    def node(context: dg.OpExecutionContext, platform: PlatformResource, planned: dict[str, Any]) -> dg.Output[dict[str, Any]]:
        services = platform.get()
        work = _parsed(planned["node"])
        if context.retry_number == 0:  # a training that was killed in between has a checkpoint to make a model of
            _end_if_asked(context, services)
        try:
            with with_run(context, services.settings):
                result = _run(context, services, work)
        except PlatformError as error:
            attempt = context.retry_number
            if error.retryable and attempt < planned["max_retries"]:
                wait = retry_wait(attempt)
                context.log.warning(f"{error.message}; trying again in {wait:g} s (retry {attempt + 1} of {planned['max_retries']})")
                raise dg.RetryRequested(max_retries=planned["max_retries"], seconds_to_wait=wait) from error
            _end_if_asked(context, services)
            raise dg.Failure(f"{work.agent_name}: {error.message}", metadata={"error": error.code}, allow_retries=False) from error
        finally:
            if observe is not None:
                observe(context, services, work)
        _end_if_asked(context, services)
        return dg.Output({"agent_name": work.agent_name, "result": result.model_dump(mode="json")})

    @dg.op(name=f"{stage}_collect", out=dg.Out(dg.Nothing))
    def collect(context: dg.OpExecutionContext, platform: PlatformResource, results: list[dict[str, Any]]) -> Iterator[dg.Output[None]]:
        by_name = {item["agent_name"]: NodeResult.model_validate(item["result"]) for item in results}
        described = describe(platform.get(), by_name)
        yield dg.Output(None, metadata={"run_id": context.partition_key, "nodes": list(by_name), **described})

    @dg.config_mapping(config_schema=schema)
    def to_plan(value: Any) -> dict[str, Any]:
        return {f"{stage}_plan": {"config": value}}

    @dg.graph_asset(
        name=stage,
        ins=upstream,
        partitions_def=run_ids,
        config=to_plan,
        description=f"What the {agent_class.value} nodes of a run made.",
        group_name="pipeline",
        kinds={"python"},
    )
    def asset(**inputs: Any) -> Any:
        return collect(plan(**inputs).map(node).collect())

    return asset


def _run(context: dg.OpExecutionContext, platform: Platform, node: Node) -> NodeResult:
    if needs_process(platform, node):
        if platform.settings.executor == "ray" and node.agent_class in HEAVY:
            try:
                from dagster_project.ray_workers import run_on_ray  # Ray takes a second, which the embedded default need not pay
            except ModuleNotFoundError as error:
                raise InvalidConfig("LLM_PLATFORM_EXECUTOR is ray, but Ray is missing: pip install 'llm-platform[ray]'") from error
            return run_on_ray(context, platform, node)
        return run_in_process_group(context, platform, node)

    def forward(level: str, message: str) -> None:
        log = {"WARN": context.log.warning, "ERROR": context.log.error}.get(level, context.log.info)
        log(f"[{node.agent_name}] {message}")

    with RunLogReporter(platform.database, node.run_id, node.agent_class.value, node.agent_name, forward) as reporter:
        return run_node(platform, node, reporter)


def _end_if_asked(context: dg.OpExecutionContext, platform: Platform) -> None:
    """Ends the run as cancelled where it was asked to stop and keep, as soon as training has done so.

    Nobody outside could do it in time: by then the next node would have started.
    """
    if keep_asked(platform.database, context.partition_key):
        context.instance.report_run_canceling(context.run)
        raise DagsterExecutionInterruptedError


def _parsed(body: dict[str, Any]) -> Node:
    """The node, with the bounds that Dagster's config cannot express checked by its spec."""
    found = problems(CONFIGS[AgentClass(body["agent_class"])], body["config"])
    if found:
        shown = "; ".join(f"{item['field']}: {item['message']}" for item in found)
        raise dg.Failure(f"{body['agent_name']}: {shown}", metadata={"error": InvalidConfig.code}, allow_retries=False)
    return Node.from_dict(body)


def _adopt(context: dg.OpExecutionContext, platform: Platform) -> None:
    """A run that was launched in the Dagster UI becomes a job of the platform as soon as it starts."""
    run_id = context.partition_key
    if not re.match(NAME, run_id):
        raise dg.Failure(f"'{run_id}' cannot be a run id: letters, digits, '-' and '_', at most 64 of them", allow_retries=False)
    if context.run.tags.get(RUN_ID_TAG) != run_id:
        context.instance.add_run_tags(context.run_id, {RUN_ID_TAG: run_id})
    if platform.settings.max_runtime and MAX_RUNTIME_SECONDS_TAG not in context.run.tags:
        context.instance.add_run_tags(context.run_id, {MAX_RUNTIME_SECONDS_TAG: str(platform.settings.max_runtime)})
    platform.database.adopt(run_id, dagster_run_id=context.run_id, created_at=now())


def _mapping_key(name: str, taken: set[str]) -> str:
    """Dagster allows only [A-Za-z0-9_]; two names that become the same get a number."""
    key = re.sub(r"\W", "_", name, flags=re.ASCII)
    unique, count = key, 2
    while unique in taken:
        unique, count = f"{key}_{count}", count + 1
    return unique


def _mapping(asset: dg.AssetsDefinition | dg.AssetSpec) -> dg.PartitionMapping | None:
    """A run reads what it likes of the datasets that were ever uploaded, but only its own run's stages."""
    return None if asset.partitions_def == run_ids else dg.AllPartitionMapping()
