"""What a training run may be asked while it runs. Needs no torch."""

from __future__ import annotations

from enum import IntEnum
from typing import Protocol


class Asked(IntEnum):
    NOTHING = 0
    CHECKPOINT = 1
    """Write a checkpoint after the step that is being taken."""
    STOP = 2
    """Take no further step, and make the result of what was learned so far."""


class Control(Protocol):
    """Who may ask. The loop looks after every step, so both methods return at once and never raise."""

    def asked(self) -> Asked: ...

    def saved(self) -> None:
        """What was last asked for is on the disk."""
        ...


class Uncontrolled:
    """Nobody asks."""

    def asked(self) -> Asked:
        return Asked.NOTHING

    def saved(self) -> None:
        return None
