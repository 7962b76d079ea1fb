import pytest
from logic_cases import (
    document,
    draft,
    gateway_of,
    given,
    made,
    members,
    network,
    pools_of,
    port,
    reservation,
    subnet,
)

from diminet.errors import IncompatibleSites, InvalidRequest, PoolExhausted, ResourceNotClean
from diminet.logic import addressing
from diminet.logic import blocks as block_logic
from diminet.logic.l2 import L2
from diminet.logic.service_type import Draft
from diminet.model import Document, Entry

CIDR = "10.0.0.0/24"
L2_TYPE = L2()


def two_sites(**kw):
    able = {s: {"shared_gateway": True} for s in "ab"}
    plan = draft(
        {"a": given(network("na", subnet(CIDR, "10.0.0.1"))), "b": made("nb")}, capabilities=able, **kw
    )
    decision = L2_TYPE.decide(plan)
    return document("l2", decision, plan.members), decision.blocks


def joining(before: Document, blocks, *facts_by_site, spare=None, **capabilities) -> Draft:
    """Sites c, d, … join with these facts; a, the master, has pooled its first half."""
    new = dict(zip("cdef", facts_by_site, strict=False))
    own = [b for b in blocks if b.owner == "a"]
    pooled = block_logic.first_pool(own, ["10.0.0.1"], 4)
    entries = [Entry(site=r.site, resource_id=r.resource_id) for r in before.resources]
    entries += [Entry(site=s, resource_id=None if f.made else f.network.network_id) for s, f in new.items()]
    return Draft(
        service_id="s",
        master="a",
        members=members("a", "b", *new),
        entries=tuple(entries),
        params=before.params,
        reservations={s: reservation(s, 9, f, **capabilities) for s, f in new.items()},
        before=before,
        blocks=blocks,
        spare=tuple(b for b in own if b not in pooled) if spare is None else spare,
    )


def test_a_joiners_router_keeps_its_gateway_where_it_cannot_be_moved():
    before, blocks = two_sites()
    spare = next(b for b in blocks if b.owner == "a" and b.index == 20)
    gateway = addressing.text(block_logic.addresses(spare, 4)[0][0], 4)
    facts = given(network("nc", subnet(CIDR, gateway)), port(gateway, infrastructure=True))
    plan = joining(before, blocks, facts, movable_gateway=False)
    decision = L2_TYPE.decide(plan)
    doc = document("l2", decision, plan.members)
    assert gateway_of(doc, "c") == addressing.number(gateway)


def test_a_joiner_gets_a_share_of_the_masters_spare_and_a_gateway_in_it():
    before, blocks = two_sites()
    plan = joining(before, blocks, made("nc"))
    decision = L2_TYPE.decide(plan)
    assert decision.resources[:2] == before.resources
    assert decision.params == before.params
    assert decision.blocks == ()
    assert len(decision.gives) == len(plan.spare) // 2
    for gift in decision.gives:
        was = next(b for b in plan.spare if block_logic.key(b) == block_logic.key(gift))
        assert gift == block_logic.next_version(was, "c")
    after = block_logic.merge(blocks, decision.gives)
    doc = document("l2", decision, plan.members)
    L2_TYPE.recheck(doc, "c", ())
    gateway = gateway_of(doc, "c")
    assert gateway is not None
    pools = {s: pools_of(doc, after, s) for s in "abc"}
    assert not pools["a"] & pools["b"]
    assert not pools["c"] & (pools["a"] | pools["b"])
    assert pools["c"]
    assert all(gateway not in pool for pool in pools.values())


def test_two_joiners_share_what_is_spare():
    before, blocks = two_sites()
    decision = L2_TYPE.decide(joining(before, blocks, made("nc"), given(network("nd", subnet(CIDR)))))
    owners = [b.owner for b in decision.gives]
    assert owners.count("c") == owners.count("d") == 4
    assert len({block_logic.key(b) for b in decision.gives}) == len(owners)
    assert [r.made for r in decision.resources[2:]] == [True, False]


def test_a_shared_gateway_is_the_joiners_too():
    before, blocks = two_sites(params={"gateway": "shared"})
    decision = L2_TYPE.decide(joining(before, blocks, made("nc"), shared_gateway=True))
    assert decision.resources[2].subnets[0].gateway_ip == "10.0.0.1"
    with pytest.raises(IncompatibleSites, match="c cannot have a shared"):
        L2_TYPE.decide(joining(before, blocks, made("nc")))


def test_without_spare_nobody_joins():
    before, blocks = two_sites()
    with pytest.raises(PoolExhausted, match="site a has no spare"):
        L2_TYPE.decide(joining(before, blocks, made("nc"), spare=()))
    # what other sites own, or holds the master's gateway or an instance, is not spare whatever is said
    mine = tuple(b for b in blocks if b.owner == "b") + blocks[:1]
    with pytest.raises(PoolExhausted):
        L2_TYPE.decide(joining(before, blocks, made("nc"), spare=mine))
    plan = joining(before, blocks, made("nc"), spare=blocks[1:2])
    used = given(network("na", subnet(CIDR)), port("10.0.0.5"))
    asked = {**plan.reservations, "a": reservation("a", 1, used)}
    with pytest.raises(PoolExhausted):
        L2_TYPE.decide(plan.model_copy(update={"reservations": asked}))


def test_a_joiner_with_other_cidrs_or_a_foreign_address_is_not_clean():
    before, blocks = two_sites()
    with pytest.raises(ResourceNotClean, match="needs exactly"):
        L2_TYPE.decide(joining(before, blocks, given(network("nc", subnet("10.1.0.0/24")))))
    dhcp = port("10.0.0.2", infrastructure=True)
    with pytest.raises(ResourceNotClean, match=r"10\.0\.0\.2"):
        L2_TYPE.decide(joining(before, blocks, given(network("nc", subnet(CIDR)), dhcp)))


def test_a_joiners_dhcp_address_in_the_masters_spare_comes_with_its_block():
    before, blocks = two_sites()
    plan = joining(before, blocks, made("nc"))
    wanted = plan.spare[0]
    first = block_logic.addresses(wanted, 4)[0][0]
    dhcp = port(addressing.text(first, 4), infrastructure=True)
    decision = L2_TYPE.decide(joining(before, blocks, given(network("nc", subnet(CIDR)), dhcp)))
    assert block_logic.next_version(wanted, "c") in decision.gives
    assert decision.resources[2].subnets[0].gateway_ip != dhcp.ip


def test_the_mtu_of_all_is_that_of_the_smallest():
    before, blocks = two_sites()
    decision = L2_TYPE.decide(joining(before, blocks, made("nc"), mtu=1400))
    assert {r.mtu for r in decision.resources} == {1400}


def test_leaving_drops_the_resource_and_gives_nothing():
    before, blocks = two_sites()
    plan = joining(before, blocks).model_copy(
        update={"members": members("a"), "entries": (Entry(site="a", resource_id="na"),)}
    )
    decision = L2_TYPE.decide(plan)
    assert decision.resources == before.resources[:1]
    assert decision.gives == ()


def test_a_member_cannot_swap_its_network_nor_bring_a_second():
    before, blocks = two_sites()
    plan = joining(before, blocks)
    swapped = plan.model_copy(update={"entries": (plan.entries[0], Entry(site="b", resource_id="other"))})
    with pytest.raises(InvalidRequest, match="remove that one first"):
        L2_TYPE.decide(swapped)
    doubled = plan.model_copy(update={"entries": (*plan.entries, Entry(site="b", resource_id="other"))})
    with pytest.raises(InvalidRequest, match="one network of a site"):
        L2_TYPE.decide(doubled)
