"""A model spread over two processes (FSDP2 over gloo) trains as one that is whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from llm_platform.errors import Cancelled
from llm_platform.reporting import ListReporter
from llm_platform.specs import TrainingConfig
from llm_platform.training import checkpoint, fit
from llm_platform.training.ranks import SOLO, started
from tests.training.runs import config, run, weights_file
from tests.training.sharded import figures_in_parts

STEPS: dict[str, Any] = {"batch_size": 13, "gradient_accumulation_steps": 2, "epochs": 2, "checkpoint_every": 2}
"""Of 40 rows, so that each epoch has a batch of one row, of which the second process has none."""


def norms(reporter: ListReporter) -> list[float]:
    return [data["grad_norm"] for level, _, data in reporter.lines if level == "METRIC" and "grad_norm" in data]


def weights(folder: Path, method: str) -> dict[str, torch.Tensor]:
    return load_file(folder / "out" / weights_file(method))


CASES: list[tuple[str, dict[str, Any]]] = [
    ("lora", {}),
    ("dora", {"packing": True, "gradient_checkpointing": "on", "dtype": "bfloat16"}),
    ("full", {"gradient_checkpointing": "on"}),
]


@pytest.mark.parametrize(("method", "changes"), CASES)
def test_a_sharded_model_takes_the_steps_of_a_whole_one(
    method: str, changes: dict[str, Any], base: Path, splits: Path, tmp_path: Path
) -> None:
    options = STEPS | changes | ({} if method == "full" else {"lora_dropout": 0.0})
    one, told = run(config(method, **options), base, splits, tmp_path / "one")
    two, told_two = run(config(method, **options, devices=2, sharding="full"), base, splits, tmp_path / "two")
    near = 2e-2 if "dtype" in changes else 1e-4
    assert two.steps == one.steps == 4 and two.tokens == one.tokens
    np.testing.assert_allclose([loss for _, loss in two.losses], [loss for _, loss in one.losses], rtol=near)
    np.testing.assert_allclose(norms(told_two), norms(told), rtol=10 * near)
    np.testing.assert_allclose(two.validation_losses, one.validation_losses, rtol=near)
    assert (two.trainable_parameters, two.total_parameters) == (one.trainable_parameters, one.total_parameters)
    found, expected = weights(tmp_path / "two", method), weights(tmp_path / "one", method)
    assert found.keys() == expected.keys()
    for name in found:
        assert found[name].dtype == expected[name].dtype
        if "dtype" not in changes:  # in 16 bits AdamW's first steps turn the least differences into whole ones
            np.testing.assert_allclose(found[name], expected[name], rtol=2e-2, atol=2e-4, err_msg=name)
    assert (tmp_path / "two" / "out" / "training.json").is_file()


def test_a_sharded_run_goes_on_as_if_it_had_never_stopped(base: Path, splits: Path, tmp_path: Path) -> None:
    made = config("full", **STEPS, devices=2, sharding="full")
    run(made, base, splits, tmp_path / "whole")
    with pytest.raises(Cancelled):
        run(made, base, splits, tmp_path / "parts", ListReporter(cancel_after=3))
    again, _ = run(made, base, splits, tmp_path / "parts")
    assert again.resumed_from == 2
    whole, parts = (weights(tmp_path / name, "full") for name in ("whole", "parts"))
    for name in whole:
        assert whole[name].equal(parts[name]), name


def test_a_checkpoint_is_that_of_a_whole_model(base: Path, splits: Path, tmp_path: Path) -> None:
    """So a sharded run goes on as one device, with the steps that one device would have taken from the start."""
    options = STEPS | {"lora_dropout": 0.0}
    with pytest.raises(Cancelled):
        run(config("lora", **options, devices=2, sharding="full"), base, splits, tmp_path, ListReporter(cancel_after=3))
    again, _ = run(config("lora", **options), base, splits, tmp_path)
    assert again.resumed_from == 2
    whole, _ = run(config("lora", **options), base, splits, tmp_path / "whole")
    np.testing.assert_allclose([loss for _, loss in again.losses], [loss for _, loss in whole.losses], rtol=1e-4)
    one, two = (checkpoint.latest(folder / "work" / "checkpoints") for folder in (tmp_path, tmp_path / "whole"))
    assert one is not None and two is not None and one.tensors.keys() == two.tensors.keys()


def test_a_loss_in_parts_is_that_of_the_whole(base: Path, splits: Path) -> None:
    """The parts call the output head outside the model's forward pass."""
    one = figures_in_parts(SOLO, base, splits)
    with started(2, figures_in_parts, base, splits) as ranks:
        two = figures_in_parts(ranks, base, splits)
    np.testing.assert_allclose(two, one, rtol=1e-4)


def test_a_model_too_large_for_one_device_is_spread(base: Path, splits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "available", lambda _: 1)
    _, told = run(config("lora", **STEPS, devices=2), base, splits, tmp_path / "two")
    assert any("The model is spread over 2 devices" in message for _, message, _ in told.lines)
    _, told = run(config("lora", max_steps=1), base, splits, tmp_path / "one")
    assert not any("spread" in message for _, message, _ in told.lines), "one device has nothing to share"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "one device has nothing to share; raise devices"),
        ({"devices": 2, "method": "qlora"}, "a model in 4 bits is not spread over devices; use method lora"),
        ({"devices": 2, "optimizer": "paged_adamw"}, "use adamw"),
    ],
)
def test_what_cannot_be_sharded_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TrainingConfig(sharding="full", **changes)
