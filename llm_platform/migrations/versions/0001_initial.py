"""The tables of the first version that has migrations.

Databases from before have some of them, or lack columns: what is missing is added. This is a frozen copy of what
`llm_platform.tables` was then; it is not changed any more.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from llm_platform.tables import UtcDateTime

revision = "0001"
down_revision = None

metadata = sa.MetaData()

submissions = sa.Table(
    "submissions",
    metadata,
    sa.Column("run_id", sa.String(64), primary_key=True),
    sa.Column("dagster_run_id", sa.String(64), nullable=False, index=True),
    sa.Column("source", sa.String(16), nullable=False),
    sa.Column("digest", sa.String(64), nullable=False),
    sa.Column("pipeline", sa.JSON, nullable=True),
    sa.Column("status", sa.String(16), nullable=False, index=True),
    sa.Column("cancel_requested", sa.Boolean, nullable=False, default=False),
    sa.Column("keep_requested", sa.Boolean, nullable=True),
    sa.Column("checkpoint_requested_at", UtcDateTime, nullable=True),
    sa.Column("submitted", sa.Boolean, nullable=False, default=False),
    sa.Column("claimed_until", UtcDateTime, nullable=True),
    sa.Column("attempts", sa.Integer, nullable=False, default=0),
    sa.Column("error", sa.JSON, nullable=True),
    sa.Column("created_at", UtcDateTime, nullable=False, index=True),
    sa.Column("started_at", UtcDateTime, nullable=True),
    sa.Column("ended_at", UtcDateTime, nullable=True),
    sa.Column("retried_at", UtcDateTime, nullable=True),
    sa.Column("owner", sa.String(64), nullable=True),
)

nodes = sa.Table(
    "nodes",
    metadata,
    sa.Column("run_id", sa.String(64), primary_key=True),
    sa.Column("agent_name", sa.String(64), primary_key=True),
    sa.Column("agent_class", sa.String(64), nullable=False),
    sa.Column("digest", sa.String(64), nullable=False),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False, default=1),
    sa.Column("result", sa.JSON, nullable=True),
    sa.Column("error", sa.JSON, nullable=True),
    sa.Column("started_at", UtcDateTime, nullable=False),
    sa.Column("ended_at", UtcDateTime, nullable=True),
)

datasets = sa.Table(
    "datasets",
    metadata,
    sa.Column("dataset_id", sa.String(70), primary_key=True),
    sa.Column("filename", sa.String(255), nullable=False),
    sa.Column("format", sa.String(16), nullable=False),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sa.Column("sha256", sa.String(64), nullable=False),
    sa.Column("s3_path", sa.String(1024), nullable=False),
    sa.Column("table_path", sa.String(1024), nullable=False),
    sa.Column("profile", sa.JSON, nullable=False),
    sa.Column("recorded", sa.Boolean, nullable=False, default=False),
    sa.Column("created_at", UtcDateTime, nullable=False, index=True),
    sa.Column("owner", sa.String(64), nullable=True),
)

upload_keys = sa.Table(
    "upload_keys",
    metadata,
    sa.Column("digest", sa.String(64), primary_key=True),
    sa.Column("dataset_id", sa.String(70), nullable=False),
)

log_cursors = sa.Table(
    "log_cursors",
    metadata,
    sa.Column("run_id", sa.String(64), primary_key=True),
    sa.Column("last_seq", sa.BigInteger, nullable=False),
)

log_lines = sa.Table(
    "log_lines",
    metadata,
    sa.Column("run_id", sa.String(64), primary_key=True),
    sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("timestamp", UtcDateTime, nullable=False),
    sa.Column("agent", sa.String(64), nullable=True),
    sa.Column("agent_name", sa.String(64), nullable=True),
    sa.Column("level", sa.String(8), nullable=False),
    sa.Column("message", sa.Text, nullable=False),
    sa.Column("data", sa.JSON, nullable=False),
)

models = sa.Table(
    "models",
    metadata,
    sa.Column("model_id", sa.String(140), primary_key=True),
    sa.Column("run_id", sa.String(64), nullable=False, index=True),
    sa.Column("model_name", sa.String(255), nullable=False),
    sa.Column("base_model", sa.String(1024), nullable=False, index=True),
    sa.Column("metrics", sa.JSON, nullable=False),
    sa.Column("exports", sa.JSON, nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False, index=True),
    sa.Column("aliases", sa.JSON, nullable=True),
)

keys = sa.Table(
    "keys",
    metadata,
    sa.Column("key_id", sa.String(32), primary_key=True),
    sa.Column("digest", sa.String(64), nullable=False, unique=True),
    sa.Column("owner", sa.String(64), nullable=False, index=True),
    sa.Column("scope", sa.String(8), nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False, index=True),
    sa.Column("expires_at", UtcDateTime, nullable=True),
    sa.Column("revoked_at", UtcDateTime, nullable=True),
)


presence = sa.Table(
    "presence",
    metadata,
    sa.Column("connection_id", sa.String(32), primary_key=True),
    sa.Column("run_id", sa.String(64), nullable=False, index=True),
    sa.Column("user", sa.String(64), nullable=True),
    sa.Column("joined_at", UtcDateTime, nullable=False),
    sa.Column("seen_at", UtcDateTime, nullable=False),
)

audit = sa.Table(
    "audit",
    metadata,
    sa.Column("entry_id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
    sa.Column("at", UtcDateTime, nullable=False, index=True),
    sa.Column("actor", sa.String(64), nullable=True, index=True),
    sa.Column("key_id", sa.String(32), nullable=True),
    sa.Column("action", sa.String(32), nullable=False, index=True),
    sa.Column("target", sa.String(255), nullable=False),
    sa.Column("client", sa.String(64), nullable=True),
    sa.Column("request_id", sa.String(64), nullable=True),
)


def upgrade() -> None:
    connection = op.get_bind()
    metadata.create_all(connection)
    inspector = sa.inspect(connection)
    for table in metadata.sorted_tables:
        present = {column["name"] for column in inspector.get_columns(table.name)}
        for column in table.columns:
            if column.name not in present:
                kind = column.type.compile(connection.dialect)
                connection.exec_driver_sql(f"ALTER TABLE {table.name} ADD COLUMN {column.name} {kind}")
        known = {index["name"] for index in inspector.get_indexes(table.name)}
        for index in table.indexes:
            if index.name not in known:
                index.create(connection)
