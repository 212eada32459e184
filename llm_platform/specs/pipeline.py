"""The pipeline graph: parsing it with every error at once, and turning it into Dagster run config."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from llm_platform.errors import InvalidConfig
from llm_platform.specs import examples
from llm_platform.specs.agents import (
    CONFIGS,
    STAGES,
    AgentClass,
    AgentConfig,
    ComparisonConfig,
    DatasetConfig,
    EvaluationConfig,
    ExportConfig,
    PreprocessingConfig,
    TrainingConfig,
)
from llm_platform.specs.base import NAME, Spec, problems, refused, shown
from llm_platform.specs.kubernetes import gpu_container

MAX_NODES = 100
MAX_EDGES = 1000

Name = Annotated[str, Field(pattern=NAME)]


@dataclass(frozen=True)
class EdgeRule:
    """Which agent classes a node accepts edges from, and how many it needs."""

    sources: frozenset[AgentClass]
    least: int = 1
    most: int | None = None


EDGE_RULES: dict[AgentClass, EdgeRule] = {
    AgentClass.DATASET: EdgeRule(frozenset(), least=0, most=0),
    AgentClass.VALIDATION: EdgeRule(frozenset({AgentClass.DATASET}), most=1),
    AgentClass.PREPROCESSING: EdgeRule(frozenset({AgentClass.DATASET, AgentClass.VALIDATION})),
    AgentClass.TRAINING: EdgeRule(frozenset({AgentClass.PREPROCESSING}), most=1),
    AgentClass.EVALUATION: EdgeRule(frozenset({AgentClass.TRAINING})),
    AgentClass.COMPARISON: EdgeRule(frozenset({AgentClass.EVALUATION}), least=0),
    AgentClass.EXPORT: EdgeRule(frozenset({AgentClass.TRAINING, AgentClass.COMPARISON})),
    AgentClass.NOTEBOOK: EdgeRule(frozenset(set(AgentClass) - {AgentClass.NOTEBOOK}), least=0),
}


class Node(Spec):
    agent_name: Name = Field(description="The node's name, which edges and logs use; once in a pipeline.")
    agent_class: str = Field(max_length=200, description="What the node does, such as TrainingAgent.")
    config: dict[str, Any] = Field(default={}, description="Configuration of its agent class; defaults for what is left out.")


class Edge(Spec):
    from_agent: str = Field(max_length=200, description="Name of the node whose result goes on.")
    to_agent: str = Field(max_length=200, description="Name of the node that gets it.")


class GlobalConfig(Spec):
    max_retries: int = Field(default=0, ge=0, le=10, description="Retries of a node whose failure can pass by itself.")
    max_runtime: int | None = Field(
        default=None, ge=1, le=10**8, description="Seconds that the job may run, from its start; what the operator set, if not given."
    )


class PipelineConfig(Spec):
    """A graph of agents. Parse one with `parse_pipeline`, which also checks the graph."""

    model_config = shown(examples.PIPELINE)

    run_id: Name | None = Field(default=None, description="The run's id, of the client's choice; made up if not given.")
    nodes: list[Node] = Field(description="What is to be done, 1 to 100 nodes.")
    edges: list[Edge] = Field(default=[], description="Which node's result goes where, at most 1000 edges.")
    global_config: GlobalConfig = Field(default=GlobalConfig(), description="What holds for the whole job.")


class JobRequest(Spec):
    """The body of POST /jobs."""

    model_config = shown({"pipeline_config": examples.PIPELINE})

    pipeline_config: PipelineConfig = Field(description="The pipeline to run.")


@dataclass(frozen=True)
class NodeSpec:
    """One node, typed: what it does, its config, and the names of the nodes whose edges lead to it."""

    agent_name: str
    agent_class: AgentClass
    config: AgentConfig
    inputs: tuple[str, ...]


@dataclass(frozen=True)
class Pipeline:
    """A pipeline config whose every field and edge was checked. `nodes` are in stage order."""

    config: PipelineConfig
    nodes: tuple[NodeSpec, ...]

    def node(self, name: str) -> NodeSpec:
        return next(node for node in self.nodes if node.agent_name == name)

    def of_class(self, agent_class: AgentClass) -> list[NodeSpec]:
        return [node for node in self.nodes if node.agent_class is agent_class]


def parse_job_request(body: Any) -> Pipeline:
    """The checked pipeline of a POST /jobs body. Raises InvalidInput or InvalidConfig with every error found."""
    found = problems(JobRequest, _without_nodes_limit(body))
    if found:
        raise refused("Input validation failed", [{**item, "agent": None} for item in found])
    return check_pipeline(JobRequest.model_validate(body).pipeline_config)


def parse_pipeline(data: Any) -> Pipeline:
    """The same for a bare pipeline config, as notebooks and the command line have it."""
    return parse_job_request({"pipeline_config": data})


def _without_nodes_limit(body: Any) -> Any:
    """Refuses an oversized graph before each of its nodes is looked at."""
    config = body.get("pipeline_config") if isinstance(body, dict) else None
    if isinstance(config, dict):
        for field, most in (("nodes", MAX_NODES), ("edges", MAX_EDGES)):
            items = config.get(field)
            if isinstance(items, list) and len(items) > most:
                raise InvalidConfig(
                    f"A pipeline has at most {most} {field}; this one has {len(items)}",
                    errors=[{"field": field, "agent": None, "message": f"at most {most} {field}"}],
                )
    return body


def check_pipeline(config: PipelineConfig) -> Pipeline:
    """Checks each node's config, then the graph."""
    graph = _class_errors(config)
    if graph:
        raise _config_error(graph)
    wrong = [item for node in config.nodes for item in _config_problems(node)]
    if wrong:
        classes = dict.fromkeys(node.agent_class for node in config.nodes if any(w["agent"] == node.agent_name for w in wrong))
        raise refused(f"Input validation failed for {', '.join(classes)}", wrong)
    graph = _edge_errors(config)
    if graph:
        raise _config_error(graph)
    order = list(AgentClass)
    nodes = [
        NodeSpec(
            agent_name=node.agent_name,
            agent_class=AgentClass(node.agent_class),
            config=CONFIGS[AgentClass(node.agent_class)].model_validate(node.config),
            inputs=tuple(edge.from_agent for edge in config.edges if edge.to_agent == node.agent_name),
        )
        for node in config.nodes
    ]
    return Pipeline(config, tuple(sorted(nodes, key=lambda node: order.index(node.agent_class))))


