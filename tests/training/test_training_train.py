"""Training moves what it should and nothing else, gives the same bits for the same seed, and stops with rows when it must."""

from __future__ import annotations

import itertools
import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GenerationConfig

from llm_platform.errors import Cancelled, DatasetError, InvalidConfig, TrainingError
from llm_platform.reporting import ListReporter
from llm_platform.specs import TrainingConfig
from llm_platform.training import adapter, base_model
from llm_platform.training import loop as training_loop
from llm_platform.training import loss as training_loss
from llm_platform.training.batches import Batch
from llm_platform.training.charts import loss_png
from llm_platform.training.device import explain_out_of_memory
from llm_platform.training.loop import learning_rate
from llm_platform.training.result import Curve, TrainingResult
from llm_platform.training.train import train
from tests.tiny_models import EOS, make_base, make_rows, make_splits, same_tensors, tensors, write_split
from tests.training.runs import config, loop

CONFIG = {"batch_size": 4, "learning_rate": 1e-2, "lora_r": 4, "epochs": 2}


def run(base: Path, splits: Path, folder: Path, reporter: ListReporter | None = None, **config: Any) -> tuple[TrainingResult, ListReporter]:
    reporter = reporter or ListReporter()
    made = TrainingConfig(**{**CONFIG, **config})
    return train(made, base, splits, folder / "out", folder / "work", reporter, base_name="org/base", threads=1), reporter


def metrics(reporter: ListReporter) -> list[dict[str, Any]]:
    return [data for level, _, data in reporter.lines if level == "METRIC" and "loss" in data]


@pytest.fixture(scope="module")
def trained(base: Path, splits: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainingResult, ListReporter, Path]:
    folder = tmp_path_factory.mktemp("trained")
    return *run(base, splits, folder), folder


def test_the_result_adds_up(trained: tuple[TrainingResult, ListReporter, Path]) -> None:
    result, _, _ = trained
    assert (result.steps, result.epochs, result.resumed_from) == (20, 2.0, None)
    assert [step for step, _ in result.losses] == list(range(1, 21))
    assert result.final_loss == pytest.approx(sum(loss for _, loss in result.losses) / 20)
    assert [step for step, _ in result.validation_losses] == [10, 20]
    assert result.validation_loss == result.validation_losses[-1][1]
    assert result.tokens == 2 * sum(len(row["input_ids"]) for row in make_rows(40, 1))
    assert result.total_parameters > result.trainable_parameters == 2 * 4 * (64 * 2 + 64 * 2 + 96 * 2 + 192 * 3)
    assert TrainingResult.model_validate_json(result.model_dump_json()) == result
    assert loss_png(result).startswith(b"\x89PNG")


def test_it_learns(trained: tuple[TrainingResult, ListReporter, Path]) -> None:
    losses = trained[0].losses
    assert losses[-1][1] < 0.8 * losses[0][1]


def test_every_step_is_reported(trained: tuple[TrainingResult, ListReporter, Path]) -> None:
    _, reporter, _ = trained
    lines = metrics(reporter)
    assert [line["step"] for line in lines] == list(range(1, 21))
    names = {"step", "epoch", "loss", "learning_rate", "grad_norm", "tokens_per_second", "eta_seconds", "memory_mb"}
    assert all(line.keys() == names and all(math.isfinite(value) for value in line.values()) for line in lines)
    assert lines[-1]["eta_seconds"] == 0
    steps = [data for level, what, data in reporter.lines if level == "PROGRESS" and what == "steps"]
    assert steps[-1] == {"done": 20, "total": 20} and len(steps) == 20


