from collections import Counter

from hypothesis import given
from hypothesis import strategies as st
from logic_cases import owned_addresses

from diminet.logic import addressing
from diminet.logic import blocks as block_logic
from diminet.logic.dealing import Deal

SITES = ["a", "b", "c", "d", "e"]


@st.composite
def deals(draw, *, several_users=True):
    version = draw(st.sampled_from([4, 6]))
    host_bits = draw(st.integers(2, 9))
    cidr = f"10.0.0.0/{32 - host_bits}" if version == 4 else f"2001:db8::/{128 - host_bits}"
    cut = addressing.cut(cidr, (32 if version == 4 else 128) - draw(st.integers(0, host_bits)))
    sites = SITES[: draw(st.integers(1, 5))]
    first, last = addressing.usable_span(cidr)
    addresses = draw(st.sets(st.integers(first, last), max_size=60))
    excluded = frozenset(draw(st.sets(st.integers(first, last), max_size=1)))
    users = sites if several_users else sites[:1]
    used = {site: set() for site in users}
    for address in sorted(addresses - excluded):
        used[draw(st.sampled_from(users))].add(address)
    kept = frozenset(draw(st.sets(st.integers(0, cut.count - 1), max_size=min(4, cut.count))))
    return Deal(cut=cut, giver=sites[0], sites=sites, used=used, kept={sites[0]: kept}, excluded=excluded)


@given(deals())
def test_every_usable_address_is_owned_once_or_in_use_or_excluded(deal):
    blocks = deal.blocks()
    owned = Counter(n for s in deal.sites for n in owned_addresses(blocks, deal.cut.size, s))
    assert all(count == 1 for count in owned.values())
    first, last = addressing.usable_span(deal.cut.cidr)
    in_use = set().union(*deal.used.values()) | set(deal.excluded)
    assert set(range(first, last + 1)) - set(owned) <= in_use
    assert not set(owned) & set(deal.excluded)


@given(deals())
def test_no_site_owns_an_address_that_another_uses(deal):
    blocks = deal.blocks()
    for site in deal.sites:
        foreign = {n for other, used in deal.used.items() if other != site for n in used}
        assert not owned_addresses(blocks, deal.cut.size, site) & foreign


@given(deals())
def test_what_a_site_was_promised_it_gets(deal):
    owners = {b.index: b.owner for b in deal.blocks()}
    assert all(owners.get(i, deal.sites[0]) == deal.sites[0] for i in deal.kept[deal.sites[0]])


@given(deals())
def test_blocks_with_room_are_dealt_evenly_as_far_as_promises_allow(deal):
    every = set().union(*deal.used.values())
    used = [addressing.text(n, deal.cut.version) for n in every]
    room = [b for b in deal.blocks() if block_logic.free(b, deal.cut.size, used)]
    counts = [sum(1 for b in room if b.owner == site) for site in deal.sites]
    promised = sum(1 for b in room if b.index in deal.kept[deal.sites[0]])
    even = counts if counts[0] > promised else counts[1:] or [0]
    assert max(even) - min(even) <= 1
    assert counts[0] >= promised


@given(deals(several_users=False))
def test_what_does_not_divide_goes_to_those_who_have_nothing_yet(deal):
    used = [addressing.text(n, deal.cut.version) for n in deal.used[deal.sites[0]]]
    room = [b for b in deal.blocks() if block_logic.free(b, deal.cut.size, used)]
    counts = Counter(b.owner for b in room)
    promised = sum(1 for b in room if b.index in deal.kept[deal.sites[0]])
    if counts[deal.sites[0]] > promised:
        assert all(counts[s] >= counts[deal.sites[0]] for s in deal.sites)


def test_blocks_in_use_stay_whole_while_the_share_lasts_and_then_carry_exclusions():
    cut = addressing.cut("10.0.0.0/28", 30)  # four blocks
    base = addressing.number("10.0.0.0")
    deal = Deal(cut=cut, giver="a", sites=["a", "b"], used={"a": {base + 1, base + 2, base + 5, base + 9}})
    owners = {b.index: (b.owner, b.exclusions) for b in deal.blocks()}
    assert owners == {0: ("a", ()), 1: ("a", ()), 2: ("b", ("10.0.0.9",)), 3: ("b", ())}


def test_a_full_block_costs_nobody_its_share():
    cut = addressing.cut("10.0.0.0/28", 32)
    base = addressing.number("10.0.0.0")
    deal = Deal(cut=cut, giver="a", sites=["a", "b"], used={"a": set(range(base + 1, base + 7))})
    counts = Counter(b.owner for b in deal.blocks())
    assert counts == {"a": 6 + 4, "b": 4}
