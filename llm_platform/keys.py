"""API keys: who may use the platform, and for whom each request speaks.

A key is random and shown once; the table has its SHA-256. That needs no salt and no slow hash: nobody can try 2^256 keys.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import sqlalchemy as sa

from llm_platform.database import Database, now
from llm_platform.errors import Forbidden, InvalidInput, NotFound, Unauthorized
from llm_platform.specs.base import problems
from llm_platform.specs.keys import Key, KeyCreated, KeyRequest, Scope
from llm_platform.tables import keys

PREFIX = "llmp"
RANKS: dict[Scope, int] = {"read": 0, "write": 1, "admin": 2}


@dataclass(frozen=True)
class Caller:
    """Who makes a request. Without authentication there is no `owner`, and the scope is admin."""

    owner: str | None = None
    scope: Scope = "admin"
    key_id: str | None = None

    @property
    def sees(self) -> str | None:
        """Whose datasets, jobs and models; None: everybody's."""
        return None if self.scope == "admin" else self.owner

    def may_see(self, owner: str | None) -> bool:
        """Whether something of that owner is there for this caller. What has no owner is for admins."""
        return self.sees is None or self.sees == owner

    def need(self, scope: Scope) -> None:
        """Raises Forbidden if the key has a lesser scope."""
        if RANKS[self.scope] < RANKS[scope]:
            raise Forbidden(f"This needs a key of scope '{scope}'; this key's is '{self.scope}'", needed=scope, scope=self.scope)


OPERATOR = Caller()
"""Whoever works on the platform's own machine."""


def parse_request(body: Any) -> KeyRequest:
    """The KeyRequest that a client sent. Raises InvalidInput with everything that is wrong."""
    found = problems(KeyRequest, body)
    if found:
        raise InvalidInput("Input validation failed for the key", errors=[{**item, "agent": None} for item in found])
    return KeyRequest.model_validate(body)


def create(request: KeyRequest, database: Database) -> KeyCreated:
    """Makes a key; what is returned is the only place where the key itself ever is."""
    key_id, at = secrets.token_hex(6), now()
    key = f"{PREFIX}_{key_id}_{secrets.token_urlsafe(32)}"
    expires_at = None if request.expires_in_days is None else at + timedelta(days=request.expires_in_days)
    made = Key(key_id=key_id, owner=request.owner, scope=request.scope, created_at=at, expires_at=expires_at, revoked_at=None)
    with database.write() as connection:
        connection.execute(sa.insert(keys).values(**made.model_dump(), digest=_digest(key)))
    return KeyCreated(**made.model_dump(), key=key)


def listed(database: Database, limit: int | None = None, offset: int = 0) -> tuple[list[Key], int]:
    """(newest first, also expired and revoked ones; how many there are)."""
    query = sa.select(keys).order_by(keys.c.created_at.desc(), keys.c.key_id).limit(limit).offset(offset)
    with database.read() as connection:
        total = connection.execute(sa.select(sa.func.count()).select_from(keys)).scalar_one()
        return [_shown(row) for row in connection.execute(query).mappings()], total


def revoke(key_id: str, database: Database) -> Key:
    """Ends a key at once; one that was revoked before stays so. Raises NotFound."""
    with database.write() as connection:
        connection.execute(sa.update(keys).where(keys.c.key_id == key_id, keys.c.revoked_at.is_(None)).values(revoked_at=now()))
        row = connection.execute(sa.select(keys).where(keys.c.key_id == key_id)).mappings().one_or_none()
    if row is None:
        raise NotFound(f"There is no key '{key_id[:100]}'", key_id=key_id[:100])
    return _shown(row)


def caller(key: str, database: Database) -> Caller:
    """For whom a key speaks. Raises Unauthorized, which does not say whether such a key ever was."""
    with database.read() as connection:
        row = connection.execute(sa.select(keys).where(keys.c.digest == _digest(key))).mappings().one_or_none()
    if row is None or row["revoked_at"] is not None or (row["expires_at"] is not None and row["expires_at"] <= now()):
        raise Unauthorized("This API key is not valid: it is unknown, expired or revoked")
    return Caller(row["owner"], row["scope"], row["key_id"])


def state(key: Key) -> str:
    """What a person wants to know of a key in a list."""
    if key.revoked_at is not None:
        return f"revoked {key.revoked_at:%Y-%m-%d %H:%M}"
    if key.expires_at is None:
        return "valid"
    return f"{'expired' if key.expires_at <= now() else 'valid until'} {key.expires_at:%Y-%m-%d %H:%M}"


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def _shown(row: Any) -> Key:
    return Key(**{name: row[name] for name in Key.model_fields})
