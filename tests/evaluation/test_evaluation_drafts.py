"""Answers that begin with what the loss's pass told are those of plain greedy generation, and those that are right cost nothing more."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from llm_platform.evaluation.drafts import finish, losses_and_drafts
from llm_platform.evaluation.generate import greedy
from llm_platform.reporting import ListReporter
from llm_platform.training import loss
from llm_platform.training.adapter import load_adapter
from llm_platform.training.base_model import load
from llm_platform.training.loss import row_losses
from llm_platform.training.rows import Rows, read_rows
from tests.tiny_models import EOS, make_rows, write_split


@pytest.fixture(scope="module")
def model(base: Path, adapter: Path) -> PreTrainedModel:
    return cast(PreTrainedModel, load_adapter(load(base, torch.float32), adapter).get_base_model())


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Rows:
    """Eight rows that the adapter knows by heart, eight that it does not, and eight of which it knows all but the end."""
    changed = [{**row, "input_ids": [*row["input_ids"][:-2], 7, EOS]} for row in make_rows(8, 11, 700)]
    return read_rows(write_split(tmp_path_factory.mktemp("rows") / "x.parquet", [*make_rows(8, 11, 500), *make_rows(8, 12, 600), *changed]))


@pytest.mark.parametrize("batch_size", [1, 5, 32])
@pytest.mark.parametrize("most", [1, 2, 3, 12])
def test_answers_and_losses_are_the_same(model: PreTrainedModel, rows: Rows, batch_size: int, most: int) -> None:
    asked: dict[str, Any] = {"ends": {EOS}, "max_new_tokens": most, "batch_size": batch_size, "reporter": ListReporter()}
    plain = greedy(model, [rows.prompt(index) for index in range(len(rows))], **asked, what="answers")
    losses, drafts = losses_and_drafts(model, rows, **asked)
    assert finish(model, rows, drafts, **asked, what="answers") == plain
    assert all(answer.ids[: len(draft.ids)] == draft.ids for draft, answer in zip(drafts, plain, strict=True))
    assert np.array_equal(losses, row_losses(model, rows, batch_size, model.device, model.dtype, ListReporter()))


def test_logits_in_parts_tell_the_same(model: PreTrainedModel, rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {"ends": {EOS}, "max_new_tokens": 12, "batch_size": 5, "reporter": ListReporter()}
    whole = losses_and_drafts(model, rows, **asked)[1]
    monkeypatch.setattr(loss, "CHUNK_BYTES", 4 * 256 * 3)  # three tokens at a time
    assert losses_and_drafts(model, rows, **asked)[1] == whole


def test_what_is_right_is_not_generated(model: PreTrainedModel, rows: Rows) -> None:
    asked: dict[str, Any] = {"ends": {EOS}, "max_new_tokens": 12, "batch_size": 32}
    drafts = losses_and_drafts(model, rows, **asked, reporter=ListReporter())[1]
    assert [draft.stopped for draft in drafts[:8]] == [True] * 8 and not any(draft.stopped for draft in drafts[16:])
    assert all(len(draft.ids) == 2 for draft in drafts[16:])  # the word that the row has too, and the model's own
    forwards: list[int] = []
    hook = model.register_forward_pre_hook(lambda *_: forwards.append(1))
    known, reporter = rows.take(np.arange(8)), ListReporter()
    answers = finish(model, known, drafts[:8], **asked, reporter=reporter, what="answers")
    hook.remove()
    assert answers == drafts[:8] and not forwards
    assert reporter.lines == [("PROGRESS", "answers", {"done": 8, "total": 8})]


def test_of_a_conversation_only_the_last_answer_is_one(model: PreTrainedModel, rows: Rows) -> None:
    """Tokens that are trained before the prompt ends, and gaps in the answer, tell nothing of the answer."""
    talk = replace(rows, prompt_length=rows.lengths - rows.labels, mask=rows.mask.copy())
    talk.mask[talk.offsets[:-1] + 2] = True
    talk.mask[talk.offsets[:-1] + 1] = True
    asked: dict[str, Any] = {"ends": {EOS}, "max_new_tokens": 12, "batch_size": 5, "reporter": ListReporter()}
    assert losses_and_drafts(model, talk, **asked)[1] == losses_and_drafts(model, rows, **asked)[1]
    gap = replace(rows, prompt_length=rows.lengths - rows.labels, mask=rows.mask.copy())
    gap.mask[gap.offsets[1:] - 2] = False  # the second word of the answer
    drafts = losses_and_drafts(model, gap, **asked)[1]
    assert all(len(draft.ids) <= 1 and not draft.stopped for draft in drafts[:8])
    plain = greedy(model, [rows.prompt(index) for index in range(len(rows))], **asked, what="answers")
    assert finish(model, gap, drafts, **asked, what="answers") == plain
