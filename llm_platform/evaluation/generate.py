"""Greedy generation in batches, with a key-value cache. Answers equal those of one prompt at a time."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import DynamicCache, PreTrainedModel

from llm_platform.reporting import Reporter
from llm_platform.training.device import autocast, explain_out_of_memory


@dataclass(frozen=True)
class Answer:
    """Generated token ids, without the one that ended it; `stopped` says whether the model ended it, or the limit did."""

    ids: list[int]
    stopped: bool


def greedy(
    model: PreTrainedModel,
    prompts: Sequence[NDArray[np.int32]],
    *,
    ends: Collection[int],
    max_new_tokens: int,
    batch_size: int,
    reporter: Reporter,
    what: str,
) -> list[Answer]:
    """The most likely continuation of each prompt. Prompts of like length share a batch; progress is reported per batch as `what`."""
    answers: dict[int, Answer] = {}
    order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        longest = len(prompts[batch[0]])
        with explain_out_of_memory(f"generation for {len(batch)} prompts of up to {longest} tokens", "Lower the evaluation's batch_size"):
            made = _greedy_batch(model, [prompts[index] for index in batch], ends, max_new_tokens, reporter)
        answers.update(zip(batch, made, strict=True))
        reporter.progress(len(answers), len(prompts), what)
    return [answers[index] for index in range(len(prompts))]


@torch.inference_mode()
def _greedy_batch(
    model: PreTrainedModel, prompts: list[NDArray[np.int32]], ends: Collection[int], max_new_tokens: int, reporter: Reporter
) -> list[Answer]:
    """Prompts are padded on the left, so that all rows write their next token at one place. Finished rows leave the batch."""
    width = max(len(prompt) for prompt in prompts)
    context: int | None = getattr(model.config, "max_position_embeddings", None)
    limit = max_new_tokens if context is None else max(0, min(max_new_tokens, context - width))
    ids = torch.zeros(len(prompts), width, dtype=torch.long)
    seen = torch.zeros(len(prompts), width, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.from_numpy(prompt.astype(np.int64))
        seen[row, width - len(prompt) :] = 1
    ids, seen = ids.to(model.device), seen.to(model.device)
    positions = (seen.cumsum(-1) - 1).clamp(min=0)

    written: list[list[int]] = [[] for _ in prompts]
    stopped = [False] * len(prompts)
    active = list(range(len(prompts)))
    cache = DynamicCache(config=model.config)
    for _ in range(limit):
        reporter.check_cancelled()
        with autocast(model.device, model.dtype):
            logits = model(
                input_ids=ids, attention_mask=seen, position_ids=positions, past_key_values=cache, use_cache=True, logits_to_keep=1
            ).logits
        tokens: list[int] = logits[:, -1].float().argmax(-1).tolist()
        for row, token in zip(active, tokens, strict=True):
            if token in ends:
                stopped[row] = True
            else:
                written[row].append(token)
        going = [place for place, row in enumerate(active) if not stopped[row]]
        if not going:
            break
        ids = torch.tensor([[tokens[place]] for place in going], device=model.device)
        if len(going) < len(active):
            keep = torch.tensor(going, device=model.device)
            cache.batch_select_indices(keep)
            seen, positions = seen[keep], positions[keep]
            active = [active[place] for place in going]
        seen = torch.cat([seen, seen.new_ones(len(active), 1)], dim=1)
        positions = positions[:, -1:] + 1
    return [Answer(row, ended) for row, ended in zip(written, stopped, strict=True)]
