"""API keys, as they are asked for and as they are shown."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from llm_platform.specs.base import NAME, Resource, Spec

Scope = Literal["read", "write", "admin"]
"""Each allows what those before it allow: to look, to submit and upload and cancel, and everything of everybody."""
USER = r"^[A-Za-z0-9][A-Za-z0-9_.@|:+-]{0,63}$"
"""Users: those of API keys, and those that an identity provider names."""


class KeyRequest(Spec):
    owner: str = Field(pattern=NAME, description="The user for whom the key speaks.")
    scope: Scope = "write"
    expires_in_days: int | None = Field(default=None, ge=1, le=3650, description="The key does not expire if not given.")


class Key(Resource):
    key_id: str
    owner: str
    scope: Scope
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


class KeyCreated(Key):
    key: str = Field(description="The key itself. It is shown once and kept nowhere.")
