"""The audit's decisions, for any addresses."""

from ipaddress import ip_address, ip_network

from hypothesis import given
from hypothesis import strategies as st

from diminet.logic import audit
from diminet.model import Block, Ingress, PortFacts

CIDR = "10.0.0.0/26"
ADDRESSES = [str(a) for a in ip_network(CIDR).hosts()]


def block(index, owner, exclusions=()):
    return Block(cidr=CIDR, index=index, owner=owner, version=1, giver="A", exclusions=exclusions)


owners = st.lists(st.sampled_from(["A", "B"]), min_size=16, max_size=16)
used = st.lists(st.sampled_from(ADDRESSES), unique=True, max_size=20)


@given(owners, used, st.sets(st.integers(0, 15)), st.sets(st.sampled_from(ADDRESSES), max_size=5))
def test_strays_are_just_the_addresses_that_are_not_in_our_pooled_blocks(owner, used, pooled, excluded):
    def excluded_in(index):
        return tuple(a for a in excluded if (int(ip_address(a)) & 63) // 4 == index)

    blocks = [block(i, o, excluded_in(i)) for i, o in enumerate(owner)]
    inside = [b for b in blocks if b.owner == "A" and b.index in pooled]
    found = {stray.ip for stray in audit.strays("A", 4, inside, blocks, used)}
    fine = {a for a in used if (int(ip_address(a)) & 63) // 4 in {b.index for b in inside}}
    assert found == set(used) - fine - excluded


def ports(addresses, first=0):
    return [
        PortFacts(ip=a, mac=f"02:00:00:00:00:{i + first:02X}", infrastructure=False)
        for i, a in enumerate(addresses)
    ]


@given(used, used, st.integers(0, 30))
def test_what_is_at_two_sites_is_found_from_both_sides(one, two, shift):
    mine = audit.sightings(ports(one), [CIDR], ["10.0.0.1"])
    theirs = audit.sightings(ports(two, shift), [CIDR], ["10.0.0.1"])
    here = audit.of_others("A", "B", mine, theirs)
    there = audit.of_others("B", "A", theirs, mine)
    assert sorted(f.kind for f in here) == sorted(f.kind for f in there)
    both = set(one) & set(two)
    assert sum(f.kind == "address" for f in here) == len(both)
    assert sum(f.kind == "mac" for f in here) == len(set(mine.values()) & set(theirs.values()))


def test_sightings_leave_out_other_subnets_and_gateways():
    gateway = PortFacts(ip="10.0.0.1", mac="02:00:00:00:00:ff", infrastructure=True)
    seen = audit.sightings([gateway, *ports(["10.0.0.2", "10.9.0.1", "fd00::1"])], [CIDR], ["10.0.0.1"])
    assert seen == {"10.0.0.2": "02:00:00:00:00:00"}
    assert audit.sightings([gateway], [CIDR], []) == {"10.0.0.1": "02:00:00:00:00:ff"}


@given(st.sampled_from(["10.2.0.0/24", "fd02::/64"]), st.sampled_from([(), ("10.0.0.0/8",), ("::/0",)]))
def test_only_a_rule_of_that_version_lets_anyone_in(cidr, allowed):
    four = audit._shuts_out(Ingress(ip="10.1.0.1", allowed=allowed), cidr)
    six = audit._shuts_out(Ingress(ip="fd01::1", allowed=allowed), cidr)
    assert four == (cidr == "10.2.0.0/24" and allowed != ("10.0.0.0/8",))
    assert six == (cidr == "fd02::/64" and allowed != ("::/0",))
