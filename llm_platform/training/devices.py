"""How many GPUs a training may ask for. Needs no torch."""

from __future__ import annotations

from llm_platform.errors import InvalidConfig


def check_enough(wanted: int, there: int) -> None:
    """Raises InvalidConfig if this machine has GPUs, but fewer than wanted."""
    if 0 < there < wanted:
        message = f"{wanted} devices are asked for, and this machine has {there}"
        raise InvalidConfig(f"devices: {message}", errors=[{"field": "devices", "message": message}])
