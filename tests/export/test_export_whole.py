"""A model all of whose weights were trained is exported as it is, after it was seen to load and answer."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, GenerationConfig

from llm_platform.errors import Cancelled, InvalidConfig, TrainingError
from llm_platform.export.export import export_whole
from llm_platform.reporting import ListReporter
from llm_platform.specs import TrainingConfig
from tests.tiny_models import EOS, make_base, make_rows, make_trained, same_tensors, tensors

WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def model(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = TrainingConfig(method="full", learning_rate=5e-3)
    return make_trained(base, tmp_path_factory.mktemp("whole"), rows=make_rows(8, 11), config=config, steps=10)


def test_it_is_exported_as_it_is(base: Path, model: Path, tmp_path: Path) -> None:
    result = export_whole(base, model, tmp_path / "out", ListReporter())
    assert result.format == "merged" and result.files == sorted(path.name for path in model.iterdir())
    assert same_tensors(tensors(tmp_path / "out", WEIGHTS), tensors(model, WEIGHTS))
    assert (result.checks["dtype"], result.checks["ends"]) == ("float32", str(EOS))
    assert float(result.checks["training_effect"]) > 0.05
    assert GenerationConfig.from_pretrained(tmp_path / "out").eos_token_id == EOS
    ids = torch.tensor([[1, 5, 9, 30]])
    loaded: list[Any] = [AutoModelForCausalLM.from_pretrained(folder) for folder in (model, tmp_path / "out")]
    assert torch.equal(*(each(input_ids=ids).logits for each in loaded))


def test_a_model_that_is_not_whole_is_not_exported(base: Path, model: Path, tmp_path: Path) -> None:
    shutil.copytree(model, tmp_path / "model")
    kept = {name: tensor for name, tensor in tensors(model, WEIGHTS).items() if "layers.1.mlp.up_proj" not in name}
    save_file(kept, tmp_path / "model" / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(InvalidConfig, match=r"layers\.1\.mlp\.up_proj"):
        export_whole(base, tmp_path / "model", tmp_path / "out", ListReporter())
    broken = {name: tensor * float("nan") if name.endswith("q_proj.weight") else tensor for name, tensor in tensors(model, WEIGHTS).items()}
    save_file(broken, tmp_path / "model" / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(TrainingError, match="Nothing was exported"):
        export_whole(base, tmp_path / "model", tmp_path / "out", ListReporter())
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_pickles_and_other_bases_are_refused(base: Path, model: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match="The model was trained on other base weights"):
        export_whole(make_base(tmp_path / "base", tied=False), model, tmp_path / "out", ListReporter())
    shutil.copytree(model, tmp_path / "model")
    (tmp_path / "model" / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(InvalidConfig, match=r"pytorch_model\.bin"):
        export_whole(base, tmp_path / "model", tmp_path / "out", ListReporter())
    assert not (tmp_path / "out").exists()


def test_cancelling_leaves_nothing(base: Path, model: Path, tmp_path: Path) -> None:
    with pytest.raises(Cancelled):
        export_whole(base, model, tmp_path / "out", ListReporter(cancel_after=0))
    assert list(tmp_path.iterdir()) == []
