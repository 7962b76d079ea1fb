"""A member's side of a takeover: what it keeps to after its vote, and how it goes over to another master."""

from collections.abc import Sequence

from diminet.engine.instance import Instance
from diminet.engine.ports import MemberRow, ServiceRow, Tx
from diminet.errors import Fenced, NotAuthorised
from diminet.logic.takeover import fenced, lost
from diminet.messages import Context
from diminet.model import Document, Epoch


def within_promise(here: Instance, promised: Epoch | None, document: Document) -> None:
    """Who has voted for another master stores nothing of the one before. Raises Fenced."""
    if fenced(document, promised):
        raise Fenced(
            f"site {here.name} has voted for another master of service {document.service_id}; "
            "try again in a moment",
            sites=[here.name],
            retry_after=here.limits.sync_interval,
        )


def check(here: Instance, row: ServiceRow, document: Document) -> Document | None:
    """May this document come behind ours? Returns ours if another master has written the new one. Raises
    NotAuthorised, Fenced."""
    held = row.document
    if not same_service(held, document):
        raise NotAuthorised(
            f"service {document.service_id} keeps its type, project and identifiers for its whole life",
            sites=[here.name],
        )
    if held.tombstone:
        return None
    if row.left is not None:
        return None  # who has left has no vote any more
    if document.pair > held.pair:
        within_promise(here, row.promised, document)
    if document.epoch <= held.epoch:
        return None
    if held.member(document.master) is None:
        raise NotAuthorised(
            f"site {document.master} claims service {document.service_id}, of which it is no member",
            sites=[here.name],
        )
    return held


def claims(row: ServiceRow, sender: str | None, tombstone: Document | None) -> bool:
    """Does a member say that it has taken the service over and deleted it, and we know of neither?"""
    held = row.document
    if sender is None or tombstone is None or held.tombstone or sender == held.master:
        return False
    if sender in held.former and tombstone.epoch <= held.epoch:
        return False
    member = held.member(sender) is not None
    return member and tombstone.master == sender and same_service(held, tombstone)


def deleted_before(
    sender: str | None, row: ServiceRow, members: Sequence[MemberRow], tombstone: Document
) -> bool:
    """May a master before have written this tombstone while it was the master? Only in an epoch of its own
    before ours; and it has not followed another master since: who has deleted a service follows nobody."""
    if sender is None:
        return False
    told, went_on_from = tombstone.epoch, row.document.former[sender].epoch
    own = told.site == went_on_from.site and told < row.document.epoch
    followed = any(m.site == sender and m.pair is not None and m.pair.epoch > told for m in members)
    return own and not followed


def same_service(held: Document, incoming: Document) -> bool:
    """What a service keeps for its whole life is the same in both."""
    return (held.service_id, held.type, held.project_id, held.identifiers) == (
        incoming.service_id,
        incoming.type,
        incoming.project_id,
        incoming.identifiers,
    )


def follow(here: Instance, tx: Tx, ctx: Context, held: Document, document: Document) -> None:
    """Another site has become the master. What we began as the master ends; a user's delete that waits for
    the old master goes to the new one."""
    service_id, project = held.service_id, held.project_id
    tx.delete_intent(service_id)
    for letter in tx.outbox(service_id=service_id):
        if letter.kind in ("document", "delete"):
            tx.unpost(letter)
        if letter.kind == "delete" and document.master != here.name:
            tx.post(letter.model_copy(update={"peer": document.master}))
    change = {"before": held.master, "master": document.master}
    tx.add_event(here.event("master-changed", ctx, service_id, project, **change))
    if dropped := lost(held, document):
        tx.add_event(here.event("lost-by-takeover", ctx, service_id, project, **dropped))