def _config_error(errors: list[dict[str, Any]]) -> InvalidConfig:
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return InvalidConfig(f"{errors[0]['message']}{more}", errors=errors[:100])


def _class_errors(config: PipelineConfig) -> list[dict[str, Any]]:
    if not config.nodes:
        return [{"field": "nodes", "agent": None, "message": "The pipeline has no nodes; give at least one"}]
    errors = []
    for name, count in Counter(node.agent_name for node in config.nodes).items():
        if count > 1:
            errors.append(
                {"field": "agent_name", "agent": name, "message": f"Node name '{name}' is used {count} times; names must be unique"}
            )
    allowed = ", ".join(AgentClass)
    for node in config.nodes:
        if node.agent_class not in set(AgentClass):
            message = f"Unknown agent class '{node.agent_class}' of node '{node.agent_name}'; allowed are {allowed}"
            errors.append({"field": "agent_class", "agent": node.agent_name, "message": message})
    return errors


def _config_problems(node: Node) -> list[dict[str, Any]]:
    model = CONFIGS[AgentClass(node.agent_class)]
    found = problems(model, node.config)
    if model is DatasetConfig and not found:
        config = DatasetConfig.model_validate(node.config)
        if config.file_path is None and config.dataset_id is None:
            found = [{"field": "file_path", "message": "field required"}]
        elif config.file_path is not None and config.dataset_id is not None:
            found = [{"field": "dataset_id", "message": "give file_path or dataset_id, not both"}]
    return [{"field": item["field"], "agent": node.agent_name, "message": item["message"]} for item in found]


