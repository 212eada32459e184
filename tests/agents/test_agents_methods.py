"""Training by method through the agents: what the nodes behind it are given, and what of it is registered and exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlflow.artifacts
import pytest
from mlflow import MlflowClient

from llm_platform.agents import Node, Platform, run_node
from llm_platform.errors import InvalidConfig
from llm_platform.reporting import ListReporter
from llm_platform.specs.results import NodeResult
from tests.tiny_models import tensors

pytestmark = pytest.mark.filterwarnings(
    "ignore:The ..noload.. loader strategy is deprecated:DeprecationWarning",
    "ignore:.*Any type hint is inferred as AnyType:UserWarning",  # when MLflow imports its own module
)


@pytest.fixture(scope="module")
def platform(bare_platform: Platform, base: Path) -> Platform:
    run(bare_platform, "r", "rows", "DatasetAgent", [], file_path="s3://datasets/rows.csv")
    prepared = {"base_model": str(base), "template": "plain", "dedup": False}
    run(bare_platform, "r", "splits", "PreprocessingAgent", ["rows"], **prepared)
    return bare_platform


def run(platform: Platform, run_id: str, name: str, kind: str, inputs: list[str], **config: Any) -> NodeResult:
    body = {"run_id": run_id, "agent_name": name, "agent_class": kind, "inputs": inputs, "peers": 3, "config": config}
    return run_node(platform, Node.from_dict(body), ListReporter())


@pytest.mark.parametrize(
    ("method", "kind", "file"), [("full", "model", "model.safetensors"), ("qlora", "adapter", "adapter_model.safetensors")]
)
def test_trained_evaluated_and_exported(method: str, kind: str, file: str, platform: Platform) -> None:
    trained = run(platform, "r", method, "TrainingAgent", ["splits"], method=method, max_steps=2)
    assert trained.artifacts == {kind: f"s3://artifacts/r/{method}/{kind}"}
    (model_id,) = trained.model_ids
    model = platform.registry.get(model_id)
    assert model is not None and model.training_config["method"] == method
    assert model.exports == {"merged" if method == "full" else "adapter": trained.artifacts[kind]}
    folder = platform.storage.as_local(trained.artifacts[kind], platform.settings.work / "inputs")
    assert tensors(folder, file)

    scored = run(platform, "r", f"{method}_scores", "EvaluationAgent", [method], max_samples=4, max_new_tokens=4)
    assert {"accuracy", "base_accuracy", "loss", "base_loss"} <= scored.metrics.keys()
    assert scored.metrics["loss"] != scored.metrics["base_loss"]

    exported = run(platform, "r", f"{method}_files", "ExportAgent", [method], formats=["merged"])
    address = f"s3://artifacts/r/{method}/merged"
    assert exported.artifacts == {"merged": address}
    assert tensors(platform.storage.as_local(address, platform.settings.work / "inputs"), "model.safetensors")
    model = platform.registry.get(model_id)
    assert model is not None and model.exports["merged"] == address
    kept = {item.path for item in mlflow.artifacts.list_artifacts(run_id=model.mlflow_run_id, tracking_uri=platform.registry.tracking_uri)}
    assert kept == ({"model"} if method == "full" else {"adapter", "merged"})  # each of which MLflow loads


def test_every_figure_of_a_step_is_in_mlflow(platform: Platform) -> None:
    (model_id,) = run(platform, "r", "followed", "TrainingAgent", ["splits"], max_steps=3).model_ids
    model = platform.registry.get(model_id)
    assert model is not None
    client = MlflowClient(platform.registry.tracking_uri)
    for name in ("loss", "learning_rate", "grad_norm", "tokens_per_second", "memory_mb", "eta_seconds"):
        points = client.get_metric_history(model.mlflow_run_id, f"train/{name}")
        assert sorted(point.step for point in points) == [1, 2, 3], name
    assert {1, 2, 3} <= {point.step for point in client.get_metric_history(model.mlflow_run_id, "train/epoch")}


def test_there_is_no_adapter_of_a_whole_model(platform: Platform) -> None:
    run(platform, "r", "whole", "TrainingAgent", ["splits"], method="full", max_steps=1)
    with pytest.raises(InvalidConfig, match="'whole' trained all weights, so there is no adapter; export it as 'merged'"):
        run(platform, "r", "adapter_files", "ExportAgent", ["whole"], formats=["adapter"])
