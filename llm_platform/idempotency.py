"""Idempotency keys: a text of a client's choice that makes one thing of a request, however often it is sent."""

from __future__ import annotations

import hashlib
import json

from llm_platform.errors import Conflict


def key_digest(owner: str | None, key: str) -> str:
    """What is stored of a key: 64 hex digits that are the user's own, so that nobody meets the keys of others."""
    return hashlib.sha256(json.dumps([owner, key]).encode()).hexdigest()


def key_reused(what: str, one: str) -> Conflict:
    """The answer to a key that comes with something else than the first time."""
    return Conflict(f"This Idempotency-Key was used for another {what}; a key stands for one {one}", field="Idempotency-Key")
