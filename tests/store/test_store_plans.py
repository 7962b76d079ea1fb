"""What SQLite does for each operation: no cost grows with services that it does not concern."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import sqlalchemy as sa
from store_rows import (
    CIDR,
    WHO,
    document,
    held,
    intent,
    letter,
    pair,
    read,
    reservation,
    row,
    save,
    write,
)

from diminet.engine.ports import MemberRow, PeerRow, ServiceFilter, Tx
from diminet.model import Connection, Event
from diminet.store import SqlStore
from diminet.store.lists import SORT_KEYS

CONNECTION = Connection(service_id="s1", resource_id="net-p", made=False)
EVENT = Event(at=1.0, kind="created", service_id="s1", project_id="p1", request_id=None, site="paris")
OPERATIONS: dict[str, Callable[[Tx], Any]] = {
    "service": lambda tx: tx.service("s1"),
    "save_service": lambda tx: tx.save_service(
        row(document(at=pair(2), resources=(("nice", "n"),))), expect=pair()
    ),
    "delete_service": lambda tx: tx.delete_service("s1"),
    "services_of_network": lambda tx: tx.services_of_network("paris", "net-p"),
    "being_put_back": lambda tx: tx.being_put_back("net-p"),
    "services_shared_with": lambda tx: tx.services_shared_with("paris"),
    "sharing_sites": lambda tx: tx.sharing_sites(),
    "sharing_sites_of_project": lambda tx: tx.sharing_sites("p1"),
    "count_services": lambda tx: tx.count_services("p1"),
    "services_at_work": lambda tx: tx.services_at_work(),
    "services_to_realise": lambda tx: tx.services_to_realise(),
    "services_realised": lambda tx: tx.services_realised("paris"),
    "services_unconnected": lambda tx: tx.services_unconnected("paris"),
    "services_waiting": lambda tx: tx.services_waiting(),
    "services_buried": lambda tx: tx.services_buried(),
    "services_of_type": lambda tx: tx.services_of_type("l2", "s0", 9),
    "services_page": lambda tx: tx.services_page("s0", 9),
    "services_to_reclaim": lambda tx: tx.services_to_reclaim(),
    "outbox_refused": lambda tx: tx.outbox(refusals=3),
    "identifier_holder": lambda tx: tx.identifier_holder(7),
    "take_identifier": lambda tx: tx.take_identifier("s9", 1, 4095),
    "by_site": lambda tx: tx.services(ServiceFilter(site="paris")),
    "by_tags": lambda tx: tx.services(ServiceFilter(tags=("a", "b"))),
    "by_status": lambda tx: tx.services(ServiceFilter(status="ERROR")),
    "by_name": lambda tx: tx.services(ServiceFilter(name="web")),
    "next_page": lambda tx: tx.services(ServiceFilter(project_id="p1", marker="s1")),
    "members": lambda tx: tx.members("s1"),
    "save_member": lambda tx: tx.save_member(MemberRow(service_id="s1", site="paris")),
    "connections": lambda tx: tx.connections("s1"),
    "delete_connection": lambda tx: tx.delete_connection("s1", "net-p"),
    "reservations_of_network": lambda tx: tx.reservations_of_network("net-p"),
    "reservations_of_service": lambda tx: tx.reservations_of_service("s1"),
    "reservation": lambda tx: tx.reservation("r1"),
    "expired_reservations": lambda tx: tx.expired_reservations(1.0),
    "add_reservation": lambda tx: tx.add_reservation(reservation()),
    "delete_reservations": lambda tx: tx.delete_reservations("r1"),
    "authorise": lambda tx: tx.authorise("s1", "net-p", WHO, 1.0),
    "authorised": lambda tx: tx.authorised("s1", "net-p", "p1"),
    "blocks": lambda tx: tx.blocks("s1"),
    "put_blocks": lambda tx: tx.put_blocks("s1", [held(version=2)]),
    "network_blocks": lambda tx: tx.network_blocks("paris", "net-p", CIDR),
    "grant": lambda tx: tx.grant("s1", "lyon", CIDR, 1),
    "add_grant": lambda tx: tx.add_grant("s1", "lyon", CIDR, 1, []),
    "start_block_request": lambda tx: tx.start_block_request("s1", "lyon", CIDR, 1),
    "intent": lambda tx: tx.intent("s1"),
    "delete_intent": lambda tx: tx.delete_intent("s1"),
    "outbox_due": lambda tx: tx.outbox(due=1.0),
    "outbox_of_peer": lambda tx: tx.outbox(peer="lyon"),
    "outbox_of_service": lambda tx: tx.outbox(service_id="s1"),
    "post": lambda tx: tx.post(letter()),
    "unpost": lambda tx: tx.unpost(letter()),
    "events_of_service": lambda tx: tx.events(service_id="s1", project_id=None, after=0, limit=9),
    "events_of_project": lambda tx: tx.events(service_id=None, project_id="p1", after=0, limit=9),
    "events": lambda tx: tx.events(service_id=None, project_id=None, after=0, limit=9),
    "idempotent": lambda tx: tx.idempotent("p1", "k", 1.0),
    "remember": lambda tx: tx.remember("p1", "k", "h", "s1", 1.0),
    "peer": lambda tx: tx.peer("lyon"),
    "save_peer": lambda tx: tx.save_peer(PeerRow(site="lyon")),
    "figures": lambda tx: tx.figures(),
    "count_blocks": lambda tx: tx.count_blocks("p1"),
    "save_connection": lambda tx: tx.save_connection(CONNECTION),
    "pending_block_request": lambda tx: tx.pending_block_request("s1", "lyon", CIDR),
    "end_block_request": lambda tx: tx.end_block_request("s1", "lyon", CIDR),
    "add_intent": lambda tx: tx.add_intent(intent()),
    "save_intent": lambda tx: tx.save_intent(intent()),
    "add_event": lambda tx: tx.add_event(EVENT),
    "forget": lambda tx: tx.forget("p1", "k"),
    "release_identifier": lambda tx: tx.release_identifier("s1"),
    "prune": lambda tx: tx.prune(events_before=1.0, events_most=9, settled_before=1.0, now=1.0),
    "forget_authorisations": lambda tx: tx.forget_authorisations(before=1.0, after="s0", limit=9),
    "fenced": lambda tx: tx.fenced("s1"),
    "raise_fence": lambda tx: tx.raise_fence("s1"),
    "lift_fence": lambda tx: tx.lift_fence("s1"),
    "block_requests": lambda tx: tx.block_requests("s1", "lyon"),
    "lease": lambda tx: tx.lease("a", "b", 1.0, 1.0),
}


# What reads a whole table, and why it may.
JUSTIFIED = {
    "meta": "it has one row",
    "intents": "one row for each request that is under way",
    "peers": "one row for each site that was ever met",
    "outbox": "asked for all of it: by tests only",
    "services": "pages in the order of an index: below",
    "fence": "all that there is, once after a restore",
    "fences": "one row for each service that is fenced, if any",
    "all_reservations": "while the site is fenced",
    "outbid_writes": "meta has one row",
}


def test_every_operation_of_a_transaction_is_looked_at() -> None:
    known = {name for name, member in vars(Tx).items() if callable(member) and not name.startswith("_")}
    looked_at = {method for operation in OPERATIONS.values() for method in operation.__code__.co_names}
    assert known - looked_at - JUSTIFIED.keys() == set()


@contextmanager
def statements(db: sa.Connection) -> Iterator[list[tuple[str, Any]]]:
    seen: list[tuple[str, Any]] = []

    def note(_conn: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, many: bool) -> None:
        seen.append((statement, parameters[0] if many else parameters))

    sa.event.listen(db, "before_cursor_execute", note)
    yield seen
    sa.event.remove(db, "before_cursor_execute", note)


def plan(store: SqlStore, operation: Callable[[Tx], Any]) -> list[str]:
    def explain(tx: Tx) -> list[str]:
        db: sa.Connection = tx._db
        with statements(db) as seen:
            operation(tx)
        steps = []
        for statement, parameters in seen:
            found = db.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
            steps += [f"{detail}    in: {statement}" for *_, detail in found]
        return steps

    return write(store, explain)


@pytest.fixture
def filled(memory: SqlStore) -> SqlStore:
    save(memory, row(document(tags=("a", "b"))), row(document("s2")))
    write(memory, lambda tx: tx.put_blocks("s1", [held()]))
    return memory


def scans(steps: list[str]) -> list[str]:
    """Steps through a whole table; what walks an index in order up to a limit is none."""
    return [step for step in steps if step.startswith("SCAN") and "INDEX" not in step.split("    in:")[0]]


@pytest.mark.parametrize("name", sorted(OPERATIONS))
def test_no_table_is_read_whole(filled: SqlStore, name: str) -> None:
    steps = plan(filled, OPERATIONS[name])
    # The list of shared services, or of sites, is made first, by index, and then walked: it was asked for.
    # How many letters wait, and since when, is counted: they are few, or a site is away.
    asked_for = ("SCAN anon_1", "SCAN sites", "SCAN outbox USING COVERING INDEX")
    assert [step for step in steps if step.startswith("SCAN") and not step.startswith(asked_for)] == []


@pytest.mark.parametrize("direction", ["asc", "desc"])
@pytest.mark.parametrize("key", sorted(set(SORT_KEYS) - {"id"}))
@pytest.mark.parametrize("project_id", ["p1", None])
def test_pages_come_in_the_order_of_an_index(
    filled: SqlStore, key: str, direction: str, project_id: str | None
) -> None:
    for marker in (None, "s1"):
        where = ServiceFilter(project_id=project_id, sort_key=key, sort_dir=direction, marker=marker)
        steps = plan(filled, lambda tx, where=where: tx.services(where))
        assert scans(steps) == []
        assert [step for step in steps if step.startswith("USE TEMP B-TREE")] == []


@pytest.mark.parametrize(
    ("name", "entry"),
    [
        ("count_services", "COVERING INDEX ix_services_project_id_stage_status (project_id=? AND stage=?"),
        ("by_name", "INDEX ix_services_name_id (name=?"),
        ("by_status", "INDEX ix_services_status_changed_at (status=?"),
        ("next_page", "INDEX ix_services_project_id_created_at_id (project_id=? AND created_at>?"),
        (
            "services_of_network",
            "COVERING INDEX ix_service_resources_site_resource_id_service_id (site=? AND",
        ),
        ("network_blocks", "COVERING INDEX ix_service_resources_site_resource_id_service_id (site=? AND"),
        ("prune", "INDEX ix_services_stage_changed_at (stage=? AND changed_at<?"),
        ("prune", "INDEX ix_services_status_changed_at (status=? AND changed_at<?"),
        ("services_of_type", "INDEX ix_services_type_id (type=? AND id>?"),
        ("figures", "INDEX sqlite_autoindex_tallies_1 (what=?"),
        ("count_blocks", "INDEX sqlite_autoindex_blocks_1 (service_id=?"),
        ("outbox_due", "INDEX ix_outbox_next_at (next_at<?"),
        ("services_to_realise", "INDEX ix_services_pending (pending=?"),
        ("services_waiting", "INDEX ix_services_waiting (waiting=?"),
        ("services_buried", "INDEX ix_services_stage_changed_at (stage=?"),
        ("services_to_reclaim", "INDEX ix_member_states_clean_service_id (clean=?"),
        ("outbox_refused", "INDEX ix_outbox_refusals (refusals>?"),
        ("expired_reservations", "INDEX ix_reservations_expires_at (expires_at<?"),
    ],
)
def test_the_narrowest_index_is_entered_first(filled: SqlStore, name: str, entry: str) -> None:
    """An index on what most rows share (the stage, say) would be no scan either, yet read them all."""
    assert any(entry in step for step in plan(filled, OPERATIONS[name]))


def count(store: SqlStore, operation: Callable[[Tx], Any]) -> int:
    def counted(tx: Tx) -> int:
        with statements(tx._db) as seen:
            operation(tx)
        return len(seen)

    return write(store, counted)


def test_the_number_of_statements_does_not_grow_with_rows(filled: SqlStore) -> None:
    many = [held(index, 3) for index in range(1024)]
    assert count(filled, lambda tx: tx.put_blocks("s1", many)) == 5  # look, insert, update, and of the counts
    assert count(filled, lambda tx: tx.blocks("s1")) == 1
    sites = tuple((f"site{i}", f"net{i}") for i in range(200))
    wide = row(document("s3", resources=sites))
    assert count(filled, lambda tx: tx.save_service(wide, expect=None)) == 6
    changed = row(document("s3", resources=sites, name="new"))
    assert count(filled, lambda tx: tx.save_service(changed, expect=pair())) == 2
    assert count(filled, lambda tx: tx.services(ServiceFilter())) == 1
    assert len(read(filled, lambda tx: tx.services(ServiceFilter()))) == 3
