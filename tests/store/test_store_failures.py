"""A storage that fails: a clear StorageUnavailable, nothing half-written, and on again when it is mended."""

import contextlib
import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from store_rows import document, held, read, row, save, write

from diminet.engine.ports import Tx
from diminet.errors import BadSurroundings, StorageUnavailable
from diminet.model import Event
from diminet.store import SqlStore, integrity, upgrade


def file_of(url: str) -> Path:
    return Path(url.removeprefix("sqlite:///"))


def fill(tx: Tx) -> None:
    """A service first, then more than any small disk holds."""
    assert tx.save_service(row(), expect=None)
    for number in range(20_000):
        detail = {"text": "x" * 1000}
        tx.add_event(
            Event(at=number, kind="k", service_id="s1", project_id="p1", request_id=None, detail=detail)
        )


def test_full_by_page_count(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = SqlStore(url, threaded=False)
    save(store, row(document("before")))

    def limited(tx: Tx) -> None:
        tx._db.exec_driver_sql("PRAGMA max_page_count=200")
        fill(tx)

    with pytest.raises(StorageUnavailable, match="no room left"):
        write(store, limited)
    assert read(store, lambda tx: tx.services_at_work()) == {"before"}
    assert read(store, lambda tx: tx.events(service_id=None, project_id=None, after=0, limit=9)) == []
    write(store, lambda tx: tx._db.exec_driver_sql("PRAGMA max_page_count=1000000"))
    save(store, row())
    store.close()
    assert integrity(url) == ()


@contextlib.contextmanager
def small_disk(at: Path) -> Iterator[Path]:
    at.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "diminet-test", str(at)], check=True)
    try:
        yield at
    finally:
        subprocess.run(["umount", str(at)], check=True)


def until_refused(store: SqlStore) -> None:
    """The log may have some room in itself that it can use again."""
    for number in range(200):
        write(store, lambda tx, n=number: tx.put_blocks(f"s{n}", [held(i) for i in range(256)]))


@pytest.mark.lab
def test_a_full_disk(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        url = f"sqlite:///{disk}/diminet.db"
        upgrade(url)
        with contextlib.closing(SqlStore(url)) as store:
            save(store, row(document("before")))
            ballast = disk / "ballast"
            ballast.write_bytes(bytes(1024 * 1024))
            with pytest.raises(StorageUnavailable, match="no room left"):
                write(store, fill)
            with pytest.raises(StorageUnavailable, match="no room left"):
                until_refused(store)
            assert read(store, lambda tx: tx.services_at_work()) == {"before"}
            ballast.unlink()
            save(store, row())
        assert integrity(url) == ()


@pytest.mark.lab
def test_a_file_system_that_turns_read_only(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        url = f"sqlite:///{disk}/diminet.db"
        upgrade(url)
        store = SqlStore(url)
        save(store, row())
        store.close()
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        with pytest.raises((StorageUnavailable, BadSurroundings), match=r"read-only|writable|written to"):
            SqlStore(url)
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
        store = SqlStore(url)
        assert read(store, lambda tx: tx.service("s1")) == row()
        store.close()


def test_a_read_only_database(store: SqlStore) -> None:
    def turn_read_only(tx: Tx) -> None:
        tx._db.exec_driver_sql("PRAGMA query_only=ON")  # what SQLite answers then is the same
        tx.save_service(row(), expect=None)

    with pytest.raises(StorageUnavailable, match="read-only"):
        write(store, turn_read_only)
    save(store, row())
    assert read(store, lambda tx: tx.service("s1")) == row()


def test_a_read_only_file(url: str) -> None:
    """In a process of its own, since root must first give up the right to write to everything."""
    scene = [sys.executable, str(Path(__file__).with_name("read_only_scene.py")), url]
    if os.geteuid() == 0:
        scene = ["setpriv", "--bounding-set", "-dac_override", *scene]
    done = subprocess.run(scene, stdout=subprocess.PIPE, text=True, timeout=60, check=True)
    assert json.loads(done.stdout) == {"read": True, "refused": "storage-unavailable", "mended": True}


def test_writing_while_reading_is_refused(store: SqlStore) -> None:
    with pytest.raises(StorageUnavailable, match="read-only"):
        read(store, lambda tx: tx.save_service(row(), expect=None))
    assert read(store, lambda tx: tx.service("s1")) is None


def test_a_lock_at_the_start(url: str) -> None:
    holder = sqlite3.connect(file_of(url), isolation_level=None)
    holder.execute("PRAGMA locking_mode=EXCLUSIVE")
    holder.execute("BEGIN EXCLUSIVE")
    with pytest.raises(StorageUnavailable, match="locked by another process"):
        SqlStore(url, storage_timeout_s=0.2)
    holder.close()
    SqlStore(url).close()


def damage(path: Path) -> None:
    """Everything but the first page, as a failing disk might."""
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xa5" * (len(content) - 4096)
    path.write_bytes(content)


def test_a_damaged_database(url: str) -> None:
    damage(file_of(url))
    assert integrity(url) != ()
    with pytest.raises(StorageUnavailable, match="diminet db restore"):
        SqlStore(url)


def test_no_database_at_all(tmp_path: Path) -> None:
    other = tmp_path / "letter.db"
    other.write_bytes(b"Dear database, " * 1000)
    with pytest.raises(StorageUnavailable, match="diminet db restore"):
        SqlStore(f"sqlite:///{other}")


def test_a_directory_that_is_gone(tmp_path: Path) -> None:
    with pytest.raises(BadSurroundings, match="diminet db upgrade"):
        SqlStore(f"sqlite:///{tmp_path}/nowhere/diminet.db")


@pytest.mark.parametrize("url", ["nonsense", "oracle99://x/y", ""])
def test_a_url_that_means_nothing(url: str) -> None:
    with pytest.raises(BadSurroundings):
        SqlStore(url)


def test_a_bug_of_ours_is_no_storage_failure(store: SqlStore) -> None:
    with pytest.raises(Exception, match="UNIQUE") as raised:
        write(store, lambda tx: [tx._db.exec_driver_sql("INSERT INTO meta SELECT * FROM meta")])
    assert not isinstance(raised.value, StorageUnavailable)
    save(store, row())