def _edge_errors(config: PipelineConfig) -> list[dict[str, Any]]:
    classes = {node.agent_name: AgentClass(node.agent_class) for node in config.nodes}
    errors: list[dict[str, Any]] = []

    def wrong(name: str, message: str) -> None:
        errors.append({"field": "edges", "agent": name, "message": message})

    cycle = _cycle(config)
    if cycle:
        wrong(cycle[0], f"The edges form a cycle: {' -> '.join([*cycle, cycle[0]])}")
    for (source, target), count in Counter((edge.from_agent, edge.to_agent) for edge in config.edges).items():
        missing = [name for name in dict.fromkeys((source, target)) if name not in classes]
        if missing:
            wrong(target, f"Edge '{source}' -> '{target}' names a node that is not there: {', '.join(missing)}")
            continue
        if count > 1:
            wrong(target, f"Edge '{source}' -> '{target}' is given {count} times")
        if source == target:
            wrong(target, f"Node '{source}' has an edge to itself")
        elif classes[source] not in EDGE_RULES[classes[target]].sources:
            sources = sorted(EDGE_RULES[classes[target]].sources) or ["nothing"]
            wrong(
                target,
                f"Node '{target}' ({classes[target]}) takes no edge from '{source}' ({classes[source]}); it takes {', '.join(sources)}",
            )
    if not errors:
        for node in config.nodes:
            rule = EDGE_RULES[classes[node.agent_name]]
            count = sum(edge.to_agent == node.agent_name for edge in config.edges)
            if count < rule.least or (rule.most is not None and count > rule.most):
                need = f"exactly {rule.least}" if rule.least == rule.most else f"at least {rule.least}"
                sources = " or ".join(sorted(rule.sources))
                wrong(node.agent_name, f"Node '{node.agent_name}' ({node.agent_class}) needs {need} edge from {sources}; it has {count}")
    return errors or [*_split_errors(config, classes), *_training_errors(config, classes), *_comparison_errors(config, classes)]


def _split_errors(config: PipelineConfig, classes: dict[str, AgentClass]) -> list[dict[str, Any]]:
    """Inputs that a preprocessing node takes as a split by themselves, but does not have, or that leave nothing to train on."""
    errors: list[dict[str, Any]] = []
    for node in config.nodes:
        if classes[node.agent_name] is AgentClass.PREPROCESSING:
            split = PreprocessingConfig.model_validate(node.config).split
            inputs = [edge.from_agent for edge in config.edges if edge.to_agent == node.agent_name]
            for field in ("validation_inputs", "test_inputs"):
                missing = [name for name in getattr(split, field) if name not in inputs]
                if missing:
                    message = f"'{node.agent_name}' has no input {', '.join(missing)}; its inputs are {', '.join(inputs)}"
                    errors.append({"field": f"split.{field}", "agent": node.agent_name, "message": message})
            if not errors and set(inputs) <= {*split.validation_inputs, *split.test_inputs}:
                message = f"All inputs of '{node.agent_name}' are validation or test splits; none is left to train on"
                errors.append({"field": "split", "agent": node.agent_name, "message": message})
    return errors


def _training_errors(config: PipelineConfig, classes: dict[str, AgentClass]) -> list[dict[str, Any]]:
    """What a node wants of the training or the split before it that they do not give."""
    nodes = {node.agent_name: node for node in config.nodes}
    errors: list[dict[str, Any]] = []
    for edge in config.edges:
        source, target = nodes[edge.from_agent], nodes[edge.to_agent]
        kinds = classes[edge.from_agent], classes[edge.to_agent]
        if kinds[1] is AgentClass.EXPORT:
            full = [name for name in _trained_before(edge.from_agent, config, classes) if _trains_all(nodes[name])]
            if full and "adapter" in ExportConfig.model_validate(target.config).formats:
                message = f"'{full[0]}' trains all weights (method 'full'), so there is no adapter; set formats to ['merged']"
                errors.append({"field": "formats", "agent": edge.to_agent, "message": message})
        elif kinds == (AgentClass.PREPROCESSING, AgentClass.TRAINING):
            split = PreprocessingConfig.model_validate(source.config).split
            if split.validation == 0 and not split.validation_inputs:
                message = f"needs validation rows, and the split of '{edge.from_agent}' leaves none; give it a share, or leave this out"
                fields = TrainingConfig.model_validate(target.config).fields_on_validation
                errors += [{"field": field, "agent": edge.to_agent, "message": f"{field} {message}"} for field in fields]
    return errors


def _trained_before(name: str, config: PipelineConfig, classes: dict[str, AgentClass]) -> list[str]:
    """The node itself if it trains, else the training nodes that lead to it."""
    if classes[name] is AgentClass.TRAINING:
        return [name]
    before = [edge.from_agent for edge in config.edges if edge.to_agent == name]
    return [trained for source in before for trained in _trained_before(source, config, classes)]


