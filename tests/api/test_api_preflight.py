"""POST /preflight: what it counts, shows and estimates, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from llm_platform.cli import app
from llm_platform.client import Client
from llm_platform.specs import TrainingConfig
from llm_platform.training.estimate import memory, model_shape, operations
from tests.api.api_harness import Api, Start
from tests.tiny_models import COLOURS, make_base

ROWS = [{"question": f"w{n % 70} w{n // 2} sky", "answer": COLOURS[n % 12]} for n in range(40)]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("models") / "base")


@pytest.fixture(scope="module")
def ready(start: Start, base: Path) -> Iterator[tuple[Api, str, str]]:
    """An API with a dataset; its id, and the name of a base model that is on this machine."""
    with start(model_roots=[base.parent]) as api:
        answer = api.upload("".join(json.dumps(row) + "\n" for row in ROWS).encode(), "rows.jsonl")
        yield api, answer.json()["dataset_id"], str(base)


def ask(api: Api, dataset_id: str, base: str, config: dict[str, Any] | None = None, **more: Any) -> Any:
    body = {"dataset_id": dataset_id, "config": {"base_model": base, "template": "plain", **(config or {})}, **more}
    return api.client.post("/preflight", json=body)


def test_counts_tokens_and_the_mask_of_chosen_rows(ready: tuple[Api, str, str]) -> None:
    api, dataset_id, base = ready
    before = api.counts()
    answer = ask(api, dataset_id, base, rows=[1, 39, 1000], training={"epochs": 3, "batch_size": 4})
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert found["ok"] is True
    (node,) = found["nodes"]
    assert (node["agent_name"], node["rows_total"], node["rows_seen"]) == ("preprocessing", 40, 40)
    assert node["funnel"] == {"in": 40, "cleaned": 40, "deduplicated": 40, "fitting": 40, "train": 32, "validation": 4, "test": 4}
    # <s>, three words of the question, the answer and </s>; the last two are trained.
    tokens = node["tokens"]
    assert (tokens["rows"], tokens["total"], tokens["trained"], tokens["max"], tokens["eos_rows"]) == (40, 240, 80, 6, 40)
    assert tokens["masked_share"] == pytest.approx(1 - 80 / 240, abs=1e-4)
    shown = {row["row"]: row for row in node["shown"]}
    assert set(shown) == {1, 39}
    assert [token["trained"] for token in shown[1]["tokens"]] == [False] * 4 + [True] * 2
    assert [token["text"].strip() for token in shown[1]["tokens"]][-2:] == [COLOURS[1], "</s>"]
    (training,) = found["trainings"]
    assert (training["steps"], training["train_rows"], training["tokens"]) == (24, 32, 576)
    assert set(training["gpu_memory"]) == {"lora", "qlora", "full"}
    assert training["seconds"]["cpu"] > 0
    assert api.counts() == before
    assert not list(api.services.settings.work.glob("preflight-*"))


def test_a_sample_is_extrapolated(ready: tuple[Api, str, str]) -> None:
    api, dataset_id, base = ready
    found = ask(api, dataset_id, base, sample_rows=20).json()
    assert (found["nodes"][0]["rows_total"], found["nodes"][0]["rows_seen"]) == (40, 20)
    assert found["trainings"][0]["train_rows"] == 2 * found["nodes"][0]["funnel"]["train"]


def test_what_would_fail_is_an_error_and_what_would_be_lost_a_warning(ready: tuple[Api, str, str]) -> None:
    api, dataset_id, base = ready
    short = ask(api, dataset_id, base, {"max_length": 8, "template": "alpaca"}).json()
    assert short["ok"] is False
    assert (short["errors"][0]["error"], short["errors"][0]["metadata"]["too_long"]) == ("DATASET_ERROR", 40)
    assert "max_length" in short["errors"][0]["message"]
    alone = ask(api, dataset_id, base, {"split": {"train": 1.0, "validation": 0.0, "test": 0.0}}).json()
    assert alone["ok"] is True
    assert {warning["message"] for warning in alone["warnings"]} == {"The validation split is empty", "The test split is empty"}


def test_a_whole_pipeline_with_validation(ready: tuple[Api, str, str]) -> None:
    api, dataset_id, base = ready
    rules = {"columns": [{"column": "answer", "allowed": COLOURS[:11]}]}
    nodes = [
        {"agent_name": "rows", "agent_class": "DatasetAgent", "config": {"dataset_id": dataset_id, "limit": 24}},
        {"agent_name": "checked", "agent_class": "ValidationAgent", "config": {"rules": rules, "on_error": "drop"}},
        {"agent_name": "prepared", "agent_class": "PreprocessingAgent", "config": {"base_model": base, "template": "plain"}},
    ]
    edges = [{"from_agent": "rows", "to_agent": "checked"}, {"from_agent": "checked", "to_agent": "prepared"}]
    with Client(base_url=api.url) as client:
        found = client.preflight({"nodes": nodes, "edges": edges}, rows=[0])
    assert found.ok
    assert found.nodes[0].funnel["in"] == 22  # every twelfth answer is not allowed
    assert [problem.agent for problem in found.warnings] == ["checked"]
    assert found.nodes[0].shown[0].tokens[-1].trained
    assert found.trainings == []


@pytest.mark.parametrize(
    ("body", "code", "field"),
    [
        ({}, "VALIDATION_ERROR", "pipeline_config or dataset_id"),
        ({"dataset_id": "ds_x"}, "VALIDATION_ERROR", "pipeline_config or dataset_id"),
        ({"dataset_id": "ds_none", "config": {"base_model": "org/model"}}, "CONFIG_ERROR", "dataset_id"),
        ({"dataset_id": "ds_x", "config": {"base_model": "org/model", "max_lenght": 3}}, "VALIDATION_ERROR", "config.max_lenght"),
        ({"dataset_id": "ds_x", "config": {"base_model": "org/model"}, "rows": [-1]}, "VALIDATION_ERROR", "rows count from 0"),
        ({"pipeline_config": {"nodes": []}}, "CONFIG_ERROR", "nodes"),
    ],
)
def test_refused(shared: Api, body: dict[str, Any], code: str, field: str) -> None:
    answer = shared.client.post("/preflight", json=body)
    assert (answer.status_code, answer.json()["error"]) == (400, code)
    assert any(part in answer.text for part in field.split(" or "))


def test_a_base_model_that_is_elsewhere(ready: tuple[Api, str, str]) -> None:
    api, dataset_id, _ = ready
    found = ask(api, dataset_id, "some-org/some-model").json()
    assert found["ok"] is False
    assert "not on this machine yet" in found["errors"][0]["message"]


def test_memory_and_work_by_method(base: Path) -> None:
    shape = model_shape(base)
    assert (shape.hidden, shape.layers, shape.vocabulary) == (64, 2, 256)
    config = TrainingConfig(lora_r=4)
    # Per layer: q and o 64 x 64, k and v 32 x 64, gate, up and down 128 x 64.
    assert shape.adapter_parameters(config) == 2 * 4 * (2 * 128 + 2 * 96 + 3 * 192)
    assert shape.adapter_parameters(TrainingConfig(lora_r=4, target_modules=["q_proj"])) == 2 * 4 * 128
    found = memory(shape, config, tokens=1_000, labels=300, gpu=True)
    assert found["qlora"].weights < found["lora"].weights < found["full"].weights == shape.parameters * 4
    assert found["full"].optimizer == shape.parameters * 12
    assert found["lora"].trainable == shape.adapter_parameters(config) * 4
    lean = memory(shape, TrainingConfig(gradient_checkpointing="on"), tokens=1_000, labels=300, gpu=True)
    assert lean["lora"].activations < found["lora"].activations
    assert operations(shape, "full", 10, 10) == 1.5 * operations(shape, "lora", 10, 10)


def test_in_the_terminal(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_PLATFORM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LLM_PLATFORM_MODEL_ROOTS", json.dumps([str(base.parent)]))
    file = tmp_path / "rows.csv"
    file.write_text("question,answer\n" + "".join(f"{row['question']},{row['answer']}\n" for row in ROWS))
    command = ["preflight", str(file), "--base-model", str(base), "--template", "plain", "--row", "2"]
    shown = CliRunner().invoke(app, command)
    assert shown.exit_code == 0, shown.output
    assert "w2 w1 sky" in shown.output
    assert "GPU memory, qlora" in shown.output
    assert "row 0" not in shown.output
    failing = CliRunner().invoke(app, [*command, "--max-length", "8", "--template", "alpaca"])
    assert failing.exit_code == 1
    assert "This job would fail" in failing.output
