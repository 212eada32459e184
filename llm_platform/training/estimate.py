"""How much memory and time a training will take, from the files' headers alone: no weights are read, torch is not imported.

Weights, gradients and AdamW's moments are counted exactly; activations by the formula of Korthikanti et al. 2022 (34 bytes per
token, layer and hidden unit in 16 bits, without the attention matrix, which fused kernels never store; on a CPU with what attention in
blocks keeps of it at most); logits only where a token is trained, as our loop has them. Time is arithmetic over the machine's rate, at
the share of it that trainings reach.
"""

from __future__ import annotations

import json
import math
import struct
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm_platform.errors import InvalidConfig
from llm_platform.specs import TrainingConfig
from llm_platform.specs.preflight import MemoryEstimate, Method
from llm_platform.training import targets

METHODS: tuple[Method, ...] = ("lora", "qlora", "full")
NF4_BYTES = 0.516
"""A weight in 4-bit NormalFloat with double quantisation: 4.127 bits (Dettmers et al. 2023)."""
ACTIVATION_BYTES = 34
UTILIZATION = 0.4
"""Share of the matrix rate that a training reaches, about."""
GPUS = {"A100": 312e12, "H100": 989e12, "H200": 989e12}
"""Dense bfloat16 operations a second, by their data sheets."""
CHUNK_BYTES = 2**28
"""Float32 logits that the loss has in memory at once, where it can make them in parts."""
PROBABILITY_BYTES = 2**25
"""What attention in blocks keeps for the backward pass in each layer, at most; where it would be more, it is not used."""
AFTER_THE_HEAD = ("final_logit_softcapping", "logits_scaling", "logit_scale")
"""What a config.json calls that which a model does to its logits."""
NAMED_AS_STORED = frozenset({"gemma", "gemma2", "granite", "llama", "mistral", "olmo2", "phi3", "qwen2", "qwen3", "smollm3"})
"""Model types of plain decoders whose files name each linear layer as transformers does."""
OVERHEAD = 1.1
"""What allocators and kernels take on top."""


@dataclass(frozen=True)
class ModelShape:
    """What the estimates need to know of a base model. `linear` has the (out, in) sizes of the layers that adapters go on, by name."""

    parameters: int
    linear: dict[str, tuple[int, int]]
    hidden: int
    layers: int
    vocabulary: int
    named_as_stored: bool = False
    """Whether the layers of the model have the names of its files for certain; transformers renames some models' as it loads them."""
    head_is_last: bool = True
    """Whether the logits are what the output head gives, so that the loss makes large ones in parts."""

    @property
    def linear_parameters(self) -> int:
        return sum(out * into for out, into in self.linear.values())

    def adapter_parameters(self, config: TrainingConfig) -> int:
        """Of an adapter of `config`; on all linear layers if `target_modules` means none by the names in the files."""
        try:
            chosen = targets.chosen(config.target_modules, self.linear)
        except InvalidConfig:
            chosen = list(self.linear)
        return sum(config.lora_r * sum(self.linear[name]) for name in chosen)


def model_shape(folder: Path) -> ModelShape:
    """Reads config.json and the headers of the safetensors files. Raises InvalidConfig if they are not what they should be."""
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
        config = config.get("text_config", config)
        shapes: dict[str, list[int]] = {}
        for path in sorted(folder.glob("*.safetensors")):
            shapes |= _header(path)
        linear = {
            name.removesuffix(".weight"): (shape[0], shape[1])
            for name, shape in shapes.items()
            if len(shape) == 2 and "embed" not in name and "lm_head" not in name and name.endswith(".weight")
        }
        return ModelShape(
            parameters=sum(math.prod(shape) for shape in shapes.values()),
            linear=linear,
            hidden=int(config["hidden_size"]),
            layers=int(config["num_hidden_layers"]),
            vocabulary=int(config["vocab_size"]),
            named_as_stored=config.get("model_type") in NAMED_AS_STORED,
            head_is_last=not any(config.get(name) for name in AFTER_THE_HEAD),
        )
    except (OSError, ValueError, KeyError, TypeError, struct.error) as error:
        raise InvalidConfig("The base model's config.json or its weights' headers cannot be read") from error