def test_the_adapter_is_peft_s_own_format(trained: tuple[TrainingResult, ListReporter, Path], base: Path) -> None:
    out = trained[2] / "out"
    settings = json.loads((out / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == "org/base"
    assert "lm_head" not in settings["target_modules"] and len(settings["target_modules"]) == 7
    assert not any(str(base.parent) in path.read_text() for path in out.glob("*.json"))
    assert GenerationConfig.from_pretrained(out).eos_token_id == EOS
    assert (out / "tokenizer.json").read_bytes() == (base / "tokenizer.json").read_bytes()
    assert json.loads((out / "training.json").read_text())["config"]["lora_r"] == 4

    ids = torch.tensor([[1, 5, 9, 30]])
    ours = adapter.load_adapter(base_model.load(base, torch.float32), out)
    with adapter.quiet_peft():
        plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(out)).eval()
    with torch.no_grad():
        assert torch.equal(ours(input_ids=ids).logits, plain(input_ids=ids).logits)
        with plain.disable_adapter():
            untuned = plain(input_ids=ids).logits
        assert not torch.allclose(plain(input_ids=ids).logits, untuned, atol=1e-2)


def test_every_trainable_parameter_moved_and_no_frozen_one(base: Path, splits: Path, tmp_path: Path) -> None:
    run(base, splits, tmp_path, max_steps=3)
    start = adapter.attach(base_model.load(base, torch.float32), TrainingConfig(**CONFIG), "org/base")
    before = {name.replace(".default", ""): parameter for name, parameter in adapter.trainable(start).items()}
    after = tensors(tmp_path / "out")
    assert before.keys() == after.keys()
    assert not [name for name in after if torch.equal(before[name], after[name])]
    model = adapter.load_adapter(base_model.load(base, torch.float32), tmp_path / "out")
    for name, tensor in base_model.load(base, torch.float32).state_dict().items():
        inside = [
            value for key, value in model.state_dict().items() if key.removeprefix("base_model.model.").replace(".base_layer", "") == name
        ]
        assert len(inside) == 1 and torch.equal(inside[0], tensor)


def test_same_seed_same_bits(trained: tuple[TrainingResult, ListReporter, Path], base: Path, splits: Path, tmp_path: Path) -> None:
    result, _ = run(base, splits, tmp_path)
    assert same_tensors(tensors(tmp_path / "out"), tensors(trained[2] / "out"))
    assert result.losses == trained[0].losses and result.validation_losses == trained[0].validation_losses
    for name in ("adapter_model.safetensors", "adapter_config.json", "training.json"):
        assert (tmp_path / "out" / name).read_bytes() == (trained[2] / "out" / name).read_bytes()


def test_another_seed_other_weights(trained: tuple[TrainingResult, ListReporter, Path], base: Path, splits: Path, tmp_path: Path) -> None:
    run(base, splits, tmp_path, seed=43)
    assert not same_tensors(tensors(tmp_path / "out"), tensors(trained[2] / "out"))


def test_accumulated_gradients_are_those_of_the_large_batch(base: Path, tmp_path: Path) -> None:
    """Adam's first step hides a wrong scale, so loss and gradient norm are compared too."""
    rows = make_rows(12, 5)
    for row in rows[:6]:  # very different numbers of labels: a mean of the batches' means would be off
        row["loss_mask"] = [False] + [True] * (len(row["loss_mask"]) - 1)
    splits = make_splits(tmp_path / "splits", validation=0)
    write_split(splits / "train.parquet", rows)
    seen = []
    for name, size, accumulation in (("large", 12, 1), ("small", 2, 6), ("uneven", 5, 3)):
        _, reporter = run(
            base, splits, tmp_path / name, lora_dropout=0.0, max_steps=2, batch_size=size, gradient_accumulation_steps=accumulation
        )
        seen.append([(line["loss"], line["grad_norm"]) for line in metrics(reporter)])
    for other in seen[1:]:
        for one, two in zip(seen[0], other, strict=True):
            assert two == pytest.approx(one, rel=1e-4)


def test_max_steps_wins_over_epochs(base: Path, splits: Path, tmp_path: Path) -> None:
    assert run(base, splits, tmp_path / "fewer", max_steps=3)[0].steps == 3
    result, _ = run(base, splits, tmp_path / "more", max_steps=25)
    assert (result.steps, result.epochs) == (25, 2.5)


def test_an_empty_validation_split_is_fine(base: Path, tmp_path: Path) -> None:
    result, _ = run(base, make_splits(tmp_path / "splits", train=5, validation=0), tmp_path, epochs=1)
    assert result.validation_loss is None and result.validation_losses == []


def test_an_empty_training_split_is_not(base: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="training split is empty"):
        run(base, make_splits(tmp_path / "splits", train=0), tmp_path)


def test_an_unknown_target_module_lists_those_there_are(base: Path, splits: Path, tmp_path: Path) -> None:
    for name in ("query", "lm_head", "embed_tokens", "proj"):
        with pytest.raises(InvalidConfig) as caught:
            run(base, splits, tmp_path, target_modules=["q_proj", name])
        assert f"'{name}'" in caught.value.message and "q_proj" in caught.value.metadata["available"]
    assert not (tmp_path / "out").exists()


def test_only_the_named_modules_are_adapted(base: Path, splits: Path, tmp_path: Path) -> None:
    run(base, splits, tmp_path, target_modules=["q_proj", "layers.1.mlp.up_proj"], max_steps=1)
    adapted = {name.split("layers.")[1].rpartition(".lora_")[0] for name in tensors(tmp_path / "out")}
    assert adapted == {"0.self_attn.q_proj", "1.self_attn.q_proj", "1.mlp.up_proj"}


BROKEN = 200
"""A token that the generated rows do not have."""


def break_losses(monkeypatch: pytest.MonkeyPatch, module: Any, value: float) -> None:
    """What `module` computes as the loss of a row with the token BROKEN is `value`; the gradient stays finite."""
    sound = module.token_losses

    def broken(model: Any, batch: Batch, *, chunked: bool = False) -> torch.Tensor:
        inside = (batch.input_ids == BROKEN).any(1)[batch.positions // batch.input_ids.shape[1]]
        return torch.where(inside, value, sound(model, batch, chunked=chunked))

    monkeypatch.setattr(module, "token_losses", broken)


NOT_FINITE = pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])


