"""Where training runs, what it needs of it, and what to say when memory runs out."""

from __future__ import annotations

import importlib.metadata
import platform
import resource
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Literal

import torch

from llm_platform.errors import TrainingError

LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes", "llm-platform")


def pick_device(threads: int, dtype: Literal["auto", "float32", "bfloat16"] = "auto") -> tuple[torch.device, torch.dtype]:
    """A GPU if there is one, else the CPU; `auto` is bfloat16 there and float32 here. `threads` above 0 limits PyTorch's threads."""
    if threads > 0:
        torch.set_num_threads(threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if dtype == "auto":
        return device, torch.bfloat16 if device.type == "cuda" else torch.float32
    return device, torch.float32 if dtype == "float32" else torch.bfloat16


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[object]:
    """Arithmetic in `dtype`: what is kept in float32, such as adapters, does not slow bfloat16 down. Nothing for float32."""
    return nullcontext() if dtype is torch.float32 else torch.autocast(device.type, dtype=dtype)


def peak_memory_mb(device: torch.device) -> float:
    """Highest memory so far: of tensors on a GPU, of the process on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def versions() -> dict[str, str]:
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in LIBRARIES}}


def is_out_of_memory(error: BaseException) -> bool:
    # On the CPU PyTorch has no class of its own for it.
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)


@contextmanager
def explain_out_of_memory(what: str, remedy: str | Callable[[], str]) -> Iterator[None]:
    """Turns any form of "out of memory" into a TrainingError that says during what, and what to lower."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise TrainingError(f"Out of memory during {what}. {remedy if isinstance(remedy, str) else remedy()}") from error
