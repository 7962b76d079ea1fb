"""How a database is opened, and what its failures mean. The only place that knows of SQLite's ways."""

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.pool import NullPool, StaticPool

from diminet.errors import BadSurroundings, StorageUnavailable

WAL_PAGES = 4000  # of 4 KiB each; a checkpoint follows. A page written often is then copied once
WAL_KEPT_BYTES = 16 * 1024 * 1024  # what a checkpoint leaves of a write-ahead log that has grown
CACHE_BYTES = 8 * 1024 * 1024  # of pages, per connection
PATIENCE_STEP_S = 0.1
RETRY_AFTER_S = 1.0


def parse(url: str) -> sa.URL:
    """Raises BadSurroundings for what is no database URL. It is not repeated: it may hold a password."""
    try:
        return sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError):  # ValueError: of a port that is no number
        raise BadSurroundings(
            "the database URL (database.url) cannot be read; write for instance "
            "sqlite:////var/lib/diminet/diminet.db, and special characters of a password as %XX"
        ) from None


def file_of(url: str) -> Path | None:
    """The file of an SQLite database; None where there is none (in memory, or a database server)."""
    parsed = parse(url)
    if parsed.get_backend_name() != "sqlite" or parsed.database in (None, "", ":memory:"):
        return None
    return Path(str(parsed.database))


def is_memory(url: str) -> bool:
    return parse(url).get_backend_name() == "sqlite" and file_of(url) is None


def make_engine(url: str, *, storage_timeout_s: float, foreign_keys: bool = True) -> sa.Engine:
    """An engine without a pool: whoever uses it holds the one connection that it needs.

    Raises BadSurroundings when the driver of the URL is not installed.
    """
    parsed = parse(url)
    if parsed.get_backend_name() != "sqlite":
        try:
            return sa.create_engine(parsed, poolclass=NullPool)
        except (ModuleNotFoundError, sa.exc.NoSuchModuleError) as error:
            raise BadSurroundings(
                f"the driver for {parsed.drivername} databases is not installed ({error}); install it"
            ) from error
    engine = sa.create_engine(
        parsed,
        poolclass=StaticPool if is_memory(url) else NullPool,
        # isolation_level None: sqlite3 begins nothing by itself, `transaction` below does.
        connect_args={"check_same_thread": False, "isolation_level": None, "timeout": storage_timeout_s},
    )

    def _connected(connection: sqlite3.Connection, _record: Any) -> None:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute(f"PRAGMA foreign_keys={'ON' if foreign_keys else 'OFF'}")
        connection.execute(f"PRAGMA wal_autocheckpoint={WAL_PAGES}")
        connection.execute(f"PRAGMA journal_size_limit={WAL_KEPT_BYTES}")
        connection.execute(f"PRAGMA cache_size=-{CACHE_BYTES // 1024}")
        connection.execute("PRAGMA temp_store=MEMORY")

    sa.event.listen(engine, "connect", _connected)
    return engine


@contextmanager
def transaction(connection: sa.Connection, *, reading: bool = False) -> Iterator[sa.Connection]:
    """One transaction on an engine of `make_engine`: committed at the end, rolled back on any error.

    Not by a listener for SQLAlchemy's `begin`: with one such listener each statement calls all its hooks."""
    with connection.begin():
        if connection.dialect.name == "sqlite":
            # IMMEDIATE: what a transaction has read is still so when it writes; a deferred one could
            # fail half-way with SQLITE_BUSY_SNAPSHOT.
            _raw(connection).execute("BEGIN" if reading else "BEGIN IMMEDIATE")
        yield connection


def _raw(connection: sa.Connection) -> sqlite3.Connection:
    """The driver's own connection, for what is no part of SQLAlchemy's transactions."""
    raw = connection.connection.dbapi_connection
    assert isinstance(raw, sqlite3.Connection)
    return raw


def set_patience(connection: sa.Connection, *, seconds: float, reading: bool) -> None:
    """How long to wait for a lock (in steps of `PATIENCE_STEP_S`), and whether writing is a mistake;
    outside a transaction. The wait of database servers is their own setting."""
    if connection.dialect.name != "sqlite":
        return
    wanted = (max(1, round(seconds / PATIENCE_STEP_S)), reading)
    said = connection.info.get("patience", (None, None))
    if said != wanted:
        raw = _raw(connection)
        if said[0] != wanted[0]:
            raw.execute(f"PRAGMA busy_timeout={int(wanted[0] * PATIENCE_STEP_S * 1000)}")
        if said[1] is not reading:
            raw.execute(f"PRAGMA query_only={'ON' if reading else 'OFF'}")
        connection.info["patience"] = wanted


