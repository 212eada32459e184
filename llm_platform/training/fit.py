"""Whether a training fits into the device's memory, by estimate: to choose gradient checkpointing and sharding, and to say what is
missing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import psutil
import torch

from llm_platform.specs import TrainingConfig
from llm_platform.training import batches, estimate
from llm_platform.training.rows import Rows

GIB = 2**30


def available(device: torch.device) -> int:
    """Bytes that are free on the device now."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available


def needed(shape: estimate.ModelShape, config: TrainingConfig, *, tokens: int, labels: int, device: torch.device) -> int:
    """Bytes on one device, by estimate, of training on a batch of so many `tokens`, padding included, of which `labels` are trained."""
    return estimate.memory(shape, config, tokens=tokens, labels=labels, gpu=device.type == "cuda")[config.method].total


def largest(config: TrainingConfig, rows: Rows) -> tuple[int, int]:
    """Tokens, padding included, and trained tokens of the largest batch that a device can get."""
    most = batches.size(np.sort(rows.lengths)[-config.rows_per_device :], packed=config.packing)
    return most, int(np.sort(rows.labels)[-config.rows_per_device :].sum())


def decide(config: TrainingConfig, base_model: Path, rows: Rows, device: torch.device) -> TrainingConfig:
    """The config with `sharding` and `gradient_checkpointing` decided.

    `auto` checkpointing is on where the largest batch would not fit without it, and `auto` sharding is full where it would not fit
    on one device even so.
    """
    most, labels = largest(config, rows)
    shape = estimate.model_shape(base_model)
    # The processes on a CPU share its memory.
    room = available(device) // (config.devices if device.type == "cpu" else 1)

    def settled(**changes: str) -> TrainingConfig:
        return config.model_copy(update=changes)

    shardings = [config.sharding] if config.sharding != "auto" else ["none", "full"] if config.shardable else ["none"]
    checkpointings = [config.gradient_checkpointing] if config.gradient_checkpointing != "auto" else ["off", "on"]
    tried = [settled(sharding=sharding, gradient_checkpointing=on) for sharding in shardings for on in checkpointings]
    fitting = (made for made in tried if needed(shape, made, tokens=most, labels=labels, device=device) <= room)
    return next(fitting, tried[-1])


def remedy(shape: estimate.ModelShape, config: TrainingConfig, *, tokens: int, labels: int, device: torch.device) -> str:
    """What to change so that a training whose memory ran out on such a batch fits (see `needed`)."""
    need, has = needed(shape, config, tokens=tokens, labels=labels, device=device), total(device)
    lower = [f"batch_size (now {config.batch_size}; raise gradient_accumulation_steps to make up for it)"] if config.batch_size > 1 else []
    lower.append("max_length in preprocessing")
    advice = f"It takes about {need / GIB:.1f} GiB by estimate, and the device has {has / GIB:.1f} GiB. Lower {', or '.join(lower)}"
    if config.gradient_checkpointing == "off":
        advice += ", or set gradient_checkpointing to on"
    if config.shardable and config.sharding == "none":
        advice += ", or set sharding to full"
    elif config.sharding == "full":
        advice += ", or raise devices"
    if config.method == "full":
        advice += ", or train with method lora"
    elif config.method == "lora":
        advice += ", or use method qlora"
    return advice


def total(device: torch.device) -> int:
    """Bytes that the device has."""
    return torch.cuda.mem_get_info(device)[1] if device.type == "cuda" else psutil.virtual_memory().total
