"""Lists: filters, what is hidden, and pages that miss and repeat nothing."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_rows import document, pair, read, row, save, write

from diminet.engine.ports import MemberRow, ServiceFilter, ServiceRow
from diminet.errors import InvalidRequest
from diminet.model import ProvisioningStatus
from diminet.store import SqlStore
from diminet.store.lists import SORT_KEYS

REVOKED = ProvisioningStatus.REVOKED
PENDING_DELETE = ProvisioningStatus.PENDING_DELETE


def ids(store: SqlStore, **where: object) -> list[str]:
    found = read(store, lambda tx: tx.services(ServiceFilter(**where)))
    return [each.document.service_id for each in found]


def test_each_filter_alone_and_together(memory: SqlStore) -> None:
    save(
        memory,
        row(document("s1", name="web", tags=("a", "b"))),
        row(document("s2", type="l3", tags=("a",))),
        row(document("s3", project_id="p2"), status=ProvisioningStatus.ERROR),
        row(document("s4", resources=(("nice", "n"),))),
    )
    assert ids(memory) == ["s1", "s2", "s3", "s4"]
    assert ids(memory, project_id="p2") == ["s3"]
    assert ids(memory, type="l3") == ["s2"]
    assert ids(memory, name="web") == ["s1"]
    assert ids(memory, status="ERROR") == ["s3"]
    assert ids(memory, site="nice") == ["s4"]
    assert ids(memory, tags=("a",)) == ["s1", "s2"]
    assert ids(memory, tags=("a", "b")) == ["s1"]
    assert ids(memory, project_id="p1", site="lyon", tags=("a",), type="l3", status="ACTIVE") == ["s2"]
    assert ids(memory, status="NO_SUCH") == []


def test_deleted_and_revoked_are_hidden(memory: SqlStore) -> None:
    buried = document("s2", tombstone=True)
    save(
        memory,
        row(document("s1"), status=REVOKED),
        row(buried, status=PENDING_DELETE),
        row(document("s3", tombstone=True), status=PENDING_DELETE, settled=True),
        row(document("s4", tombstone=True), status=REVOKED, settled=True),
        row(document("s5", tombstone=True), status=PENDING_DELETE, settled=True),
    )
    # Whether members are still waited for is in `settled`; what this site last knew of them is not asked.
    write(memory, lambda tx: tx.save_member(MemberRow(service_id="s5", site="lyon")))
    write(memory, lambda tx: tx.save_member(MemberRow(service_id="s3", site="lyon", clean=True)))
    assert ids(memory) == ["s2"]
    assert ids(memory, status="PENDING_DELETE") == ["s2"]
    assert ids(memory, status="REVOKED") == ["s1", "s4"]


def test_what_this_site_has_left_is_hidden_but_can_be_joined_again(memory: SqlStore) -> None:
    save(
        memory,
        row(document("s1"), status=PENDING_DELETE, left=1),
        row(document("s2"), status=PENDING_DELETE, left=1, settled=True),
    )
    assert ids(memory) == ids(memory, status="PENDING_DELETE") == []
    assert read(memory, lambda tx: tx.services_at_work()) == {"s1"}
    assert read(memory, lambda tx: tx.count_services("p1")) == 0
    for service_id in ("s1", "s2"):
        again = row(document(service_id, at=pair(2)))
        assert write(memory, lambda tx, again=again: tx.save_service(again, expect=pair()))
    assert ids(memory) == ["s1", "s2"]


def test_what_this_site_has_left_is_forgotten_in_time(memory: SqlStore) -> None:
    save(memory, row(document("s1"), left=1), row(document("s2"), left=1, settled=True))
    write(memory, lambda tx: tx.prune(events_before=0.0, events_most=9, settled_before=1e12, now=1e12))
    assert read(memory, lambda tx: [tx.service("s1") is None, tx.service("s2") is None]) == [False, True]


def test_what_cannot_be_is_refused(memory: SqlStore) -> None:
    with pytest.raises(InvalidRequest, match="created_at"):
        ids(memory, sort_key="vni")
    with pytest.raises(InvalidRequest, match="marker"):
        ids(memory, marker="gone")


def sort_value(each: ServiceRow, key: str) -> object:
    if key in ("status", "provisioning_status"):
        return each.status.value
    return getattr(each.document, "service_id" if key == "id" else key)


services = st.lists(
    st.tuples(st.sampled_from("abc"), st.integers(0, 3), st.sampled_from(["l2", "l3"]), st.booleans()),
    max_size=12,
)


@settings(max_examples=40, deadline=None)
@given(services, st.sampled_from(sorted(SORT_KEYS)), st.sampled_from(["asc", "desc"]), st.integers(1, 5))
def test_pages_put_together_are_the_whole_list_in_order(
    drawn: list[tuple[str, int, str, bool]], key: str, direction: str, limit: int
) -> None:
    store = SqlStore("sqlite://", threaded=False)
    rows = [
        row(
            document(f"s{i:02}", name=name, created_at=float(at), updated_at=float(3 - at), type=kind),
            status=ProvisioningStatus.ERROR if broken else ProvisioningStatus.ACTIVE,
        )
        for i, (name, at, kind, broken) in enumerate(drawn)
    ]
    save(store, *rows)
    pages: list[str] = []
    marker = None
    for _ in range(len(rows) + 1):
        page = ids(store, sort_key=key, sort_dir=direction, limit=limit, marker=marker)
        pages += page
        if len(page) < limit:
            break
        marker = page[-1]
    rows.sort(key=lambda each: (sort_value(each, key), each.document.service_id), reverse=direction == "desc")
    assert pages == [each.document.service_id for each in rows]
    store.close()