def _header(path: Path) -> dict[str, list[int]]:
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if length > 2**27:
            raise ValueError("an endless header")
        header: dict[str, Any] = json.loads(file.read(length))
    return {name: entry["shape"] for name, entry in header.items() if name != "__metadata__"}


def memory(shape: ModelShape, config: TrainingConfig, *, tokens: int, labels: int, gpu: bool) -> dict[Method, MemoryEstimate]:
    """By method, in bytes on each device, for a batch of so many `tokens` there, padding included, of which `labels` are trained.

    On a GPU weights and activations have 16 bits (checkpointed where the config says `on`), on a CPU 32. With `sharding: full` each
    device has its part of weights, gradients and moments, except for `qlora`, which is not sharded.
    """
    width = 2 if gpu else 4
    per_layer = ACTIVATION_BYTES * width // 2 * shape.hidden * tokens + (0 if gpu or config.packing else PROBABILITY_BYTES)
    kept = width * shape.hidden * tokens * shape.layers + per_layer
    activations = kept if config.gradient_checkpointing == "on" else per_layer * shape.layers
    rows = min(labels, max(1, CHUNK_BYTES // (4 * shape.vocabulary))) if shape.head_is_last else labels
    activations += rows * shape.vocabulary * (width + 8)  # logits, as float32 too, and their gradient
    adapter = shape.adapter_parameters(config if config.method != "full" else TrainingConfig())
    quantised = shape.linear_parameters * NF4_BYTES + (shape.parameters - shape.linear_parameters) * width
    parts = config.devices if config.sharding == "full" else 1
    return {
        "lora": _estimate(_sharded(shape, width, parts), adapter / parts, activations, copies=True),
        "qlora": _estimate(quantised, adapter, activations, copies=True),
        # What is gathered has a gradient of its own before that is dealt out again.
        "full": _estimate(_sharded(shape, 4, parts, gradients=True), shape.parameters / parts, activations, copies=False),
    }


def _sharded(shape: ModelShape, width: int, parts: int, *, gradients: bool = False) -> float:
    """Bytes of the weights: a part of all, and what is gathered at one time: two layers, and all that belongs to no layer."""
    base = shape.parameters * width
    if parts == 1:
        return base
    gathered = (shape.parameters - shape.linear_parameters + 2 * shape.linear_parameters / shape.layers) * width
    return base / parts + gathered * (2 if gradients else 1)


def _estimate(base: float, trained: float, activations: int, *, copies: bool) -> MemoryEstimate:
    """`copies` says that what is trained comes on top of the `base` weights."""
    trainable, moments = trained * 4 if copies else 0, trained * 12  # the gradient and two moments, in float32
    return MemoryEstimate(
        weights=round(base),
        trainable=round(trainable),
        optimizer=round(moments),
        activations=activations,
        total=round(OVERHEAD * (base + trainable + moments + activations)),
    )


def operations(shape: ModelShape, method: Method, tokens: int, labels: int) -> float:
    """Of training on so many tokens: forward 2 a weight and token, backward 2 more, and 2 for the gradients of trained weights."""
    each = 6 if method == "full" else 4
    return each * (tokens * shape.linear_parameters + labels * shape.vocabulary * shape.hidden)


def seconds(work: float, rate: float) -> float:
    return work / (rate * UTILIZATION)


def cpu_rate() -> float:
    """Float32 operations a second of this machine's matrix products, measured in some hundredths of a second."""
    import numpy as np

    size = 768
    one = np.ones((size, size), dtype=np.float32)
    np.matmul(one, one)
    started = time.perf_counter()
    for _ in range(3):
        np.matmul(one, one)
    return 3 * 2 * size**3 / (time.perf_counter() - started)
