"""How much one user may have at a time: bytes of uploaded files, and jobs that have not ended.

Where there is no authentication, all of it is one user's. What is asked for is counted in the transaction that inserts it, so that
many requests at once cannot go past a quota together.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from llm_platform.database import FINAL, Database
from llm_platform.errors import Conflict, RateLimited
from llm_platform.settings import Settings
from llm_platform.specs.resources import Quota, Usage
from llm_platform.tables import datasets, submissions


def usage(owner: str | None, settings: Settings, database: Database) -> Usage:
    """Where a user stands."""
    with database.read() as connection:
        stored, going_on = _stored(connection, owner), _open_jobs(connection, owner)
    return Usage(
        owner=owner,
        dataset_bytes=Quota(used=stored, limit=settings.max_dataset_bytes_per_owner or None),
        open_jobs=Quota(used=going_on, limit=settings.max_jobs_per_owner or None),
    )


def room(owner: str | None, settings: Settings, database: Database) -> int | None:
    """Bytes that the user may still upload; None for any number."""
    limit = settings.max_dataset_bytes_per_owner
    if not limit:
        return None
    with database.read() as connection:
        return max(0, limit - _stored(connection, owner))


def check_bytes(connection: Connection, owner: str | None, settings: Settings) -> None:
    """Raises Conflict if the user's datasets, the one that was just inserted too, are larger than they may be together."""
    limit = settings.max_dataset_bytes_per_owner
    if limit:
        _one_at_a_time(connection, owner)
        if _stored(connection, owner) > limit:
            raise no_room(limit)


def check_jobs(connection: Connection, owner: str | None, settings: Settings) -> None:
    """Raises RateLimited if the user's jobs that have not ended, the one that was just inserted too, are too many."""
    limit = settings.max_jobs_per_owner
    if limit:
        _one_at_a_time(connection, owner)
        if _open_jobs(connection, owner) > limit:
            raise RateLimited(f"At most {limit} jobs of one user may wait or run; submit again when one has ended", limit=limit)


def no_room(limit: int) -> Conflict:
    return Conflict(f"The datasets of one user may have {limit} bytes together, and this upload would be more", limit_bytes=limit)


def _one_at_a_time(connection: Connection, owner: str | None) -> None:
    """SQLite has one writer anyway; in Postgres each would count without what the others have not yet committed."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(sa.func.hashtextextended(f"quota of {owner}", 0))))


def _stored(connection: Connection, owner: str | None) -> int:
    query = sa.select(sa.func.coalesce(sa.func.sum(datasets.c.size_bytes), 0)).where(datasets.c.owner.is_not_distinct_from(owner))
    return int(connection.execute(query).scalar_one())


def _open_jobs(connection: Connection, owner: str | None) -> int:
    mine = sa.and_(submissions.c.owner.is_not_distinct_from(owner), submissions.c.status.not_in(FINAL))
    return connection.execute(sa.select(sa.func.count()).select_from(submissions).where(mine)).scalar_one()
