"""The base model in 4 bits (QLoRA): nf4 with double quantization, by bitsandbytes, on a GPU or the CPU."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from transformers import BitsAndBytesConfig, PreTrainedModel

from llm_platform.errors import InvalidConfig
from llm_platform.training.base_model import load

SCHEME = {"bits": 4, "type": "nf4", "double_quantization": True}
"""What an adapter's training.json says about the base that it was trained on."""
MULTIPLE = 64
"""bitsandbytes quantizes blocks of so many weights, which must not reach over a row's end."""


def load_4bit(folder: Path, dtype: torch.dtype, device: torch.device) -> PreTrainedModel:
    """The model on `device`, its linear layers in 4 bits and computing in `dtype`, norms in float32, all frozen.

    Embeddings and the output head stay in `dtype`. Raises InvalidConfig if a layer's width is no multiple of `MULTIPLE`.
    """
    # It warns of a faster kernel from the hub, which is never loaded here.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    from bitsandbytes.nn import Linear4bit

    scheme = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )
    model = load(folder, dtype, quantization_config=scheme, device_map={"": device})
    layers = {name: module for name, module in model.named_modules() if isinstance(module, Linear4bit)}
    uneven = [f"{name} ({layer.in_features} inputs)" for name, layer in layers.items() if layer.in_features % MULTIPLE]
    if uneven:
        raise InvalidConfig(
            f"method 'qlora' needs layers whose inputs are a multiple of {MULTIPLE}; this base model has {', '.join(uneven[:3])}. "
            "Use method 'lora'",
            errors=[{"field": "method", "message": f"the base model's layers are not multiples of {MULTIPLE}"}],
        )
    for layer in layers.values():
        # Its fast path on some CPUs repacks the weights at the first validation; from then on no gradient passes through the layer.
        layer.support_avx512bf16_for_cpu = False
    model.requires_grad_(False)
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.data = parameter.data.float()
    return model
