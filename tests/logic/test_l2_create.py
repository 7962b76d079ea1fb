import pytest
from hypothesis import given as hypothesis_given
from hypothesis import strategies as st
from logic_cases import (
    addresses_in,
    document,
    draft,
    gateway_of,
    given,
    made,
    members,
    network,
    pools_of,
    port,
    request,
    reservation,
    subnet,
)

from diminet.errors import IncompatibleSites, PoolExhausted, ResourceNotClean, SiteUnreachable
from diminet.logic import addressing
from diminet.logic.l2 import L2
from diminet.model import Entry, NetworkFacts

CIDR = "10.0.0.0/24"
L2_TYPE = L2()


def address(n: int, cidr: str = CIDR) -> str:
    net = addressing.network(cidr)
    return addressing.text(addressing.span_of(cidr)[0] + n, net.version)


def three(*ports, cidr=CIDR, gateway="10.0.0.1", params=None, **kw):
    facts = {
        "a": given(network("na", subnet(cidr, gateway)), *ports, **kw),
        "b": made("nb"),
        "c": made("nc"),
    }
    plan = draft(facts, params=params)
    decision = L2_TYPE.decide(plan)
    return decision, document("l2", decision, plan.members)


def test_three_sites_on_a_26_have_room_for_15_instances_and_a_gateway_each():
    decision, doc = three(cidr="10.0.0.0/26")
    for site in "abc":
        assert len(pools_of(doc, decision.blocks, site)) >= 15
    assert len({gateway_of(doc, s) for s in "abc"}) == 3


def test_the_origin_keeps_its_gateway_and_the_others_take_their_first_address():
    decision, doc = three(port("10.0.0.1", infrastructure=True))
    assert doc.resources_of("a")[0].subnets[0].gateway_ip == "10.0.0.1"
    for site in "bc":
        own = [b for b in decision.blocks if b.owner == site]
        gateway = gateway_of(doc, site)
        assert gateway is not None
        assert gateway < min(pools_of(doc, decision.blocks, site))
        assert addressing.Cut(CIDR, 4).index_of(gateway) == own[0].index


def test_a_made_network_gets_the_cidr_and_the_smallest_mtu():
    facts = {"a": given(network("na", subnet(CIDR), mtu=1450)), "b": made("nb")}
    plan = draft(facts, capabilities={"b": {"mtu": 1400}})
    resources = L2_TYPE.decide(plan).resources
    assert [(r.site, r.resource_id, r.made, r.mtu) for r in resources] == [
        ("a", "na", False, 1400),
        ("b", "nb", True, 1400),
    ]
    assert {s.cidr for r in resources for s in r.subnets} == {CIDR}


def test_pools_are_in_one_piece_where_nothing_is_in_use():
    decision, doc = three()
    for site in "abc":
        own = [b for b in decision.blocks if b.owner == site]
        shape = L2_TYPE.shapes(doc, doc.resources_of(site)[0], own)[0]
        assert shape.pools is not None
        assert len(shape.pools) == 1


def test_shared_gateway_is_the_same_everywhere_and_in_no_pool():
    params = {"gateway": "shared"}
    facts = {
        "a": given(network("na", subnet(CIDR, "10.0.0.1"))),
        "b": given(network("nb", subnet(CIDR, "10.0.0.1"))),
    }
    able = {s: {"shared_gateway": True} for s in "ab"}
    plan = draft(facts, params=params, capabilities=able)
    decision = L2_TYPE.decide(plan)
    doc = document("l2", decision, plan.members)
    assert gateway_of(doc, "a") == gateway_of(doc, "b") == addressing.number("10.0.0.1")
    for site in "ab":
        assert gateway_of(doc, site) not in pools_of(doc, decision.blocks, site)
        target = L2_TYPE.target(doc, site, ())
        assert target is not None
        assert target.anycast_gateway
    L2_TYPE.recheck(doc, "b", ())
    with pytest.raises(IncompatibleSites, match="b cannot have a shared gateway"):
        L2_TYPE.decide(draft(facts, params=params, capabilities={"a": {"shared_gateway": True}}))


