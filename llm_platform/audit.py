"""The audit log: who did what, and when. It is only ever added to, and what is in it stays as it is."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from datetime import datetime
from typing import Any, cast, get_args

import sqlalchemy as sa

from llm_platform.database import Database, now
from llm_platform.errors import InvalidInput
from llm_platform.json_log import request_id
from llm_platform.keys import Caller
from llm_platform.settings import Settings
from llm_platform.specs.audit import AuditAction, AuditEntry
from llm_platform.tables import audit


def record(database: Database, caller: Caller | None, action: AuditAction, target: str, client: str | None = None) -> None:
    """Adds an entry. `caller` is None where nobody was known, `client` for what is done on the platform's own machine."""
    who = caller or Caller(None)
    row = dict(at=now(), actor=who.owner, key_id=who.key_id, action=action, target=target[:255], request_id=request_id.get())
    row["client"] = client and client[:64]  # a proxy may say anything
    with database.write() as connection:
        connection.execute(sa.insert(audit).values(row))


def record_command(settings: Settings, action: AuditAction, target: str) -> None:
    """Adds an entry of a command on the platform's machine."""
    with closing(Database.from_settings(settings)) as database:
        record(database, None, action, target)


def listed(
    database: Database,
    limit: int,
    offset: int = 0,
    *,
    actor: str | None = None,
    action: AuditAction | None = None,
    since: datetime | None = None,
) -> tuple[list[AuditEntry], int]:
    """(entries, newest first; how many there are). Each filter that is not None narrows them."""
    filters = [audit.c.actor == actor if actor is not None else None, audit.c.action == action if action is not None else None]
    filters.append(audit.c.at >= since if since is not None else None)
    where = sa.and_(sa.true(), *(item for item in filters if item is not None))
    query = sa.select(audit).where(where).order_by(audit.c.entry_id.desc()).limit(limit).offset(offset)
    with database.read() as connection:
        total = connection.execute(sa.select(sa.func.count()).select_from(audit).where(where)).scalar_one()
        return [_shown(row) for row in connection.execute(query).mappings()], total


def action_named(name: str | None) -> AuditAction | None:
    """The action of that name. Raises InvalidInput, which lists them."""
    known = get_args(AuditAction)
    if name is not None and name not in known:
        raise InvalidInput(f"There is no action '{name[:50]}'; the actions are {', '.join(known)}")
    return cast("AuditAction | None", name)


def _shown(row: Mapping[Any, Any]) -> AuditEntry:
    return AuditEntry(**{name: row[name] for name in AuditEntry.model_fields})
