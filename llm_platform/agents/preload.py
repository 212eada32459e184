"""What nodes import, imported ahead of them by a process that is then forked (see `dagster_project.zygotes`)."""

from __future__ import annotations

import importlib
from contextlib import suppress

FIRST = (
    "torch",
    "torch._inductor.compile_fx",
    "transformers.modeling_utils",
    "transformers.generation.utils",
    "transformers.models.auto.modeling_auto",
    "transformers.models.llama.modeling_llama",
    "accelerate",
    "llm_platform.data.preprocess",
    "llm_platform.registry.preload",
)
WITH_BITSANDBYTES = (
    "peft",
    "bitsandbytes",
    "llm_platform.evaluation.evaluate",
    "llm_platform.export.export",
    "llm_platform.training.train",
)


def everything() -> None:
    """Imports what heavy nodes need, without touching CUDA, starting a process or opening a connection."""
    modules(*FIRST)
    import torch

    # On a GPU bitsandbytes asks for its features when it is imported, which a child could then not use: each imports it itself.
    if not torch.cuda.is_available():
        modules(*WITH_BITSANDBYTES)


def modules(*names: str) -> None:
    for name in names:
        with suppress(ImportError):
            importlib.import_module(name)
