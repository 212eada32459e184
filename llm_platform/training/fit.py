"""Whether a training fits into the device's memory, by estimate: to choose gradient checkpointing, and to say what is missing."""

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
    """Bytes, by estimate, of training on a batch of so many `tokens`, padding included, of which `labels` are trained."""
    return estimate.memory(shape, config, tokens=tokens, labels=labels, gpu=device.type == "cuda")[config.method].total


def with_checkpointing(config: TrainingConfig, base_model: Path, rows: Rows, device: torch.device) -> TrainingConfig:
    """The config with `gradient_checkpointing` decided: `auto` is on where the largest batch would not fit without it."""
    if config.gradient_checkpointing != "auto":
        return config
    most = batches.size(np.sort(rows.lengths)[-config.rows_per_device :], packed=config.packing)
    labels = int(np.sort(rows.labels)[-config.rows_per_device :].sum())
    off = config.model_copy(update={"gradient_checkpointing": "off"})
    fits = needed(estimate.model_shape(base_model), off, tokens=most, labels=labels, device=device) <= available(device)
    return off if fits else config.model_copy(update={"gradient_checkpointing": "on"})


def remedy(config: TrainingConfig, need: int, has: int) -> str:
    """What to change so that a training whose memory ran out fits; `need` and `has` are bytes."""
    lower = [f"batch_size (now {config.batch_size}; raise gradient_accumulation_steps to make up for it)"] if config.batch_size > 1 else []
    lower.append("max_length in preprocessing")
    advice = f"It takes about {need / GIB:.1f} GiB by estimate, and the device has {has / GIB:.1f} GiB. Lower {', or '.join(lower)}"
    if config.gradient_checkpointing == "off":
        advice += ", or set gradient_checkpointing to on"
    if config.method == "full":
        advice += ", or train with method lora"
    elif config.method == "lora":
        advice += ", or use method qlora"
    return advice


def total(device: torch.device) -> int:
    """Bytes that the device has."""
    return torch.cuda.mem_get_info(device)[1] if device.type == "cuda" else psutil.virtual_memory().total
