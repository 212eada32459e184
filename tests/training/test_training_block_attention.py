"""Attention in blocks is PyTorch's attention: outputs and gradients, whatever the length, and where it does not fit, it is not used."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from llm_platform.training import block_attention
from llm_platform.training.block_attention import forward


def inputs(length: int, heads: int = 4, shared: int = 2, width: int = 8, **options: Any) -> list[torch.Tensor]:
    torch.manual_seed(length)
    return [torch.randn(2, length, n, width, **options).transpose(1, 2).requires_grad_() for n in (heads, shared, shared)]


def both(length: int, **options: Any) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """(output and gradients of PyTorch's, of ours)."""
    heads, shared = options.get("heads", 4), options.get("shared", 2)
    module: Any = SimpleNamespace(is_causal=True, num_key_value_groups=heads // shared)
    found = []
    ways: list[Any] = [sdpa_attention_forward, forward]
    for attend in ways:
        parts = inputs(length, **options)
        out, _ = attend(module, *parts, None)
        out.backward(torch.linspace(-1, 1, out.numel()).view_as(out))
        found.append([out, *(part.grad for part in parts)])
    return found[0], found[1]


@pytest.mark.parametrize("length", [1, 2, 63, 64, 65, 128, 150])
@pytest.mark.parametrize("shared", [1, 2, 4])
def test_outputs_and_gradients_are_those_of_pytorch(length: int, shared: int) -> None:
    for theirs, ours in zip(*both(length, shared=shared), strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-5)


def test_in_double_precision_they_are_equal_to_its_rounding() -> None:
    for theirs, ours in zip(*both(150, dtype=torch.float64), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=1e-12)


def test_no_token_sees_what_follows_it() -> None:
    module: Any = SimpleNamespace(is_causal=True, num_key_value_groups=2)
    query, key, value = inputs(130)
    before, _ = forward(module, query, key, value, None)
    for part in (query, key, value):
        part.data[:, :, 100:] = 7.0
    after, _ = forward(module, query, key, value, None)
    assert torch.equal(before[:, :100], after[:, :100]) and not torch.equal(before[:, 100:], after[:, 100:])


@pytest.mark.parametrize("what", ["mask", "dropout", "whole", "no_gradient", "size"])
def test_what_it_is_not_for_goes_to_pytorch(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_attention._Causal, "apply", lambda *_: pytest.fail("attention in blocks was used"))
    module: Any = SimpleNamespace(is_causal=what != "whole", num_key_value_groups=2)
    query, key, value = inputs(10)
    mask = torch.ones(2, 1, 10, 10, dtype=torch.bool) if what == "mask" else None
    if what == "size":
        monkeypatch.setattr(block_attention, "PROBABILITY_BYTES", 2 * 4 * 10 * 10 * 4 // 2 - 1)
    with torch.set_grad_enabled(what != "no_gradient"):
        out, _ = forward(module, query, key, value, mask, dropout=0.5 if what == "dropout" else 0.0)
    assert out.shape == (2, 10, 4, 8)
