"""Models compared over HTTP and by the SDK, on the per-example results that their evaluations stored."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from llm_platform import Client, models, notebooks
from llm_platform.comparisons import EVALUATION_TAG
from llm_platform.errors import InvalidConfig, NotFound
from llm_platform.evaluation.figures import columns_of
from llm_platform.reporting import ListReporter
from llm_platform.settings import Settings
from llm_platform.specs.comparison import Comparison
from tests.api.api_harness import Api, Start

# MLflow's own, about the libraries that it uses.
pytestmark = pytest.mark.filterwarnings("ignore")

COST = {"parameters": 1100, "adapter_parameters": 100, "weights_mb": 0.5, "scoring_seconds": 2.0}


@pytest.fixture(scope="module")
def evaluated(start: Start, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """An API with models that were evaluated on 20 rows, on 19, or not at all."""
    with start() as api, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, right, rows in (("old", 10, 20), ("new", 15, 20), ("other", 10, 19), ("lost", 10, 20), ("never", 0, 0)):
            folder = tmp_path_factory.mktemp(name)
            (folder / "adapter_config.json").write_text("{}")
            registry = api.services.registry
            begun = registry.begin(f"model_{name}", name, "train", "tickets", "llm-platform/tiny-llama", {"method": "lora"}, {}, [])
            registry.register(begun, folder, "tickets")
            registry.set_metrics(f"model_{name}", {"train_seconds": 12.5})
            if rows:
                address = f"s3://artifacts/{name}/evaluations/scores/train"
                api.services.storage.put_folder(evaluation(folder / "out", right, rows), address)
                registry.set_tags(f"model_{name}", {EVALUATION_TAG: address})
        api.services.storage.delete("s3://artifacts/lost/evaluations")
        models.reindex(registry, api.services.database)
        yield api


def evaluation(out: Path, right: int, rows: int) -> Path:
    """As `evaluate` leaves it, with the first `right` rows answered right."""
    references = [f"r {row}" for row in range(rows)]
    answers = [reference if row < right else "no" for row, reference in enumerate(references)]
    table = pl.DataFrame({"row": list(range(rows)), "prompt": ["p"] * rows, "reference": references})
    out.mkdir()
    table.with_columns(**columns_of(answers, [True] * rows, references, "tuned")).write_parquet(out / "examples.parquet")
    (out / "evaluation.json").write_text(json.dumps({"config": {"dataset_id": None}, "costs": {"tuned": COST}}))
    return out


def test_models_are_compared_with_the_first(evaluated: Api) -> None:
    answer = evaluated.client.get("/models/compare", params={"ids": "model_old,model_new"})
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert (found["baseline"], found["examples"]) == ("model_old", 20)
    assert [(item["model_id"], item["metrics"]["accuracy"]) for item in found["models"]] == [("model_old", 0.5), ("model_new", 0.75)]
    assert found["models"][0]["intervals"]["accuracy"]["count"] == 20
    assert found["models"][0]["cost"] == {**COST, "peak_memory_mb": None, "train_seconds": 12.5}
    (item,) = found["differences"]
    assert (item["model_id"], item["differences"]["accuracy"], item["to_right"], item["to_wrong"]) == ("model_new", 0.25, 5, 0)
    assert [flip["row"] for flip in item["right_examples"]] == [10, 11, 12, 13, 14]
    again = evaluated.client.get("/models/compare", params={"ids": "model_new, model_old"}).json()
    assert again["differences"][0]["differences"]["accuracy"] == -0.25 and again["differences"][0]["to_wrong"] == 5


def test_the_sdk_compares_them(evaluated: Api) -> None:
    with Client(evaluated.url) as client:
        found = client.models.compare(["model_old", "model_new"])
        assert isinstance(found, Comparison) and found.differences[0].to_right == 5
        with pytest.raises(InvalidConfig, match="not evaluated on the same examples"):
            client.models.compare(["model_old", "model_other"])
        with pytest.raises(NotFound):
            client.models.compare(["model_old", "model_nothing"])


@pytest.mark.parametrize(
    ("ids", "status", "code", "words"),
    [
        ("model_old,model_none", 404, "NOT_FOUND", "There is no model 'model_none'"),
        ("model_old,../x", 404, "NOT_FOUND", "There is no model '../x'"),
        ("model_old,", 404, "NOT_FOUND", "There is no model ''"),
        ("model_old", 400, "VALIDATION_ERROR", "give 2 to 20 model ids, not 1"),
        ("", 400, "VALIDATION_ERROR", "give 2 to 20 model ids"),
        (",".join(f"model_{number}" for number in range(21)), 400, "VALIDATION_ERROR", "not 21"),
        ("model_old,model_new,model_old", 400, "VALIDATION_ERROR", "'model_old' is given twice"),
        ("model_old,model_never", 400, "CONFIG_ERROR", "Model 'model_never' was not evaluated"),
        ("model_old,model_lost", 400, "CONFIG_ERROR", "The evaluation of 'model_lost' is no longer stored"),
        ("model_old,model_other", 400, "CONFIG_ERROR", "'model_other' and 'model_old' were not evaluated on the same examples"),
        ("model_old," + "x" * 5000, 400, "VALIDATION_ERROR", ""),
    ],
)
def test_what_cannot_be_compared(evaluated: Api, ids: str, status: int, code: str, words: str) -> None:
    answer = evaluated.client.get("/models/compare", params={"ids": ids})
    assert (answer.status_code, answer.json()["error"]) == (status, code), answer.text
    assert words in answer.json()["message"]
    if code == "VALIDATION_ERROR":
        assert answer.json()["metadata"]["errors"][0]["field"] == "ids"


def test_the_ids_are_needed(evaluated: Api) -> None:
    answer = evaluated.client.get("/models/compare")
    assert (answer.status_code, answer.json()["error"]) == (400, "VALIDATION_ERROR")


def test_the_notebook_asks_a_running_platform(evaluated: Api, tmp_path: Path) -> None:
    given: dict[str, notebooks.Value] = {"platform_url": evaluated.url, "model_ids": "model_old, model_new", "min_gain": 0.1}
    reporter = ListReporter()
    done = notebooks.run("compare_models", given, tmp_path / "out.ipynb", reporter, 240, Settings(home=tmp_path / "home"))
    told = "\n".join(message for level, message, _ in reporter.lines if level == "INFO")
    assert "2 models on 20 rows, each against model_old" in told
    assert "model_new: accuracy +0.250" in told and "model_new against model_old: good enough" in told
    assert done.html.read_text().count('src="data:image/png') == 2
