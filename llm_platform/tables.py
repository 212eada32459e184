"""The platform's own tables as this version knows them. A change here needs a migration in llm_platform/migrations/versions."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from pydantic_core import from_json


class UtcDateTime(sa.TypeDecorator[datetime]):
    """A time zone aware time on databases that forget the zone."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        return value.astimezone(UTC) if value else None

    def process_result_value(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        return value.replace(tzinfo=UTC) if value and value.tzinfo is None else value


def read_json(text: str) -> Any:
    """What a JSON column holds, in a third of the time that `json` takes, which knows halves of surrogate pairs besides."""
    try:
        return from_json(text)
    except ValueError:
        return json.loads(text)


metadata = sa.MetaData()

submissions = sa.Table(
    "submissions",
    metadata,
    sa.Column("run_id", sa.String(64), primary_key=True),
    sa.Column("dagster_run_id", sa.String(64), nullable=False, index=True),
    sa.Column("source", sa.String(16), nullable=False, doc="api, or dagster for a run launched in its UI"),
    sa.Column("digest", sa.String(64), nullable=False),
    sa.Column("pipeline", sa.JSON, nullable=True),
    sa.Column("status", sa.String(16), nullable=False, index=True),
    sa.Column("cancel_requested", sa.Boolean, nullable=False, default=False),
    sa.Column("keep_requested", sa.Boolean, nullable=True, doc="to stop, but only after what training has so far is kept as a model"),
    sa.Column("checkpoint_requested_at", UtcDateTime, nullable=True, doc="when a training was asked for a checkpoint, until it is written"),
    sa.Column("submitted", sa.Boolean, nullable=False, default=False),
    sa.Column("claimed_until", UtcDateTime, nullable=True),
    sa.Column("attempts", sa.Integer, nullable=False, default=0),
    sa.Column("error", sa.JSON, nullable=True),
    sa.Column("created_at", UtcDateTime, nullable=False, index=True),
    sa.Column("started_at", UtcDateTime, nullable=True),
    sa.Column("ended_at", UtcDateTime, nullable=True),
    sa.Column("retried_at", UtcDateTime, nullable=True, doc="when it was last given a new run"),
    sa.Column("owner", sa.String(64), nullable=True, doc="who submitted it, where authentication is on"),
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
    sa.Column("table_path", sa.String(1024), nullable=False, doc="address of the canonical Parquet"),
    sa.Column("profile", sa.JSON, nullable=False),
    sa.Column("recorded", sa.Boolean, nullable=False, default=False, doc="materialized in Dagster"),
    sa.Column("created_at", UtcDateTime, nullable=False, index=True),
    sa.Column("owner", sa.String(64), nullable=True, doc="who uploaded it, where authentication is on"),
)

upload_keys = sa.Table(
    "upload_keys",
    metadata,
    sa.Column("digest", sa.String(64), primary_key=True, doc="of a user's Idempotency-Key"),
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
    sa.Column("aliases", sa.JSON, nullable=True, doc="an object with each alias as a key, so that SQL can ask for one"),
)

keys = sa.Table(
    "keys",
    metadata,
    sa.Column("key_id", sa.String(32), primary_key=True),
    sa.Column("digest", sa.String(64), nullable=False, unique=True, doc="SHA-256 of the key, which is kept nowhere"),
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
    sa.Column("user", sa.String(64), nullable=True, doc="who, where authentication is on"),
    sa.Column("joined_at", UtcDateTime, nullable=False),
    sa.Column("seen_at", UtcDateTime, nullable=False, doc="when the process that holds the connection last said that it is there"),
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
