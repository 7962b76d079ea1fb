"""After the loss of the database: the services that this site mastered, taken in again from their members.

Of a service that another site masters, that master tells the document (`recovery`). Of our own nobody may
tell it but us, so it is read from all its members: what every one of them has acknowledged is the newest
that was ever confirmed, and a deletion that any of them has heard of counts. Only for what an operator has
adopted, only when all members answer, and only with the networks and the project that our VIM remembers.
"""

import asyncio
from collections.abc import Mapping
from collections.abc import Set as AbstractSet

import structlog

from diminet.engine.coordinator import Coordinator
from diminet.engine.instance import Instance
from diminet.engine.outbox import Outbox
from diminet.engine.participant import Participant
from diminet.engine.ports import NOBODY, SITE, HeldBlock, Tx
from diminet.errors import NotAuthorised, ResourceBusy, Unavailable
from diminet.logic import blocks as block_logic
from diminet.logic import identifiers
from diminet.messages import Context, Snapshot, Tombstone
from diminet.model import Block, Document

log = structlog.get_logger()


class Homecoming:
    def __init__(
        self, here: Instance, participant: Participant, coordinator: Coordinator, outbox: Outbox
    ) -> None:
        self.here = here
        self.participant = participant
        self.coordinator = coordinator
        self.outbox = outbox

    async def take_in(self, hint: Document) -> None:
        """hint: what a member has of a service that we have adopted and do not know. While a member does
        not answer nothing is done: it is told again. Raises NotAuthorised if it is not what our VIM
        remembers."""
        service_id = hint.service_id
        ctx = self.here.context(hint.project_id).model_copy(update={"initiator": hint.initiator})
        try:
            told = await self.told_by_all(ctx, hint)
        except Unavailable as error:
            log.warning("recover", service=service_id, waits_for=error.sites, message=error.message)
            return
        known = [s.document for s in told.values() if s.document is not None]
        document = max((hint, *known), key=lambda d: d.pair)
        if document.epoch.site != self.here.number:
            return  # it has another master by now, who tells it
        buried = any(d.tombstone for d in (hint, *known))
        await self.here.store.write(lambda tx: self._take_in(tx, ctx, document, told, buried=buried))
        await self.participant.reconciler.realise(service_id)
        await self.here.tell_news()

    async def told_by_all(
        self, ctx: Context, hint: Document, gone: AbstractSet[str] = frozenset()
    ) -> dict[str, Snapshot]:
        """Of every member but us and those that are gone, also those that only a newer document names."""
        told: dict[str, Snapshot] = {}
        document, service_id = hint, hint.service_id
        while missing := self._others(document) - told.keys() - gone:
            sites = sorted(missing)
            asked = (self.here.peers.at(site).snapshot(ctx, service_id) for site in sites)
            told |= dict(zip(sites, await asyncio.gather(*asked), strict=True))
            known = [s.document for s in told.values() if s.document is not None]
            document = max((document, *known), key=lambda d: d.pair)
        return told

    def _others(self, document: Document) -> set[str]:
        """A member that is put off has had no part in it."""
        return {m.site for m in document.members if not m.deferred} - {self.here.name}

    def _take_in(
        self, tx: Tx, ctx: Context, document: Document, told: Mapping[str, Snapshot], *, buried: bool
    ) -> None:
        service_id = document.service_id
        adopted = [r for r in tx.reservations_of_service(service_id) if r.sender == NOBODY]
        if tx.service(service_id) is not None or not (adopted or tx.fenced(SITE)):
            return  # come back meanwhile, or discarded
        networks, projects = {r.network_id for r in adopted}, {r.project_id for r in adopted}
        ours = {r.resource_id for r in document.resources_of(self.here.name)}
        buried = buried or not adopted  # our part was never made, so nobody was told that it is active
        if projects - {document.project_id} or not (buried or ours <= networks):
            raise NotAuthorised(
                f"service {service_id} is not of the networks and the project that the VIM of site "
                f"{self.here.name} remembers: compare with `diminet recover`",
                sites=[self.here.name],
            )
        self._keep_identifier(tx, document)
        self.participant.accept(tx, ctx, document.model_copy(update={"tombstone": False}), ())
        blocks = block_logic.merge((), [b for snapshot in told.values() for b in snapshot.blocks])
        tx.put_blocks(service_id, [HeldBlock(block=b) for b in blocks if self._belongs(document, b)])
        self.coordinator.expect_members(tx, document, ())
        if buried:
            self.participant.entomb(tx, ctx, service_id, Tombstone(service_id=service_id))
            self.outbox.post(tx, ctx, service_id, sorted(told), "tombstone")
            return
        for snapshot in told.values():
            if snapshot.state is not None:
                self.outbox.note(tx, service_id, snapshot.state)

    def _belongs(self, document: Document, block: Block) -> bool:
        return block_logic.belongs(block, self.here.type_of(document.type).block_size(document, block.cidr))

    def _keep_identifier(self, tx: Tx, document: Document) -> None:
        """Its VNI is ours to mint: taken for this service, so that it is not minted again."""
        vni = document.identifiers.vni
        if identifiers.creator(vni) != self.here.number:
            return
        k = vni % identifiers.KS_A_SITE
        if tx.take_identifier(document.service_id, k, k) != k:
            raise ResourceBusy(
                f"the identifiers of service {document.service_id} were given to another one since the "
                "database was lost: delete that one first",
                sites=[self.here.name],
            )
