"""Which layers `target_modules` means: told from names alone, before there is a model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from llm_platform.errors import InvalidConfig
from llm_platform.specs import TrainingConfig
from llm_platform.training.adapter import attach, trainable
from llm_platform.training.base_model import load
from llm_platform.training.estimate import model_shape
from llm_platform.training.targets import chosen

LINEAR = [f"model.layers.{layer}.{part}" for layer in range(2) for part in ("self_attn.q_proj", "self_attn.v_proj", "mlp.up_proj")]


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("all-linear", LINEAR),
        (["q_proj"], [LINEAR[0], LINEAR[3]]),
        (["layers.1.mlp.up_proj", "model.layers.0.self_attn.q_proj"], [LINEAR[0], LINEAR[5]]),
        (r".*\.1\..*_proj", LINEAR[3:]),
    ],
)
def test_what_stands_for_which_layers(wanted: list[str] | str, found: list[str]) -> None:
    assert chosen(wanted, LINEAR) == found


@pytest.mark.parametrize("wanted", [["q_proj", "k_proj"], ["proj"], "q_proj"])
def test_what_stands_for_none_is_refused(wanted: list[str] | str) -> None:
    with pytest.raises(InvalidConfig, match="it has q_proj, up_proj, v_proj") as caught:
        chosen(wanted, LINEAR)
    assert caught.value.metadata["errors"][0]["field"] == "target_modules"


@pytest.mark.parametrize(
    "wanted", ["all-linear", ["q_proj", "layers.1.mlp.up_proj"], ["model.layers.0.self_attn.q_proj"], r".*\.0\..*_proj"]
)
def test_the_files_tell_how_many_weights_an_adapter_has(wanted: list[str] | str, base: Path) -> None:
    config = TrainingConfig(lora_r=4, target_modules=wanted)
    parameters = trainable(attach(load(base, torch.float32), config, "org/base"))
    assert model_shape(base).adapter_parameters(config) == sum(parameter.numel() for parameter in parameters.values())
