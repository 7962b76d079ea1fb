"""What a peer may say of blocks (DESIGN section 4): only the owner gives, whoever lies."""

import pytest

from diminet.logic.lifecycle import believe
from diminet.model import Block, Document, Epoch, Identifiers, Initiator, Member

SITES = ("A", "B", "C")  # A is the master
DOCUMENT = Document(
    service_id="s",
    epoch=Epoch(1, 1),
    revision=1,
    type="l2",
    project_id="p",
    members=tuple(Member(site=s, number=i + 1, slot=i + 1) for i, s in enumerate(SITES)),
    resources=(),
    identifiers=Identifiers(vni=4097, asn=64999),
    initiator=Initiator(user_id="u", project_id="p", site="A"),
    created_at=0.0,
    updated_at=0.0,
)


def block(owner, version, giver="A"):
    return Block(cidr="10.0.0.0/24", index=3, owner=owner, version=version, giver=giver)


@pytest.mark.parametrize(
    ("known", "incoming", "sender", "believed"),
    [
        (None, block("B", 1), "A", True),  # the master's first word
        (None, block("C", 1), "C", True),  # its own
        (None, block("B", 1), "C", False),  # somebody else's
        (block("A", 1), block("B", 2), "A", True),  # the owner gives
        (block("A", 1), block("C", 2), "C", False),  # a thief
        (block("A", 2), block("B", 2), "A", False),  # old news
        (block("B", 1), block("A", 9), "A", False),  # our own: nobody takes it, not even the master
        (block("B", 1), block("B", 9), "B", False),
        (block("X", 1), block("A", 2, "X"), "X", True),  # a site that has left gives back
        (block("X", 1), block("A", 2, "X"), "A", True),  # the master tells of it
        (block("X", 1), block("C", 2, "X"), "C", False),
    ],
)
def test_whose_word_counts_at_site_b(known, incoming, sender, believed):
    assert believe(known, incoming, sender, "B", DOCUMENT) is believed
