"""Alembic loads this. The connection, its transaction and its errors are the caller's (schema.py)."""

from alembic import context

from diminet.store.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,  # SQLite alters a table by making it anew
    transactional_ddl=True,  # SQLite does roll DDL back; Alembic is careful by default
)
context.run_migrations()
