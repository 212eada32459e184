"""`target_modules` against the base model, before a job is accepted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.api.api_harness import Api, Start
from tests.tiny_models import make_base


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("models") / "base")


@pytest.fixture(scope="module")
def api(start: Start, base: Path) -> Iterator[Api]:
    with start(model_roots=[base.parent]) as api:
        yield api


def submit(api: Api, base: Path, training: dict[str, Any]) -> httpx.Response:
    dataset_id = api.upload().json()["dataset_id"]
    mapping = {"instruction": "question", "output": "answer"}
    nodes = [
        {"agent_name": "rows", "agent_class": "DatasetAgent", "config": {"dataset_id": dataset_id}},
        {"agent_name": "prepared", "agent_class": "PreprocessingAgent", "config": {"base_model": str(base), "template_mapping": mapping}},
        {"agent_name": "trained", "agent_class": "TrainingAgent", "config": training},
    ]
    edges = [{"from_agent": "rows", "to_agent": "prepared"}, {"from_agent": "prepared", "to_agent": "trained"}]
    return api.client.post("/jobs", json={"pipeline_config": {"nodes": nodes, "edges": edges}})


@pytest.mark.parametrize("wanted", [["no_such_module"], ["q_proj", "qproj"], "q_proj"])
def test_layers_that_the_model_lacks_are_refused(api: Api, base: Path, wanted: list[str] | str) -> None:
    answer = submit(api, base, {"target_modules": wanted})
    assert (answer.status_code, answer.json()["error"]) == (400, "CONFIG_ERROR"), answer.text
    (error,) = answer.json()["metadata"]["errors"]
    assert (error["agent"], error["field"]) == ("trained", "target_modules")
    assert "it has down_proj, gate_proj, k_proj" in error["message"]


@pytest.mark.parametrize("wanted", ["all-linear", ["q_proj", "layers.1.mlp.up_proj"], r".*\.[kv]_proj"])
def test_layers_that_it_has_are_taken(api: Api, base: Path, wanted: list[str] | str) -> None:
    answer = submit(api, base, {"target_modules": wanted})
    assert answer.status_code == 200, answer.text


def test_where_the_files_may_name_them_otherwise_training_tells(api: Api, base: Path) -> None:
    config = json.loads((base / "config.json").read_text("utf-8"))
    other = base.parent / "other"
    other.mkdir()
    for path in base.iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    (other / "config.json").write_text(json.dumps(config | {"model_type": "unheard_of"}), "utf-8")
    assert submit(api, other, {"target_modules": ["no_such_module"]}).status_code == 200
