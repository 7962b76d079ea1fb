"""All other rows of a transaction: blocks, promises, work under way, history, what concerns the site."""

import pytest
from store_rows import CIDR, WHO, document, held, intent, letter, read, reservation, row, save, write

from diminet.engine.ports import MemberRow, PeerRow
from diminet.messages import BlockRequest
from diminet.model import Event, ProvisioningStatus
from diminet.store import SqlStore
from diminet.store.blocks import GRANTS_KEPT
from diminet.store.history import IDEMPOTENCY_KEPT_S

# -- blocks --


def test_blocks_come_back_in_order_with_all_they_are(memory: SqlStore) -> None:
    mine = [held(1, pooled=True), held(0, exclusions=("10.1.0.2", "10.1.0.3")), held(0, cidr="10.0.0.0/24")]
    write(memory, lambda tx: tx.put_blocks("s1", mine))
    assert read(memory, lambda tx: tx.blocks("s1")) == [mine[2], mine[1], mine[0]]
    assert read(memory, lambda tx: tx.blocks("s2")) == []


def test_the_higher_version_wins_and_an_equal_one_is_written(memory: SqlStore) -> None:
    def after(*offered: object) -> object:
        write(memory, lambda tx: tx.put_blocks("s1", offered))
        return read(memory, lambda tx: tx.blocks("s1"))[0]

    assert after(held(version=5)) == held(version=5)
    assert after(held(version=4, owner="lyon")) == held(version=5)
    assert after(held(version=5, pooled=True)) == held(version=5, pooled=True)
    assert after(held(version=6, owner="lyon")) == held(version=6, owner="lyon")
    assert after(held(version=9), held(version=8, owner="lyon")) == held(version=9)
    assert after(held(version=10), held(version=11, owner="nice")) == held(version=11, owner="nice")


