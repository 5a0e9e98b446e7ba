"""Alembic's environment: it runs on the connection that `migrate` hands over."""

from __future__ import annotations

from alembic import context

from storage.migrations import create_schema
from storage.schema import SCHEMA, metadata

connection = context.config.attributes["connection"]
create_schema(connection)
context.configure(
    connection=connection,
    target_metadata=metadata,
    version_table_schema=SCHEMA,
    include_schemas=True,
)
with context.begin_transaction():
    context.run_migrations()
