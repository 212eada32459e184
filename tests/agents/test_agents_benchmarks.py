"""Standard benchmarks by a real lm-eval, on tasks that the operator defined over local rows: no hub is asked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("lm_eval", reason="the extra eval is not installed")

from llm_platform.agents import Node, Platform, run_node
from llm_platform.errors import InvalidConfig, TrainingError
from llm_platform.registry import card
from llm_platform.reporting import ListReporter
from llm_platform.settings import Settings
from llm_platform.specs.results import NodeResult
from tests.tiny_models import COLOURS, make_base

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # lm-eval's and its packages'
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType:UserWarning"),  # when MLflow imports its own module
]
TASK = """
task: first_colour
dataset_path: json
dataset_kwargs:
  data_files: {rows}
test_split: train
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
"""
GONE = TASK.replace("first_colour", "gone")
CONFIG = {"max_new_tokens": 4, "max_samples": 8, "metrics": ["accuracy"], "benchmarks": ["first_colour"]}


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """With a trained model that answers with the prompt's first word, and a benchmark that asks for that word."""
    home = tmp_path_factory.mktemp("platform")
    make_base(home / "models" / "base")
    rows = "".join(f"{one} {two} w{number},{one}\n" for number, one in enumerate(COLOURS) for two in COLOURS[:5])
    (home / "rows.csv").write_text(f"instruction,output\n{rows}")
    tasks = home / "tasks"
    tasks.mkdir()
    asked = [
        {"question": f"{one} {two} w{number}", "choices": [one, COLOURS[number - 1]], "answer": one}
        for number, one in enumerate(COLOURS)
        for two in COLOURS[5:7]
    ]
    (home / "asked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked))
    (tasks / "first_colour.yaml").write_text(TASK.format(rows=home / "asked.jsonl"))
    (tasks / "gone.yaml").write_text(GONE.format(rows=home / "gone.jsonl"))
    url = f"sqlite:///{home / 'mlflow.db'}"
    settings = Settings(home=home / "home", model_roots=[home / "models"], mlflow_url=url, threads=1, benchmark_tasks=tasks)
    made = Platform.from_settings(settings)
    made.storage.put_file(home / "rows.csv", "s3://datasets/rows.csv")
    run(made, "rows", "DatasetAgent", [], file_path="s3://datasets/rows.csv")
    split = {"train": 0.5, "validation": 0.0, "test": 0.5, "near_duplicates": "ignore"}
    run(made, "splits", "PreprocessingAgent", ["rows"], base_model=str(home / "models" / "base"), template="plain", split=split)
    run(made, "training", "TrainingAgent", ["splits"], max_steps=60, learning_rate=1e-2, lora_dropout=0.0, batch_size=16)
    yield made
    made.close()


def run(platform: Platform, name: str, kind: str, inputs: list[str], **config: Any) -> NodeResult:
    body = {"run_id": "r", "agent_name": name, "agent_class": kind, "inputs": inputs, "peers": 1, "config": config}
    return run_node(platform, Node.from_dict(body), ListReporter())


def report(platform: Platform, result: NodeResult) -> dict[str, Any]:
    folder = platform.storage.as_local(result.artifacts["evaluation"], platform.settings.work / "inputs")
    return json.loads((folder / "evaluation.json").read_text("utf-8"))


def test_figures_with_their_errors_reach_report_metrics_and_card(platform: Platform) -> None:
    result = run(platform, "scores", "EvaluationAgent", ["training"], **CONFIG)
    found = report(platform, result)
    (tuned,), (base,) = found["benchmarks"]["tuned"], found["benchmarks"]["base"]
    assert (tuned["task"], tuned["metric"], tuned["samples"]) == ("first_colour", "acc", 8)
    assert 0 <= base["value"] < tuned["value"] <= 1 and base["stderr"] > 0
    assert result.metrics["first_colour.acc"] == tuned["value"] and result.metrics["base_first_colour.acc"] == base["value"]
    model = platform.registry.get(result.model_ids[0])
    assert model is not None and model.metrics["first_colour.acc"] == tuned["value"]
    bound = model.intervals["base_first_colour.acc"]
    assert bound.high - bound.low == pytest.approx(2 * 1.96 * base["stderr"]) and bound.count == 8
    (line,) = [line for line in card(model).splitlines() if line.startswith("| first") and "acc" in line]
    assert f"{tuned['value']:.4g}" in line and f"{base['value']:.4g}" in line
    again = report(platform, run(platform, "again", "EvaluationAgent", ["training"], **CONFIG))
    assert again["base_reused"] is True and again["benchmarks"] == found["benchmarks"]
    without = report(platform, run(platform, "without", "EvaluationAgent", ["training"], **{**CONFIG, "benchmarks": []}))
    assert without["base_reused"] is False and without["benchmarks"] == {}


def test_rows_that_are_gone_fail_the_node_and_say_which(platform: Platform) -> None:
    with pytest.raises(TrainingError, match="Benchmark 'gone' could not be run") as caught:
        run(platform, "gone", "EvaluationAgent", ["training"], **{**CONFIG, "benchmarks": ["gone"]})
    assert str(platform.settings.root) not in str(caught.value.body())


@pytest.mark.slow
def test_an_unknown_benchmark_is_named_with_those_near_it(platform: Platform) -> None:
    with pytest.raises(InvalidConfig, match="There is no benchmark 'first_color'; did you mean first_colour"):
        run(platform, "unknown", "EvaluationAgent", ["training"], **{**CONFIG, "benchmarks": ["first_color"]})