# -- failures --------------------------------------------------------------------------------------

_LOCKED = "stayed locked by another process; try again, and if it goes on, end what holds it"
_STORAGE_FAILURES = {
    sqlite3.SQLITE_BUSY: _LOCKED,
    sqlite3.SQLITE_LOCKED: _LOCKED,
    sqlite3.SQLITE_READONLY: "is read-only; make its file, those beside it (-wal, -shm) and their directory "
    "writable for the user that DIMINET runs as, on a file system that is mounted read-write",
    sqlite3.SQLITE_PERM: "may not be accessed; give its file to the user that DIMINET runs as",
    sqlite3.SQLITE_AUTH: "may not be accessed; give its file to the user that DIMINET runs as",
    sqlite3.SQLITE_FULL: "has no room left on its disk; free some space there, then try again",
    sqlite3.SQLITE_NOMEM: "got no memory; free some on this machine, then try again",
    sqlite3.SQLITE_IOERR: "could not be read or written; see that its disk has room left, and what the "
    "kernel's log says of it",
    sqlite3.SQLITE_PROTOCOL: "could not be locked; it must lie on a local file system",
    sqlite3.SQLITE_CORRUPT: "is damaged; stop DIMINET and bring a backup back with `diminet db restore FILE`",
    sqlite3.SQLITE_NOTADB: "is no SQLite file; bring a backup back with `diminet db restore FILE`",
    sqlite3.SQLITE_CANTOPEN: "cannot be opened; check that its directory exists and may be written to",
}
_BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _primary_code(error: BaseException | None) -> int | None:
    code = getattr(error, "sqlite_errorcode", None)
    return None if code is None else int(code) & 0xFF


def needs_reopening(error: StorageUnavailable) -> bool:
    """Whether the connection is to be given up. Not for a lock; nor on a full disk, where reading goes
    on only as long as the shared memory file beside the database is there already."""
    cause = error.__cause__
    return _primary_code(getattr(cause, "orig", cause)) not in (*_BUSY, sqlite3.SQLITE_FULL)


def _storage_failure(error: BaseException, what: str) -> StorageUnavailable | None:
    """None for mistakes of ours (a wrong statement, a broken constraint): those are bugs."""
    driver_error = error.orig if isinstance(error, sa.exc.DBAPIError) else error
    code = _primary_code(driver_error)
    if code in _STORAGE_FAILURES:
        return StorageUnavailable(
            f"{what} {_STORAGE_FAILURES[code]} ({driver_error}); nothing of this request was stored",
            retry_after=RETRY_AFTER_S if code in _BUSY else None,
        )
    if code is None and isinstance(error, (sa.exc.OperationalError, sa.exc.InterfaceError)):
        return StorageUnavailable(  # a database server that is away, or refuses
            f"{what} does not answer as it should ({driver_error}); check that it runs and can be reached",
            retry_after=RETRY_AFTER_S,
        )
    return None


@contextmanager
def storage_errors(what: str) -> Iterator[None]:
    """Turn what the driver raises for a failing storage into StorageUnavailable about `what`."""
    try:
        yield
    except (sa.exc.DBAPIError, sqlite3.Error) as error:
        failure = _storage_failure(error, what)
        if failure is None:
            raise
        raise failure from error


# -- who has the file open -------------------------------------------------------------------------


def take_file_lock(path: Path, *, exclusive: bool) -> int:
    """Lock `<file>.lock` and return its descriptor; closing that, or the process's end, lets it go.

    Shared by every running store, exclusive for who changes the whole file. A file beside the
    database: closing any descriptor of the database itself would drop the locks that SQLite has on
    it (fcntl). Raises BadSurroundings when it is held, or cannot be made.
    """
    lock = path.with_name(path.name + ".lock")
    try:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise BadSurroundings(
            f"{lock} cannot be opened ({error.strerror}); its directory must exist and be writable"
        ) from error
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise BadSurroundings(
            f"the database {path} is in use by a running DIMINET; stop it first"
            if exclusive
            else f"the database {path} is being upgraded or restored; wait until that is done"
        ) from error
    return descriptor


@contextmanager
def nobody_else(path: Path) -> Iterator[None]:
    """No store has the file open meanwhile, and none can open it."""
    descriptor = take_file_lock(path, exclusive=True)
    try:
        yield
    finally:
        os.close(descriptor)
