"""API keys, as they are asked for and as they are shown."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from llm_platform.specs.base import NAME, Resource, Spec, shown

Scope = Literal["read", "write", "admin"]
"""Each allows what those before it allow: to look, to submit and upload and cancel, and everything of everybody."""
USER = r"^[A-Za-z0-9][A-Za-z0-9_.@|:+-]{0,63}$"
"""Users: those of API keys, and those that an identity provider names."""


_EXAMPLE = {
    "key_id": "4f1c2a9be07d",
    "owner": "ada",
    "scope": "write",
    "created_at": "2025-12-13T01:00:00Z",
    "expires_at": "2026-03-13T01:00:00Z",
    "revoked_at": None,
}


class KeyRequest(Spec):
    model_config = shown({"owner": "ada", "scope": "write", "expires_in_days": 90})

    owner: str = Field(pattern=NAME, description="The user for whom the key speaks.")
    scope: Scope = Field(default="write", description="What the key allows: to read; to write too; or, as admin, everything of everybody.")
    expires_in_days: int | None = Field(default=None, ge=1, le=3650, description="The key does not expire if not given.")


class Key(Resource):
    model_config = shown(_EXAMPLE)

    key_id: str = Field(description="The key's id, by which it is revoked.")
    owner: str = Field(description="The user for whom the key speaks.")
    scope: Scope = Field(description="What the key allows: to read; to write too; or, as admin, everything of everybody.")
    created_at: datetime = Field(description="When it was made.")
    expires_at: datetime | None = Field(description="When it stops being valid; null if never.")
    revoked_at: datetime | None = Field(description="When it was revoked; null if it was not.")


class KeyCreated(Key):
    model_config = shown({**_EXAMPLE, "key": f"llmp_{_EXAMPLE['key_id']}_{'x' * 43}"})

    key: str = Field(description="The key itself. It is shown once and kept nowhere.")
