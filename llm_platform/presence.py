"""Who watches a run, over any number of API processes: one row per connection, which its process keeps alive."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from datetime import timedelta

import sqlalchemy as sa

from llm_platform.database import Database, now
from llm_platform.specs.channel import Present
from llm_platform.tables import presence

ALIVE_SECONDS = 45.0
"""After which a connection whose process said nothing is gone: the process was killed."""


def join(database: Database, run_id: str, user: str | None) -> str:
    """Notes a connection; its id. What killed processes left of the run is removed."""
    connection_id, at = secrets.token_hex(8), now()
    with database.write() as connection:
        dead = sa.and_(presence.c.run_id == run_id, presence.c.seen_at < at - timedelta(seconds=ALIVE_SECONDS))
        connection.execute(sa.delete(presence).where(dead))
        row = dict(connection_id=connection_id, run_id=run_id, user=user, joined_at=at, seen_at=at)
        connection.execute(sa.insert(presence).values(row))
    return connection_id


def leave(database: Database, connection_id: str) -> None:
    with database.write() as connection:
        connection.execute(sa.delete(presence).where(presence.c.connection_id == connection_id))


def keep_alive(database: Database, connection_ids: Sequence[str]) -> None:
    """Says that these connections are there."""
    with database.write() as connection:
        connection.execute(sa.update(presence).where(presence.c.connection_id.in_(connection_ids)).values(seen_at=now()))


def present(database: Database, run_id: str) -> list[Present]:
    """The users who watch a run, each once, who came first first."""
    alive = sa.and_(presence.c.run_id == run_id, presence.c.seen_at >= now() - timedelta(seconds=ALIVE_SECONDS))
    since = sa.func.min(presence.c.joined_at, type_=presence.c.joined_at.type)
    query = sa.select(presence.c.user, since.label("since")).where(alive).group_by(presence.c.user).order_by("since", presence.c.user)
    with database.read() as connection:
        return [Present(user=row.user, since=row.since) for row in connection.execute(query)]
