"""A whole model is registered in MLflow's transformers flavor, and what MLflow loads answers as the model does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from transformers import AutoModelForCausalLM, AutoTokenizer

from llm_platform.registry import Registry
from llm_platform.specs import TrainingConfig
from tests.tiny_models import EOS, make_base, make_rows, make_trained

pytestmark = pytest.mark.filterwarnings(
    "ignore:The ..noload.. loader strategy is deprecated:DeprecationWarning",
    "ignore:.*Any type hint is inferred as AnyType:UserWarning",  # when MLflow imports its own module
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    base = make_base(folder / "base", dtype=torch.bfloat16)
    return make_trained(base, folder, rows=make_rows(8, 11), config=TrainingConfig(method="full", learning_rate=5e-3), steps=40)


@pytest.fixture(scope="module")
def loaded(served: Registry, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a user of MLflow downloads."""
    run = served.begin("model_whole", "whole", "train", "whole", "org/base", {"method": "full"}, {}, [])
    version = served.register(run, model, "whole", "model")
    source = MlflowClient(served.tracking_uri, served.tracking_uri).get_model_version("whole", version).source
    assert source == f"runs:/{run}/model"
    return Path(download_artifacts(source, tracking_uri=served.tracking_uri, dst_path=str(tmp_path_factory.mktemp("loaded"))))


def test_mlflow_loads_it_with_equal_logits(loaded: Path, model: Path) -> None:
    from mlflow.transformers import load_model

    plain: Any = AutoModelForCausalLM.from_pretrained(model, dtype="auto")
    parts: Any = load_model(str(loaded), return_type="components")
    assert parts["model"].dtype == plain.dtype == torch.bfloat16
    ids = torch.tensor([row["input_ids"][:8] for row in make_rows(8, 11)])
    with torch.no_grad():
        assert torch.equal(parts["model"](input_ids=ids).logits, plain(input_ids=ids).logits)
    text = make_rows(1, 11)[0]["prompt"]
    assert parts["tokenizer"](text)["input_ids"] == AutoTokenizer.from_pretrained(model)(text)["input_ids"]
    assert parts["model"].generation_config.eos_token_id == EOS


def test_mlflow_answers_as_the_model_does(loaded: Path, model: Path) -> None:
    from mlflow.transformers import load_model

    plain: Any = AutoModelForCausalLM.from_pretrained(model, dtype="auto")
    tokenizer: Any = AutoTokenizer.from_pretrained(model)
    pipeline: Any = load_model(str(loaded))
    for row in make_rows(3, 11):
        inputs = tokenizer(row["prompt"], return_tensors="pt")
        expected = tokenizer.decode(plain.generate(**inputs, max_new_tokens=6)[0], skip_special_tokens=True)
        answer = pipeline(row["prompt"], max_new_tokens=6)[0]["generated_text"]
        assert answer.replace(" ", "") == expected.replace(" ", "")  # the pipeline decodes prompt and answer apart


def test_it_is_a_pyfunc_too_and_names_no_path_of_this_machine(loaded: Path, model: Path) -> None:
    from mlflow.pyfunc import load_model

    assert load_model(str(loaded)).metadata.flavors.keys() == {"python_function", "transformers"}
    for path in loaded.rglob("*"):
        if path.is_file() and path.suffix != ".safetensors":
            assert str(model.parent) not in path.read_text(encoding="utf-8"), path.name
    assert not list(loaded.rglob("LICENSE*"))


def test_nothing_is_left_beside_the_model(loaded: Path, model: Path) -> None:
    assert {path.name for path in model.parent.iterdir()} == {"base", "splits", "out", "work"}