@NOT_FINITE
def test_a_loss_that_is_not_finite_names_its_rows(value: float, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    break_losses(monkeypatch, training_loop, value)
    rows = make_rows(9, 1, first=70)
    rows[4]["input_ids"][2] = BROKEN
    splits = make_splits(tmp_path / "splits", validation=0)
    write_split(splits / "train.parquet", rows)
    with pytest.raises(TrainingError, match=r"The loss of step \d is not a finite number") as caught:
        run(base, splits, tmp_path, batch_size=2, gradient_accumulation_steps=2, epochs=1)
    assert 74 in caught.value.metadata["rows"] and len(caught.value.metadata["rows"]) <= 2
    assert "74" in caught.value.message and "learning_rate" in caught.value.message
    assert not (tmp_path / "out").exists()


@NOT_FINITE
def test_a_validation_loss_that_is_not_finite_names_its_rows(
    value: float, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_losses(monkeypatch, training_loss, value)
    rows = make_rows(9, 1, first=70)
    for broken in (4, 7):
        rows[broken]["input_ids"][2] = BROKEN
    splits = make_splits(tmp_path / "splits")
    write_split(splits / "validation.parquet", rows)
    with pytest.raises(TrainingError, match="The loss of rows 74, 77 is not a finite number") as caught:
        run(base, splits, tmp_path, max_steps=2)
    assert caught.value.metadata["rows"] == [74, 77]
    assert not (tmp_path / "out").exists()


def test_a_base_model_with_a_broken_weight_stops_at_the_rows_that_use_it(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", tied=False)
    weights = load_file(base / "model.safetensors")
    weights["model.embed_tokens.weight"][BROKEN] = math.nan
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    rows = make_rows(9, 1, first=70)
    rows[4]["input_ids"][2] = BROKEN
    splits = make_splits(tmp_path / "splits", validation=0)
    write_split(splits / "train.parquet", rows)
    with pytest.raises(TrainingError) as caught:
        run(base, splits, tmp_path, batch_size=2, gradient_accumulation_steps=2, epochs=1)
    assert 74 in caught.value.metadata["rows"] and len(caught.value.metadata["rows"]) <= 2
    assert "74" in caught.value.message and "learning_rate" in caught.value.message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_a_gradient_that_is_not_finite_names_its_rows_and_leaves_the_weights(value: float, base: Path, splits: Path) -> None:
    made = loop(config("lora", gradient_accumulation_steps=2), base, splits)
    hooked = next(reversed(made.parameters.values()))
    hooked.register_hook(lambda gradient: gradient * (value if made.progress.step == 2 else 1.0))
    started: list[dict[str, torch.Tensor]] = []

    class Watching(ListReporter):
        def check_cancelled(self) -> None:
            started.append({name: parameter.detach().clone() for name, parameter in made.parameters.items()})

    made.reporter = Watching()
    with pytest.raises(TrainingError, match="The gradient of step 3 is not a finite number") as caught:
        made.run(lambda _: None)
    assert len(caught.value.metadata["rows"]) == 8 and set(caught.value.metadata["rows"]) <= set(range(100, 140))
    assert same_tensors(started[2], dict(made.parameters)) and not same_tensors(started[1], started[2])


def test_rows_without_a_trained_token_stop(base: Path, tmp_path: Path) -> None:
    rows = make_rows(5, 1, first=10)
    rows[3]["loss_mask"] = [False] * len(rows[3]["loss_mask"])
    splits = make_splits(tmp_path / "splits")
    write_split(splits / "train.parquet", rows)
    with pytest.raises(DatasetError, match="rows 13"):
        run(base, splits, tmp_path)


def test_out_of_memory_says_what_to_lower() -> None:
    with pytest.raises(TrainingError, match=r"Out of memory during x\. Lower y"), explain_out_of_memory("x", "Lower y"):
        torch.empty(2**59)
    with pytest.raises(RuntimeError, match="another"), explain_out_of_memory("x", "Lower y"):
        raise RuntimeError("another")


def test_cancelling_leaves_nothing_half_done(base: Path, splits: Path, tmp_path: Path) -> None:
    with pytest.raises(Cancelled):
        run(base, splits, tmp_path, ListReporter(cancel_after=7), checkpoint_every=2)
    assert not (tmp_path / "out").exists() and not list(tmp_path.rglob("*.tmp"))


def test_an_earlier_out_is_replaced_whole(base: Path, splits: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").write_text("x")
    run(base, splits, tmp_path, max_steps=1)
    assert not (tmp_path / "out" / "old").exists() and (tmp_path / "out" / "adapter_model.safetensors").exists()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("out")] == ["out"]


def test_an_adapter_of_other_weights_is_refused(trained: tuple[TrainingResult, ListReporter, Path], base: Path, tmp_path: Path) -> None:
    adapter.check_base(trained[2] / "out", base)
    other = make_base(tmp_path / "base", tied=False)
    with pytest.raises(InvalidConfig, match="other base weights"):
        adapter.check_base(trained[2] / "out", other)


def test_a_folder_that_is_no_adapter_is_refused(base: Path, tmp_path: Path, trained: tuple[TrainingResult, ListReporter, Path]) -> None:
    shutil.copytree(trained[2] / "out", tmp_path / "adapter")
    (tmp_path / "adapter" / "adapter_model.safetensors").rename(tmp_path / "adapter" / "adapter_model.bin")
    with pytest.raises(InvalidConfig, match=r"adapter_model\.safetensors"):
        adapter.load_adapter(base_model.load(base, torch.float32), tmp_path / "adapter")


def test_the_learning_rate_warms_up_and_ends_near_zero() -> None:
    config = TrainingConfig(learning_rate=1.0, warmup_ratio=0.1, lr_scheduler="cosine")
    rates = [learning_rate(config, step, 100) for step in range(100)]
    assert rates[:10] == pytest.approx([0.1 * step for step in range(1, 11)])
    assert rates[10] == 1.0 and rates[55] == pytest.approx(0.5) and rates[-1] < 0.001
    assert all(one >= two for one, two in itertools.pairwise(rates[10:]))
    linear = config.model_copy(update={"lr_scheduler": "linear", "warmup_ratio": 0.0})
    assert [learning_rate(linear, step, 4) for step in range(4)] == [1.0, 0.75, 0.5, 0.25]
    assert learning_rate(config.model_copy(update={"lr_scheduler": "constant"}), 99, 100) == 1.0


def test_a_long_loss_curve_is_thinned() -> None:
    curve = Curve()
    for step in range(1, 100_001):
        curve.add(step, float(step))
    points = curve.up_to(100_000, 100_000.0)
    assert 200 <= len(points) <= 500 and points[0] == (1, 1.0) and points[-1] == (100_000, 100_000.0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_the_base_is_bfloat16_and_the_loss_is_that_of_the_cpu(base: Path, splits: Path, tmp_path: Path) -> None:
    result, _ = run(base, splits, tmp_path, lora_dropout=0.0)
    assert result.device != "cpu" and result.losses[-1][1] < 0.8 * result.losses[0][1]
    assert {tensor.dtype for tensor in tensors(tmp_path / "out").values()} == {torch.float32}
