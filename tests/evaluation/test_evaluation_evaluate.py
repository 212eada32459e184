"""Batched answers equal one-by-one generation, and the figures follow from the answers."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, cast

import numpy as np
import polars as pl
import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, PreTrainedModel

from llm_platform.errors import Cancelled, DatasetError
from llm_platform.evaluation.evaluate import EvaluationResult, evaluate
from llm_platform.evaluation.generate import greedy
from llm_platform.evaluation.score import is_correct, token_f1
from llm_platform.reporting import ListReporter
from llm_platform.specs import EvaluationConfig
from llm_platform.training.adapter import load_adapter
from llm_platform.training.base_model import load
from llm_platform.training.rows import read_rows
from tests.tiny_models import EOS, make_rows, write_split


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The rows that the adapter knows, and as many that it does not."""
    return write_split(tmp_path_factory.mktemp("rows") / "test.parquet", [*make_rows(8, 11, 500), *make_rows(8, 12, 600)])


def run(base: Path, adapter: Path | None, rows: Path, out: Path, **config: Any) -> tuple[EvaluationResult, ListReporter]:
    reporter = ListReporter()
    made = EvaluationConfig(**{"batch_size": 3, "max_new_tokens": 6, **config})
    return evaluate(made, base, adapter, rows, out, reporter, threads=1), reporter


