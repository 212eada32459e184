"""A model's layers compiled by torch.compile, where the config asks for it.

Each layer by itself and not the model whole: all layers run the same code, so that it is compiled once, and what is around them
(gradient checkpointing, gathering the weights of a sharded model, the hook on the output head) stays as it is.
"""

from __future__ import annotations

import importlib.util
import os
import shutil

import torch
from transformers import PreTrainedModel

from llm_platform.errors import InvalidConfig
from llm_platform.training.sharding import layers


def compile_layers(model: PreTrainedModel, device: torch.device) -> None:
    """The first forward passes compile, which takes a minute or so. Raises InvalidConfig where this machine cannot compile."""
    lacks = None if shutil.which(os.environ.get("CXX", "g++")) else "a C++ compiler (g++, or what CXX names)"
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        lacks = "the package triton"
    if lacks:
        message = f"compiling needs {lacks}, which this machine lacks; set compile to false"
        raise InvalidConfig(f"compile: {message}", errors=[{"field": "compile", "message": message}])
    found = layers(model)
    if not found:
        message = f"{type(model).__name__} does not say what its layers are, so that none can be compiled; set compile to false"
        raise InvalidConfig(f"compile: {message}", errors=[{"field": "compile", "message": message}])
    for layer in found:
        # Sizes differ from batch to batch, and each would else be compiled anew.
        layer.forward = torch.compile(layer.forward, dynamic=True)
