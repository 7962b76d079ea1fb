"""Upgrading in a process of its own says the same as upgrading here."""

import sqlite3

import pytest

from diminet.errors import BadSurroundings, StorageUnavailable
from diminet.store import schema


def url(path):
    return f"sqlite:///{path / 'd.db'}"


def test_a_new_database_is_made(tmp_path):
    schema.upgrade_apart(url(tmp_path))
    assert schema.current(url(tmp_path)) == schema.HEAD
    schema.upgrade_apart(url(tmp_path))


def test_what_was_refused_is_raised_here(tmp_path):
    schema.upgrade_apart(url(tmp_path))
    with sqlite3.connect(tmp_path / "d.db") as db:
        db.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(BadSurroundings, match="9999"):
        schema.upgrade_apart(url(tmp_path))


def test_no_database_is_storage_unavailable(tmp_path):
    (tmp_path / "d.db").write_bytes(b"this is no database, but long enough to be looked at" * 100)
    with pytest.raises(StorageUnavailable, match="no SQLite file"):
        schema.upgrade_apart(url(tmp_path))


def test_a_bug_ends_the_child_alone(tmp_path, monkeypatch, capfd):
    def broken(*_, **__):
        raise RuntimeError("broken on purpose")

    monkeypatch.setattr(schema, "upgrade", broken)
    with pytest.raises(BadSurroundings, match="could not be upgraded"):
        schema.upgrade_apart(url(tmp_path))
    assert "broken on purpose" in capfd.readouterr().err
