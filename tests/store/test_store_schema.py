"""Migrations: up from nothing, no drift from tables.py, and a wrong schema is refused."""

import os
import sqlite3
import stat
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.dialects import mysql, postgresql
from sqlalchemy.schema import CreateIndex, CreateTable
from store_rows import document, letter, pair, read, row, save

from diminet.errors import BadSurroundings
from diminet.model import Member
from diminet.store import SqlStore, current, upgrade
from diminet.store.schema import HEAD, MIGRATIONS
from diminet.store.services import Stage
from diminet.store.tables import metadata


def scripts() -> ScriptDirectory:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    return ScriptDirectory.from_config(config)


def ddl(engine: sa.Engine) -> set[tuple[str, str]]:
    with engine.connect() as db:
        rows = db.exec_driver_sql("SELECT name, sql FROM sqlite_master WHERE name != 'alembic_version'")
        return {(name, " ".join(str(sql).split())) for name, sql in rows if sql is not None}


def test_head_is_the_newest_script_and_the_only_one() -> None:
    assert scripts().get_heads() == [HEAD]


def test_migrations_and_tables_agree(url: str) -> None:
    migrated, made = sa.create_engine(url), sa.create_engine("sqlite://")
    with migrated.connect() as db:
        context = MigrationContext.configure(db, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, metadata) == []
    metadata.create_all(made)
    names = {name for name, _ in ddl(made)}
    assert names <= {name for name, _ in ddl(migrated)}
    autoincrement = {name for name, sql in ddl(migrated) if "AUTOINCREMENT" in sql}
    assert autoincrement == {"events"}
    migrated.dispose()
    made.dispose()


def test_upgrade_makes_a_private_file_and_repeats(tmp_path: Path) -> None:
    path = tmp_path / "new" / "diminet.db"
    url = f"sqlite:///{path}"
    assert current(url) is None
    assert not path.exists()
    upgrade(url)
    assert current(url) == HEAD
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    store = SqlStore(url)
    save(store, row())
    before = read(store, lambda tx: tx.meta())
    store.close()
    upgrade(url)
    store = SqlStore(url)
    assert read(store, lambda tx: tx.meta()) == before
    assert read(store, lambda tx: tx.service("s1")) == row()
    store.close()


def test_what_is_to_be_done_is_found_after_an_upgrade(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/diminet.db"
    away = document("s2").model_copy(update={"members": (Member(site="a", number=1, slot=1, deferred=True),)})
    rows = [row(), row(away, applied=pair()), row(document("s3", tombstone=True), settled=True)]
    engine = sa.create_engine(url)
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    columns = "id, epoch_n, epoch_site, revision, type, project_id, name, status, stage"
    with engine.begin() as db:
        config.attributes["connection"] = db
        command.upgrade(config, "0001")
        for old in rows:
            head = (old.document.service_id, 1, 1, 1, "l2", "p1", "", "ACTIVE", Stage.of(old))
            db.exec_driver_sql(
                f"INSERT INTO services ({columns}, created_at, updated_at, changed_at, body) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 1, 1, 1, ?)",
                (*head, old.model_dump_json(exclude={"refusals"})),
            )
        posted = letter(refusals=3)
        db.exec_driver_sql(
            "INSERT INTO outbox (peer, service_id, kind, rid, created_at, next_at, body) "
            "VALUES (?, ?, ?, ?, 1, 1, ?)",
            (posted.peer, posted.service_id, posted.kind, posted.rid, posted.model_dump_json()),
        )
    engine.dispose()
    upgrade(url)
    store = SqlStore(url)
    assert read(store, lambda tx: tx.services_to_realise()) == ["s1"]
    assert read(store, lambda tx: tx.services_waiting()) == [rows[1]]
    assert read(store, lambda tx: tx.outbox(refusals=3)) == [posted]
    assert read(store, lambda tx: tx.outbox(refusals=4)) == []
    store.close()


def test_the_file_is_set_up_to_last(store: SqlStore, url: str) -> None:
    def pragma(name: str) -> object:
        return read(store, lambda tx: tx._db.exec_driver_sql(f"PRAGMA {name}").scalar())

    assert pragma("journal_mode") == "wal"
    assert pragma("synchronous") == 2  # FULL
    assert pragma("foreign_keys") == 1


def test_an_empty_or_missing_database_is_told_what_to_run(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/diminet.db"
    with pytest.raises(BadSurroundings, match="diminet db upgrade"):
        SqlStore(url)
    assert not (tmp_path / "diminet.db").exists()
    (tmp_path / "diminet.db").touch()
    with pytest.raises(BadSurroundings, match="diminet db upgrade"):
        SqlStore(url)


def test_another_schema_is_refused(url: str) -> None:
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as db:
        db.execute("UPDATE alembic_version SET version_num = '9999'")
        db.commit()
    with pytest.raises(BadSurroundings, match="schema 9999"):
        SqlStore(url)
    with pytest.raises(BadSurroundings, match="9999"):
        upgrade(url)
    assert current(url) == "9999"


def test_a_running_store_is_not_upgraded_under_its_feet(url: str, store: SqlStore) -> None:
    with pytest.raises(BadSurroundings, match="stop it first"):
        upgrade(url)


def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BadSurroundings, match="cannot be made"):
        upgrade(f"sqlite:///{tmp_path}/file/diminet.db")


@pytest.mark.parametrize("dialect", [postgresql.dialect(), mysql.dialect()], ids=["postgresql", "mariadb"])
def test_every_table_can_be_made_elsewhere(dialect: sa.Dialect) -> None:
    for table in metadata.sorted_tables:
        assert str(CreateTable(table).compile(dialect=dialect))
        for index in table.indexes:
            assert str(CreateIndex(index).compile(dialect=dialect))
            assert len(str(index.name)) <= 63


def test_nothing_is_left_open(url: str) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        SqlStore(url).close()
    assert len(os.listdir("/proc/self/fd")) == before
