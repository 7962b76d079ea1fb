"""Who becomes the master of a service whose master is gone, or agrees (DESIGN section 5, *Takeover*). Pure.

An epoch is (n, number of the site that claims it), so two candidates never claim the same one. A site votes
once per epoch, and from then on writes nothing of a lower one: what the old master had not spread by then
it cannot spread any more. See docs/protocol.md, *Takeover*.
"""

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from enum import Enum, auto
from typing import Any

from diminet.model import Document, Epoch, Pair


class Ballot(Enum):
    """A voter's answer."""

    GRANTED = auto()
    STRANGER = auto()  # the asker is no member that has a part in it, or the epoch is not its own
    OUTBID = auto()  # this epoch, or a higher one, is somebody else's here already
    OLDER = auto()  # the asker's document is older than ours


def next_epoch(seen: Iterable[Epoch | None], number: int) -> Epoch:
    """Strictly higher than any that was seen. number: of the claiming site."""
    return Epoch(1 + max((epoch.n for epoch in seen if epoch is not None), default=0), number)


def fenced(document: Document, promised: Epoch | None) -> bool:
    """Has this site voted for another epoch than that of its document? It then writes none of that epoch."""
    return promised is not None and promised > document.epoch


def ballot(held: Document, promised: Epoch | None, candidate: str, epoch: Epoch, pair: Pair) -> Ballot:
    """held, promised: the voter's. pair: of the candidate's document. The same is granted again."""
    member = held.member(candidate)
    if member is None or member.deferred or member.number != epoch.site:
        return Ballot.STRANGER
    if epoch <= held.epoch or (promised is not None and epoch < promised):
        return Ballot.OUTBID
    return Ballot.OLDER if pair < held.pair else Ballot.GRANTED


def voters(document: Document) -> set[str]:
    """A deferred member holds no document, so it has no vote."""
    return {m.site for m in document.members if not m.deferred}


def needed(document: Document, gone: AbstractSet[str]) -> int:
    """More than half of the members that no operator has declared gone."""
    return len(voters(document) - gone) // 2 + 1


def wins(document: Document, candidate: str, granted: AbstractSet[str], gone: AbstractSet[str]) -> bool:
    """granted: who has voted for it, itself included. The master's agreement alone is enough: it has promised
    to write nothing more. Its own vote for itself is one of many."""
    if document.master != candidate and document.master in granted:
        return True
    return len(granted & (voters(document) - gone)) >= needed(document, gone)


def successor(base: Document, epoch: Epoch, now: float) -> Document:
    """The first document of the new master."""
    return base.model_copy(
        update={
            "epoch": epoch,
            "revision": base.revision + 1,
            "former": {**base.former, base.master: base.pair},
            "updated_at": now,
        }
    )


def creator(document: Document) -> str:
    """The site that minted the identifiers: the first master of all."""
    return next(iter(document.former), document.master)


def lost(held: Document, document: Document) -> Mapping[str, Any]:
    """What our copy had and the new master's did not go on from, for `lost-by-takeover`; empty: nothing."""
    base = document.former.get(held.master)
    if base is None or held.epoch >= document.epoch or held.pair <= base:
        return {}
    fields = ("name", "description", "tags", "on_unreachable")
    sites = {m.site for m in document.members}
    networks = {(r.site, r.resource_id) for r in document.resources}
    return {
        "pair": held.pair.etag(),
        "members": sorted(m.site for m in held.members if m.site not in sites),
        "networks": sorted(r.resource_id for r in held.resources if (r.site, r.resource_id) not in networks),
        "fields": [name for name in fields if getattr(held, name) != getattr(document, name)],
    }
