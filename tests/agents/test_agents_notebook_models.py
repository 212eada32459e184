"""The project's notebooks as nodes behind trainings, evaluations and comparisons, and as reports on a model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llm_platform.agents import Node, Platform, run_node
from llm_platform.errors import InvalidConfig
from llm_platform.notebook_reports import model_report
from llm_platform.reporting import ListReporter
from llm_platform.specs import NotebookConfig
from llm_platform.specs.results import NodeResult

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings(
        "ignore:The ..noload.. loader strategy is deprecated:DeprecationWarning",
        "ignore:.*Any type hint is inferred as AnyType:UserWarning",  # when MLflow imports its own module
    ),
]


@pytest.fixture(scope="module")
def platform(bare_platform: Platform, base: Path) -> Iterator[Platform]:
    """Two trained models that were evaluated on one split and compared; kernels find the same settings in the environment."""
    run(bare_platform, "rows", "DatasetAgent", [], file_path="s3://datasets/rows.csv")
    split = {"train": 0.5, "validation": 0.0, "test": 0.5, "near_duplicates": "ignore"}
    run(bare_platform, "splits", "PreprocessingAgent", ["rows"], base_model=str(base), template="plain", dedup=False, split=split)
    good = {"max_steps": 60, "learning_rate": 1e-2, "lora_dropout": 0.0, "batch_size": 16}
    run(bare_platform, "poor", "TrainingAgent", ["splits"], max_steps=1, model_name="colours")
    run(bare_platform, "good", "TrainingAgent", ["splits"], model_name="colours", **good)
    run(bare_platform, "scores", "EvaluationAgent", ["poor", "good"], max_new_tokens=4)
    run(bare_platform, "choice", "ComparisonAgent", ["scores"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLM_PLATFORM_HOME", str(bare_platform.settings.home))
        patch.setenv("LLM_PLATFORM_MODEL_ROOTS", json.dumps([str(root) for root in bare_platform.settings.model_roots]))
        patch.setenv("LLM_PLATFORM_THREADS", "1")
        yield bare_platform


def run(platform: Platform, name: str, kind: str, inputs: list[str], reporter: ListReporter | None = None, **config: Any) -> NodeResult:
    body = {"run_id": "r", "agent_name": name, "agent_class": kind, "inputs": inputs, "peers": 3, "config": config}
    return run_node(platform, Node.from_dict(body), reporter or ListReporter())


def told(platform: Platform, notebook: str, inputs: list[str], **parameters: Any) -> str:
    reporter = ListReporter()
    run(platform, f"see_{notebook}", "NotebookAgent", inputs, reporter, notebook=notebook, parameters=parameters)
    return "\n".join(message for level, message, _ in reporter.lines if level == "INFO")


def test_evaluate_model_behind_an_evaluation(platform: Platform) -> None:
    assert "Model model_r.poor: 30 questions, 30 answers, with the base model's" in told(platform, "evaluate_model", ["scores"])


def test_compare_models_behind_a_comparison(platform: Platform) -> None:
    text = told(platform, "compare_models", ["choice"])
    assert "3 models on 30 rows" in text and "model_r.good against" in text and "PROMOTED" in text


def test_playground_behind_a_training(platform: Platform) -> None:
    text = told(platform, "playground", ["good"], questions="blue sky w1\ngreen sun w2", max_new_tokens=4)
    assert "Q: blue sky w1" in text and text.count("tuned: '") == 2 and "Trained an adapter" not in text


def test_finetune_behind_a_dataset(platform: Platform, base: Path) -> None:
    text = told(platform, "finetune", ["rows"], base_model=str(base), template="plain", learning_rate=0.01, epochs=4)
    assert "60 rows with the columns instruction, output" in text and "accuracy: " in text


def test_a_report_on_a_model(platform: Platform) -> None:
    reporter = ListReporter()
    made = model_report("model_r.good", NotebookConfig(), platform, reporter)
    assert made.artifacts["html"] == "s3://artifacts/_reports/models/model_r.good/evaluate_model.html"
    assert any("Model model_r.good: 30 questions" in message for _, message, _ in reporter.lines)
    run(platform, "unscored", "TrainingAgent", ["splits"], max_steps=1)
    with pytest.raises(InvalidConfig, match="was not evaluated"):
        model_report("model_r.unscored", NotebookConfig(), platform, reporter)
