"""AdamW over the trained parameters: which implementation, at which rates, and its state as plain tensors.

The paged forms are bitsandbytes', whose moments move to the CPU's memory when the GPU's runs short; one keeps them in 8 bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import torch
from torch.optim import Optimizer

from llm_platform.errors import InvalidConfig
from llm_platform.specs import TrainingConfig
from llm_platform.training.sharding import part_of

Form = Literal["adamw", "paged_adamw", "paged_adamw_8bit"]
RATIO = "ratio"
"""Of a group's learning rate to the schedule's."""


def choose(config: TrainingConfig, device: torch.device) -> Form:
    """Which form `optimizer` means on this device. Raises InvalidConfig for a paged one without a GPU."""
    if config.optimizer == "auto":
        return "paged_adamw" if config.method == "qlora" and device.type == "cuda" else "adamw"
    if config.optimizer != "adamw" and device.type != "cuda":
        message = f"optimizer '{config.optimizer}' pages a GPU's memory, and this machine has no GPU; use 'adamw', or 'auto'"
        raise InvalidConfig(message, errors=[{"field": "optimizer", "message": message}])
    return config.optimizer


def groups(config: TrainingConfig, parameters: Mapping[str, torch.nn.Parameter]) -> list[dict[str, Any]]:
    """The parameters by learning rate and weight decay.

    LoRA+ gives the B matrices `loraplus_ratio` times the rate of all others. One-dimensional weights (norms, biases, DoRA's
    magnitudes) are not decayed, as in transformers' Trainer.
    """
    found: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
    for name, parameter in parameters.items():
        ratio = config.loraplus_ratio or 1.0
        key = (ratio if ".lora_B." in name else 1.0, config.weight_decay if parameter.ndim > 1 else 0.0)
        found.setdefault(key, []).append(parameter)
    return [
        {"params": members, "lr": config.learning_rate * ratio, "weight_decay": decay, RATIO: ratio}
        for (ratio, decay), members in found.items()
    ]


def build(form: Form, config: TrainingConfig, parameters: Mapping[str, torch.nn.Parameter]) -> Optimizer:
    """The optimizer, its moments still to be made by the first step."""
    made = groups(config, parameters)
    if form == "adamw":
        return torch.optim.AdamW(made, lr=config.learning_rate, fused=True)
    from bitsandbytes.optim.adamw import PagedAdamW8bit, PagedAdamW32bit

    return (PagedAdamW8bit if form == "paged_adamw_8bit" else PagedAdamW32bit)(made, lr=config.learning_rate)


def set_rate(optimizer: Optimizer, rate: float) -> None:
    """Sets the schedule's rate, each group keeping its ratio to it."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group[RATIO]


def state(optimizer: Optimizer, parameters: Mapping[str, torch.nn.Parameter]) -> Iterator[tuple[str, torch.Tensor]]:
    """Everything that `restore` needs, as (`parameter/key`, tensor)."""
    for name, parameter in parameters.items():
        for key, value in optimizer.state[parameter].items():
            yield f"{name}/{key}", torch.as_tensor(value)


def restore(optimizer: Optimizer, parameters: Mapping[str, torch.nn.Parameter], saved: Mapping[str, torch.Tensor]) -> None:
    """Goes on from what `state` gave."""
    names = {parameter: name for name, parameter in parameters.items()}
    for index, group in enumerate(optimizer.param_groups):
        for place, parameter in enumerate(group["params"]):
            prefix = f"{names[parameter]}/"
            values = {key.removeprefix(prefix): value for key, value in saved.items() if key.startswith(prefix)}
            if isinstance(optimizer, torch.optim.AdamW):
                optimizer.state[parameter] = {key: part_of(value, parameter) for key, value in values.items()}
            elif values:
                # Into the buffers that it makes itself: what its own load_state_dict makes of them is not paged any more.
                made: Any = optimizer
                made.init_state(group, parameter, index, place)
                known = made.state[parameter]
                for key, value in values.items():
                    known[key] = known[key].copy_(value) if isinstance(known[key], torch.Tensor) else value.item()
