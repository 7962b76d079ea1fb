import pytest
from hypothesis import given
from hypothesis import strategies as st

from diminet.errors import InvalidRequest, QuotaExceeded
from diminet.logic import identifiers


@given(st.integers(1, 4095), st.integers(0, 4095), st.integers(1, 250))
def test_vnis_fit_24_bits_and_targets_fit_32(site, k, slot):
    minted = identifiers.mint(site, k, 64999)
    assert 0 < minted.vni < 2**24
    assert identifiers.creator(minted.vni) == site
    asn, value = minted.target(slot).split(":")
    assert int(asn) == 64999
    assert int(value) == minted.vni * 256 + slot < 2**32


@given(
    st.tuples(st.integers(1, 4095), st.integers(0, 4095)),
    st.tuples(st.integers(1, 4095), st.integers(0, 4095)),
)
def test_no_two_sites_mint_the_same(one, other):
    assert (identifiers.vni(*one) == identifiers.vni(*other)) == (one == other)


@given(st.sets(st.integers(1, 250)), st.integers(0, 250))
def test_slots_are_the_lowest_free(taken, count):
    if len(taken) + count > 250:
        with pytest.raises(QuotaExceeded, match="at most 250"):
            identifiers.free_slots(taken, count)
        return
    slots = identifiers.free_slots(taken, count)
    assert len(slots) == len(set(slots)) == count
    assert not taken & set(slots)
    assert all(low in taken or low in slots for low in range(1, max(slots, default=0)))


def test_exhaustion_and_bounds_say_so():
    with pytest.raises(QuotaExceeded, match="used up"):
        identifiers.mint(3, None, 64999)
    for site, k, asn in [(0, 1, 64999), (4096, 1, 64999), (1, 4096, 64999), (1, 1, 65536)]:
        with pytest.raises(InvalidRequest, match="not in"):
            identifiers.mint(site, k, asn)
