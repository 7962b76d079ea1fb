"""What a site believes of itself on an older copy of its database."""

from hypothesis import given
from hypothesis import strategies as st
from logic_cases import document, members

from diminet.logic import restored
from diminet.logic.service_type import Decision
from diminet.model import Block, Epoch

CIDR = "10.0.0.0/24"
SITES = "ABC"
HELD = document("l3", Decision(resources=(), params={}), members(*SITES))

blocks = st.builds(
    Block,
    cidr=st.just(CIDR),
    index=st.integers(0, 3),
    version=st.integers(1, 9),
    owner=st.sampled_from(SITES),
    giver=st.sampled_from(SITES),
)
known = st.lists(blocks, max_size=6, unique_by=lambda b: b.index)


@given(known, known, known)
def test_who_says_that_a_block_is_its_own_is_right(own, of_b, of_c):
    told = {"B": of_b, "C": of_c}
    now = {b.index: b for b in restored.recollect(own, told, "A")}
    for teller, theirs in told.items():
        for block in theirs:
            if block.owner != teller:
                continue
            rivals = [b for t, bs in told.items() for b in bs if b.index == block.index and b.owner == t]
            assert now[block.index] in rivals  # never ours, whatever version we remember


@given(known, known)
def test_what_nobody_claims_is_as_the_highest_version_says(own, of_b):
    now = {b.index: b for b in restored.recollect(own, {"B": of_b}, "A")}
    for index, block in now.items():
        candidates = [b for b in (*own, *of_b) if b.index == index]
        if not any(b.owner == "B" for b in of_b if b.index == index):
            assert block.version == max(b.version for b in candidates)


@given(blocks)
def test_our_own_blocks_get_versions_that_were_never_used(block):
    after = restored.outbid(block, "A")
    assert after.version >= block.version + restored.GAP
    assert (after.giver, after.owner, after.index) == ("A", block.owner, block.index)


epochs = st.builds(Epoch, st.integers(1, 3000), st.integers(1, 9))


@given(epochs, st.none() | epochs, epochs)
def test_a_fenced_site_votes_only_above_all_that_it_may_have_forgotten(held, promised, claimed):
    held_document = HELD.model_copy(update={"epoch": held})
    if restored.is_behind_all(claimed, held_document, promised):
        assert claimed > held
        assert promised is None or claimed > promised
        outbid = promised is not None and promised.n > held.n + restored.GAP
        assert outbid or claimed.n > held.n + restored.GAP


def test_what_is_claimed_behind_a_restore_is_above_all():
    behind = restored.epoch_behind(HELD, Epoch(7, 2))
    claimed = Epoch(behind.n + 1, 1)
    assert restored.is_behind_all(claimed, HELD, Epoch(7, 2))
    assert not restored.is_behind_all(Epoch(8, 1), HELD, Epoch(7, 2))
    assert restored.is_behind_all(Epoch(claimed.n + 1, 3), HELD, claimed)  # it is known from then on


@given(st.text(min_size=1), st.integers(0, 2**62), st.integers(0, 2**62))
def test_only_a_count_that_the_database_has_told_is_believed(key, writes, seen):
    told = restored.proof(key, seen)
    assert restored.is_older(key, writes, seen, told) == (seen > writes)
    assert not restored.is_older(key, writes, seen, restored.proof(key + "x", seen))
    assert not restored.is_older(key, writes, seen + 1, told)
    assert not restored.is_older(key, writes, seen, "")
