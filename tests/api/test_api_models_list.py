"""The list of models: filters, order, what is refused, and what people did to them in MLflow."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from llm_platform import Client, models
from llm_platform.errors import InvalidInput
from llm_platform.model_sync import ModelSync
from tests.api.api_harness import Api, Start, wait_until

# MLflow's own, about the libraries that it uses.
pytestmark = pytest.mark.filterwarnings("ignore")

MODELS: dict[str, tuple[str, str, dict[str, float]]] = {
    "model_a": ("tickets", "org/one", {"accuracy": 0.5, "loss": 2.0, "arc.easy": 0.1}),
    "model_b": ("tickets", "org/two", {"accuracy": 0.9, "loss": 1.0}),
    "model_c": ("answers", "org/one", {"accuracy": 0.7}),
    "model_d": ("answers", "org/two", {}),
}


@pytest.fixture(scope="module")
def listed(start: Start, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """Four models, of which `model_b` is the champion of its name."""
    folder = tmp_path_factory.mktemp("adapter")
    (folder / "adapter_config.json").write_text("{}")
    with start() as api, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for model_id, (name, base, metrics) in MODELS.items():
            put(api, model_id, name, base, metrics, folder)
        api.services.registry.set_alias("model_b", "champion")
        models.reindex(api.services.registry, api.services.database)
        yield api


def put(api: Api, model_id: str, name: str, base: str, metrics: dict[str, float], folder: Path) -> None:
    registry = api.services.registry
    begun = registry.begin(model_id, model_id.removeprefix("model_"), "train", name, base, {"method": "lora"}, {}, [])
    registry.register(begun, folder, name)
    registry.set_metrics(model_id, metrics)


def ids(api: Api, **params: Any) -> list[str]:
    answer = api.client.get("/models", params=params)
    assert answer.status_code == 200, answer.text
    return [item["model_id"] for item in answer.json()["models"]]


@pytest.mark.parametrize(
    ("params", "found"),
    [
        ({}, "dcba"),
        ({"base_model": "org/one"}, "ca"),
        ({"name": "tickets"}, "ba"),
        ({"name": "ticket"}, ""),
        ({"alias": "champion"}, "b"),
        ({"alias": "nobody"}, ""),
        ({"min_metric": "accuracy:0.7"}, "cb"),
        ({"max_metric": "loss:1.5"}, "b"),
        ({"min_metric": ["accuracy:0.5", "loss:-1e3"], "max_metric": "accuracy:0.8"}, "a"),
        ({"min_metric": "arc.easy:0"}, "a"),
        ({"min_metric": "rouge_l:0.1"}, ""),
        ({"name": "tickets", "base_model": "org/one", "min_metric": "accuracy:0.1"}, "a"),
        ({"sort": "created_at"}, "abcd"),
        ({"sort": "-created_at"}, "dcba"),
        ({"sort": "name"}, "dcba"),
        ({"sort": "-name"}, "badc"),
        ({"sort": "-accuracy"}, "bcad"),
        ({"sort": "accuracy"}, "acbd"),
        ({"sort": "-loss", "limit": 1, "offset": 1}, "b"),
    ],
)
def test_filters_and_order(listed: Api, params: dict[str, Any], found: str) -> None:
    assert ids(listed, **params) == [f"model_{letter}" for letter in found]


def test_the_count_is_of_what_the_filter_lets_through(listed: Api) -> None:
    page = listed.client.get("/models", params={"min_metric": "accuracy:0.5", "sort": "-accuracy", "limit": 2}).json()
    assert (page["total"], page["has_more"], page["models"][0]["aliases"]) == (3, True, ["champion"])


@pytest.mark.parametrize(
    ("params", "field", "words"),
    [
        ({"min_metric": "accuracy"}, "min_metric", "is not METRIC:NUMBER"),
        ({"min_metric": "accuracy:high"}, "min_metric", "is not METRIC:NUMBER"),
        ({"min_metric": "accuracy:nan"}, "min_metric", "is not METRIC:NUMBER"),
        ({"max_metric": ":1"}, "max_metric", "is not METRIC:NUMBER"),
        ({"max_metric": 'a"]:1'}, "max_metric", "is not METRIC:NUMBER"),
        ({"min_metric": "acuracy:0.5"}, "min_metric", "did you mean 'accuracy'?"),
        ({"sort": "-acuracy"}, "sort", "did you mean 'accuracy'?"),
        ({"sort": "nothing"}, "sort", "no model has the metric 'nothing'"),
        ({"sort": "--accuracy"}, "sort", "is not created_at, name or a metric"),
        ({"sort": ""}, "sort", "is not created_at, name or a metric"),
        ({"alias": "a b"}, "alias", "an alias consists of"),
        ({"alias": '"'}, "alias", "an alias consists of"),
        ({"limit": 0}, "limit", ""),
        ({"min_metric": ["accuracy:1"] * 21}, "min_metric", ""),
        ({"name": "x" * 300}, "name", ""),
    ],
)
def test_what_is_refused(listed: Api, params: dict[str, Any], field: str, words: str) -> None:
    answer = listed.client.get("/models", params=params)
    assert (answer.status_code, answer.json()["error"]) == (400, "VALIDATION_ERROR"), answer.text
    (error,) = answer.json()["metadata"]["errors"]
    assert error["field"] == field and words in error["message"]


def test_the_sdk_asks_for_the_same(listed: Api) -> None:
    with Client(listed.url) as client:
        found = client.models.list(name="tickets", min_metric={"accuracy": 0.5}, max_metric={"loss": 5}, sort="-accuracy", limit=1)
        assert [item.model_id for item in found] == ["model_b"] and found.total == 2
        assert [item.model_id for item in client.models.list(alias="champion")] == ["model_b"]
        with pytest.raises(InvalidInput, match="Input validation failed"):
            client.models.list(sort="acuracy")


def test_what_people_do_in_mlflow_reaches_the_list(start: Start, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    with start() as api, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in ("kept", "gone", "copied"):
            put(api, f"model_{name}", name, "org/one", {"accuracy": 0.5}, tmp_path)
        registry, database = api.services.registry, api.services.database
        assert models.reindex(registry, database) == 3
        mlflow = MlflowClient(registry.tracking_uri, registry.tracking_uri)
        mlflow.rename_registered_model("kept", "it's another")
        mlflow.set_registered_model_alias("it's another", "best", "1")
        mlflow.update_model_version("it's another", "1", description="Ours.")
        mlflow.delete_registered_model("gone")
        mlflow.copy_model_version("models:/copied/1", "copy")
        for path in ("/models/model_gone", "/models/model_gone/card", "/models/model_gone/download", "/models/model_gone/files"):
            assert api.client.get(path).status_code == 404, path
        assert api.client.get("/models/model_kept").json()["model_name"] == "it's another"
        assert "Ours." in api.client.get("/models/model_kept/card").text
        sync = ModelSync(registry, database, seconds=0)
        sync.kick()
        wait_until(lambda: ids(api, sort="name") == ["model_copied", "model_kept"], 20)
        sync.close()
        assert ids(api, alias="best", name="it's another") == ["model_kept"]
        # The experiment's run is deleted in MLflow's pages; the version is still there, and so is the model.
        mlflow.delete_run(registry.get("model_kept").mlflow_run_id)  # type: ignore[union-attr]
        assert models.reindex(registry, database) == 2 and api.client.get("/models/model_kept").status_code == 200
        run = registry.get("model_copied")
        assert run is not None
        mlflow.delete_tag(run.mlflow_run_id, "llm_platform.run_id")
        assert models.reindex(registry, database) == 1 and api.client.get("/models/model_copied").status_code == 404