@pytest.mark.parametrize("count", [1, 32, 33, 1024])
def test_any_number_of_blocks_at_once(memory: SqlStore, count: int) -> None:
    first = [held(index) for index in range(count)]
    half = [held(index, 2, owner="lyon") for index in range(0, count, 2)]
    write(memory, lambda tx: tx.put_blocks("s1", iter(first)))
    write(memory, lambda tx: tx.put_blocks("s1", half))
    stored = read(memory, lambda tx: tx.blocks("s1"))
    assert stored == [half[i // 2] if i % 2 == 0 else first[i] for i in range(count)]


def test_blocks_of_a_network(memory: SqlStore) -> None:
    def here(site: str, network: str, cidr: str) -> object:
        return read(memory, lambda tx: tx.network_blocks(site, network, cidr))

    l3 = row(document("s0", type="l3"))
    save(memory, l3, row())
    assert here("paris", "net-p", CIDR) is None
    write(memory, lambda tx: tx.put_blocks("s1", [held(), held(cidr="fd00::/64")]))
    assert here("paris", "net-p", CIDR) == (row(), [held()])
    assert here("lyon", "net-p", CIDR) is None
    assert here("paris", "net-p", "10.9.0.0/24") is None
    gone = row(document(tombstone=True))
    assert write(memory, lambda tx: tx.save_service(gone, expect=gone.document.pair))
    assert here("paris", "net-p", CIDR) is None


def test_a_numbered_request_is_answered_the_same_and_late_copies_get_nothing(memory: SqlStore) -> None:
    given = (held(3, 2, owner="lyon").block,)

    def answer(number: int) -> object:
        return read(memory, lambda tx: tx.grant("s1", "lyon", CIDR, number))

    assert answer(1) is None
    write(memory, lambda tx: tx.add_grant("s1", "lyon", CIDR, 1, given))
    assert answer(1) == given
    assert answer(2) is None
    assert read(memory, lambda tx: tx.grant("s1", "nice", CIDR, 1)) is None
    for number in range(2, GRANTS_KEPT + 3):
        write(memory, lambda tx, number=number: tx.add_grant("s1", "lyon", CIDR, number, given))
    assert answer(1) == ()
    assert answer(GRANTS_KEPT + 2) == given
    assert answer(GRANTS_KEPT + 3) is None


def test_our_requests_are_numbered_and_repeated(memory: SqlStore) -> None:
    def start(count: int, peer: str = "lyon") -> BlockRequest:
        return write(memory, lambda tx: tx.start_block_request("s1", peer, CIDR, count))

    assert read(memory, lambda tx: tx.pending_block_request("s1", "lyon", CIDR)) is None
    first = start(2)
    assert (first.number, first.count) == (1, 2)
    assert start(7) == first
    assert read(memory, lambda tx: tx.pending_block_request("s1", "lyon", CIDR)) == first
    write(memory, lambda tx: tx.end_block_request("s1", "lyon", CIDR))
    assert read(memory, lambda tx: tx.pending_block_request("s1", "lyon", CIDR)) is None
    assert start(7).number == 2
    assert start(1, "nice").number == 1


# -- promises --


def test_reservations_are_found_by_each_of_their_keys(memory: SqlStore) -> None:
    one, two = reservation(), reservation(network="net-q")
    other = reservation("r2", service_id="s2", expires_at=200.0)
    for each in (one, two, other):
        write(memory, lambda tx, each=each: tx.add_reservation(each))
    assert read(memory, lambda tx: tx.reservation("r1")) == [one, two]
    assert read(memory, lambda tx: tx.reservations_of_network("net-p")) == [one, other]
    assert read(memory, lambda tx: tx.reservations_of_service("s2")) == [other]
    assert read(memory, lambda tx: tx.expired_reservations(99.9)) == []
    assert read(memory, lambda tx: tx.expired_reservations(100.0)) == [one, two]
    longer = one.model_copy(update={"expires_at": 300.0})
    write(memory, lambda tx: tx.add_reservation(longer))
    assert read(memory, lambda tx: tx.expired_reservations(200.0)) == [two, other]
    write(memory, lambda tx: tx.delete_reservations("r1"))
    assert read(memory, lambda tx: tx.reservation("r1")) == []
    assert read(memory, lambda tx: tx.reservation("r2")) == [other]


def test_an_authorisation_is_of_service_network_and_project(memory: SqlStore) -> None:
    write(memory, lambda tx: tx.authorise("s1", "net-p", WHO, 1.0))
    write(memory, lambda tx: tx.authorise("s1", "net-p", WHO, 2.0))
    assert read(memory, lambda tx: tx.authorised("s1", "net-p", "p1"))
    assert not read(memory, lambda tx: tx.authorised("s2", "net-p", "p1"))
    assert not read(memory, lambda tx: tx.authorised("s1", "net-q", "p1"))
    assert not read(memory, lambda tx: tx.authorised("s1", "net-p", "p2"))


# -- work --


def test_one_intent_per_service(memory: SqlStore) -> None:
    before = intent("s2", operation="modify", before=document("s2"))
    assert write(memory, lambda tx: tx.add_intent(intent()))
    assert write(memory, lambda tx: tx.add_intent(before))
    assert not write(memory, lambda tx: tx.add_intent(intent(operation="delete")))
    assert read(memory, lambda tx: tx.intents()) == [intent(), before]
    later = intent(deadline=99.0)
    write(memory, lambda tx: tx.save_intent(later))
    assert read(memory, lambda tx: tx.intent("s1")) == later
    write(memory, lambda tx: tx.delete_intent("s1"))
    assert read(memory, lambda tx: tx.intent("s1")) is None


def test_outbox(memory: SqlStore) -> None:
    late = letter("nice", next_at=9.0)
    other = letter("lyon", "s2", "abort", rid="r1", next_at=2.0)
    for each in (late, other, letter()):
        write(memory, lambda tx, each=each: tx.post(each))
    assert read(memory, lambda tx: tx.outbox()) == [letter(), other, late]
    assert read(memory, lambda tx: tx.outbox(due=2.0)) == [letter(), other]
    assert read(memory, lambda tx: tx.outbox(due=1.0, peer="lyon")) == [letter()]
    assert read(memory, lambda tx: tx.outbox(peer="nice")) == [late]
    assert read(memory, lambda tx: tx.outbox(service_id="s2")) == [other]
    again = letter(created_at=50.0, next_at=60.0, attempts=3)
    write(memory, lambda tx: tx.post(again))
    kept = again.model_copy(update={"created_at": 1.0})
    assert read(memory, lambda tx: tx.outbox(due=60.0, service_id="s1")) == [late, kept]
    write(memory, lambda tx: tx.unpost(again))
    assert read(memory, lambda tx: tx.outbox()) == [other, late]


# -- history --


def event(at: float = 1.0, service_id: str | None = "s1", project_id: str | None = "p1") -> Event:
    return Event(
        at=at, kind="created", service_id=service_id, project_id=project_id, request_id="r", detail={"a": [1]}
    )


def numbers(store: SqlStore, after: int = 0, limit: int = 100, **of: str | None) -> list[int]:
    where = {"service_id": None, "project_id": None, **of}
    return [e.seq for e in read(store, lambda tx: tx.events(after=after, limit=limit, **where))]


def test_events_are_numbered_and_filtered(memory: SqlStore) -> None:
    for each in (event(), event(service_id="s2"), event(service_id=None, project_id="p2")):
        write(memory, lambda tx, each=each: tx.add_event(each))
    assert numbers(memory) == [1, 2, 3]
    assert numbers(memory, after=1, limit=1) == [2]
    assert numbers(memory, service_id="s2") == [2]
    assert numbers(memory, project_id="p1", after=1) == [2]
    first = read(memory, lambda tx: tx.events(service_id="s1", project_id="p1", after=0, limit=9))
    assert first == [event().model_copy(update={"seq": 1})]


def prune(store: SqlStore, **of: float) -> None:
    limits = {"events_before": 0.0, "events_most": 1000, "settled_before": 0.0, "now": 0.0, **of}
    write(store, lambda tx: tx.prune(**limits))


def test_prune_events_and_never_give_a_number_twice(memory: SqlStore) -> None:
    for at in range(6):
        write(memory, lambda tx, at=at: tx.add_event(event(float(at))))
    prune(memory, events_before=2.0)
    assert numbers(memory) == [3, 4, 5, 6]
    prune(memory, events_most=2)
    assert numbers(memory) == [5, 6]
    prune(memory, events_most=0)
    write(memory, lambda tx: tx.add_event(event()))
    assert numbers(memory) == [7]


def test_prune_forgets_what_is_over_and_done(memory: SqlStore) -> None:
    revoked = ProvisioningStatus.REVOKED
    save(
        memory,
        row(document("live")),
        row(document("buried", tombstone=True)),
        row(document("fresh", tombstone=True), settled=True, updated_at=5000.0),
        row(document("settled", tombstone=True), settled=True),
        row(document("awaited", tombstone=True), settled=True),
        row(document("owed", tombstone=True), settled=True),
        row(document("revoked"), status=revoked),
        row(document("revoked-buried", tombstone=True), status=revoked),
    )
    write(memory, lambda tx: tx.save_member(MemberRow(service_id="awaited", site="lyon")))
    write(memory, lambda tx: tx.save_member(MemberRow(service_id="settled", site="lyon", clean=True)))
    write(memory, lambda tx: tx.post(letter(service_id="owed", kind="tombstone")))
    for service_id in ("live", "settled", "never-made"):
        write(memory, lambda tx, sid=service_id: tx.authorise(sid, "n", WHO, 1.0))
    prune(memory, settled_before=1000.0)
    assert read(memory, lambda tx: tx.service("settled")) is not None
    prune(memory, settled_before=1000.1)
    gone = ["settled", "revoked"]
    kept = ["live", "buried", "fresh", "awaited", "owed", "revoked-buried"]
    assert [s for s in gone + kept if read(memory, lambda tx, s=s: tx.service(s))] == kept
    for before, after, looked_at, left in (
        (1.0, "", ["live", "never-made"], ["live", "settled", "never-made"]),
        (1.1, "", ["live", "never-made"], ["live", "settled"]),
        (1.1, "never-made", ["settled"], ["live"]),
    ):
        old = {"before": before, "after": after, "limit": 2}
        assert write(memory, lambda tx, old=old: tx.forget_authorisations(**old)) == looked_at
        allowed = [
            s
            for s in ("live", "settled", "never-made")
            if read(memory, lambda tx, s=s: tx.authorised(s, "n", "p1"))
        ]
        assert allowed == left


def test_idempotency_keys_last_a_day(memory: SqlStore) -> None:
    day = IDEMPOTENCY_KEPT_S
    write(memory, lambda tx: tx.remember("p1", "k", "hash", "s1", 100.0))
    assert read(memory, lambda tx: tx.idempotent("p1", "k", 100.0 + day - 1)) == ("hash", "s1")
    assert read(memory, lambda tx: tx.idempotent("p1", "k", 100.0 + day)) is None
    assert read(memory, lambda tx: tx.idempotent("p2", "k", 100.0)) is None
    write(memory, lambda tx: tx.remember("p1", "k", "other", "s2", 200.0))
    assert read(memory, lambda tx: tx.idempotent("p1", "k", 200.0)) == ("other", "s2")
    prune(memory, now=200.0 + day)
    assert read(memory, lambda tx: tx.idempotent("p1", "k", 200.0)) is None
    write(memory, lambda tx: tx.remember("p1", "k", "hash", "s1", 300.0))
    write(memory, lambda tx: tx.forget("p1", "k"))
    assert read(memory, lambda tx: tx.idempotent("p1", "k", 300.0)) is None


# -- the site --


def test_identifiers_are_the_lowest_free(memory: SqlStore) -> None:
    def take(service_id: str, low: int = 3, high: int = 5) -> int | None:
        return write(memory, lambda tx: tx.take_identifier(service_id, low, high))

    assert [take("a"), take("b"), take("c")] == [3, 4, 5]
    assert take("d") is None
    assert take("b") == 4
    write(memory, lambda tx: tx.release_identifier("b"))
    assert take("d") == 4
    write(memory, lambda tx: tx.release_identifier("a"))
    assert take("e") == 3
    assert take("f", 9, 8) is None
    assert take("g", 5, 7) == 6


def test_peers(memory: SqlStore) -> None:
    lyon = PeerRow(site="lyon", number=2, incarnation="i", seen_at=1.0)
    write(memory, lambda tx: tx.save_peer(PeerRow(site="nice")))
    write(memory, lambda tx: tx.save_peer(PeerRow(site="lyon")))
    write(memory, lambda tx: tx.save_peer(lyon))
    assert read(memory, lambda tx: tx.peer("lyon")) == lyon
    assert read(memory, lambda tx: tx.peer("rome")) is None
    assert read(memory, lambda tx: tx.peers()) == [lyon, PeerRow(site="nice")]


def test_a_lease_has_one_holder_until_it_expires(memory: SqlStore) -> None:
    def lease(holder: str, now: float) -> bool:
        return write(memory, lambda tx: tx.lease("reconciler", holder, now, 10.0))

    assert lease("a", 0.0)
    assert not lease("b", 9.9)
    assert lease("a", 9.9)
    assert not lease("b", 19.8)
    assert lease("b", 19.9)
    assert not lease("a", 20.0)


def test_writes_are_counted_when_they_are_committed(memory: SqlStore) -> None:
    first = read(memory, lambda tx: tx.meta())
    write(memory, lambda tx: tx.add_event(event()))
    with pytest.raises(ZeroDivisionError):
        write(memory, lambda tx: 1 // 0)
    second = read(memory, lambda tx: tx.meta())
    assert second == first.model_copy(update={"writes": first.writes + 1})
    assert len({first.database_id, first.incarnation}) == 2
