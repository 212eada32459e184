"""How many GPUs a training may ask for, and whether somebody else has started its processes. Needs no torch."""

from __future__ import annotations

import os
from pathlib import Path

from llm_platform.errors import InvalidConfig


def check_enough(wanted: int, there: int) -> None:
    """Raises InvalidConfig if this machine has GPUs, but fewer than wanted."""
    if 0 < there < wanted:
        message = f"{wanted} devices are asked for, and this machine has {there}"
        raise InvalidConfig(f"devices: {message}", errors=[{"field": "devices", "message": message}])


RANKS = "LLM_PLATFORM_RANKS"
"""Set where the processes of a training were placed from outside: the folder, which all see, in which one that fails says why. RANK,
WORLD_SIZE, MASTER_ADDR and MASTER_PORT are then set as torchrun sets them, and each process sees its own GPU alone."""


def ranks_folder() -> Path | None:
    """None where a training starts the processes that it needs by itself."""
    return Path(os.environ[RANKS]) if RANKS in os.environ else None


def is_beside() -> bool:
    """Whether this process is one beside rank 0, which is the only one that reports and writes."""
    return RANKS in os.environ and os.environ["RANK"] != "0"
