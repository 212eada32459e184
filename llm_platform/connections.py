"""Connections to the platform's own tables: SQLite in WAL mode in the home folder, or Postgres."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Self

import sqlalchemy as sa
import sqlalchemy.event
from sqlalchemy.engine import Connection, Engine, RowMapping

from llm_platform import schema, tables
from llm_platform.settings import Settings, with_driver
from llm_platform.statements import Listing


def _tune_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # SQLAlchemy's begin() below says BEGIN IMMEDIATE itself
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA busy_timeout=30000")


def _begin(connection: Connection) -> None:
    if connection.get_execution_options().get("writes"):
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    else:  # nothing that could fail; SQLAlchemy's own way to this word would be a third of a short read
        driver: Any = connection.connection.driver_connection
        driver.execute("BEGIN")


class Connections:
    """Safe to share between threads and processes. The tables are made, or brought up to date, when it is opened."""

    def __init__(self, url: str) -> None:
        url = with_driver(url)
        self.engine: Engine = sa.create_engine(url, json_deserializer=tables.read_json, pool_pre_ping=not url.startswith("sqlite"))
        self.is_file = self.engine.dialect.name == "sqlite"
        if self.is_file:
            sqlalchemy.event.listen(self.engine, "connect", _tune_sqlite)
            sqlalchemy.event.listen(self.engine, "begin", _begin)
        self._writer = self.engine.execution_options(writes=True)
        self._reading = threading.local()
        self._watching: sa.PoolProxiedConnection | None = None
        with self.read() as connection:
            is_current = schema.state(connection).is_current
        if not is_current:
            with self.write() as connection:
                if self.engine.dialect.name == "postgresql":
                    connection.execute(sa.text("SELECT pg_advisory_xact_lock(727274)"))  # two processes must not create at once
                schema.upgrade(connection)

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        return cls(settings.resolved_database_url)

    @contextmanager
    def write(self) -> Iterator[Connection]:
        with self._writer.begin() as connection:
            yield connection

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A connection that reads. One within another, in the same thread, is the same."""
        outer: Connection | None = getattr(self._reading, "connection", None)
        if outer is not None:
            yield outer
            return
        with self.engine.connect() as connection:
            self._reading.connection = connection
            try:
                yield connection
            finally:
                self._reading.connection = None

    def version(self) -> int:
        """Of a SQLite file: a number that is another one after anybody, in any process, has written to it."""
        if self._watching is None:
            self._watching = self.engine.raw_connection()  # never written through, since SQLite does not count a connection's own writes
        watching: Any = self._watching.driver_connection
        return watching.execute("PRAGMA data_version").fetchone()[0]

    def close(self) -> None:
        if self._watching is not None:
            self._watching.close()
        self.engine.dispose()

    def page(self, listing: Listing, limit: int, offset: int, **values: str | datetime | None) -> tuple[list[RowMapping], int]:
        """(some rows of a list, how many it has); `values` are what its other parameters ask for, if it has them."""
        with self.read() as connection:
            total = connection.execute(listing.count, values).scalar_one()
            return [*connection.execute(listing.page, {"limit": limit, "offset": offset, **values}).mappings().all()], total
