"""What Alembic runs for each upgrade; the connection and its transaction are those of `llm_platform.schema`."""

from __future__ import annotations

from alembic import context

from llm_platform import tables
from llm_platform.migrations import VERSION_TABLE

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=tables.metadata,
    version_table=VERSION_TABLE,
    render_as_batch=True,  # SQLite changes a column by making the table anew
)
with context.begin_transaction():
    context.run_migrations()
