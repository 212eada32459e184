"""Pipeline configs: what is taken, what is refused and how it is said, and what Dagster gets."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from llm_platform.errors import InvalidConfig, InvalidInput, PlatformError
from llm_platform.specs import CONFIGS, AgentClass, ExportConfig, NodeSpec, Pipeline, parse_job_request, parse_pipeline, run_config, stages
from llm_platform.specs.agents import STAGES, SplitConfig
from llm_platform.specs.pipeline import EDGE_RULES, MAX_EDGES, MAX_NODES

EXAMPLE: dict[str, Any] = json.loads("""
{
  "pipeline_config": {
    "run_id": "abc123",
    "nodes": [
      {"agent_name": "dataset", "agent_class": "DatasetAgent", "config": {"file_path": "s3://datasets/training_data.csv", "format": "csv"}},
      {"agent_name": "validation", "agent_class": "ValidationAgent", "config": {}},
      {"agent_name": "preprocessing", "agent_class": "PreprocessingAgent", "config": {
          "base_model": "meta-llama/Llama-2-7b-hf", "clean": true, "dedup": true, "template": "alpaca",
          "template_mapping": {"instruction": "question", "output": "answer"}}}
    ],
    "edges": [
      {"from_agent": "dataset", "to_agent": "validation"},
      {"from_agent": "validation", "to_agent": "preprocessing"}
    ],
    "global_config": {"max_retries": 3}
  }
}
""")

LONG = [
    ("data", "DatasetAgent", {"dataset_id": "ds_1"}, []),
    ("clean", "PreprocessingAgent", {"base_model": "llm-platform/tiny-llama"}, ["data"]),
    ("small", "TrainingAgent", {"lora_r": 4}, ["clean"]),
    ("large", "TrainingAgent", {"lora_r": 64, "max_steps": 5}, ["clean"]),
    ("scores", "EvaluationAgent", {}, ["small", "large"]),
    ("choice", "ComparisonAgent", {"metric": "f1", "min_gain": 0.1, "max_regressions": 3}, ["scores"]),
    ("files", "ExportAgent", {"formats": ["merged"]}, ["small"]),
    ("report", "NotebookAgent", {"parameters": {"x": 1, "y": None}}, ["scores", "files"]),
]


def pipeline(nodes: list[tuple[str, str, dict[str, Any], list[str]]]) -> dict[str, Any]:
    return {
        "nodes": [{"agent_name": name, "agent_class": kind, "config": dict(config)} for name, kind, config, _ in nodes],
        "edges": [{"from_agent": source, "to_agent": name} for name, _, _, sources in nodes for source in sources],
    }


def refused(data: Any) -> PlatformError:
    with pytest.raises(PlatformError) as caught:
        parse_pipeline(data)
    return caught.value


def test_the_specifications_example() -> None:
    found = parse_job_request(EXAMPLE)
    assert found.config.run_id == "abc123" and found.config.global_config.max_retries == 3
    assert [(node.agent_name, node.inputs) for node in found.nodes] == [
        ("dataset", ()),
        ("validation", ("dataset",)),
        ("preprocessing", ("validation",)),
    ]
    assert stages(found) == ["dataset", "validation", "preprocessed_splits"]
    assert run_config(found)["ops"]["preprocessed_splits"]["config"]["max_retries"] == 3


def test_what_was_accepted_is_accepted_again() -> None:
    """The table keeps the dumped config; the submitter reads it back."""
    first = parse_pipeline({**pipeline(LONG), "run_id": "r"})
    again = parse_pipeline(json.loads(json.dumps(first.config.model_dump(mode="json"))))
    assert again == first and run_config(again) == run_config(first)


def test_nodes_are_in_stage_order_whatever_the_order_sent() -> None:
    found = parse_pipeline(pipeline(list(reversed(LONG))))
    order = [list(AgentClass).index(node.agent_class) for node in found.nodes]
    assert order == sorted(order)
    ops = run_config(found)["ops"]
    assert list(ops) == ["dataset", "preprocessed_splits", "adapters", "evaluations", "comparison", "exports", "notebook_reports"]
    assert {node["agent_name"] for node in ops["adapters"]["config"]["nodes"]} == {"small", "large"}
    assert ops["evaluations"]["config"]["nodes"][0]["inputs"] == ["small", "large"]


def test_run_config_round_trips_every_config() -> None:
    ops = run_config(parse_pipeline(pipeline(LONG)))["ops"]
    json.dumps(ops, allow_nan=False)
    for agent_class, stage in STAGES.items():
        for node in ops.get(stage, {"config": {"nodes": []}})["config"]["nodes"]:
            assert CONFIGS[agent_class].model_validate(node["config"]).model_dump(mode="json") == node["config"]


def test_every_class_has_its_config_stage_and_edges() -> None:
    assert set(CONFIGS) == set(STAGES) == set(EDGE_RULES) == set(AgentClass)
    assert len(set(STAGES.values())) == len(STAGES)


def test_every_error_is_told_at_once() -> None:
    data = pipeline(LONG)
    data["nodes"][2]["config"] = {"lora_rank": 8, "epochs": 0}
    data["nodes"][3]["config"] = {"learning_rate": "fast"}
    data["nodes"][0]["config"] = {}
    error = refused(data)
    assert isinstance(error, InvalidInput)
    found = {(item["agent"], item["field"]): item["message"] for item in error.metadata["errors"]}
    assert set(found) == {("small", "lora_rank"), ("small", "epochs"), ("large", "learning_rate"), ("data", "file_path")}
    assert found["data", "file_path"] == "field required" and "did you mean 'lora_r'" in found["small", "lora_rank"]
    assert "DatasetAgent" in error.message and "TrainingAgent" in error.message


def test_nested_fields_are_dotted() -> None:
    data = pipeline(LONG)
    data["nodes"][1]["config"] |= {"template_mapping": {"output": 5, "instuction": "a"}, "split": {"train": 0.5}}
    fields = {item["field"]: item["message"] for item in refused(data).metadata["errors"]}
    assert set(fields) == {"template_mapping.output", "template_mapping.instuction", "split"}
    assert "'instruction'" in fields["template_mapping.instuction"] and "add up to 1" in fields["split"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d["edges"].append({"from_agent": "report", "to_agent": "data"}), ["data", "report"]),
        (lambda d: d["edges"].append({"from_agent": "small", "to_agent": "clean"}), ["cycle", "small", "clean"]),
        (lambda d: d["edges"].append({"from_agent": "small", "to_agent": "small"}), ["itself", "small"]),
        (lambda d: d["edges"].append({"from_agent": "data", "to_agent": "clean"}), ["2 times"]),
        (lambda d: d["edges"].append({"from_agent": "ghost", "to_agent": "clean"}), ["ghost"]),
        (lambda d: d["edges"].append({"from_agent": "data", "to_agent": "small"}), ["takes no edge", "PreprocessingAgent"]),
        (lambda d: d["edges"].clear(), ["small", "needs exactly 1"]),
        (lambda d: d["nodes"].append(copy.deepcopy(d["nodes"][0])), ["data", "unique"]),
        (lambda d: d["nodes"][0].update(agent_class="api.main"), ["api.main", "DatasetAgent", "NotebookAgent"]),
        (lambda d: d["nodes"].extend([d["nodes"][0]] * 10_000), [f"at most {MAX_NODES}"]),
        (lambda d: d["edges"].extend([d["edges"][0]] * 10_000), [f"at most {MAX_EDGES}"]),
        (lambda d: d["nodes"].clear(), ["no nodes"]),
    ],
)
@pytest.mark.timeout(30)
def test_graphs_that_cannot_be(change: Any, words: list[str]) -> None:
    data = pipeline(LONG)
    change(data)
    error = refused(data)
    assert isinstance(error, InvalidConfig)
    for word in words:
        assert word in json.dumps(error.body())


def test_a_long_cycle_is_named() -> None:
    """Also through nodes of classes that could not be joined anyway; the cycle is named beside the other errors."""
    nodes = [(f"n{i}", "ValidationAgent", {}, [f"n{(i - 1) % 50}"]) for i in range(50)]
    error = refused(pipeline(nodes))
    assert any("form a cycle" in item["message"] and "n49" in item["message"] for item in error.metadata["errors"])


@pytest.mark.parametrize(
    "run_id", ["", "../x", "a/b", "a b", "a\n", "-a", "_a", "x" * 65, "ä", "a\0", 5, True, ["a"]], ids=lambda value: repr(value)[:12]
)
def test_run_ids(run_id: Any) -> None:
    error = refused({**pipeline(LONG), "run_id": run_id})
    assert isinstance(error, InvalidInput) and error.metadata["errors"][0]["field"] == "pipeline_config.run_id"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("learning_rate", float("nan")),
        ("learning_rate", float("inf")),
        ("learning_rate", 0),
        ("learning_rate", "2e-4"),
        ("learning_rate", True),
        ("epochs", 10_001),
        ("epochs", 1.0),
        ("epochs", True),
        ("max_steps", 10**9 + 1),
        ("batch_size", 4_097),
        ("lora_r", 0),
        ("lora_r", 1_025),
        ("target_modules", []),
        ("target_modules", [""]),
        ("model_name", "../x"),
        ("method", "os.system"),
        ("seed", -1),
    ],
)
def test_training_fields(field: str, value: Any) -> None:
    data = pipeline(LONG)
    data["nodes"][2]["config"] = {field: value}
    errors = refused(data).metadata["errors"]
    assert errors[0]["agent"] == "small" and errors[0]["field"].startswith(field)


@pytest.mark.parametrize(
    ("config", "field", "words"),
    [
        ({"method": "full", "lora_r": 4}, "", ["so lora_r would have no effect; leave it out"]),
        ({"method": "full", "lora_alpha": 8}, "", ["so lora_alpha would have no effect"]),
        ({"method": "full", "lora_dropout": 0.0}, "", ["so lora_dropout would have no effect"]),
        ({"method": "full", "target_modules": ["q_proj"]}, "", ["so target_modules would have no effect"]),
        ({"method": "full", "loraplus_ratio": 16.0}, "", ["so loraplus_ratio would have no effect"]),
        ({"method": "full", "use_rslora": True, "use_dora": True}, "", ["method 'full'", "so use_dora, use_rslora would have no effect"]),
        ({"target_modules": "q_proj["}, "target_modules", ["not a regular expression", "unterminated", "'all-linear'"]),
        ({"target_modules": "*_proj"}, "target_modules", ["not a regular expression", "nothing to repeat"]),
        ({"target_modules": ""}, "target_modules", ["at least one module"]),
    ],
)
def test_what_a_training_cannot_be(config: dict[str, Any], field: str, words: list[str]) -> None:
    data = pipeline(LONG[:3])
    data["nodes"][2]["config"] = config
    (entry,) = refused(data).metadata["errors"]
    assert (entry["agent"], entry["field"]) == ("small", field)
    for word in words:
        assert word in entry["message"]


def test_what_has_its_default_may_be_written_out() -> None:
    data = pipeline(LONG[:3])
    data["nodes"][2]["config"] = {"method": "full", "lora_r": 16, "target_modules": "all-linear"}
    parse_pipeline(data)
    data["nodes"][2]["config"] = {"target_modules": r".*\.(q|v)_proj"}
    parse_pipeline(data)


@pytest.mark.parametrize(("train", "validation", "test"), [(0.5, 0.1, 0.1), (0.9, 0.1, 0.1)])
def test_shares_add_up(train: float, validation: float, test: float) -> None:
    with pytest.raises(ValueError, match="add up to 1"):
        SplitConfig(train=train, validation=validation, test=test)
    assert SplitConfig(train=0.7, validation=0.2, test=0.1).train == 0.7


@pytest.mark.parametrize("data", [None, 5, "x", [], {}, {"nodes": 5}, {"nodes": [5]}, {"nodes": [None], "edges": "x"}])
def test_what_is_no_pipeline(data: Any) -> None:
    assert isinstance(refused(data), InvalidInput)


def test_a_pipeline_finds_its_nodes() -> None:
    found: Pipeline = parse_pipeline(pipeline(LONG))
    node: NodeSpec = found.node("large")
    assert node.agent_class is AgentClass.TRAINING and [item.agent_name for item in found.of_class(AgentClass.TRAINING)] == [
        "small",
        "large",
    ]


def trained(training: dict[str, Any], formats: list[str], split: dict[str, Any]) -> dict[str, Any]:
    return pipeline(
        [
            ("data", "DatasetAgent", {"dataset_id": "ds_1"}, []),
            ("more", "DatasetAgent", {"dataset_id": "ds_2"}, []),
            ("clean", "PreprocessingAgent", {"base_model": "llm-platform/tiny-llama", "split": split}, ["data", "more"]),
            ("train", "TrainingAgent", training, ["clean"]),
            ("files", "ExportAgent", {"formats": formats}, ["train"]),
        ]
    )


def test_a_whole_model_has_no_adapter_to_export() -> None:
    error = refused(trained({"method": "full"}, ["merged", "adapter"], {}))
    assert isinstance(error, InvalidConfig)
    (entry,) = error.metadata["errors"]
    assert (entry["agent"], entry["field"]) == ("files", "formats") and "set formats to ['merged']" in entry["message"]
    parse_pipeline(trained({"method": "full"}, ["merged", "gguf"], {}))
    parse_pipeline(trained({"method": "qlora"}, ["merged", "adapter"], {}))


def test_the_best_of_a_comparison_is_exported() -> None:
    nodes = [*LONG[:6], ("files", "ExportAgent", {"formats": ["adapter", "gguf"], "gguf_quantization": "q8_0"}, ["choice"])]
    found = parse_pipeline(pipeline(nodes)).node("files")
    assert isinstance(found.config, ExportConfig) and found.config.gguf_quantization == ["q8_0"] and found.inputs == ("choice",)
    nodes[3] = ("large", "TrainingAgent", {"method": "full"}, ["clean"])
    (entry,) = refused(pipeline(nodes)).metadata["errors"]
    assert (entry["agent"], entry["field"]) == ("files", "formats") and "'large' trains all weights" in entry["message"]


@pytest.mark.parametrize(
    ("config", "field", "message"),
    [
        ({"gguf_quantization": ["q4_0"]}, "gguf_quantization.0", "'f16', 'q8_0', 'q6_k'"),
        ({"gguf_quantization": "q8_0"}, "", "only for the format 'gguf'"),
        ({"gate": {"agreement": {"q8_0": 1.5}}}, "gate.agreement.q8_0", "less than or equal to 1"),
        ({"gate": {"row": 5}}, "gate.row", "did you mean 'rows'?"),
    ],
)
def test_what_an_export_cannot_be(config: dict[str, Any], field: str, message: str) -> None:
    body = trained({}, ["merged"], {})
    body["nodes"][-1]["config"] |= config
    (entry,) = refused(body).metadata["errors"]
    assert (entry["agent"], entry["field"]) == ("files", field) and message in entry["message"]


NO_VALIDATION = {"train": 0.9, "validation": 0.0, "test": 0.1}


@pytest.mark.parametrize("training", [{"keep": "best"}, {"early_stopping_patience": 2, "evaluate_every": 10}])
def test_what_decides_by_the_validation_loss_needs_validation_rows(training: dict[str, Any]) -> None:
    error = refused(trained(training, ["merged"], NO_VALIDATION))
    assert isinstance(error, InvalidConfig)
    found = {(entry["agent"], entry["field"]) for entry in error.metadata["errors"]}
    assert found == {("train", field) for field in training}
    assert all("needs validation rows" in entry["message"] for entry in error.metadata["errors"])
    parse_pipeline(trained(training, ["merged"], {}))
    parse_pipeline(trained(training, ["merged"], {**NO_VALIDATION, "validation_inputs": ["more"]}))