@pytest.fixture(scope="module")
def evaluated(
    base: Path, adapter: Path, known: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[EvaluationResult, ListReporter, Path]:
    out = tmp_path_factory.mktemp("evaluated") / "out"
    return *run(base, adapter, known, out), out


def one_by_one(model: PreTrainedModel, prompt: np.ndarray, limit: int) -> list[int]:
    ids = torch.from_numpy(prompt.astype(np.int64))[None]
    settings = {"do_sample": False, "max_new_tokens": limit, "eos_token_id": EOS, "pad_token_id": 0}
    found = cast(Any, model).generate(ids, attention_mask=torch.ones_like(ids), **settings)
    return found[0, ids.shape[1] :].tolist()


@pytest.mark.parametrize("batch_size", [1, 5, 16])
def test_answers_equal_one_by_one_generation(batch_size: int, base: Path, adapter: Path, known: Path) -> None:
    model = cast(PreTrainedModel, load_adapter(load(base, torch.float32), adapter).get_base_model())
    rows = read_rows(known)
    prompts = [rows.prompt(index) for index in range(len(rows))]
    answers = greedy(model, prompts, ends={EOS}, max_new_tokens=12, batch_size=batch_size, reporter=ListReporter(), what="answers")
    expected = [one_by_one(model, prompt, 12) for prompt in prompts]
    assert [answer.ids + [EOS] * answer.stopped for answer in answers] == expected
    assert {answer.stopped for answer in answers} == {True, False} or all(answer.stopped for answer in answers)


def test_padding_does_not_shift_absolute_positions(known: Path) -> None:
    """Rotary positions are relative and would hide it."""
    torch.manual_seed(3)
    config = GPT2Config(vocab_size=256, n_embd=32, n_layer=2, n_head=4, initializer_range=0.4, bos_token_id=1, eos_token_id=2)
    model = GPT2LMHeadModel(config).eval()
    prompts = [read_rows(known).prompt(index) for index in range(16)]
    answers = greedy(model, prompts, ends={EOS}, max_new_tokens=8, batch_size=16, reporter=ListReporter(), what="answers")
    assert [answer.ids + [EOS] * answer.stopped for answer in answers] == [one_by_one(model, prompt, 8) for prompt in prompts]


def test_answers_end_at_the_models_context(base: Path) -> None:
    prompt = np.full(126, 5, np.int32)
    (answer,) = greedy(load(base, torch.float32), [prompt], ends=set(), max_new_tokens=50, batch_size=1, reporter=ListReporter(), what="x")
    assert len(answer.ids) == 2 and not answer.stopped


def test_what_was_learned_by_heart_is_answered_and_ended(evaluated: tuple[EvaluationResult, ListReporter, Path]) -> None:
    table = pl.read_parquet(evaluated[2] / "examples.parquet")
    learned = table.filter(pl.col("row") < 600)
    assert learned["tuned_correct"].all() and learned["tuned_stopped"].all()
    assert learned["tuned_answer"].to_list() == learned["reference"].to_list()
    assert not learned["base_correct"].any()


def test_the_figures_follow_from_the_answers(evaluated: tuple[EvaluationResult, ListReporter, Path]) -> None:
    result, _, out = evaluated
    table = pl.read_parquet(out / "examples.parquet")
    assert table["row"].to_list() == [*range(500, 508), *range(600, 608)]
    for name, figures in (("tuned", result.tuned), ("base", result.base)):
        assert figures is not None
        pairs = list(zip(table[f"{name}_answer"], table["reference"], strict=True))
        assert table[f"{name}_correct"].to_list() == [is_correct(*pair) for pair in pairs]
        assert figures["accuracy"] == sum(is_correct(*pair) for pair in pairs) / 16
        assert figures["f1"] == pytest.approx(sum(token_f1(*pair) for pair in pairs) / 16)
        assert figures["eos_rate"] == sum(table[f"{name}_stopped"]) / 16
        assert figures["perplexity"] == pytest.approx(math.exp(figures["loss"]))
        assert figures["count"] == 16
        bounds = result.intervals[name]
        assert bounds.keys() == figures.keys() - {"count"} and all(bound.count == 16 for bound in bounds.values())
        assert all(bound.low <= figures[metric] <= bound.high for metric, bound in bounds.items())
        assert bounds["loss"].low < bounds["loss"].high
    assert result.tuned["accuracy"] >= 0.5
    weights = result.costs["tuned"].parameters, result.costs["tuned"].adapter_parameters, result.costs["base"].parameters
    assert None not in weights and weights[0] == (weights[1] or 0) + (weights[2] or 0) and weights[1]
    report = json.loads((out / "evaluation.json").read_text())
    assert EvaluationResult.model_validate({name: report[name] for name in EvaluationResult.model_fields}) == result
    assert report["tuned"] == result.tuned and report["config"]["max_new_tokens"] == 6
    assert len(result.examples) == 5 and result.examples[0].keys() == {"prompt", "reference", "base", "tuned"}


def test_the_base_s_figures_are_those_of_the_untouched_base(
    evaluated: tuple[EvaluationResult, ListReporter, Path], base: Path, known: Path, tmp_path: Path
) -> None:
    result, _ = run(base, None, known, tmp_path / "out")
    assert result.base is None
    assert result.tuned == pytest.approx(evaluated[0].base)


def test_the_loss_is_that_of_the_completions(evaluated: tuple[EvaluationResult, ListReporter, Path], base: Path) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(base).eval()
    total, count = 0.0, 0
    for row in [*make_rows(8, 11), *make_rows(8, 12)]:
        ids = torch.tensor([row["input_ids"]])
        labels = torch.where(torch.tensor([row["loss_mask"]]), ids, -100)
        with torch.no_grad():
            total += float(model(input_ids=ids, labels=labels).loss) * sum(row["loss_mask"])
        count += sum(row["loss_mask"])
    assert evaluated[0].base is not None and evaluated[0].base["loss"] == pytest.approx(total / count, rel=1e-5)


def test_only_the_asked_metrics(base: Path, adapter: Path, known: Path, tmp_path: Path) -> None:
    result, _ = run(base, adapter, known, tmp_path / "out", metrics=["loss"], include_base=False)
    assert result.tuned.keys() == {"loss", "count"} and result.base is None
    assert pl.read_parquet(tmp_path / "out" / "examples.parquet").columns == [*("row", "prompt", "reference", "tokens", "tuned_loss")]
    result, _ = run(base, adapter, known, tmp_path / "out", metrics=["f1"], max_samples=4)
    assert result.tuned.keys() == {"f1", "eos_rate", "count"}


def test_a_sample_is_the_same_each_time(base: Path, adapter: Path, known: Path, tmp_path: Path) -> None:
    first, _ = run(base, adapter, known, tmp_path / "one", max_samples=5)
    second, _ = run(base, adapter, known, tmp_path / "two", max_samples=5)
    assert first.samples == 5 and first.tuned == second.tuned
    rows = [pl.read_parquet(tmp_path / name / "examples.parquet")["row"].to_list() for name in ("one", "two")]
    assert rows[0] == rows[1] == sorted(rows[0])


def test_progress_and_cancelling(
    base: Path, adapter: Path, known: Path, tmp_path: Path, evaluated: tuple[EvaluationResult, ListReporter, Path]
) -> None:
    done = [data["done"] for level, what, data in evaluated[1].lines if level == "PROGRESS" and "tuned" in what]
    assert done == sorted(done) and done[0] == 3 and done[-1] == 16
    _, generated = run(base, adapter, known, tmp_path / "generated", metrics=["accuracy"], include_base=False)
    assert [data["done"] for level, _, data in generated.lines if level == "PROGRESS"] == [3, 6, 9, 12, 15, 16]
    with pytest.raises(Cancelled):
        evaluate(EvaluationConfig(), base, adapter, known, tmp_path / "out", ListReporter(cancel_after=1))
    assert [path.name for path in tmp_path.iterdir()] == ["generated"]


def test_an_empty_test_split_says_what_to_do(base: Path, adapter: Path, tmp_path: Path) -> None:
    rows = write_split(tmp_path / "test.parquet", [])
    with pytest.raises(DatasetError, match=r"Give it a share in the preprocessing node's split"):
        run(base, adapter, rows, tmp_path / "out")
