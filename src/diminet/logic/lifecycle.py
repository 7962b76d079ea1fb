"""The decisions in a service's life, for its master and for a member (DESIGN section 5). Pure.

A member's copy of a service goes

    unknown ──document, reserved──▶ held ──own part made──▶ applied ──master's word──▶ confirmed
       ▲                             │ higher document: held again
       │                             ├──document without us──▶ left (durable join number)
       └─────────── settled ◀────────┴──tombstone──▶ buried

The master's adds only whether each member has answered: `provisioning`, `operating`.
"""

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from enum import Enum, auto
from typing import Literal

from diminet.model import (
    Block,
    Document,
    OperatingStatus,
    ProvisioningStatus,
    Ticket,
)


class Verdict(Enum):
    """What a member does with a document that it was sent."""

    STORE = auto()
    SAME = auto()  # held already: make it so again
    OLDER = auto()  # answer with what is held
    BURIED = auto()  # a tombstone is held: it beats every document
    LEAVE = auto()  # we are no longer in it
    NOT_CONCERNED = auto()
    UNAUTHORISED = auto()  # no live reservation, and nobody ever authorised it here
    ASK_MASTER = auto()  # no live reservation: only if the master confirms this very pair


def judge(
    held: Document | None,
    left: int | None,
    incoming: Document,
    site: str,
    *,
    reserved: AbstractSet[str],
    authorised: AbstractSet[str],
    confirmed: bool,
) -> Verdict:
    """held: our copy. left: join number with which we left. reserved: our networks with a live
    reservation of the document's RID. authorised: those with a stored authorisation. confirmed: the
    master, asked just now, holds this pair."""
    if held is not None and held.tombstone:
        return Verdict.BURIED
    if held is not None and incoming.pair <= held.pair:
        return Verdict.SAME if incoming.pair == held.pair else Verdict.OLDER
    me = incoming.member(site)
    if me is None:
        return Verdict.LEAVE if held is not None else Verdict.NOT_CONCERNED
    if left is not None and me.join <= left:
        return Verdict.LEAVE
    known = held is not None and left is None
    if not known and not incoming.resources_of(site):
        return Verdict.NOT_CONCERNED  # nothing of ours is in it, so nobody here can have allowed it
    before = held.resources_of(site) if held is not None and known else ()
    fresh = {r.resource_id for r in incoming.resources_of(site)} - {r.resource_id for r in before}
    missing = fresh - reserved
    if not missing:
        return Verdict.STORE
    if missing - authorised:
        return Verdict.UNAUTHORISED
    return Verdict.STORE if confirmed else Verdict.ASK_MASTER


def after_busy(mine: Ticket, holders: Iterable[Ticket]) -> Literal["keep", "release"]:
    """The lowest ticket keeps what it has and asks again; any other releases all its own first, so
    that of several requests in a circle the lowest always gets through."""
    return "keep" if all(mine < holder for holder in holders) else "release"


def provisioning(
    document: Document, states: Mapping[str, ProvisioningStatus], pending: ProvisioningStatus
) -> ProvisioningStatus:
    """Of the whole service, from the members' own: `pending` until every one that is not deferred is
    active; one in error makes it ERROR."""
    live = [states.get(m.site, pending) for m in document.members if not m.deferred]
    if ProvisioningStatus.ERROR in live:
        return ProvisioningStatus.ERROR
    if all(state == ProvisioningStatus.ACTIVE for state in live):
        return ProvisioningStatus.ACTIVE
    return pending


def operating(document: Document, states: Mapping[str, OperatingStatus]) -> OperatingStatus:
    """ONLINE if all members are, OFFLINE if none is, UNKNOWN if nothing is known, else DEGRADED."""
    known = [
        OperatingStatus.OFFLINE if m.deferred else states.get(m.site, OperatingStatus.UNKNOWN)
        for m in document.members
    ]
    if all(state == OperatingStatus.UNKNOWN for state in known):
        return OperatingStatus.UNKNOWN
    if all(state == OperatingStatus.ONLINE for state in known):
        return OperatingStatus.ONLINE
    if all(state == OperatingStatus.OFFLINE for state in known):
        return OperatingStatus.OFFLINE
    return OperatingStatus.DEGRADED


def back_off(attempts: int, first: float, most: float, chance: float) -> float:
    """Seconds until the next try: doubling from `first`, never above `most`, jittered by `chance` in
    [0, 1) so that sites that come back together do not call together."""
    full = min(most, first * float(2 ** min(attempts, 16)))
    return full * (0.5 + 0.5 * chance)


def entries_without(document: Document, site: str, resource_id: str | None) -> Sequence[tuple[str, str]]:
    """Keys (site, network) that stay when that site's network (None: all of its) leaves."""
    return [
        (r.site, r.resource_id)
        for r in document.resources
        if not (r.site == site and (resource_id is None or r.resource_id == resource_id))
    ]


def believe(known: Block | None, incoming: Block, sender: str, site: str, document: Document) -> bool:
    """Whether what `sender` says of a block replaces what this site knows.

    Only the owner gives (invariant 1): so the word of the owner that we know counts, and nobody's
    about a block of our own. What is unknown comes from the master; so does what belonged to a site
    that is no longer a member.
    """
    if known is None:
        return sender == document.master or (sender == incoming.owner and document.member(sender) is not None)
    if incoming.version <= known.version or known.owner == site:
        return False
    if document.member(known.owner) is None:
        return sender in (document.master, known.owner)
    return sender == known.owner
