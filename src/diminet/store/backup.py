"""Copies of an SQLite database while it is in use, bringing one back, and looking for damage.

For PostgreSQL and MariaDB their own tools do this.
"""

import asyncio
import os
import sqlite3
import uuid
from contextlib import closing
from pathlib import Path

from diminet.errors import BadSurroundings
from diminet.store import schema
from diminet.store.database import file_of, nobody_else, storage_errors
from diminet.store.store import SqlStore

BACKUP_TIMEOUT_S = 30.0
PROBLEMS_MOST = 100  # lines of an integrity check


def backup(url: str, file: str | Path, *, storage_timeout_s: float = BACKUP_TIMEOUT_S) -> None:
    """A consistent copy as of one moment, as one file, while DIMINET goes on writing.

    `file` is replaced at the end or left alone. Raises StorageUnavailable when reading or writing
    fails, BadSurroundings when there is no such database or directory.
    """
    source, target = _existing(url), Path(file)
    if target.resolve() == source.resolve():
        raise BadSurroundings("a backup cannot be written over the database itself; name another file")
    _copy(source, target, storage_timeout_s)


def restore(url: str, file: str | Path, *, storage_timeout_s: float = BACKUP_TIMEOUT_S) -> None:
    """Put the backup in the database's place, at this version's schema and fenced, with a new incarnation
    (DESIGN section 5, "a restored database is not trusted").

    What was there is kept as `<database>.replaced`. Raises BadSurroundings while a process has the
    database open, or if `file` is no sound DIMINET database.
    """
    target, source = _sqlite_file(url), Path(file)
    _require_sound(source)
    fresh = target.with_name(target.name + ".restoring")
    with nobody_else(target):
        if target.exists():
            _require_unlocked(target)
        _copy(source, fresh, storage_timeout_s)
        _fence(f"sqlite:///{fresh}", storage_timeout_s)
        _sync(fresh)
        _put_aside(target)
        os.replace(fresh, target)
        _sync(target.parent)


def _fence(url: str, timeout_s: float) -> None:
    schema.upgrade(url, storage_timeout_s=timeout_s)
    store = SqlStore(url, storage_timeout_s=timeout_s, threaded=False)
    try:
        asyncio.run(store.write(lambda tx: tx.fence(str(uuid.uuid4()))))
    finally:
        store.close()
        Path(f"{file_of(url)}.lock").unlink()


def integrity(url: str, *, storage_timeout_s: float = BACKUP_TIMEOUT_S) -> tuple[str, ...]:
    """What is damaged, at most `PROBLEMS_MOST` lines; empty when the database is sound."""
    path = _existing(url)
    with storage_errors(f"the database {path}"), closing(_connect(path, storage_timeout_s)) as db:
        return _problems(db)


def _problems(db: sqlite3.Connection) -> tuple[str, ...]:
    try:
        lines = [row[0] for row in db.execute(f"PRAGMA integrity_check({PROBLEMS_MOST})")]
        orphans = db.execute("PRAGMA foreign_key_check").fetchmany(PROBLEMS_MOST)
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            return (str(error),)
        raise
    found = [] if lines == ["ok"] else lines
    found += [f"row {row[1]} of {row[0]} belongs to no row of {row[2]}" for row in orphans]
    return tuple(found[:PROBLEMS_MOST])


# -- files -----------------------------------------------------------------------------------------


def _sqlite_file(url: str) -> Path:
    path = file_of(url)
    if path is None:
        raise BadSurroundings("this works on SQLite files only; use the tools of your database server")
    return path


def _existing(url: str) -> Path:
    path = _sqlite_file(url)
    if not path.exists():
        raise BadSurroundings(f"there is no database {path}; check `database` in the configuration")
    return path


def _connect(path: Path, timeout_s: float) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=timeout_s, isolation_level=None)


def _copy(source: Path, target: Path, timeout_s: float) -> None:
    """Through a temporary file beside the target, so that there is never half a copy."""
    part = target.with_name(f"{target.name}.{os.getpid()}.part")
    try:
        os.close(os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise BadSurroundings(
            f"{target} cannot be written ({error.strerror}); its directory must exist and be writable"
        ) from error
    try:
        with (
            storage_errors(f"copying {source} to {target} failed, as one of them"),
            closing(_connect(source, timeout_s)) as read,
            closing(_connect(part, timeout_s)) as write,
        ):
            read.backup(write)
            write.execute("PRAGMA journal_mode=DELETE")  # one file, no log beside it
        _sync(part)
        os.replace(part, target)
        _sync(target.parent)
    finally:
        part.unlink(missing_ok=True)


def _put_aside(target: Path) -> None:
    """The database first, then its log: a crash in between leaves no database without its log."""
    for suffix in ("", "-wal"):
        old = target.with_name(target.name + suffix)
        if old.exists():
            os.replace(old, target.with_name(f"{target.name}.replaced{suffix}"))
        else:
            target.with_name(f"{target.name}.replaced{suffix}").unlink(missing_ok=True)
    target.with_name(target.name + "-shm").unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# -- what is refused -------------------------------------------------------------------------------


def _require_sound(file: Path) -> None:
    if not file.is_file():
        raise BadSurroundings(f"there is no backup {file}")
    refusal = f"{file} is no sound backup of a DIMINET database"
    with closing(sqlite3.connect(f"file:{file.resolve()}?mode=ro", uri=True)) as db:
        try:
            problems = _problems(db)
            if not problems and db.execute("SELECT database_id FROM meta").fetchone() is None:
                problems = ("it has no identity",)
        except sqlite3.DatabaseError as error:
            raise BadSurroundings(f"{refusal} ({error}); name another file") from error
    if problems:
        raise BadSurroundings(f"{refusal} ({problems[0]}); name another file")


def _require_unlocked(path: Path) -> None:
    """Programs other than DIMINET that are writing; a damaged database can be told nothing and is
    what a restore is for."""
    try:
        with closing(_connect(path, 0.0)) as db:
            db.execute("BEGIN IMMEDIATE")
            db.execute("ROLLBACK")
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY:
            raise BadSurroundings(f"another program is writing to {path}; end it first") from error
