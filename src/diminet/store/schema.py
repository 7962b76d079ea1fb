"""The schema and its migrations: bring a database up to date, say where it is, refuse a wrong one."""

import json
import os
import secrets
import traceback
import uuid
from pathlib import Path
from typing import NoReturn

import sqlalchemy as sa

from diminet.errors import BadSurroundings, DiminetError, from_dict
from diminet.store.database import file_of, is_memory, make_engine, nobody_else, storage_errors, transaction
from diminet.store.tables import meta, metadata

HEAD = "0004"  # the newest migration; kept here so that opening a store need not load Alembic
MIGRATIONS = Path(__file__).parent / "migrations"
UPGRADE_TIMEOUT_S = 30.0

_version = sa.table("alembic_version", sa.column("version_num", sa.String))


def upgrade(url: str, *, storage_timeout_s: float = UPGRADE_TIMEOUT_S) -> None:
    """Create the database, or bring it to the newest schema; in one transaction, all of it or nothing.

    Raises BadSurroundings while a DIMINET runs on it, or if a newer DIMINET has written it;
    StorageUnavailable when it cannot be written.
    """
    path = file_of(url)
    if path is None:
        _migrate(url, storage_timeout_s)
        return
    _make_file(path)
    with nobody_else(path):
        _migrate(url, storage_timeout_s)


def upgrade_apart(url: str, *, storage_timeout_s: float = UPGRADE_TIMEOUT_S) -> None:
    """The same in a process of its own: Alembic's 15 MB go with it. Before other threads are started."""
    if is_memory(url):
        upgrade(url, storage_timeout_s=storage_timeout_s)
        return
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        _upgrade_and_end(url, storage_timeout_s, writer)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        said = pipe.read()
    _, status = os.waitpid(child, 0)
    if said:
        raise from_dict(json.loads(said))
    if status != 0:
        raise BadSurroundings(
            f"the database {file_of(url)} could not be upgraded (status {status}); the reason is above"
        )


def _upgrade_and_end(url: str, storage_timeout_s: float, writer: int) -> NoReturn:
    """In the child: nothing of the parent's is unwound, what was refused goes to the parent."""
    status = 1
    try:
        upgrade(url, storage_timeout_s=storage_timeout_s)
        status = 0
    except DiminetError as error:
        os.write(writer, json.dumps(error.as_dict()).encode())
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def _migrate(url: str, storage_timeout_s: float) -> None:
    from alembic import command  # 10 MB that a running instance does not need
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    # Without foreign keys: a migration that rebuilds a table drops the old one, which would cascade.
    engine = make_engine(url, storage_timeout_s=storage_timeout_s, foreign_keys=False)
    where = f"the database {file_of(url) or ''}".rstrip()
    with storage_errors(where), engine.connect() as connection, transaction(connection) as db:
        found = version_of(db)
        config.attributes["connection"] = db
        try:
            command.upgrade(config, "head")
        except CommandError as error:
            raise BadSurroundings(
                f"the database has schema {found!r}, which this DIMINET does not know ({error}); "
                "install the version that wrote it, or a newer one"
            ) from error
        give_identity(db)


def _make_file(path: Path) -> None:
    """An empty file that only its owner may read; SQLite gives its WAL the same mode."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise BadSurroundings(
            f"the database {path} cannot be made or written ({error.strerror}); "
            "its directory must be writable for the user that DIMINET runs as"
        ) from error


def create_all(db: sa.Connection) -> None:
    """The newest schema at once, for a database in memory."""
    metadata.create_all(db, checkfirst=False)
    give_identity(db)


def give_identity(db: sa.Connection) -> None:
    """The one row of `meta`, when the database is new."""
    if db.execute(sa.select(meta.c.id)).first() is None:
        ids = {"database_id": str(uuid.uuid4()), "incarnation": str(uuid.uuid4())}
        db.execute(meta.insert().values(id=1, writes=0, key=secrets.token_hex(32), **ids))


def version_of(db: sa.Connection) -> str | None:
    """The migration that the database is at; None if it has none of our schema."""
    if not sa.inspect(db).has_table(_version.name):
        return None
    found: str | None = db.execute(sa.select(_version.c.version_num)).scalar()
    return found


def current(url: str, *, storage_timeout_s: float = UPGRADE_TIMEOUT_S) -> str | None:
    """The schema of a database (`HEAD` is the newest); None if there is none yet."""
    path = file_of(url)
    if is_memory(url) or (path is not None and not path.exists()):
        return None
    engine = make_engine(url, storage_timeout_s=storage_timeout_s)
    with storage_errors(f"the database {path or ''}".rstrip()), engine.connect() as db:
        return version_of(db)


def check(db: sa.Connection, where: str) -> None:
    """Raises BadSurroundings unless the database is at `HEAD`."""
    found = version_of(db)
    if found is None:
        raise BadSurroundings(f"{where} holds no DIMINET tables yet; run `diminet db upgrade`")
    if found != HEAD:
        raise BadSurroundings(
            f"{where} has schema {found}, this DIMINET needs {HEAD}; run `diminet db upgrade` "
            "(or, if a newer DIMINET wrote it, install that one)"
        )
