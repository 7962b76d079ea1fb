"""Alembic's scripts; `diminet.store.schema.upgrade` runs them."""
