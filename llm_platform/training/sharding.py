"""A model spread over the devices that train it: each keeps its part of every weight, gradient and moment (PyTorch's FSDP2).

A layer's weights are gathered when it is computed and let go afterwards. Gradients are summed over the processes, not averaged, as
without sharding: who divides by the trained tokens of the whole optimizer step has done so already. Checkpoints hold whole tensors, so
that they look the same and can be read by any number of processes.
"""

from __future__ import annotations

from typing import cast

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import PreTrainedModel

from llm_platform.training.ranks import Ranks


def layers(model: PreTrainedModel) -> list[torch.nn.Module]:
    """The blocks that a model is a stack of, as transformers knows them; none if it does not."""
    names = set(model._no_split_modules or ())
    return [module for module in model.modules() if type(module).__name__ in names]


def spread(model: PreTrainedModel, ranks: Ranks, device: torch.device) -> None:
    """Spreads a model over the processes, in place; each moves its part to its device. Parameters keep their names."""
    mesh = init_device_mesh(device.type, (ranks.size,))
    for module in [*layers(model), model]:
        # The root holds what belongs to no layer. It stays whole after a forward pass: the loss calls the output head by itself.
        made = cast(FSDPModule, fully_shard(module, mesh=mesh, reshard_after_forward=module is not model))
        made.set_gradient_divide_factor(1.0)
        made.set_force_sum_reduction_for_comms(True)  # gloo cannot multiply while it adds


def let_go(model: torch.nn.Module) -> None:
    """Frees what the last forward pass has gathered, where no backward pass follows it. Nothing for a model that is not spread."""
    if isinstance(model, FSDPModule):
        model.reshard()


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor with the parts of all processes, which must all call this; any other tensor as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def part_of(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """This process's part of a whole `tensor`, on the device and spread as `like` is; the whole of it where that is not spread."""
    if not isinstance(like, DTensor) or tensor.shape != like.shape:
        return tensor.to(like.device, copy=True)
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
