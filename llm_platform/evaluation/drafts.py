"""The beginning of greedy answers for the price of the loss: `losses_and_drafts(...)`, then `finish(...)`.

The pass over prompt and reference that measures the loss also tells which token the model likes best at each place of the reference.
As long as that is the reference's own, it is what the model would answer; the first that is another is the model's own too, since it
read nothing but what it had said. So an answer that equals the reference needs no generation at all, and another one only its rest.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from llm_platform.evaluation.generate import Answer, greedy
from llm_platform.reporting import Reporter
from llm_platform.training import batches
from llm_platform.training.loss import row_losses
from llm_platform.training.rows import Rows


def losses_and_drafts(
    model: PreTrainedModel, rows: Rows, *, ends: Collection[int], max_new_tokens: int, batch_size: int, reporter: Reporter
) -> tuple[NDArray[np.float64], list[Answer]]:
    """Each row's loss as `row_losses` measures it, [N], and the beginning of its greedy answer, which is all of it if it stopped."""
    with _liked_best(model) as heard:
        losses = row_losses(model, rows, batch_size, model.device, model.dtype, reporter)
    labels = rows.labels
    # One token for each label, row by row in the order of the batches; before them are those of a look at the model.
    liked = torch.cat(heard).numpy()[-int(labels.sum()) :]
    drafts: dict[int, Answer] = {}
    place = 0
    for index in (int(index) for group in batches.by_length(rows.lengths, batch_size) for index in group):
        drafts[index] = _draft(rows, index, liked[place : place + labels[index]], ends, max_new_tokens)
        place += int(labels[index])
    return losses, [drafts[index] for index in range(len(rows))]


def finish(
    model: PreTrainedModel,
    rows: Rows,
    drafts: Sequence[Answer],
    *,
    ends: Collection[int],
    max_new_tokens: int,
    batch_size: int,
    reporter: Reporter,
    what: str,
) -> list[Answer]:
    """The whole answers. Raises and reports as `greedy` does."""
    answers = list(drafts)
    rest = [index for index, draft in enumerate(drafts) if not draft.stopped and len(draft.ids) < max_new_tokens]
    prompts = [np.concatenate([rows.prompt(index), np.asarray(drafts[index].ids, dtype=np.int32)]) for index in rest]
    made = greedy(model, prompts, ends=ends, max_new_tokens=max_new_tokens, batch_size=batch_size, reporter=reporter, what=what)
    for index, answer in zip(rest, made, strict=True):
        ids = drafts[index].ids + answer.ids
        answers[index] = Answer(ids[:max_new_tokens], answer.stopped and len(ids) < max_new_tokens)
    reporter.progress(len(rows), len(rows), what)
    return answers


def _draft(rows: Rows, index: int, liked: NDArray[np.int64], ends: Collection[int], most: int) -> Answer:
    """`liked` are the model's favourites at the row's labels. The answer is what follows the prompt, as far as it is labels."""
    tokens, start = rows.tokens(index), len(rows.prompt(index))
    at = np.flatnonzero(rows.trained(index)[1:]) + 1
    said: list[int] = []
    for label, token in zip(at, liked, strict=True):
        if label < start:
            continue
        if label != start + len(said) or len(said) == most:
            break
        if token in ends:
            return Answer(said, True)
        said.append(int(token))
        if token != tokens[label]:
            break
    return Answer(said, False)


@contextmanager
def _liked_best(model: PreTrainedModel) -> Iterator[list[torch.Tensor]]:
    """Collects the most likely token at each place for which the model's output head is asked."""
    head = model.get_output_embeddings()
    assert isinstance(head, torch.nn.Module)
    heard: list[torch.Tensor] = []
    hook = head.register_forward_hook(lambda *call: heard.append(call[-1].float().argmax(-1).flatten().cpu()))
    try:
        yield heard
    finally:
        hook.remove()
