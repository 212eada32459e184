"""Causal attention for training on a CPU, in blocks of queries, with the probabilities kept for the backward pass.

softmax(Q K' / sqrt(d)) V (Vaswani et al. 2017) as batched matrix products, each block of queries against the keys up to its own end:
half of the products, as the upper triangle is never made. PyTorch's kernel for CPUs (FlashAttention) makes the probabilities again in
the backward pass to save memory, in pieces that are small for the sizes that are trained on a CPU; where they are few enough to be
kept, this takes a quarter to a third less time, forward and backward.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from llm_platform.training.estimate import PROBABILITY_BYTES

NAME = "llm_platform_blocks"
BLOCK = 64


class _Causal(torch.autograd.Function):
    """query [N, G, T, D], key [N, T, D], value [N, T, E] -> [N, G, T, E]: G heads share each of the N heads of keys of all rows."""

    @staticmethod
    def forward(ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float) -> torch.Tensor:
        length = query.shape[2]
        future = torch.full((BLOCK, BLOCK), -torch.inf, dtype=query.dtype, device=query.device).triu_(1)
        out = query.new_empty(*query.shape[:3], value.shape[-1])
        kept: list[torch.Tensor] = []
        for start in range(0, length, BLOCK):
            end = min(start + BLOCK, length)
            scores = torch.bmm(query[:, :, start:end].flatten(1, 2), key[:, :end].transpose(1, 2)).mul_(scaling)
            scores.unflatten(1, (-1, end - start))[..., start:] += future[: end - start, : end - start]
            kept.append(scores.softmax(-1))
            out[:, :, start:end] = torch.bmm(kept[-1], value[:, :end]).unflatten(1, (-1, end - start))
        ctx.save_for_backward(query, key, value, *kept)
        ctx.scaling = scaling
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value, *kept = ctx.saved_tensors
        of_query, of_key, of_value = torch.empty_like(query), torch.zeros_like(key), torch.zeros_like(value)
        for start, found in zip(range(0, query.shape[2], BLOCK), kept, strict=True):
            end = found.shape[2]
            block, gradient = (part[:, :, start:end].flatten(1, 2) for part in (query, gradients[0]))
            of_value[:, :end].baddbmm_(found.transpose(1, 2), gradient)
            of_found = torch.bmm(gradient, value[:, :end].transpose(1, 2))
            of_scores = torch.ops.aten._softmax_backward_data(of_found, found, -1, found.dtype).mul_(ctx.scaling)
            of_query[:, :, start:end] = torch.bmm(of_scores, key[:, :end]).unflatten(1, (-1, end - start))
            of_key[:, :end].baddbmm_(of_scores.transpose(1, 2), block)
        return of_query, of_key, of_value, None


def forward(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' interface: query [B, H, T, D], key and value with H or fewer heads -> [B, T, H, E].

    What is not plain causal attention, or not trained, or too large, goes to PyTorch's own.
    """
    batch, heads, length, _ = query.shape
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    alike = query.dtype == key.dtype == value.dtype and key.shape[2] == length
    plain = causal and attention_mask is None and dropout == 0 and alike
    trained = torch.is_grad_enabled() and query.requires_grad and query.device.type == "cpu"
    asked = [name for name, given in kwargs.items() if given is not None and name in ("position_bias", "cache", "softcap")]
    if not plain or not trained or asked or batch * heads * length**2 // 2 * query.element_size() > PROBABILITY_BYTES:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, is_causal=is_causal, **kwargs
        )
    shared = query.unflatten(1, (key.shape[1], -1)).flatten(0, 1)
    out: Any = _Causal.apply(shared, key.flatten(0, 1), value.flatten(0, 1), query.shape[-1] ** -0.5 if scaling is None else scaling)
    return out.view(batch, heads, length, -1).transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, forward)
AttentionMaskInterface.register(NAME, sdpa_mask)
