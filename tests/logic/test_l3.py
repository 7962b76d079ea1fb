from typing import Any

import pytest
from hypothesis import given as hypothesis_given
from hypothesis import strategies as st
from logic_cases import document, given, members, network, request, reservation, subnet

from diminet.errors import CidrOverlap, IncompatibleSites, InvalidRequest, ResourceBusy, ResourceNotClean
from diminet.logic import addressing
from diminet.logic.l3 import L3
from diminet.logic.service_type import Decision, Draft
from diminet.messages import Reach
from diminet.model import Entry, Member, Resource, Subnet

L3_TYPE = L3()


def plan(networks: dict[tuple[str, str], Any], **kw: Any) -> Draft:
    """networks: (site, id) -> facts, or CIDRs to make them of."""
    facts = {
        key: value if not isinstance(value, str) else given(network(key[1], *map(subnet, value.split())))
        for key, value in networks.items()
    }
    sites = list(dict.fromkeys(site for site, _ in facts))
    return Draft(
        service_id="s",
        master=sites[0],
        members=members(*sites, deferred=kw.pop("deferred", ())),
        entries=tuple(Entry(site=site, resource_id=i) for site, i in facts),
        params={},
        reservations={
            site: reservation(
                site, place, *(f for key, f in facts.items() if key[0] == site), **kw.get(site, {})
            )
            for place, site in enumerate(sites, start=1)
        },
        before=kw.get("before"),
    )


def service(networks: dict[tuple[str, str], str], service_id: str = "s", **kw: Any):
    draft = plan(networks, **kw)
    return document("l3", L3_TYPE.decide(draft), draft.members, service_id=service_id)


ABC = {("a", "n1"): "10.1.0.0/24", ("b", "n2"): "10.2.0.0/24 2001:db8:2::/64", ("c", "n3"): "10.3.0.0/24"}


def test_entries_are_checked():
    ok = [
        Entry(site="a", resource_id="x"),
        Entry(site="a", resource_id="y"),
        Entry(site="b", resource_id="x"),
    ]
    assert L3_TYPE.check(ok, {}, "b") == {}
    for entries, params, told in [
        (ok[:2], {}, "at least two sites"),
        ([*ok, ok[0]], {}, "a:x more than once"),
        ([*ok, Entry(site="c")], {}, "resource_id of one of c"),
        (ok, {"gateway": "local"}, "no params"),
    ]:
        with pytest.raises(InvalidRequest, match=told):
            L3_TYPE.check(entries, params, "a")
    with pytest.raises(InvalidRequest, match="send it to one of a, b"):
        L3_TYPE.check(ok, {}, "z")


def test_the_document_has_the_cidrs_as_they_were_read():
    doc = service(ABC)
    assert [(r.site, r.resource_id, [s.cidr for s in r.subnets]) for r in doc.resources] == [
        ("a", "n1", ["10.1.0.0/24"]),
        ("b", "n2", ["10.2.0.0/24", "2001:db8:2::/64"]),
        ("c", "n3", ["10.3.0.0/24"]),
    ]


def test_an_overlap_names_both_networks_and_what_overlaps():
    with pytest.raises(CidrOverlap) as refused:
        L3_TYPE.decide(plan({**ABC, ("c", "n4"): "10.0.0.0/8"}))
    for word in ("n1", "n4", "name-n1", "site a", "site c", "10.0.0.0/8", "10.1.0.0/24"):
        assert word in refused.value.message


def test_two_networks_of_one_site_may_be_in_one_service_if_disjoint():
    doc = service({("a", "n1"): "10.1.0.0/24", ("a", "n2"): "10.2.0.0/24", ("b", "n3"): "10.3.0.0/24"})
    target = L3_TYPE.target(doc, "a", ())
    assert target is not None
    assert target.networks == ("n1", "n2")
    with pytest.raises(CidrOverlap):
        service({("a", "n1"): "10.1.0.0/24", ("a", "n2"): "10.1.0.0/25", ("b", "n3"): "10.3.0.0/24"})


def test_what_a_network_reaches_elsewhere_counts_too():
    elsewhere = Reach(cidr="10.2.0.0/16", network_id="far", site="d")
    reaching = given(network("n1", subnet("10.1.0.0/24")), reaches=(elsewhere,))
    with pytest.raises(CidrOverlap, match="far"):
        L3_TYPE.decide(plan({**ABC, ("a", "n1"): reaching}))