def _trains_all(node: Node) -> bool:
    return TrainingConfig.model_validate(node.config).method == "full"


def _comparison_errors(config: PipelineConfig, classes: dict[str, AgentClass]) -> list[dict[str, Any]]:
    """Comparisons of fewer than two models, of different examples, or by a metric that is not measured."""
    nodes = {node.agent_name: node for node in config.nodes}
    errors: list[dict[str, Any]] = []
    for node in config.nodes:
        if classes[node.agent_name] is not AgentClass.COMPARISON:
            continue

        def wrong(field: str, message: str, name: str = node.agent_name) -> None:
            errors.append({"field": field, "agent": name, "message": message})

        wanted = ComparisonConfig.model_validate(node.config)
        names = [edge.from_agent for edge in config.edges if edge.to_agent == node.agent_name]
        evaluations = {name: EvaluationConfig.model_validate(nodes[name].config) for name in names}
        trained = [edge.from_agent for name in names for edge in config.edges if edge.to_agent == name]
        known = len(trained) + len(wanted.model_ids) + any(item.include_base for item in evaluations.values())
        if known < 2:
            message = (
                f"Node '{node.agent_name}' compares two or more models, and {known} would reach it; give it an edge from an evaluation"
            )
            wrong("edges", f"{message} that includes the base or has several models, or name model_ids")
        for name, count in Counter(trained).items():
            if count > 1:
                wrong("edges", f"'{name}' reaches '{node.agent_name}' through {count} evaluations; one of them is enough")
        for name, count in Counter(wanted.model_ids).items():
            if count > 1:
                wrong("model_ids", f"'{name}' is named {count} times")
        if len({(item.dataset_id, item.max_samples) for item in evaluations.values()}) > 1:
            wrong(
                "edges", f"The evaluations before '{node.agent_name}' are of different examples; give them one dataset_id and max_samples"
            )
        for name, item in evaluations.items():
            if wanted.metric not in item.metrics:
                wrong("metric", f"'{name}' does not measure {wanted.metric}; it measures {', '.join(item.metrics)}")
    return errors


def _cycle(config: PipelineConfig) -> list[str]:
    """The nodes of one cycle of two or more, in order; empty if there is none."""
    targets: dict[str, list[str]] = {}
    for edge in config.edges:
        if edge.from_agent != edge.to_agent:
            targets.setdefault(edge.from_agent, []).append(edge.to_agent)
    done: set[str] = set()
    for start in targets:
        path: list[str] = []
        stack = [(start, iter(targets.get(start, ())))]
        if start in done:
            continue
        path.append(start)
        while stack:
            following = stack[-1][1]
            nxt = next(following, None)
            if nxt is None:
                stack.pop()
                done.add(path.pop())
            elif nxt in path:
                return path[path.index(nxt) :]
            elif nxt not in done:
                path.append(nxt)
                stack.append((nxt, iter(targets.get(nxt, ()))))
    return []


def run_config(pipeline: Pipeline, *, gpu_pods: bool = False) -> dict[str, Any]:
    """Dagster run config of a pipeline: per stage a list of nodes of one type, under the stage's asset.

    With `gpu_pods`, the pods of a stage whose nodes train on several devices have as many GPUs as the largest of them needs.
    """
    retries = pipeline.config.global_config.max_retries
    ops: dict[str, Any] = {}
    for agent_class, stage in STAGES.items():
        nodes = [
            {"agent_name": node.agent_name, "inputs": list(node.inputs), "config": node.config.model_dump(mode="json")}
            for node in pipeline.of_class(agent_class)
        ]
        if nodes:
            ops[stage] = {"config": {"nodes": nodes, "max_retries": retries}}
    most = max((node.config.devices for node in pipeline.nodes if isinstance(node.config, TrainingConfig)), default=1)
    if not gpu_pods or most == 1:
        return {"ops": ops}
    step = f"{STAGES[AgentClass.TRAINING]}_node"
    return {"ops": ops, "execution": {"config": {"per_step_k8s_config": {step: gpu_container(most)}}}}


def stages(pipeline: Pipeline) -> list[str]:
    """The assets that a run of this pipeline materializes, in order."""
    return [stage for agent_class, stage in STAGES.items() if pipeline.of_class(agent_class)]
