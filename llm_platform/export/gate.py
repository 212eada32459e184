"""The acceptance gate: does what is shipped answer as what was measured?

`reference(...)` has the trained weights answer held-out rows, by the code of the evaluation; an export answers the same rows in its
own runtime (runtimes.py); `judge(...)` compares the two. Five things are looked at: the greedy answers, token by token; the
log-probabilities of their first tokens; whether they end; how prompts are tokenised; and the chat template.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from transformers import PreTrainedTokenizerFast

from llm_platform.errors import DatasetError, PlatformError
from llm_platform.evaluation.generate import Answer, greedy
from llm_platform.export.prompting import Prompting
from llm_platform.export.runtimes import BATCH, Answers, Questions, first_probabilities
from llm_platform.reporting import Reporter
from llm_platform.specs import GateConfig
from llm_platform.specs.gate import GateResult
from llm_platform.training.adapter import causal_model, ends, is_adapter, load_adapter
from llm_platform.training.base_model import load
from llm_platform.training.rows import Rows, read_rows

SPLITS = ("test", "validation", "train")
"""The first of them that has rows is what exports are tried on."""
FARTHEST = 1e3
"""Stands for a difference that is no number, in nats."""


@dataclass(frozen=True)
class Reference:
    """What the trained weights answer, as they were evaluated. `probabilities` are log-probabilities [N, V] of first tokens."""

    questions: Questions
    split: str
    answers: list[Answer]
    probabilities: torch.Tensor
    token_ids: list[list[int]]
    """Of `questions.texts`, in training."""
    templated: list[str]
    """Of `questions.conversations`, in training."""
    bos: str
    device: torch.device
    dtype: torch.dtype


def reference(
    config: GateConfig,
    base_model: Path,
    trained: Path,
    splits: Path,
    prompting: Prompting,
    device: torch.device,
    dtype: torch.dtype,
    reporter: Reporter,
) -> Reference:
    """Asks the trained weights. `splits` is the folder of a preprocessing node. Raises DatasetError if it has no rows."""
    rows, texts, split = _rows(splits, config.rows)
    prompts = [rows.prompt(index) for index in range(len(rows))]
    model = load(base_model if is_adapter(trained) else trained, dtype)
    model = causal_model(load_adapter(model, trained)) if is_adapter(trained) else model
    model.to(device)  # type: ignore[arg-type]
    context = getattr(model.config, "max_position_embeddings", None)
    most = config.max_new_tokens if context is None else max(1, min(config.max_new_tokens, context - max(map(len, prompts))))
    answers = greedy(
        model, prompts, ends=ends(trained), max_new_tokens=most, batch_size=BATCH, reporter=reporter, what="answers of the trained weights"
    )
    ids = [prompt.tolist() for prompt in prompts]
    told = _told_by_text(base_model, texts, ids)
    questions = Questions(ids, [texts[index] for index in told], [conversation for conversation, _ in prompting.samples], most)
    return Reference(
        questions=questions,
        split=split,
        answers=answers,
        probabilities=torch.stack(list(first_probabilities(model, ids))),
        token_ids=[ids[index] for index in told],
        templated=[text for _, text in prompting.samples],
        bos=prompting.bos,
        device=device,
        dtype=dtype,
    )


def _rows(splits: Path, most: int) -> tuple[Rows, list[str], str]:
    """Rows drawn with a fixed seed, in file order, the texts of their prompts, and which split they are of."""
    for split in SPLITS:
        path = splits / f"{split}.parquet"
        rows = read_rows(path)
        if len(rows):
            chosen = np.arange(len(rows))
            if len(rows) > most:
                chosen = np.sort(np.random.default_rng(0).choice(len(rows), most, replace=False))
            return rows.take(chosen), pl.read_parquet(path, columns=["prompt"])["prompt"][chosen].to_list(), split
    raise DatasetError("There are no rows to try the exports on: every split is empty")


def _told_by_text(base_model: Path, texts: list[str], ids: list[list[int]]) -> list[int]:
    """The rows whose text alone tells their tokens: not those that were cut, or that write special tokens out."""
    tokenizer: Any = PreTrainedTokenizerFast.from_pretrained(base_model)
    return [index for index, text in enumerate(texts) if tokenizer(text)["input_ids"] == ids[index]]


def judge(required: float, config: GateConfig, known: Reference, ask: Callable[[Questions], Answers], runtime: str) -> GateResult:
    """Asks an export and compares; one that its runtime cannot even load is rejected too. `required` is the least agreement."""
    began = time.perf_counter()
    try:
        found = ask(known.questions)
    except PlatformError as error:
        return _result(required, config, known, runtime, began, [error.message])
    rows = len(known.answers)
    pairs = list(zip(known.answers, found.answers, strict=True))
    agreement = sum(one.ids == other.ids for one, other in pairs) / rows
    same_end = sum(one.stopped == other.stopped for one, other in pairs) / rows
    difference = sum(map(_difference, known.probabilities, found.first)) / rows
    same_tokens = None
    if known.token_ids:
        same_tokens = sum(map(list.__eq__, known.token_ids, found.token_ids)) / len(known.token_ids)
    wrong = [number for number, text in enumerate(found.templated) if not _same_text(text, known.templated[number], known.bos)]
    reasons = []
    if agreement < required:
        reasons.append(f"{agreement:.1%} of {rows} greedy answers are those of the evaluated model; at least {required:.1%} must be")
    if difference > config.max_logit_difference:
        reasons.append(f"its log-probabilities are {difference:.3g} nats off; {config.max_logit_difference:g} are allowed")
    if same_end < required:
        reasons.append(f"{same_end:.1%} of the answers end as the evaluated model's do; is the stop token (EOS) right?")
    if same_tokens is not None and same_tokens < required:
        reasons.append(f"{same_tokens:.1%} of the prompts have the token ids of training; is the tokenizer right?")
    if wrong:
        reasons.append("its chat template does not write conversations as in training")
    return _result(required, config, known, runtime, began, reasons, agreement, same_end, difference, same_tokens, not wrong)


def _result(
    required: float,
    config: GateConfig,
    known: Reference,
    runtime: str,
    began: float,
    reasons: list[str],
    agreement: float = 0.0,
    same_end: float = 0.0,
    difference: float = FARTHEST,
    same_tokens: float | None = None,
    same_template: bool = False,
) -> GateResult:
    return GateResult(
        runtime=runtime,
        accepted=not reasons,
        reasons=reasons,
        split=known.split,
        rows=len(known.answers),
        agreement=agreement,
        required_agreement=required,
        same_end=same_end,
        logit_difference=difference,
        allowed_logit_difference=config.max_logit_difference,
        same_tokens=same_tokens,
        same_template=same_template if known.templated else None,
        seconds=time.perf_counter() - began,
    )


def _difference(expected: torch.Tensor, found: dict[int, float]) -> float:
    """Mean absolute difference of log-probabilities, in nats, at the tokens that the export thinks likeliest."""
    differences = [abs(value - float(expected[token])) if token < len(expected) else FARTHEST for token, value in found.items()]
    mean = sum(differences) / len(differences) if differences else FARTHEST
    return mean if math.isfinite(mean) else FARTHEST


def _same_text(found: str | None, expected: str, bos: str) -> bool:
    return found is not None and (found.removeprefix(bos) if bos else found) == expected