def test_the_partners_of_two_networks_may_overlap_each_other():
    """They do not reach each other: only n1 reaches one and only n3 the other."""
    one = given(
        network("n1", subnet("10.1.0.0/24")), reaches=(Reach(cidr="10.9.0.0/24", network_id="x", site="d"),)
    )
    two = given(
        network("n3", subnet("10.3.0.0/24")), reaches=(Reach(cidr="10.9.0.0/24", network_id="y", site="e"),)
    )
    L3_TYPE.decide(plan({("a", "n1"): one, ("c", "n3"): two}))


def test_two_networks_may_be_in_two_services_together():
    known = given(
        network("n1", subnet("10.1.0.0/24")), reaches=(Reach(cidr="10.2.0.0/24", network_id="n2", site="b"),)
    )
    L3_TYPE.decide(plan({("a", "n1"): known, ("b", "n2"): "10.2.0.0/24"}))


def test_sites_must_carry_every_version():
    with pytest.raises(IncompatibleSites, match="IPv6, which c cannot"):
        L3_TYPE.decide(plan(ABC, c={"ip_versions": (4,)}))
    with pytest.raises(IncompatibleSites, match="no encapsulation"):
        L3_TYPE.decide(plan(ABC, a={"encapsulations": ("mpls",)}))


def test_a_change_keeps_the_cidrs_of_the_document_and_checks_the_new_ones():
    before = service(ABC)
    later = {**ABC, ("a", "n1"): "10.1.0.0/24 10.50.0.0/24", ("d", "n9"): "10.9.0.0/24"}
    decision = L3_TYPE.decide(plan(later, before=before))
    assert decision.resources[:3] == before.resources
    assert decision.resources[3].resource_id == "n9"
    with pytest.raises(CidrOverlap):
        L3_TYPE.decide(plan({**ABC, ("d", "n9"): "10.2.0.0/25"}, before=before))


def test_what_leaves_is_left_out_without_asking_anyone():
    before = service(ABC)
    draft = plan({k: v for k, v in ABC.items() if k[0] != "c"}, before=before)
    decision = L3_TYPE.decide(draft.model_copy(update={"reservations": {}}))
    assert decision.resources == before.resources[:2]


def test_fit_and_busy():
    doc, l2 = service(ABC), service(ABC, "other").model_copy(update={"type": "l2"})
    asked = request("a", ("a", "b"), {}, "n1")
    L3_TYPE.fit(given(network("n1", subnet("10.1.0.0/24"))), asked, "a", [doc])
    with pytest.raises(ResourceNotClean, match="no subnet"):
        L3_TYPE.fit(given(network("n1")), asked, "a", ())
    with pytest.raises(ResourceBusy, match="l2 service other") as refused:
        L3_TYPE.fit(given(network("n1", subnet("10.1.0.0/24"))), asked, "a", [l2])
    assert refused.value.ticket is None
    with pytest.raises(ResourceBusy):
        L3_TYPE.recheck(doc, "a", [l2])


def test_rechecking_looks_at_all_that_a_local_network_reaches():
    doc = service(ABC)
    apart = service({("a", "n1"): "10.1.0.0/24", ("d", "x"): "10.7.0.0/24"}, "t")
    hit = service({("a", "n1"): "10.1.0.0/24", ("d", "x"): "10.3.0.128/25"}, "t")
    strangers = service({("a", "zz"): "10.77.0.0/24", ("d", "x"): "10.3.0.128/25"}, "t")
    L3_TYPE.recheck(doc, "a", [apart, strangers])
    L3_TYPE.recheck(doc, "b", [hit])  # b has no network of that service
    with pytest.raises(CidrOverlap, match=r"10\.3\.0\.128/25"):
        L3_TYPE.recheck(doc, "a", [hit])


def test_targets_name_what_the_others_have():
    doc = service(ABC, deferred=("c",))
    target = L3_TYPE.target(doc, "a", ())
    assert target is not None
    assert target.layer == "l3"
    assert target.local_cidrs == ("10.1.0.0/24",)
    assert target.remote_cidrs == ("10.2.0.0/24", "2001:db8:2::/64")
    assert target.peers == (2,)
    assert target.export_target == doc.identifiers.target(1)
    assert target.import_targets == (doc.identifiers.target(2),)
    assert L3_TYPE.target(doc, "c", ()) is None
    assert L3_TYPE.target(doc, "z", ()) is None


