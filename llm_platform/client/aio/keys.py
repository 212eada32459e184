"""`client.keys` and `client.audit` of `AsyncClient`."""

from __future__ import annotations

from datetime import datetime

from llm_platform.client import calls
from llm_platform.client.aio.pages import AsyncListing
from llm_platform.client.aio.transport import AsyncTransport
from llm_platform.specs.audit import AuditAction, AuditEntry
from llm_platform.specs.keys import Key, KeyCreated, Scope


class AsyncKeys:
    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    async def create(self, owner: str, scope: Scope = "write", *, expires_in_days: int | None = None) -> KeyCreated:
        """See `Keys.create`."""
        return await self._transport.run(calls.create_key(owner, scope, expires_in_days))

    def list(self, *, limit: int = 20, offset: int = 0) -> AsyncListing[Key]:
        """See `Keys.list`."""
        return self._transport.listing(calls.keys(limit), offset)

    async def revoke(self, key_id: str) -> Key:
        """See `Keys.revoke`."""
        return await self._transport.run(calls.revoke_key(key_id))


class AsyncAudit:
    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    def list(
        self,
        *,
        limit: int = 20,
        offset: int = 0,
        actor: str | None = None,
        action: AuditAction | None = None,
        since: datetime | None = None,
    ) -> AsyncListing[AuditEntry]:
        """See `Audit.list`."""
        return self._transport.listing(calls.audit(limit, actor, action, since), offset)
