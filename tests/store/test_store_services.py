"""Services: compare-and-set, what is found by network, site and project, and what goes with them."""

import pytest
from store_rows import document, held, intent, letter, pair, read, reservation, row, save, write

from diminet.engine.ports import MemberRow, ServiceFilter, Tx
from diminet.model import Connection, Document, Pair, ProvisioningStatus, SubnetShape
from diminet.store import SqlStore

REVOKED = ProvisioningStatus.REVOKED


def test_a_row_comes_back_as_it_was(store: SqlStore) -> None:
    wire = document().model_dump() | {"of_a_newer_minor": {"deep": [1]}}
    kept = row(
        Document.model_validate(wire),
        applied=pair(3),
        confirmed=pair(2),
        left=4,
        fault={"code": "site-refused"},
        warnings=("no-data-plane",),
        synced_at=7.5,
    )
    save(store, kept)
    found = read(store, lambda tx: tx.service("s1"))
    assert found == kept
    assert found.document.pair == pair()
    assert found.document.model_extra == {"of_a_newer_minor": {"deep": [1]}}
    assert read(store, lambda tx: tx.service("other")) is None


def test_insert_only_where_there_is_none(memory: SqlStore) -> None:
    save(memory, row())
    again = row(document(name="another"))
    assert write(memory, lambda tx: tx.save_service(again, expect=None)) is False
    assert read(memory, lambda tx: tx.service("s1")) == row()


@pytest.mark.parametrize("expect", [pair(2), pair(1, n=2), pair(1, site=2)])
def test_replace_only_the_expected_pair(memory: SqlStore, expect: Pair) -> None:
    save(memory, row())
    new = row(document(at=pair(9)))
    assert write(memory, lambda tx: tx.save_service(new, expect=expect)) is False
    assert read(memory, lambda tx: tx.service("s1")) == row()
    assert write(memory, lambda tx: tx.save_service(new, expect=pair())) is True
    assert read(memory, lambda tx: tx.service("s1")) == new


def test_replace_needs_a_row(memory: SqlStore) -> None:
    assert write(memory, lambda tx: tx.save_service(row(), expect=pair())) is False
    assert read(memory, lambda tx: tx.service("s1")) is None


def test_a_tombstone_gives_way_to_tombstones_only(memory: SqlStore) -> None:
    save(memory, row(document(tombstone=True)))
    assert not write(memory, lambda tx: tx.save_service(row(document(at=pair(2))), expect=pair()))
    settled = row(document(tombstone=True), settled=True)
    assert write(memory, lambda tx: tx.save_service(settled, expect=pair()))
    assert read(memory, lambda tx: tx.service("s1")) == settled


def test_services_of_a_network_follow_the_document(memory: SqlStore) -> None:
    def of(site: str, network: str) -> list[str]:
        rows = read(memory, lambda tx: tx.services_of_network(site, network))
        return [found.document.service_id for found in rows]

    save(memory, row(), row(document("s2")), row(document("s3", resources=(("lyon", "net-p"),))))
    assert of("paris", "net-p") == ["s1", "s2"]
    assert of("lyon", "net-p") == ["s3"]
    without = row(document(at=pair(2), resources=(("lyon", "net-l"), ("nice", "net-n"))))
    assert write(memory, lambda tx: tx.save_service(without, expect=pair()))
    assert of("paris", "net-p") == ["s2"]
    assert of("nice", "net-n") == ["s1"]
    gone = row(document("s2", at=pair(2), tombstone=True))
    assert write(memory, lambda tx: tx.save_service(gone, expect=pair()))
    assert of("paris", "net-p") == []


def test_services_shared_with_members_and_whoever_was_asked(memory: SqlStore) -> None:
    save(memory, row(), row(document("s2", tombstone=True)), row(document("s3", resources=(("nice", "n"),))))
    write(memory, lambda tx: tx.save_member(MemberRow(service_id="s3", site="lyon")))
    write(memory, lambda tx: tx.save_member(MemberRow(service_id="s1", site="lyon")))
    shared = read(memory, lambda tx: tx.services_shared_with("lyon"))
    assert [found.document.service_id for found in shared] == ["s1", "s2", "s3"]
    assert read(memory, lambda tx: tx.services_shared_with("rome")) == []


def test_sharing_sites_are_the_members_of_services_that_stand(memory: SqlStore) -> None:
    assert read(memory, lambda tx: tx.sharing_sites()) == set()
    save(memory, row(document("s1", resources=(("paris", "a"), ("lyon", "b")))))
    save(memory, row(document("s2", project_id="p2", resources=(("paris", "a"), ("rome", "b")))))
    save(memory, row(document("s3", resources=(("paris", "a"), ("nice", "b")), tombstone=True)))
    assert read(memory, lambda tx: tx.sharing_sites()) == {"paris", "lyon", "rome"}
    assert read(memory, lambda tx: tx.sharing_sites("p1")) == {"paris", "lyon"}
    assert read(memory, lambda tx: tx.sharing_sites("p3")) == set()


