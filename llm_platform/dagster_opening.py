"""Opening Dagster's instance, which makes its tables the first time: one process at a time, or they break.

Several that make them at once end with two heads of Dagster's migrations, after which nothing starts any more.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from filelock import FileLock

from llm_platform.settings import Settings, with_driver

_ADVISORY_LOCK = 727275


@contextmanager
def opening_dagster(settings: Settings) -> Iterator[None]:
    """Held while the instance is opened: by one process of this home, and by one of all machines that share a Postgres."""
    with FileLock(settings.dagster_lock):
        if settings.dagster_database_url is None:
            yield
            return
        import sqlalchemy as sa

        engine = sa.create_engine(with_driver(settings.dagster_database_url), poolclass=sa.NullPool, isolation_level="AUTOCOMMIT")
        # No transaction stays open meanwhile: Dagster's migrations would wait for it.
        with engine.connect() as connection:
            connection.execute(sa.text("SELECT pg_advisory_lock(:key)"), {"key": _ADVISORY_LOCK})
            yield
