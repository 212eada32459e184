"""Packed training is unpacked training: the same batches give the same steps, and a stop in the middle changes nothing."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch

from llm_platform.errors import TrainingError
from llm_platform.reporting import ListReporter
from llm_platform.training import fit
from llm_platform.training import loop as training_loop
from llm_platform.training.batches import Schedule, epoch_batches
from llm_platform.training.checkpoint import Checkpoint
from tests.tiny_models import make_rows, make_splits, write_split
from tests.training.runs import config, loop, run


def ignore(_: Checkpoint) -> None:
    pass


@pytest.fixture(scope="module")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Splits whose rows have very different numbers of trained tokens, so that a loss that weights rows or batches alike is off."""
    splits = make_splits(tmp_path_factory.mktemp("uneven"))
    rows = make_rows(40, 1, 100)
    for row in rows[::3]:
        row["loss_mask"] = [False] + [True] * (len(row["loss_mask"]) - 1)
    write_split(splits / "train.parquet", rows)
    return splits


@pytest.mark.parametrize("method", ["lora", "qlora", "full"])
def test_the_same_batches_give_the_same_steps(method: str, base: Path, uneven: Path) -> None:
    """Adam hides a wrong scale of the gradient, so its norm is compared too."""
    no_dropout = {} if method == "full" else {"lora_dropout": 0.0}
    packed, padded = (
        loop(config(method, packing=packing, gradient_accumulation_steps=2, **no_dropout), base, uneven) for packing in (True, False)
    )
    padded.schedule = packed.schedule
    figures: list[list[tuple[float, float]]] = []
    for made in (packed, padded):
        made.reporter = reporter = ListReporter()
        made.run(ignore)
        figures.append([(data["loss"], data["grad_norm"]) for level, _, data in reporter.lines if level == "METRIC" and "loss" in data])
    assert packed.progress.tokens == padded.progress.tokens
    np.testing.assert_allclose(*figures, rtol=2e-4)
    assert len(figures[0]) == packed.total > 2


def test_a_packed_run_goes_on_as_if_it_had_never_stopped(base: Path, splits: Path) -> None:
    made = config("lora", packing=True, max_steps=6, checkpoint_every=3)
    saved: list[Checkpoint] = []
    whole = loop(made, base, splits)
    whole.run(lambda checkpoint: saved.append(deepcopy(checkpoint)))  # its tensors are those that training goes on with
    again = loop(made, base, splits)
    again.restore(next(checkpoint for checkpoint in saved if checkpoint.step == 3))
    again.run(ignore)
    assert all(torch.equal(again.parameters[name], value) for name, value in whole.parameters.items())


def test_rows_of_a_packed_batch_come_in_random_order() -> None:
    lengths = np.random.default_rng(0).integers(5, 300, 4_000)
    batches = epoch_batches(lengths, 8, seed=1, epoch=0, packed=True)
    assert sorted(np.concatenate(batches)) == list(range(4_000))
    sums = [int(lengths[batch].sum()) for batch in batches]
    assert sums[0] == max(sums)
    assert np.std(sums) < 0.5 * np.std([lengths[batch].sum() for batch in epoch_batches(lengths, 8, 1, 0)]), "grouped by length"
    assert Schedule(lengths, 8, 1, 1, packed=True).steps_per_epoch == len(batches)


def test_auto_checkpointing_is_on_where_memory_is_short(base: Path, splits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plenty, _ = run(config("lora", max_steps=2), base, splits, tmp_path / "plenty")
    monkeypatch.setattr(fit, "available", lambda _: 1)
    reporter = ListReporter()
    short, _ = run(config("lora", max_steps=2), base, splits, tmp_path / "short", reporter)
    assert any("Gradient checkpointing is on" in message for _, message, _ in reporter.lines)
    assert short.losses == plenty.losses


@pytest.mark.parametrize(("method", "advice"), [("lora", "qlora"), ("full", "lora")])
def test_out_of_memory_says_how_much_it_takes(
    method: str, advice: str, base: Path, splits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> torch.Tensor:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(training_loop, "token_losses", fail)
    with pytest.raises(TrainingError) as error:
        run(config(method), base, splits, tmp_path)
    message = error.value.message
    assert "Out of memory during step 1, on 4 rows" in message and "GiB by estimate, and the device has" in message
    assert "Lower batch_size (now 4" in message and f"method {advice}" in message


@pytest.mark.parametrize(
    ("place", "what"),
    [
        ("torch.optim.AdamW.step", "step 1, in changing the weights"),
        ("transformers.AutoModelForCausalLM.from_pretrained", "loading the model"),
        ("torch.nn.Module.to", "loading the model"),
    ],
)
def test_out_of_memory_beside_the_batch_says_so_too(
    place: str, what: str, base: Path, splits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(place, fail)
    with pytest.raises(TrainingError, match=f"Out of memory during {what}. It takes about .* GiB by estimate.*Lower batch_size"):
        run(config("lora"), base, splits, tmp_path)
