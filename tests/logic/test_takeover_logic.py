"""Votes: who gets them, how many are needed, and what is lost, over arbitrary interleavings."""

from hypothesis import given
from hypothesis import strategies as st

from diminet.logic import takeover
from diminet.logic.takeover import Ballot
from diminet.model import Document, Epoch, Identifiers, Initiator, Member, Pair, Resource

SITES = "ABCDE"


def document(epoch=(1, 1), revision=1, members=SITES, deferred="", **more):
    return Document(
        service_id="s",
        epoch=Epoch(*epoch),
        revision=revision,
        type="l3",
        project_id="p",
        members=tuple(
            Member(site=s, number=SITES.index(s) + 1, slot=SITES.index(s) + 1, deferred=s in deferred)
            for s in members
        ),
        resources=tuple(Resource(site=s, resource_id=f"n{s}") for s in members),
        identifiers=Identifiers(vni=4097, asn=64999),
        initiator=Initiator(user_id="u", project_id="p", site="A"),
        created_at=1.0,
        updated_at=1.0,
        **more,
    )


def number(site):
    return SITES.index(site) + 1


@given(st.lists(st.builds(Epoch, st.integers(1, 9), st.integers(1, 5)) | st.none()), st.integers(1, 5))
def test_a_claimed_epoch_is_higher_than_any_seen(seen, mine):
    claimed = takeover.next_epoch(seen, mine)
    assert claimed.site == mine
    assert all(claimed > epoch for epoch in seen if epoch is not None)


@given(
    st.lists(
        st.tuples(st.sampled_from(SITES), st.integers(1, 4), st.integers(1, 3)), min_size=1, max_size=30
    ),
    st.integers(1, 3),
)
def test_a_vote_never_goes_down_and_is_one_per_epoch(asked, revision):
    held, promised = document(revision=revision), None
    given_to = {}
    for candidate, n, pair in asked:
        epoch = Epoch(n, number(candidate))
        answer = takeover.ballot(held, promised, candidate, epoch, Pair(Epoch(1, 1), pair))
        if answer is Ballot.GRANTED:
            assert promised is None or epoch >= promised
            assert epoch > held.epoch
            assert pair >= revision
            assert given_to.setdefault(epoch, candidate) == candidate
            promised = epoch
        again = takeover.ballot(held, promised, candidate, epoch, Pair(Epoch(1, 1), pair))
        assert answer is not Ballot.GRANTED or again is Ballot.GRANTED


@given(
    st.sampled_from(SITES),
    st.sampled_from(SITES),
    st.frozensets(st.sampled_from(SITES)),
    st.frozensets(st.sampled_from(SITES)),
    st.frozensets(st.sampled_from(SITES)),
)
def test_two_majorities_have_a_voter_in_common(one, other, first, second, gone):
    """Of the same sites declared gone, truly; without the master's agreement."""
    held = document()
    first, second = (first | {one}) - gone - {"A"}, (second | {other}) - gone - {"A"}
    both = takeover.wins(held, one, first, gone) and takeover.wins(held, other, second, gone)
    assert not both or first & second


def test_the_masters_word_is_enough_for_another_but_not_for_itself():
    held = document()
    assert takeover.wins(held, "B", {"A", "B"}, set())
    assert not takeover.wins(held, "B", {"B", "C"}, set())
    assert not takeover.wins(held, "A", {"A"}, set())
    assert takeover.wins(held, "B", {"B"}, {"A", "C", "D", "E"})


def test_a_deferred_member_has_no_vote_and_gets_none():
    held = document(deferred="DE")
    assert takeover.needed(held, set()) == 2
    assert takeover.ballot(held, None, "D", Epoch(2, 4), held.pair) is Ballot.STRANGER
    assert takeover.ballot(held, None, "B", Epoch(2, 3), held.pair) is Ballot.STRANGER


@given(st.integers(1, 5), st.integers(0, 3), st.integers(0, 3))
def test_what_was_written_behind_the_vote_is_told_and_nothing_else(revision, later, more):
    base = document(revision=revision, name="base")
    won = takeover.successor(base, Epoch(2, 2), 5.0)
    assert (won.pair, won.master) == (Pair(Epoch(2, 2), revision + 1), "B")
    assert won.identifiers == base.identifiers
    now = won.model_copy(update={"revision": won.revision + more, "name": "later"})
    held = base.model_copy(update={"revision": revision + later, "name": "mine"})
    told = takeover.lost(held, now)
    assert bool(told) == (later > 0)
    if told:
        assert "name" in told["fields"]


def test_the_creator_stays_known_over_many_takeovers():
    now = document()
    for n, site in enumerate("BACAB", 2):
        assert takeover.creator(now) == "A"
        now = takeover.successor(now, Epoch(n, number(site)), 1.0)
        again = Document.model_validate_json(now.model_dump_json())
        assert takeover.creator(again) == "A"
        assert again == now
