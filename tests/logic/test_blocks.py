from hypothesis import given
from hypothesis import strategies as st
from logic_cases import document, draft, made, members, network, subnet
from logic_cases import given as given_network

from diminet.logic import blocks as block_logic
from diminet.logic.l2 import L2
from diminet.model import Block

CIDR = "10.0.0.0/24"
SITES = ["a", "b", "c"]


def block(index=0, owner="a", version=1, giver="a", exclusions=()):
    return Block(cidr=CIDR, index=index, owner=owner, version=version, giver=giver, exclusions=exclusions)


any_block = st.builds(
    block,
    index=st.integers(0, 3),
    owner=st.sampled_from(SITES),
    version=st.integers(1, 3),
    giver=st.sampled_from(SITES),
)
some = st.lists(any_block, max_size=8)


@given(some, some, some)
def test_merging_is_commutative_associative_and_idempotent(one, two, three):
    merge = block_logic.merge
    assert merge(one, two) == merge(two, one)
    assert merge(merge(one, two), three) == merge(one, merge(two, three))
    assert merge(merge(one, two), two) == merge(one, two)


@given(some, some)
def test_merging_takes_the_highest_version_of_each(one, two):
    merged = block_logic.merge(one, two)
    assert len({block_logic.key(b) for b in merged}) == len(merged)
    for b in merged:
        assert b.version == max(x.version for x in one + two if x.index == b.index)


@given(st.permutations([block(i, version=i + 1) for i in range(5)]))
def test_the_digest_does_not_depend_on_the_order(blocks):
    assert block_logic.digest(blocks) == block_logic.digest(sorted(blocks, key=block_logic.key))
    assert block_logic.digest(blocks) != block_logic.digest(blocks[1:])


def test_the_next_version_is_written_by_the_owner():
    gift = block_logic.next_version(block(3, "a", 4, exclusions=("10.0.0.13",)), "b")
    assert gift == block(3, "b", 5, "a", ("10.0.0.13",))
    assert block_logic.next_version(block(3, "gone", 4), "b", giver="c").giver == "c"


def test_addresses_leave_out_exclusions_and_what_is_not_usable():
    first = block(0, exclusions=("10.0.0.2",))
    assert block_logic.free(first, 4, []) == 2  # .1 and .3
    assert block_logic.free(first, 4, ["10.0.0.3", "10.0.0.77"]) == 1
    assert block_logic.in_use(first, 4, ["10.0.0.3"])
    assert not block_logic.in_use(first, 4, ["10.0.0.2", "10.0.0.4", "2001:db8::1"])
    assert block_logic.room([first, block(1)], 4, ["10.0.0.1", "10.0.0.4", "10.0.0.200"]) == 4
    assert block_logic.room([], 4, ["10.0.0.1"]) == 0


def test_what_is_wanted_is_compared_with_the_watermark():
    assert block_logic.needs_more(3, 4)
    assert not block_logic.needs_more(4, 4)


@given(st.sets(st.integers(0, 63), min_size=1), st.sets(st.integers(0, 255), max_size=60))
def test_the_first_pool_is_about_half_and_holds_every_block_in_use(indices, used):
    owned = [block(i) for i in indices]
    taken = [f"10.0.0.{n}" for n in used]
    pooled = block_logic.first_pool(owned, taken, 4)
    assert set(pooled) <= set(owned)
    assert all(b in pooled for b in owned if block_logic.in_use(b, 4, taken))
    untouched = [b for b in pooled if not block_logic.in_use(b, 4, taken)]
    if untouched:
        assert len(pooled) <= (len(owned) + 1) // 2 + 1
    if block_logic.room(owned, 4, taken):
        assert block_logic.room(pooled, 4, taken)
        assert len(pooled) >= len(owned) // 2


@given(st.sets(st.integers(0, 63)), st.integers(1, 100))
def test_a_gift_is_at_most_half_of_the_spare_but_one_if_there_is_one(indices, count):
    spare = [block(i) for i in indices]
    gift = block_logic.choose_gift(spare, count)
    assert set(gift) <= set(spare)
    assert len(gift) <= count
    assert len(gift) == (min(count, max(1, len(spare) // 2)) if spare else 0)


def test_pools_grow_from_the_start_and_gifts_come_from_the_end():
    spare = [block(i) for i in (5, 2, 9)] + [block(11, exclusions=("10.0.0.45",))]
    assert [b.index for b in block_logic.choose_spare(spare, 2)] == [2, 5]
    assert [b.index for b in block_logic.choose_gift(spare, 2)] == [9, 5]


def test_blocks_of_who_is_no_member_are_in_quarantine():
    facts = {"a": given_network(network("na", subnet(CIDR))), "b": made("nb")}
    plan = draft(facts)
    doc = document("l2", L2().decide(plan), members("a", "b"))
    assert block_logic.quarantined(doc, [block(1, "a"), block(2, "gone"), block(3, "b")]) == (
        block(2, "gone"),
    )


def test_a_fair_share_is_at_least_one():
    assert block_logic.fair_share([block(i) for i in range(9)], 4) == 2
    assert block_logic.fair_share([block()], 4) == 1