def everywhere(doc, decision):
    return set().union(*(pools_of(doc, decision.blocks, site) for site in {r.site for r in doc.resources}))


def test_without_a_gateway_no_instance_gets_the_old_ones_address_for_it_is_put_back_at_the_end():
    decision, doc = three(params={"gateway": "none"})
    assert all(gateway_of(doc, s) is None for s in "abc")
    assert addressing.number("10.0.0.1") not in everywhere(doc, decision)


@pytest.mark.parametrize("kind", ["local", "shared", "none"])
def test_no_instance_gets_the_address_of_a_gateway_that_moved(kind):
    facts = {
        "a": given(network("na", subnet(CIDR, "10.0.0.1"))),
        "b": given(network("nb", subnet(CIDR, "10.0.0.254"))),
        "c": made("nc"),
    }
    plan = draft(facts, params={"gateway": kind}, capabilities={s: {"shared_gateway": True} for s in "abc"})
    decision = L2_TYPE.decide(plan)
    doc = document("l2", decision, plan.members)
    assert not {addressing.number(f"10.0.0.{n}") for n in (1, 254)} & everywhere(doc, decision)
    L2_TYPE.recheck(doc, "b", ())


def test_the_same_dhcp_address_at_two_sites_is_not_clean():
    dhcp = port("10.0.0.2", infrastructure=True)
    facts = {"a": given(network("na", subnet(CIDR)), dhcp), "b": given(network("nb", subnet(CIDR)), dhcp)}
    with pytest.raises(ResourceNotClean, match=r"10\.0\.0\.2 is in use at both a and b"):
        L2_TYPE.decide(draft(facts))


def test_a_given_networks_gateway_moves_where_it_can_and_is_in_use_where_it_cannot():
    gateway = port("10.0.0.1", infrastructure=True)
    net = subnet(CIDR, "10.0.0.1")
    facts = {"a": given(network("na", net), gateway), "b": given(network("nb", net), gateway)}
    plan = draft(facts)
    doc = document("l2", L2_TYPE.decide(plan), plan.members)
    assert gateway_of(doc, "a") != gateway_of(doc, "b")
    with pytest.raises(ResourceNotClean, match=r"10\.0\.0\.1"):
        L2_TYPE.decide(draft(facts, capabilities={"b": {"movable_gateway": False}}))


def test_a_routers_gateway_that_cannot_be_moved_stays_the_sites_gateway():
    router = port("10.0.0.254", infrastructure=True)
    facts = {
        "a": given(network("na", subnet(CIDR, "10.0.0.1"))),
        "b": given(network("nb", subnet(CIDR, "10.0.0.254")), router),
    }
    for movable in (False, True):
        plan = draft(facts, capabilities={"b": {"movable_gateway": movable}})
        doc = document("l2", L2_TYPE.decide(plan), plan.members)
        assert (gateway_of(doc, "b") == addressing.number("10.0.0.254")) is not movable
        assert gateway_of(doc, "a") == addressing.number("10.0.0.1")


def test_a_remote_dhcp_address_belongs_to_its_site():
    dhcp = port("10.0.0.2", infrastructure=True)
    facts = {
        "a": given(network("na", subnet(CIDR, "10.0.0.1"))),
        "b": given(network("nb", subnet(CIDR)), dhcp),
    }
    plan = draft(facts)
    decision = L2_TYPE.decide(plan)
    doc = document("l2", decision, plan.members)
    assert addressing.number("10.0.0.2") not in pools_of(doc, decision.blocks, "a")


def test_the_cidr_comes_from_a_remote_network_where_the_receiver_has_none():
    facts = {"a": made("na"), "b": given(network("nb", subnet(CIDR, "10.0.0.1"))), "c": made("nc")}
    plan = draft(facts)
    doc = document("l2", L2_TYPE.decide(plan), plan.members)
    assert {s.cidr for r in doc.resources for s in r.subnets} == {CIDR}
    assert gateway_of(doc, "b") == addressing.number("10.0.0.1")
    other = {**facts, "c": given(network("nc", subnet("10.1.0.0/24")))}
    with pytest.raises(ResourceNotClean, match=r"10\.1\.0\.0/24.*needs exactly 10\.0\.0\.0/24"):
        L2_TYPE.decide(draft(other))


