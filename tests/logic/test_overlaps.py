import ipaddress
from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from diminet.logic.overlaps import Disjoint, Part, overlap_within


@st.composite
def cidrs(draw):
    version = draw(st.sampled_from([4, 6]))
    bits = draw(st.integers(4, 10))
    value = draw(st.integers(0, 1023)) >> (10 - bits)
    if version == 4:
        return str(ipaddress.ip_network((value << (32 - bits - 4), bits + 4)))
    return str(ipaddress.ip_network((value << (128 - bits), bits)))


def naive(parts):
    return [
        (a, b)
        for a, b in combinations(parts, 2)
        if ipaddress.ip_network(a.cidr).version == ipaddress.ip_network(b.cidr).version
        and ipaddress.ip_network(a.cidr).overlaps(ipaddress.ip_network(b.cidr))
    ]


@given(st.lists(cidrs(), max_size=12))
def test_the_sweep_finds_what_all_pairs_find(texts):
    parts = [Part(cidr, "a", f"n{i}") for i, cidr in enumerate(texts)]
    found = overlap_within(parts)
    pairs = naive(parts)
    assert (found is None) == (not pairs)
    if found:
        assert {found.one, found.other} in [{a, b} for a, b in pairs]
        smaller = ipaddress.ip_network(found.cidr)
        for part in (found.one, found.other):
            assert smaller.subnet_of(ipaddress.ip_network(part.cidr))


@given(st.lists(cidrs(), max_size=10), cidrs())
def test_looking_up_finds_what_comparing_with_each_finds(texts, cidr):
    parts: list[Part] = []
    for i, text in enumerate(texts):
        part = Part(text, "a", f"n{i % 3}")
        if not naive([*parts, part]):
            parts.append(part)
    asked = Part(cidr, "a", "n1")
    found = Disjoint(parts).overlap(asked)
    hits = [p for p in parts if p.network_id != "n1" and naive([p, asked])]
    assert (found is None) == (not hits)
    if found:
        assert found.other in hits


def test_the_refusal_names_both_networks_and_the_overlap():
    overlap = overlap_within(
        [
            Part("10.0.0.0/8", "paris", "aaa", "web"),
            Part("10.1.0.0/24", "lyon", "bbb"),
            Part("::/64", "x", "c"),
        ]
    )
    assert overlap
    refusal = overlap.refusal()
    for word in ("paris", "lyon", "aaa", "web", "bbb", "10.0.0.0/8", "overlap in 10.1.0.0/24"):
        assert word in refusal.message
    assert refusal.sites == ("lyon", "paris")
    assert refusal.code == "cidr-overlap"


def test_the_same_cidr_of_the_same_network_is_no_overlap():
    assert overlap_within([Part("10.0.0.0/24", "a", "n"), Part("10.0.0.0/24", "a", "n")]) is None


def test_a_single_address_at_the_edge_overlaps():
    assert overlap_within([Part("10.0.0.0/24", "a", "n"), Part("10.0.0.255/32", "b", "m")])
    assert overlap_within([Part("10.0.0.0/24", "a", "n"), Part("10.0.1.0/32", "b", "m")]) is None
