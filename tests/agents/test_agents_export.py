"""What an export node leaves behind: the best of a comparison, and what the gate rejects marked and not offered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llm_platform.agents import Node, Platform, run_node
from llm_platform.errors import Conflict, TrainingError
from llm_platform.models import archive
from llm_platform.reporting import ListReporter
from llm_platform.specs.results import NodeResult

pytestmark = pytest.mark.filterwarnings(
    "ignore:The ..noload.. loader strategy is deprecated:DeprecationWarning",
    "ignore:.*Any type hint is inferred as AnyType:UserWarning",  # when MLflow imports its own module
)
STRICT = {"rows": 4, "max_new_tokens": 4, "max_logit_difference": 1e-12}
"""Nothing that was merged is as near as that; an adapter is not changed."""


def run(platform: Platform, name: str, kind: str, inputs: list[str], reporter: ListReporter | None = None, **config: Any) -> NodeResult:
    body = {"run_id": "x", "agent_name": name, "agent_class": kind, "inputs": inputs, "peers": 2, "config": config}
    return run_node(platform, Node.from_dict(body), reporter or ListReporter())


@pytest.fixture(scope="module")
def platform(bare_platform: Platform, base: Path) -> Platform:
    """With two trained models, of which the second is the better one."""
    run(bare_platform, "rows", "DatasetAgent", [], file_path="s3://datasets/rows.csv")
    run(bare_platform, "splits", "PreprocessingAgent", ["rows"], base_model=str(base), template="plain", dedup=False)
    run(bare_platform, "weak", "TrainingAgent", ["splits"], max_steps=1)
    run(bare_platform, "strong", "TrainingAgent", ["splits"], max_steps=12, learning_rate=1e-2)
    return bare_platform


def test_the_best_of_a_comparison_is_exported(platform: Platform) -> None:
    run(platform, "scores", "EvaluationAgent", ["weak", "strong"], metrics=["loss"], include_base=False)
    choice = run(platform, "choice", "ComparisonAgent", ["scores"], metric="loss")
    assert choice.data["best"] == "model_x.strong"
    found = run(platform, "files", "ExportAgent", ["choice"], formats=["merged"], gate={"rows": 4, "max_new_tokens": 4})
    assert found.model_ids == ["model_x.strong"] and found.artifacts == {"merged": "s3://artifacts/x/strong/merged"}
    gate = found.data["gates"]["strong"]["merged"]
    assert gate["accepted"] and (gate["rows"], gate["split"], gate["runtime"], gate["same_template"]) == (4, "test", "transformers", True)
    model = platform.registry.get("model_x.strong")
    assert model is not None and model.gates["merged"].model_dump(mode="json") == gate
    files = {file.address.rpartition("/")[2] for file in platform.storage.list_files(found.artifacts["merged"])}
    assert {"model.safetensors", "chat_template.jinja"} <= files


def test_what_is_rejected_is_marked_and_not_offered(platform: Platform) -> None:
    reporter = ListReporter()
    found = run(platform, "strict", "ExportAgent", ["weak"], reporter, formats=["adapter", "merged"], gate=STRICT)
    assert found.artifacts == {"adapter": "s3://artifacts/x/weak/adapter"}
    assert [found.data["gates"]["weak"][name]["accepted"] for name in ("adapter", "merged")] == [True, False]
    assert any(level == "WARN" and "merged is rejected, and not offered for download" in text for level, text, _ in reporter.lines)
    model = platform.registry.get("model_x.weak")
    assert model is not None and archive(model, "adapter", platform.storage).size > 0
    with pytest.raises(Conflict, match=r"'merged' export of model 'model_x\.weak' was rejected") as caught:
        archive(model, "merged", platform.storage)
    assert caught.value.metadata["gates"]["merged"]["logit_difference"] > 1e-12

    with pytest.raises(TrainingError, match="No export answers as the evaluated model does") as failed:
        run(platform, "stricter", "ExportAgent", ["weak"], formats=["merged"], gate=STRICT)
    assert failed.value.metadata["gates"]["weak"]["merged"]["accepted"] is False

    run(platform, "milder", "ExportAgent", ["weak"], formats=["merged"])
    model = platform.registry.get("model_x.weak")
    assert model is not None and archive(model, "merged", platform.storage).size > 0
