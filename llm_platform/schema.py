"""The version of the platform's tables: made when they are not there, brought up to date when they are of an earlier version."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from llm_platform import tables
from llm_platform.migrations import FOLDER, HEAD, VERSION_TABLE, check_known, versions


@dataclass(frozen=True)
class State:
    """`version` is None for tables from before there were migrations, and where there are none at all."""

    version: str | None
    is_empty: bool

    @property
    def is_current(self) -> bool:
        return self.version == HEAD

    @property
    def is_newer(self) -> bool:
        return self.version is not None and self.version not in versions()


def state(connection: Connection) -> State:
    names = sa.inspect(connection).get_table_names()
    is_empty = tables.submissions.name not in names
    if VERSION_TABLE not in names:
        return State(None, is_empty)
    return State(connection.execute(sa.select(sa.column("version_num")).select_from(sa.table(VERSION_TABLE))).scalar(), is_empty)


def upgrade(connection: Connection) -> None:
    """Brings the tables to `HEAD`, in the connection's transaction; who calls it holds the lock. Raises Conflict for newer ones."""
    found = state(connection)
    if found.is_current:
        return
    check_known(found.version)
    if found.version is None and found.is_empty:
        tables.metadata.create_all(connection)
        version = sa.Table(VERSION_TABLE, sa.MetaData(), sa.Column("version_num", sa.String(32), primary_key=True))
        version.create(connection)
        connection.execute(version.insert().values(version_num=HEAD))
        return
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
