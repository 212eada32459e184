"""The training loss: cross-entropy of the tokens that are trained, and no logits for the others.

With a large vocabulary the logits are most of the work of a small model and most of the memory of a large one, and prompts need
none. A hook on the output head keeps only the hidden states whose next token is trained; everything that a model does to its
logits after the head (scaling, soft caps) works element by element and stays right. Where the logits that are left would still
be large, they are made a part at a time, and once more in the backward pass (as Liger's and Apple's fused kernels do).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from llm_platform.errors import InvalidConfig, TrainingError
from llm_platform.reporting import Reporter
from llm_platform.training import batches
from llm_platform.training.batches import Batch, collate, pack
from llm_platform.training.device import autocast, explain_out_of_memory
from llm_platform.training.estimate import CHUNK_BYTES
from llm_platform.training.ranks import SOLO, Ranks
from llm_platform.training.rows import Rows

SAME = {torch.float32: 1e-3, torch.bfloat16: 5e-2}
"""How far, relative to their norm, logits of one row may differ between two shapes of a batch."""


def label_logits(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    """Logits [L, V] in float32 of the L positions that predict a trained token. `model` is the one below peft's wrapper."""

    def select(hidden: torch.Tensor) -> torch.Tensor:
        return hidden.reshape(-1, hidden.shape[-1]).index_select(0, batch.positions)

    with _before_head(model, select):
        return _forward(model, batch).float()


def token_losses(model: PreTrainedModel, batch: Batch, *, chunked: bool = False) -> torch.Tensor:
    """Cross-entropy in nats, [L], of each trained token. Who averages divides by tokens, never by batches.

    `chunked` says that the model's logits are its head's output (see `head_is_last`), so that large ones are made in parts.
    """
    rows = max(1, CHUNK_BYTES // (4 * model.config.vocab_size))
    if not chunked or len(batch.targets) <= rows:
        return functional.cross_entropy(label_logits(model, batch), batch.targets, reduction="none")
    kept: list[torch.Tensor] = []

    def take(hidden: torch.Tensor) -> torch.Tensor:
        flat = hidden.reshape(-1, hidden.shape[-1])
        kept.append(flat.index_select(0, batch.positions))
        return flat[:0]  # the head has nothing to do now

    with _before_head(model, take):
        _forward(model, batch)
    head = cast(torch.nn.Module, model.get_output_embeddings())

    def part(hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(head(hidden).float(), targets, reduction="none")

    parts = zip(kept[0].split(rows), batch.targets.split(rows), strict=True)
    return torch.cat([cast(torch.Tensor, checkpoint(part, hidden, targets, use_reentrant=False)) for hidden, targets in parts])


@torch.inference_mode()
def row_losses(
    model: PreTrainedModel,
    rows: Rows,
    batch_size: int,
    device: torch.device,
    dtype: torch.dtype,
    reporter: Reporter,
    ranks: Ranks = SOLO,
) -> NDArray[np.float64]:
    """Summed cross-entropy in nats of each row's trained tokens, [N]. Leaves the model's mode as it was.

    Raises TrainingError, naming rows, if one is not finite.
    """
    was_training = model.training
    model.eval()
    losses = torch.zeros(len(rows), dtype=torch.float64, device=device)
    groups = batches.by_length(rows.lengths, batch_size)
    try:
        with autocast(device, dtype):
            chunked = head_is_last(model, rows, device)
            for place in range(ranks.rank, len(groups) + ranks.rank, ranks.size):
                reporter.check_cancelled()
                # A sharded model takes all processes together: who has no group left goes along with one, and counts nothing.
                indices = groups[min(place, len(groups) - 1)]
                with explain_out_of_memory(f"measuring the loss of {len(indices)} rows", "Lower batch_size"):
                    batch = collate(rows, indices, device)
                    each = token_losses(model, batch, chunked=chunked).double()
                places = torch.from_numpy(indices).to(device)[batch.positions // batch.input_ids.shape[1]]
                losses.index_add_(0, places, each * (place < len(groups)))
        ranks.add_up([losses])
    finally:
        model.train(was_training)
    found = losses.cpu().numpy()
    broken = rows.numbers(np.flatnonzero(~np.isfinite(found)))
    if broken:
        raise TrainingError(f"The loss of rows {', '.join(map(str, broken[:50]))} is not a finite number", rows=broken[:100])
    return found


def _forward(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    places = {} if batch.position_ids is None else {"position_ids": batch.position_ids}
    return model(input_ids=batch.input_ids, use_cache=False, **places).logits


@contextmanager
def _before_head(model: PreTrainedModel, change: Callable[[torch.Tensor], torch.Tensor]) -> Iterator[None]:
    """What comes to the output head is changed."""
    head = model.get_output_embeddings()
    assert isinstance(head, torch.nn.Module)
    hook = head.register_forward_pre_hook(lambda _, inputs: (change(cast(tuple[Any, ...], inputs)[0]), *inputs[1:]))
    try:
        yield
    finally:
        hook.remove()


@torch.no_grad()
def head_is_last(model: PreTrainedModel, rows: Rows, device: torch.device) -> bool:
    """Whether the model's logits are what its output head gives, with nothing done to them afterwards. Looks at two tokens."""
    head = model.get_output_embeddings()
    assert isinstance(head, torch.nn.Module)
    made: list[Any] = []
    hook = head.register_forward_hook(lambda *call: made.append(call[-1]))
    try:
        logits = model(input_ids=torch.from_numpy(rows.ids[None, :2].astype(np.int64)).to(device), use_cache=False).logits
    finally:
        hook.remove()
    return torch.equal(made[0].to(logits.dtype), logits)


@torch.no_grad()
def check_packing(model: PreTrainedModel, rows: Rows, device: torch.device, dtype: torch.dtype) -> None:
    """Raises InvalidConfig if a packed row gets other logits than it does alone: the model does not keep packed rows apart."""
    if "position_ids" not in inspect.signature(model.forward).parameters:
        raise _no_packing("this model takes no positions, so it cannot know where packed rows begin")
    shortest = [int(index) for index in rows.lengths.argsort(kind="stable")[:2]]
    if len(shortest) < 2:
        return
    was_training = model.training
    model.eval()
    try:
        alone, behind = (label_logits(model, batch) for batch in (collate(rows, shortest[1:], device), pack(rows, shortest, device)))
    finally:
        model.train(was_training)
    difference = (behind[-len(alone) :] - alone).norm() / alone.norm()
    if not difference <= SAME[dtype]:
        raise _no_packing(f"this model does not keep packed rows apart: their logits differ by {100 * float(difference):.1f}%")


def _no_packing(why: str) -> InvalidConfig:
    message = f"{why}. Set packing to false"
    return InvalidConfig(f"packing: {message}", errors=[{"field": "packing", "message": message}])
