"""Backups while writing goes on, bringing one back, and what is refused."""

import asyncio
import os
import sqlite3
import stat
from contextlib import closing
from pathlib import Path

import pytest
from store_rows import document, pair, read, row, save, write

from diminet.engine.ports import SITE
from diminet.errors import BadSurroundings, StorageUnavailable
from diminet.store import SqlStore, backup, current, integrity, restore
from diminet.store.schema import HEAD


def file_of(url: str) -> Path:
    return Path(url.removeprefix("sqlite:///"))


def test_there_and_back(url: str, tmp_path: Path) -> None:
    copy = tmp_path / "copy.db"
    store = SqlStore(url)
    save(store, row())
    before = read(store, lambda tx: tx.meta())
    backup(url, copy)
    write(store, lambda tx: tx.save_service(row(document(at=pair(2))), expect=pair()))
    store.close()
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert sorted(p.name for p in tmp_path.iterdir()) == ["copy.db", "diminet.db", "diminet.db.lock"]

    restore(url, copy)
    assert current(url) == HEAD
    assert integrity(url) == ()
    store = SqlStore(url)
    assert read(store, lambda tx: tx.service("s1")) == row()
    after = read(store, lambda tx: tx.meta())
    assert (after.database_id, after.writes) == (before.database_id, before.writes + 1)
    assert read(store, lambda tx: tx.fences()) == [SITE, "s1"]
    assert after.incarnation != before.incarnation
    save(store, row(document("s2")))
    store.close()
    with closing(sqlite3.connect(tmp_path / "diminet.db.replaced")) as old:
        assert old.execute("SELECT revision FROM services").fetchall() == [(2,)]


def test_a_backup_is_of_one_moment_while_writing_goes_on(store: SqlStore, url: str, tmp_path: Path) -> None:
    """Every write saves two services: any copy must have both at the same revision."""
    save(store, row(), row(document("s2")))

    async def scene() -> None:
        copying = asyncio.create_task(copies())
        revision = 1
        while not copying.done():
            at, revision = pair(revision), revision + 1
            for_both = [row(document(s, pair(revision))) for s in ("s1", "s2")]
            assert await store.write(
                lambda tx, rows=for_both, at=at: all(tx.save_service(r, expect=at) for r in rows)
            )
        await copying

    async def copies() -> None:
        for number in range(10):
            await asyncio.to_thread(backup, url, tmp_path / f"copy{number}.db")

    asyncio.run(scene())
    for number in range(10):
        with closing(sqlite3.connect(tmp_path / f"copy{number}.db")) as db:
            assert db.execute("SELECT count(DISTINCT revision), count(*) FROM services").fetchone() == (1, 2)


def test_restore_takes_the_old_log_away_with_the_old_file(url: str, tmp_path: Path) -> None:
    """A log that a crash has left must not be replayed into the restored file."""
    copy = tmp_path / "copy.db"
    backup(url, copy)
    wal = tmp_path / "diminet.db-wal"
    store = SqlStore(url)
    save(store, row())
    left = (file_of(url).read_bytes(), wal.read_bytes())
    store.close()
    file_of(url).write_bytes(left[0])
    wal.write_bytes(left[1])
    restore(url, copy)
    store = SqlStore(url)
    assert read(store, lambda tx: tx.service("s1")) is None
    store.close()
    with closing(sqlite3.connect(tmp_path / "diminet.db.replaced")) as old:
        assert old.execute("SELECT count(*) FROM services").fetchone() == (1,)


def test_restore_over_a_missing_or_damaged_database(url: str, tmp_path: Path) -> None:
    copy = tmp_path / "copy.db"
    backup(url, copy)
    for ruin in (lambda: file_of(url).unlink(), lambda: file_of(url).write_bytes(b"ruin" * 4096)):
        ruin()
        restore(url, copy)
        SqlStore(url).close()


def test_restore_is_refused_while_in_use(store: SqlStore, url: str, tmp_path: Path) -> None:
    backup(url, tmp_path / "copy.db")
    with pytest.raises(BadSurroundings, match="stop it first"):
        restore(url, tmp_path / "copy.db")
    store.close()
    with closing(sqlite3.connect(file_of(url), isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(BadSurroundings, match="another program"):
            restore(url, tmp_path / "copy.db")
        other.execute("ROLLBACK")
    restore(url, tmp_path / "copy.db")


def test_only_a_sound_backup_is_restored(url: str, tmp_path: Path) -> None:
    bad = tmp_path / "bad.db"
    with pytest.raises(BadSurroundings, match="no backup"):
        restore(url, bad)
    for content in (b"", b"no database" * 1000):
        bad.write_bytes(content)
        with pytest.raises(BadSurroundings, match="no sound backup"):
            restore(url, bad)
    backup(url, bad)
    torn = bytearray(bad.read_bytes())
    torn[8192:] = os.urandom(len(torn) - 8192)
    bad.write_bytes(torn)
    with pytest.raises(BadSurroundings, match="no sound backup"):
        restore(url, bad)
    SqlStore(url).close()


def test_backups_that_cannot_be(url: str, tmp_path: Path) -> None:
    with pytest.raises(BadSurroundings, match="another file"):
        backup(url, file_of(url))
    with pytest.raises(BadSurroundings, match="cannot be written"):
        backup(url, tmp_path / "nowhere" / "copy.db")
    with pytest.raises(BadSurroundings, match="no database"):
        backup(f"sqlite:///{tmp_path}/none.db", tmp_path / "copy.db")
    with pytest.raises(BadSurroundings, match="database server"):
        backup("postgresql://host/name", tmp_path / "copy.db")
    file_of(url).write_bytes(b"ruin" * 4096)
    with pytest.raises(StorageUnavailable):
        backup(url, tmp_path / "copy.db")
    assert not (tmp_path / "copy.db").exists()
