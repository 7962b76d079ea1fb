import ipaddress
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diminet.errors import InvalidRequest
from diminet.logic import addressing
from diminet.logic.addressing import Cut
from diminet.model import AddressRange

small_span = st.tuples(st.integers(0, 200), st.integers(0, 20)).map(lambda t: (t[0], t[0] + t[1]))


def expand(spans):
    return [n for first, last in spans for n in range(first, last + 1)]


@given(st.lists(small_span))
def test_coalesce_keeps_the_addresses_and_leaves_gaps_between_spans(spans):
    out = addressing.coalesce(spans)
    assert expand(out) == sorted(set(expand(spans)))
    assert all(a[1] + 1 < b[0] for a, b in pairwise(out))


@given(st.lists(small_span), st.sets(st.integers(0, 230)))
def test_without_takes_out_exactly_these(spans, out):
    left = addressing.without(addressing.coalesce(spans), out)
    assert expand(left) == sorted(set(expand(spans)) - out)
    assert addressing.size(left) == len(expand(left))


@given(st.integers(16, 32), st.integers(0, 10))
def test_the_blocks_of_a_cut_hold_every_usable_address_once(prefix, bits):
    cidr = f"10.0.0.0/{prefix}"
    cut = addressing.cut(cidr, min(32, prefix + bits))
    assert 1 <= cut.count <= 1024
    spans = [span for index in range(cut.count) for span in cut.usable(index)]
    assert addressing.coalesce(spans) == [addressing.usable_span(cidr)]
    assert addressing.size(spans) == addressing.size([addressing.usable_span(cidr)])
    for index in range(cut.count):
        assert all(cut.index_of(n) == index for span in cut.usable(index) for n in span)


@pytest.mark.parametrize(
    ("cidr", "first", "last"),
    [
        ("10.0.0.0/24", "10.0.0.1", "10.0.0.254"),
        ("10.0.0.0/31", "10.0.0.0", "10.0.0.1"),
        ("10.0.0.7/32", "10.0.0.7", "10.0.0.7"),
        ("2001:db8::/64", "2001:db8::1", "2001:db8::ffff:ffff:ffff:ffff"),
        ("2001:db8::/127", "2001:db8::", "2001:db8::1"),
    ],
)
def test_usable_addresses(cidr, first, last):
    assert addressing.usable_span(cidr) == (addressing.number(first), addressing.number(last))


@pytest.mark.parametrize(
    ("cidr", "members", "wish", "size"),
    [
        ("10.0.0.0/24", 2, None, 4),
        ("10.0.0.0/24", 8, None, 4),
        ("10.0.0.0/24", 14, None, 2),
        ("10.0.0.0/26", 3, None, 1),
        ("10.0.0.0/16", 3, None, 1024),
        ("10.0.0.0/16", 250, None, 64),  # at most 1,024 blocks
        ("10.0.0.0/30", 2, None, 1),
        ("2001:db8::/64", 3, None, 2**58),
        ("10.0.0.0/24", 2, 16, 16),
        ("10.0.0.0/16", 2, 1, 64),  # finer than 1,024 blocks: made coarser
        ("10.0.0.0/24", 2, 4096, 256),  # larger than the CIDR: one block
    ],
)
def test_block_sizes(cidr, members, wish, size):
    assert addressing.cut(cidr, addressing.block_prefix(cidr, members, wish)).size == size


def test_pools_of_a_64_cost_no_enumeration():
    cut = Cut("2001:db8::/64", 2**58)
    pools = addressing.pools([s for i in range(cut.count) for s in cut.usable(i)], 6)
    assert pools == (AddressRange("2001:db8::1", "2001:db8::ffff:ffff:ffff:ffff"),)
    assert addressing.spans_of(pools) == [addressing.usable_span("2001:db8::/64")]
    assert cut.indices(addressing.spans_of(pools)) == frozenset(range(64))


def test_indices_leave_out_what_lies_outside():
    cut = Cut("10.0.0.0/24", 64)
    assert cut.indices([(0, 5)]) == frozenset()
    low = int(ipaddress.ip_address("10.0.0.63"))
    assert cut.indices([(low, low + 1)]) == {0, 1}


@pytest.mark.parametrize("bad", ["10.0.0.1/24", "10.0.0.0/33", "web", "", "10.0.0.0/24/2"])
def test_bad_cidrs_are_refused(bad):
    with pytest.raises(InvalidRequest, match="not a CIDR"):
        addressing.network(bad)


def test_bad_block_prefixes_and_addresses_are_refused():
    for cidr, prefix in [("10.0.0.0/24", 23), ("10.0.0.0/24", 33), ("10.0.0.0/8", 30)]:
        with pytest.raises(InvalidRequest, match="cannot be cut"):
            addressing.cut(cidr, prefix)
    with pytest.raises(InvalidRequest, match="not an IP address"):
        addressing.number("10.0.0")


def test_numbers_in_takes_both_versions_and_leaves_strangers_out():
    found = addressing.numbers_in("10.0.0.0/24", ["10.0.0.9", "10.0.1.9", "::a00:9", "10.0.0.9"])
    assert found == {int(ipaddress.ip_address("10.0.0.9"))}


def test_one_spelling():
    assert addressing.normal("2001:DB8:0::/64") == "2001:db8::/64"
