"""LoRA's update added to the weights is peft's LoRA: outputs, gradients, what it starts from, and where it is not used."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from peft.tuners.lora.layer import Linear

from llm_platform.training import adapter
from llm_platform.training.base_model import load
from llm_platform.training.lora import AddedLinear, add_to_weights
from tests.training.runs import config


def layers(base: Path, **options: Any) -> tuple[Any, Any]:
    """(the model with peft's layers, the same with ours), with an adapter that is not at its start."""
    theirs = adapter.attach(load(base, torch.float32), config("lora", **options), "base")
    for name, parameter in theirs.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    ours = copy.deepcopy(theirs)
    add_to_weights(ours)
    return theirs.train(), ours.train()


def kinds(model: torch.nn.Module) -> set[type]:
    return {type(module) for module in model.modules() if isinstance(module, Linear)}


def run(model: Any, length: int = 200) -> list[torch.Tensor]:
    """Logits, and the gradients of what is trained."""
    torch.manual_seed(0)
    logits = model(input_ids=torch.randint(0, model.config.vocab_size, (4, length))).logits
    (logits**2).mean().backward()
    return [logits, *(parameter.grad for parameter in model.parameters() if parameter.requires_grad)]


@pytest.mark.parametrize(
    "options", [{}, {"lora_r": 4, "lora_alpha": 32}, {"use_rslora": True}, {"target_modules": ["q_proj", "down_proj"]}]
)
def test_outputs_and_gradients_are_those_of_peft(options: dict[str, Any], base: Path) -> None:
    theirs, ours = layers(base, **{"lora_dropout": 0.0, **options})
    assert (kinds(theirs), kinds(ours)) == ({Linear}, {AddedLinear})
    for expected, found in zip(run(theirs), run(ours), strict=True):
        torch.testing.assert_close(found, expected, atol=2e-4, rtol=1e-3)


def test_what_is_saved_and_merged_is_what_peft_saves_and_merges(base: Path) -> None:
    theirs, ours = layers(base, lora_dropout=0.0)
    assert {**theirs.state_dict()}.keys() == {**ours.state_dict()}.keys()
    merged = [model.merge_and_unload().state_dict() for model in (theirs, ours)]
    assert all(torch.equal(merged[0][name], merged[1][name]) for name in merged[0])


def test_an_adapter_that_has_learned_nothing_changes_no_bit(base: Path) -> None:
    tuned = adapter.attach(load(base, torch.float32), config("lora", lora_dropout=0.0), "base")
    add_to_weights(tuned)
    ids = torch.randint(0, tuned.config.vocab_size, (4, 200))
    assert torch.equal(tuned(input_ids=ids).logits, load(base, torch.float32)(input_ids=ids).logits)


def test_a_small_batch_takes_the_way_of_peft(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, ours = layers(base, lora_dropout=0.0)
    taken: list[int] = []
    theirs = Linear.forward
    monkeypatch.setattr(Linear, "forward", lambda self, x, *args, **kwargs: taken.append(1) or theirs(self, x, *args, **kwargs))
    run(ours, length=2)
    assert taken
    taken.clear()
    run(ours)
    assert not taken


@pytest.mark.parametrize("options", [{"lora_dropout": 0.1}, {"lora_dropout": 0.0, "use_dora": True}])
def test_dropout_and_dora_stay_with_peft(options: dict[str, Any], base: Path) -> None:
    _, ours = layers(base, **options)
    assert AddedLinear not in kinds(ours)


def test_what_would_be_rounded_away_stays_with_peft(base: Path) -> None:
    ours = adapter.attach(load(base, torch.bfloat16), config("lora", lora_dropout=0.0), "base")
    add_to_weights(ours)
    assert AddedLinear not in kinds(ours)
