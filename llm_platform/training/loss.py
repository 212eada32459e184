"""The training loss: cross-entropy of the tokens that are trained, and no logits for the others.

With a large vocabulary the logits are most of the work of a small model, and prompts need none. A hook on the output head
keeps only the hidden states whose next token is trained; everything that a model does to its logits after the head
(scaling, soft caps) works element by element and stays right.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional
from transformers import PreTrainedModel

from llm_platform.training.batches import Batch


def label_logits(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    """Logits [L, V] in float32 of the L positions that predict a trained token. `model` is the one below peft's wrapper."""
    head = model.get_output_embeddings()
    assert isinstance(head, torch.nn.Module)

    def select(_: torch.nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        hidden: torch.Tensor = inputs[0]
        return (hidden.reshape(-1, hidden.shape[-1]).index_select(0, batch.positions), *inputs[1:])

    hook = head.register_forward_pre_hook(select)
    try:
        return model(input_ids=batch.input_ids, use_cache=False).logits.float()
    finally:
        hook.remove()


def loss_sum(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    """Summed cross-entropy in nats. The caller divides by the trained tokens of all batches that it adds up, never by batches."""
    return functional.cross_entropy(label_logits(model, batch), batch.targets, reduction="sum")
