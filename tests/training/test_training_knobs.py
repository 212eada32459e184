"""Every knob of the loop does what it says, and one that could not do it is refused before the first step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from llm_platform.errors import DatasetError, InvalidConfig, StorageError
from llm_platform.reporting import ListReporter
from llm_platform.specs import TrainingConfig
from llm_platform.training import checkpoint, optimizer
from llm_platform.training.loop import learning_rate
from tests.tiny_models import make_splits, same_tensors, tensors
from tests.training.runs import config, loop, run, weights_file

CPU, GPU = torch.device("cpu"), torch.device("cuda")
OVERFIT: dict[str, Any] = {"epochs": 6, "learning_rate": 3e-2, "lora_dropout": 0.0, "warmup_ratio": 0.0, "lr_scheduler": "constant"}
"""With these the validation loss falls, then rises."""


def steps(reporter: ListReporter) -> list[int]:
    return [data["step"] for level, _, data in reporter.lines if level == "METRIC" and "loss" in data]


def messages(reporter: ListReporter) -> list[str]:
    return [text for level, text, _ in reporter.lines if level == "INFO"]


def kept(folder: Path) -> list[int]:
    return [int(path.name.removeprefix("step_")) for path in checkpoint.folders(folder / "work" / "checkpoints")]


def test_the_validation_loss_is_measured_as_often_as_asked(base: Path, splits: Path, tmp_path: Path) -> None:
    result, reporter = run(config("lora", evaluate_every=4), base, splits, tmp_path)
    assert [step for step, _ in result.validation_losses] == [4, 8, 10]
    assert [data["step"] for level, _, data in reporter.lines if level == "METRIC" and "validation_loss" in data] == [4, 8, 10]


def test_training_stops_when_the_validation_loss_has_no_new_lowest(base: Path, splits: Path, tmp_path: Path) -> None:
    result, reporter = run(config("lora", evaluate_every=5, early_stopping_patience=2, **OVERFIT), base, splits, tmp_path / "1")
    losses = [loss for _, loss in result.validation_losses]
    assert result.stopped_early and result.steps < 60 and result.steps == 5 * len(losses) == steps(reporter)[-1]
    assert len(losses) - losses.index(min(losses)) == 3
    assert result.kept_step == result.steps and result.validation_loss == losses[-1]
    assert any(text.startswith(f"Stopped early after step {result.steps}") for text in messages(reporter))
    longer, _ = run(config("lora", evaluate_every=5, early_stopping_patience=3, **OVERFIT), base, splits, tmp_path / "2")
    assert longer.steps > result.steps
    assert longer.validation_losses[: len(losses)] == result.validation_losses


@pytest.mark.parametrize("method", ["lora", "full"])
def test_the_best_weights_are_kept(method: str, base: Path, splits: Path, tmp_path: Path) -> None:
    overfit = OVERFIT if method == "lora" else {"epochs": 6, "learning_rate": 1e-2, "warmup_ratio": 0.0, "lr_scheduler": "constant"}
    result, reporter = run(config(method, evaluate_every=5, keep="best", **overfit), base, splits, tmp_path / "best")
    step, loss = min(result.validation_losses, key=lambda point: point[1])
    assert step < result.steps == 60
    assert (result.kept_step, result.validation_loss, result.stopped_early) == (step, loss, False)
    assert any(f"weights of step {step}" in text for text in messages(reporter))
    until, _ = run(config(method, max_steps=step, **{**overfit, "epochs": 1}), base, splits, tmp_path / "until")
    assert until.validation_loss == loss
    assert same_tensors(*(tensors(tmp_path / name / "out", weights_file(method)) for name in ("best", "until")))
    last, _ = run(config(method, evaluate_every=5, **overfit), base, splits, tmp_path / "last")
    assert last.kept_step == 60 and last.validation_losses == result.validation_losses
    assert not same_tensors(*(tensors(tmp_path / name / "out", weights_file(method)) for name in ("best", "last")))


def test_best_weights_that_cannot_be_read_are_not_replaced_by_others(base: Path, splits: Path, tmp_path: Path) -> None:
    made = config("lora", evaluate_every=5, keep="best", **OVERFIT)
    result, _ = run(made, base, splits, tmp_path)
    (checkpoint.path_of(tmp_path / "work" / "checkpoints", result.kept_step) / "tensors.safetensors").write_bytes(b"")
    with pytest.raises(StorageError, match="damaged"):
        run(made, base, splits, tmp_path)


@pytest.mark.parametrize("number", [1, 3])
def test_as_many_checkpoints_are_kept_as_asked(number: int, base: Path, tmp_path: Path) -> None:
    splits = make_splits(tmp_path / "splits", validation=0)
    run(config("lora", checkpoint_every=2, checkpoints_kept=number), base, splits, tmp_path)
    assert kept(tmp_path) == [2, 4, 6, 8, 10][-number:]


def test_the_best_checkpoint_is_kept_beside_the_newest(base: Path, splits: Path, tmp_path: Path) -> None:
    made = config("lora", evaluate_every=5, checkpoint_every=1, checkpoints_kept=1, **OVERFIT)
    result, _ = run(made, base, splits, tmp_path)
    assert kept(tmp_path) == [min(result.validation_losses, key=lambda point: point[1])[0], 60]


def test_resume_off_starts_anew(base: Path, splits: Path, tmp_path: Path) -> None:
    first, _ = run(config("lora"), base, splits, tmp_path)
    again, reporter = run(config("lora"), base, splits, tmp_path)
    assert again.resumed_from == first.steps and not steps(reporter)
    anew, reporter = run(config("lora", resume=False), base, splits, tmp_path)
    assert anew.resumed_from is None and steps(reporter)[0] == 1 and anew.losses == first.losses
    assert any(text.startswith("resume is off") for text in messages(reporter))


@pytest.mark.parametrize(
    ("field", "changes"),
    [("early_stopping_patience", {"early_stopping_patience": 1}), ("keep", {"keep": "best"}), ("evaluate_every", {"evaluate_every": 5})],
)
def test_what_needs_validation_rows_says_so(field: str, changes: dict[str, Any], base: Path, tmp_path: Path) -> None:
    splits = make_splits(tmp_path / "splits", validation=0)
    with pytest.raises(DatasetError, match="validation split is empty") as caught:
        run(config("lora", **changes), base, splits, tmp_path)
    assert [error["field"] for error in caught.value.metadata["errors"]] == [field]
    assert not (tmp_path / "work").exists() and not (tmp_path / "out").exists()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_dtype_is_that_of_the_base_and_the_adapter_is_float32(dtype: str, base: Path, splits: Path) -> None:
    made = loop(config("lora", dtype=dtype), base, splits)
    kinds = {parameter.dtype for parameter in made.model.parameters() if not parameter.requires_grad}
    assert kinds == {getattr(torch, dtype)} == {made.dtype}
    assert {parameter.dtype for parameter in made.parameters.values()} == {torch.float32}


def test_all_weights_are_trained_in_float32_whatever_the_dtype(base: Path, splits: Path) -> None:
    made = loop(config("full", dtype="bfloat16"), base, splits)
    assert {parameter.dtype for parameter in made.model.parameters()} == {torch.float32}


@pytest.mark.parametrize("form", ["paged_adamw", "paged_adamw_8bit"])
def test_a_paged_optimizer_needs_a_gpu(form: Any, base: Path, splits: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match="has no GPU; use 'adamw'") as caught:
        run(config("qlora", optimizer=form), base, splits, tmp_path)
    assert caught.value.metadata["errors"][0]["field"] == "optimizer"
    assert not (tmp_path / "work").exists()
    assert optimizer.choose(config("qlora", optimizer=form), GPU) == form


def test_auto_is_adamw_but_paged_for_qlora_on_a_gpu() -> None:
    found = {
        (method, device.type): optimizer.choose(config(method), device) for method in ("lora", "qlora", "full") for device in (CPU, GPU)
    }
    assert {place for place, form in found.items() if form == "paged_adamw"} == {("qlora", "cuda")}
    assert set(found.values()) == {"adamw", "paged_adamw"}


def test_lora_plus_keeps_its_ratio_through_the_schedule(base: Path, splits: Path) -> None:
    made = loop(config("loraplus", lr_scheduler="cosine", warmup_ratio=0.3), base, splits)
    names = {parameter: name for name, parameter in made.parameters.items()}
    for step in (0, 2, 5, 9):
        rate = learning_rate(made.config, step, 10)
        optimizer.set_rate(made.optimizer, rate)
        rates = {names[p]: group["lr"] for group in made.optimizer.param_groups for p in group["params"]}
        assert rates.keys() == made.parameters.keys()
        assert all(found == pytest.approx(rate * (16 if "lora_B" in name else 1)) for name, found in rates.items())


@pytest.mark.parametrize(("method", "undecayed"), [("lora", ()), ("dora", ("magnitude",)), ("full", ("norm",))])
def test_weights_of_one_dimension_are_not_decayed(method: str, undecayed: tuple[str, ...], base: Path, splits: Path) -> None:
    made = loop(config(method, weight_decay=0.1), base, splits)
    names = {parameter: name for name, parameter in made.parameters.items()}
    decay = {names[p]: group["weight_decay"] for group in made.optimizer.param_groups for p in group["params"]}
    assert decay.keys() == made.parameters.keys()
    assert {name for name, found in decay.items() if found == 0} == {name for name in decay if any(part in name for part in undecayed)}
    assert set(decay.values()) <= {0.0, 0.1}


def trained(form: Any, count: int, restart: int | None) -> torch.Tensor:
    """A weight matrix after `count` steps, the optimizer made anew from its saved state after `restart` of them."""
    torch.manual_seed(3)
    parameters = {"w": torch.nn.Parameter(torch.randn(96, 64)), "b": torch.nn.Parameter(torch.randn(8))}
    target = torch.randn(96, 64)
    made = optimizer.build(form, TrainingConfig(learning_rate=0.1, weight_decay=0.1), parameters)
    for step in range(count):
        if step == restart:
            saved = {name: tensor.clone() for name, tensor in optimizer.state(made, parameters)}
            made = optimizer.build(form, TrainingConfig(learning_rate=0.1, weight_decay=0.1), parameters)
            optimizer.restore(made, parameters, saved)
        optimizer.set_rate(made, 0.1 / (step + 1))
        made.zero_grad()
        ((parameters["w"] - target).square().sum() + parameters["b"].square().sum()).backward()
        made.step()
    return parameters["w"].detach()


@pytest.mark.filterwarnings("ignore:Paged optimizers are not supported on CPU:UserWarning")
@pytest.mark.parametrize(("form", "off"), [("adamw", 0.0), ("paged_adamw", 1e-4), ("paged_adamw_8bit", 0.2)])
def test_every_form_is_adamw_and_its_state_comes_back(form: str, off: float) -> None:
    """The paged forms fall back to plain memory on the CPU; their arithmetic is the same."""
    assert torch.equal(trained(form, 6, None), trained(form, 6, 3))
    assert torch.allclose(trained(form, 6, None), trained("adamw", 6, None), atol=off or 1e-9)