def test_services_at_work_are_all_but_settled_tombstones(memory: SqlStore) -> None:
    save(
        memory,
        row(),
        row(document("s2", tombstone=True)),
        row(document("s3", tombstone=True), settled=True),
        row(document("s4"), settled=True),
    )
    assert read(memory, lambda tx: tx.services_at_work()) == {"s1", "s2", "s4"}


def test_services_of_whose_networks_a_connection_is_lost(memory: SqlStore) -> None:
    save(memory, row(), row(document("s2", tombstone=True)), row(document("s3")))
    write(memory, lambda tx: tx.save_connection(Connection(service_id="s1", resource_id="net-p", made=False)))
    assert read(memory, lambda tx: tx.services_unconnected("paris")) == ["s3"]
    assert read(memory, lambda tx: tx.services_unconnected("nowhere")) == []
    write(memory, lambda tx: tx.delete_connection("s1", "net-p"))
    assert read(memory, lambda tx: tx.services_unconnected("paris")) == ["s1", "s3"]


def test_count_leaves_out_deleted_and_revoked(memory: SqlStore) -> None:
    save(
        memory,
        row(),
        row(document("s2", tombstone=True)),
        row(document("s3"), status=REVOKED),
        row(document("s4", project_id="p2")),
    )
    assert read(memory, lambda tx: tx.count_services("p1")) == 1
    assert read(memory, lambda tx: tx.count_services("none")) == 0


def test_members_and_connections(memory: SqlStore) -> None:
    first = MemberRow(service_id="s1", site="lyon", pair=pair(2))
    second = MemberRow(service_id="s1", site="nice")
    for member in (second, first, MemberRow(service_id="s2", site="rome")):
        write(memory, lambda tx, member=member: tx.save_member(member))
    assert read(memory, lambda tx: tx.members("s1")) == [first, second]
    clean = first.model_copy(update={"clean": True})
    write(memory, lambda tx: tx.save_member(clean))
    assert read(memory, lambda tx: tx.members("s1")) == [clean, second]

    shape = SubnetShape(cidr="10.0.0.0/24", ip_version=4)
    made = Connection(service_id="s1", resource_id="net-p", made=False, original=(shape,))
    write(memory, lambda tx: tx.save_connection(made))
    active = made.model_copy(update={"state": "ACTIVE"})
    write(memory, lambda tx: tx.save_connection(active))
    assert read(memory, lambda tx: tx.connections("s1")) == [active]
    write(memory, lambda tx: tx.delete_connection("s1", "net-p"))
    assert read(memory, lambda tx: tx.connections("s1")) == []


def test_delete_takes_everything_but_what_is_owed_and_history(memory: SqlStore) -> None:
    def fill(tx: Tx) -> None:
        tx.save_member(MemberRow(service_id="s1", site="lyon"))
        tx.save_connection(Connection(service_id="s1", resource_id="net-p", made=True))
        tx.add_reservation(reservation())
        tx.authorise("s1", "net-p", row().document.initiator, 1.0)
        tx.put_blocks("s1", [held()])
        tx.add_grant("s1", "lyon", "10.1.0.0/24", 1, [])
        tx.start_block_request("s1", "lyon", "10.1.0.0/24", 1)
        tx.add_intent(intent())
        tx.take_identifier("s1", 1, 9)
        for kind in ("document", "abort", "tombstone", "delete"):
            tx.post(letter(kind=kind))

    save(memory, row(document(tags=("t",))), row(document("s2")))
    write(memory, fill)
    write(memory, lambda tx: tx.delete_service("s1"))

    def left(tx: Tx) -> list[object]:
        return [
            tx.service("s1"),
            tx.members("s1"),
            tx.connections("s1"),
            tx.reservations_of_service("s1"),
            tx.blocks("s1"),
            tx.grant("s1", "lyon", "10.1.0.0/24", 1),
            tx.pending_block_request("s1", "lyon", "10.1.0.0/24"),
            tx.intent("s1"),
            tx.services(ServiceFilter(tags=("t",))),
        ]

    assert read(memory, left) == [None, [], [], [], [], None, None, None, []]
    assert read(memory, lambda tx: sorted(r.kind for r in tx.outbox())) == ["abort", "delete", "tombstone"]
    assert read(memory, lambda tx: tx.authorised("s1", "net-p", "p1"))
    assert write(memory, lambda tx: tx.take_identifier("s2", 1, 9)) == 1
    assert read(memory, lambda tx: tx.services_at_work()) == {"s2"}
