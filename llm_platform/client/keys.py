"""`client.keys` and `client.audit`: who may use the platform, and what was done; for admins."""

from __future__ import annotations

from datetime import datetime

from llm_platform.client import calls
from llm_platform.client.pages import Page
from llm_platform.client.transport import Transport
from llm_platform.specs.audit import AuditAction, AuditEntry
from llm_platform.specs.keys import Key, KeyCreated, Scope


class Keys:
    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(self, owner: str, scope: Scope = "write", *, expires_in_days: int | None = None) -> KeyCreated:
        """Makes a key for a user. `key` of the answer is the key itself, which is shown nowhere else and never again."""
        return self._transport.run(calls.create_key(owner, scope, expires_in_days))

    def list(self, *, limit: int = 20, offset: int = 0) -> Page[Key]:
        """Newest first, also those that are no longer valid."""
        return self._transport.page(calls.keys(limit), offset)

    def revoke(self, key_id: str) -> Key:
        """Ends a key, at once and for good."""
        return self._transport.run(calls.revoke_key(key_id))


class Audit:
    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(
        self,
        *,
        limit: int = 20,
        offset: int = 0,
        actor: str | None = None,
        action: AuditAction | None = None,
        since: datetime | None = None,
    ) -> Page[AuditEntry]:
        """Who did what, newest first; a `since` without a zone is of this machine's."""
        return self._transport.page(calls.audit(limit, actor, action, since), offset)
