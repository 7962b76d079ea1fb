"""What is counted along is what there is, whatever was written in whatever order."""

from collections import Counter
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from hypothesis import given, settings
from hypothesis import strategies as st
from store_rows import document, held, read, row, save, write

from diminet.engine.ports import Tx
from diminet.model import ProvisioningStatus
from diminet.store import SqlStore, upgrade
from diminet.store.schema import MIGRATIONS
from diminet.store.services import AT_WORK
from diminet.store.tables import blocks, services

IDS = ("s1", "s2")
STATUSES = (ProvisioningStatus.ACTIVE, ProvisioningStatus.ERROR)
STEPS = st.one_of(
    st.tuples(st.just("save"), st.sampled_from(IDS), st.sampled_from(STATUSES)),
    st.tuples(st.just("bury"), st.sampled_from(IDS), st.booleans()),
    st.tuples(st.just("leave"), st.sampled_from(IDS), st.booleans()),
    st.tuples(st.just("forget"), st.sampled_from(IDS), st.none()),
    st.tuples(
        st.just("blocks"),
        st.sampled_from(IDS),
        st.lists(
            st.tuples(st.integers(0, 3), st.integers(1, 4), st.sampled_from(("a", "b")), st.booleans()),
            max_size=4,
        ),
    ),
)


def step(tx: Tx, what: str, service_id: str, more: object) -> None:
    was = tx.service(service_id)
    expect = was.document.pair if was else None
    if what == "save":
        tx.save_service(row(document(service_id), status=more), expect=expect)
    elif what == "bury":
        tx.save_service(row(document(service_id, tombstone=True), settled=more), expect=expect)
    elif what == "leave":
        tx.save_service(row(document(service_id), left=1, settled=more), expect=expect)
    elif what == "forget":
        tx.delete_service(service_id)
    else:
        tx.put_blocks(
            service_id,
            [held(index, version, owner=owner, pooled=pooled) for index, version, owner, pooled in more],
        )


def counted(tx: Tx) -> tuple[dict, dict]:
    """The slow way."""
    kinds = sa.select(services.c.type, services.c.status).where(services.c.stage.in_(AT_WORK))
    owned = sa.select(blocks.c.owner, blocks.c.pooled)
    return Counter(map(tuple, tx._db.execute(kinds))), Counter(map(tuple, tx._db.execute(owned)))


@settings(max_examples=60, deadline=None)
@given(st.lists(STEPS, max_size=15))
def test_what_is_counted_along_is_what_there_is(steps: list) -> None:
    store = SqlStore("sqlite://", threaded=False)
    for one in steps:
        write(store, lambda tx, one=one: step(tx, *one))
    figures = read(store, lambda tx: tx.figures())
    assert (figures.services, figures.blocks) == read(store, counted)
    store.close()


def test_what_is_there_is_counted_at_an_upgrade(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/diminet.db"
    upgrade(url)
    store = SqlStore(url)
    save(store, row(), row(document("s2", tombstone=True)), row(document("s3", tombstone=True), settled=True))
    write(store, lambda tx: tx.put_blocks("s1", [held(0), held(1, pooled=True)]))
    before = read(store, lambda tx: tx.figures())
    store.close()
    engine, config = sa.create_engine(url), Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with engine.begin() as db:  # as it was before
        db.exec_driver_sql("DROP TABLE fences")
        db.exec_driver_sql("ALTER TABLE meta DROP COLUMN key")
        db.exec_driver_sql("DROP TABLE tallies")
        db.exec_driver_sql("DROP INDEX ix_services_status_changed_at")
        db.exec_driver_sql("CREATE INDEX ix_authorisations_at_service_id ON authorisations (at, service_id)")
        config.attributes["connection"] = db
        command.stamp(config, "0002")
    engine.dispose()
    upgrade(url)
    store = SqlStore(url)
    assert read(store, lambda tx: tx.figures()) == before
    assert sum(before.services.values()) == 2
    assert sum(before.blocks.values()) == 2
    store.close()