def test_subnets_that_appear_later_and_overlap_are_told():
    doc = service(ABC)
    now = [network("n1", *map(subnet, ("10.1.0.0/24", "10.50.0.0/24", "10.3.0.0/25")))]
    problems = L3_TYPE.appeared(doc, "a", now, ())
    assert len(problems) == 1
    assert "n3" in problems[0]
    elsewhere = service({("a", "n1"): "10.1.0.0/24", ("d", "x"): "10.50.0.0/16"}, "t")
    assert len(L3_TYPE.appeared(doc, "a", now, [elsewhere])) == 2


def test_nothing_is_shaped_narrowed_or_cut():
    doc = service(ABC)
    asked = request("a", ("a", "b"), {}, "n1")
    assert L3_TYPE.wanted([], {}, None) == {}
    assert L3_TYPE.narrow(network("n1", subnet("10.1.0.0/24")), (), asked, "a") == ()
    assert L3_TYPE.shapes(doc, doc.resources[0], ()) == ()
    assert L3_TYPE.block_size(doc, "10.1.0.0/24") == 0


# -- services over a few networks in any order: whatever reaches one another is disjoint ----------------

CIDRS = ["10.0.0.0/24", "10.0.0.0/25", "10.0.1.0/24", "10.0.0.0/23", "10.0.4.0/24", "2001:db8::/64"]
SITES = ["a", "b", "c"]
KEYS = [(site, f"{site}{n}") for site in SITES for n in range(2)]


def _accepted(cidrs: dict[tuple[str, str], str], committed: list, keys: list) -> Decision | None:
    facts = {
        key: given(
            network(key[1], subnet(cidrs[key])),
            reaches=tuple(
                Reach(cidr=s.cidr, network_id=r.resource_id, site=r.site)
                for d in committed
                if any((x.site, x.resource_id) == key for x in d.resources)
                for r in d.resources
                if (r.site, r.resource_id) != key
                for s in r.subnets
            ),
        )
        for key in keys
    }
    try:
        return L3_TYPE.decide(plan(facts))
    except CidrOverlap:
        return None


def _overlapping(one: str, other: str) -> bool:
    a, b = addressing.network(one), addressing.network(other)
    return a.version == b.version and a.overlaps(b)


@hypothesis_given(
    st.fixed_dictionaries({key: st.sampled_from(CIDRS) for key in KEYS}),
    st.lists(st.sets(st.sampled_from(KEYS), min_size=2, max_size=4), max_size=5),
)
def test_a_service_is_accepted_exactly_if_nothing_that_meets_overlaps(cidrs, asked):
    committed: list = []
    for number, keys in enumerate(sorted(keys) for keys in asked):
        decision = _accepted(cidrs, committed, keys)
        meets = {
            key: set(keys) | {(r.site, r.resource_id) for d in committed if _in(d, key) for r in d.resources}
            for key in keys
        }
        conflict = any(
            x != y and _overlapping(cidrs[x], cidrs[y]) for seen in meets.values() for x in seen for y in seen
        )
        assert (decision is None) == conflict
        the_members = members(*dict.fromkeys(site for site, _ in keys))
        wished = decision or Decision(resources=tuple(_resource(k, cidrs[k]) for k in keys), params={})
        doc = document("l3", wished, the_members, service_id=str(number))
        assert any(_refused(doc, m, committed) for m in the_members) == conflict
        if decision:
            committed.append(doc)


def _in(doc, key) -> bool:
    return any((r.site, r.resource_id) == key for r in doc.resources)


def _resource(key: tuple[str, str], cidr: str) -> Resource:
    version = 6 if ":" in cidr else 4
    return Resource(site=key[0], resource_id=key[1], subnets=(Subnet(cidr=cidr, ip_version=version),))


def _refused(doc, member: Member, committed) -> bool:
    local = [
        d for d in committed if any(_in(d, (r.site, r.resource_id)) for r in doc.resources_of(member.site))
    ]
    try:
        L3_TYPE.recheck(doc, member.site, local)
    except CidrOverlap:
        return True
    return False