def test_a_deferred_site_gets_nothing_yet():
    facts = {"a": given(network("na", subnet(CIDR))), "b": made("nb"), "c": made("nc")}
    plan = draft(facts).model_copy(update={"members": members("a", "b", "c", deferred=("c",))})
    decision = L2_TYPE.decide(plan)
    assert {b.owner for b in decision.blocks} == {"a", "b"}
    assert [r.site for r in decision.resources] == ["a", "b"]
    doc = document("l2", decision, plan.members)
    assert L2_TYPE.target(doc, "c", ()) is None
    target = L2_TYPE.target(doc, "a", ())
    assert target is not None
    assert target.peers == (2,)


def test_nothing_can_be_made_while_the_only_existing_network_is_away():
    plan = draft({"a": made("na"), "b": made("nb")}).model_copy(
        update={
            "entries": (Entry(site="a"), Entry(site="b"), Entry(site="c", resource_id="nc")),
            "members": members("a", "b", "c", deferred=("c",)),
        }
    )
    with pytest.raises(SiteUnreachable, match="is at c"):
        L2_TYPE.decide(plan)


def test_sites_that_cannot_carry_it_are_named():
    facts = {"a": given(network("na", subnet("2001:db8::/64"))), "b": made("nb")}
    with pytest.raises(IncompatibleSites, match="IPv6, which b cannot"):
        L2_TYPE.decide(draft(facts, capabilities={"b": {"ip_versions": (4,)}}))
    with pytest.raises(IncompatibleSites, match="no encapsulation in common"):
        L2_TYPE.decide(draft(facts, capabilities={"b": {"encapsulations": ("mpls",)}}))


def test_too_small_a_subnet_is_exhausted():
    facts = {"a": given(network("na", subnet("10.0.0.0/29", "10.0.0.1")))} | {s: made(f"n{s}") for s in "bcd"}
    with pytest.raises(PoolExhausted, match="larger subnet"):
        L2_TYPE.decide(draft(facts))


def test_two_subnets_of_both_versions_cost_nothing():
    facts = {"a": given(network("na", subnet(CIDR), subnet("2001:db8::/64", "2001:db8::1"))), "b": made("nb")}
    plan = draft(facts)
    decision = L2_TYPE.decide(plan)
    doc = document("l2", decision, plan.members)
    assert len(decision.blocks) <= 2 * 64
    assert L2_TYPE.block_size(doc, "2001:db8::/64") == 2**58
    assert L2_TYPE.block_size(doc, CIDR) == 4
    assert L2_TYPE.block_size(doc, "10.9.0.0/24") == 0
    L2_TYPE.recheck(doc, "b", ())
    assert type(doc).model_validate_json(doc.model_dump_json()) == doc


# -- any create --------------------------------------------------------------------------------------


