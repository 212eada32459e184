"""LoRA's linear layers in float32: the update is added to the weights, not to the outputs.

peft computes W x + s B (A x) as it is written (Hu et al. 2021), with two thin matrix products and two passes over the outputs in the
forward pass, and as many in the backward pass. (W + s B A) x is the same in exact arithmetic, and one product; what it costs is to
add B A up, twice, which pays as soon as a batch has about as many tokens as the layer is wide. In bfloat16 the sum would round small
updates away, so there peft's way stays.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from peft.tuners.lora.layer import Linear
from torch.nn import functional


class _Linear(torch.autograd.Function):
    """(W + s B A) x + b; W and b get no gradient. The sum is not kept for the backward pass: it is as large as W."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, a: torch.Tensor, b: torch.Tensor, scaling: float
    ) -> torch.Tensor:
        ctx.save_for_backward(x, weight, a, b)
        ctx.scaling = scaling
        return functional.linear(x, torch.addmm(weight, b, a, alpha=scaling), bias)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight, a, b = ctx.saved_tensors
        gradient, inputs = gradients[0].flatten(0, -2), x.flatten(0, -2)
        of_x = None
        if ctx.needs_input_grad[0]:
            of_x = (gradient @ torch.addmm(weight, b, a, alpha=ctx.scaling)).view_as(x)
        of_a = ((gradient @ b).t() @ inputs).mul_(ctx.scaling)
        of_b = (gradient.t() @ (inputs @ a.t())).mul_(ctx.scaling)
        return of_x, None, None, of_a, of_b, None


class AddedLinear(Linear):
    """peft's LoRA layer with another forward pass where it pays; everything else, and what is saved, is peft's."""

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        weight = cast(torch.Tensor, self.weight)
        pays = x.shape[:-1].numel() * sum(weight.shape) >= 2 * weight.numel()
        if not pays or self.disable_adapters or self.merged or x.dtype != weight.dtype:
            return super().forward(x, *args, **kwargs)
        (name,) = self.active_adapters
        a, b = self.lora_A[name].weight, self.lora_B[name].weight
        return _Linear.apply(x, weight, self.base_layer.bias, a, b, self.scaling[name])  # pyright: ignore


def add_to_weights(model: torch.nn.Module) -> None:
    """Makes the plain LoRA layers of `model` that are in float32 and have no dropout AddedLinear."""
    for layer in model.modules():
        if type(layer) is Linear and _plain(layer):
            layer.__class__ = AddedLinear


def _plain(layer: Linear) -> bool:
    (name,) = layer.active_adapters
    weights = (layer.weight, layer.lora_A[name].weight, layer.lora_B[name].weight)
    return (
        type(layer.base_layer) is torch.nn.Linear
        and isinstance(layer.lora_dropout[name], torch.nn.Identity)
        and name not in layer.lora_variant  # such as DoRA
        and not layer.lora_bias[name]
        and all(weight.dtype == torch.float32 for weight in weights)
    )