@st.composite
def creates(draw):
    """A create with an origin in use; its ports when first read, and those made while narrowed."""
    cidr = draw(st.sampled_from(["10.0.0.0/24", "10.0.0.0/26", "10.0.0.0/27", "2001:db8::/120"]))
    first, last = addressing.usable_span(cidr)
    low = addressing.span_of(cidr)[0]
    sites = ("a", "b", "c", "d")[: draw(st.integers(2, 4))]
    used = draw(st.sets(st.integers(first - low, last - low), max_size=(last - low) // 2))
    gateway = draw(st.none() | st.integers(first - low, last - low))
    kind = draw(st.sampled_from(["local", "shared", "none"]))
    size = draw(st.none() | st.sampled_from([1, 2, 4, 8]))
    picks = draw(st.lists(st.integers(0, 1000), max_size=10))
    return cidr, sites, used - {gateway}, gateway, kind, size, picks


@hypothesis_given(creates())
def test_no_address_is_at_two_sites_even_if_ports_appear_while_it_is_decided(case):
    cidr, sites, used, gateway, kind, size, picks = case
    params = {"gateway": kind} | ({"block_size": size} if size else {})
    facts_subnet = subnet(cidr, address(gateway, cidr) if gateway is not None else None)
    net = network("na", facts_subnet)
    ports = [port(address(n, cidr)) for n in sorted(used)]
    wanted = L2_TYPE.wanted([net], params, None)
    narrowed = L2_TYPE.narrow(net, ports, request("a", sites, wanted, "na", params), "a")
    pool = addresses_in(narrowed[0].pools)
    free = sorted(pool - {addressing.number(p.ip) for p in ports})
    late = {free[pick % len(free)] for pick in picks} if free else set()

    facts = {"a": given(net, *ports, narrowed=narrowed)} | {s: made(f"n{s}") for s in sites[1:]}
    plan = draft(facts, params=params, capabilities={s: {"shared_gateway": True} for s in sites})
    try:
        decision = L2_TYPE.decide(plan)
    except PoolExhausted:
        return
    doc = document("l2", decision, plan.members)
    for site in sites:
        L2_TYPE.recheck(doc, site, ())

    in_use = {addressing.number(p.ip) for p in ports} | late
    pools = {site: pools_of(doc, decision.blocks, site) for site in sites}
    gateways = {gateway_of(doc, s) for s in sites} - {None}
    first, last = addressing.usable_span(cidr)
    seen: set[int] = set()
    for site in sites:
        assert not pools[site] & seen
        seen |= pools[site]
        assert not pools[site] & gateways
        assert all(first <= n <= last for n in pools[site])
        assert site == "a" or not pools[site] & in_use
        assert pools[site] - (in_use if site == "a" else set()) or (site == "a" and used)
    assert late <= pools["a"] | gateways
    # whatever may be used is in a pool, in use, or a gateway (an old one that `none` took off included)
    old = {addressing.number(address(gateway, cidr))} if gateway is not None else set()
    assert set(range(first, last + 1)) == seen | in_use | gateways | old


@hypothesis_given(st.sampled_from([2, 3, 4]), st.sets(st.integers(2, 250), max_size=20))
def test_the_narrowed_pool_is_an_even_share(count, used):
    sites = ("a", "b", "c", "d")[:count]
    net: NetworkFacts = network("na", subnet(CIDR, "10.0.0.1"))
    ports = [port(address(n)) for n in used]
    wanted = L2_TYPE.wanted([net], {"gateway": "local"}, None)
    shape = L2_TYPE.narrow(net, ports, request("a", sites, wanted, "na"), "a")[0]
    assert shape.gateway_ip == "10.0.0.1"
    cut = addressing.Cut(CIDR, 4)
    blocks = cut.indices(addressing.spans_of(shape.pools or ()))
    full = sum(all(i * 4 + n in used for n in range(4)) for i in range(64))
    assert (64 - full) // count <= len(blocks) <= (64 - full) // count + 1 + full


def test_a_network_that_is_not_the_origin_is_narrowed_to_nothing():
    net = network("nb", subnet(CIDR, "10.0.0.1"))
    wanted = L2_TYPE.wanted([network("na", subnet(CIDR))], {"gateway": "local"}, None)
    shapes = L2_TYPE.narrow(net, [], request("b", ("a", "b"), wanted, "nb"), "b")
    assert [(s.cidr, s.gateway_ip, s.pools) for s in shapes] == [(CIDR, "10.0.0.1", ())]


def test_a_site_that_said_nothing_is_refused():
    facts = {"a": given(network("na", subnet(CIDR))), "b": made("nb")}
    plan = draft(facts)
    empty = {**plan.reservations, "b": reservation("b", 2)}
    with pytest.raises(Exception, match="site b gave no reservation"):
        L2_TYPE.decide(plan.model_copy(update={"reservations": empty}))
