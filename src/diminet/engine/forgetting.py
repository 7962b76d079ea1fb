"""A site that is lost for good, by an operator's word: what waits for it waits no longer.

Its blocks are in quarantine until it acknowledges that it has left. The word that its database is destroyed
stands for that, after every member was asked what it knows: what the lost site had given away before its
end stays given.
"""

import asyncio

from diminet.engine import fence
from diminet.engine.instance import Instance
from diminet.engine.outbox import Outbox
from diminet.engine.pools import Pools
from diminet.engine.ports import HeldBlock, MemberRow, ServiceRow, Tx
from diminet.errors import InvalidRequest, ResourceBusy, SiteUnreachable
from diminet.logic.blocks import belongs
from diminet.messages import Context, Snapshot
from diminet.model import Block, Document


class Forgetting:
    def __init__(self, here: Instance, outbox: Outbox, pools: Pools) -> None:
        self.here = here
        self.outbox = outbox
        self.pools = pools

    async def forget(self, ctx: Context, row: ServiceRow, site: str) -> None:
        """Raises InvalidRequest where nothing waits for it, SiteUnreachable if a member cannot be asked."""
        document = row.document
        members = await self.here.store.read(lambda tx: tx.members(document.service_id))
        self._may(document, members, site)
        await self._is_lost(ctx, document, site)
        told = {} if document.tombstone else await self._ask_members(ctx, document)
        async with self.here.locks[f"give {document.service_id}"]:
            await self.here.store.write(lambda tx: self._decide(tx, ctx, document, site, told))
        await self.here.tell_news()

    def _may(self, document: Document, members: list[MemberRow], site: str) -> None:
        if document.epoch.site != self.here.number:
            raise InvalidRequest(
                f"ask site {document.master}, the master, or take the service over first",
                sites=[document.master],
            )
        if document.member(site) is not None and not document.tombstone:
            raise InvalidRequest(f"{site} is a member: remove it from the service first", sites=[site])
        if not any(m.site == site and not m.clean for m in members):
            raise InvalidRequest(f"nothing of this service waits for site {site!r}")

    async def _is_lost(self, ctx: Context, document: Document, site: str) -> None:
        """A site that still knows the service is not lost: it acknowledges by itself."""
        try:
            snapshot = await self.here.peers.at(site).snapshot(ctx, document.service_id)
        except SiteUnreachable:
            return
        if snapshot.document is not None:
            raise InvalidRequest(
                f"site {site} answers and knows the service, so it is not lost: wait until it has "
                "acknowledged",
                sites=[site],
            )

    async def _ask_members(self, ctx: Context, document: Document) -> dict[str, Snapshot]:
        sites = [m.site for m in document.members if m.site != self.here.name and not m.deferred]
        ask = (self.here.peers.at(site).snapshot(ctx, document.service_id) for site in sites)
        told = dict(zip(sites, await asyncio.gather(*ask), strict=True))
        behind = sorted(s for s, snap in told.items() if snap.fenced or snap.document != document)
        if behind:
            raise ResourceBusy(
                f"{', '.join(behind)} do not know the present document yet; try again in a moment",
                sites=behind,
                retry_after=self.here.limits.sync_interval,
            )
        return told

    def _decide(self, tx: Tx, ctx: Context, document: Document, site: str, told: dict[str, Snapshot]) -> None:
        service_id = document.service_id
        fence.refuse(self.here, tx, service_id)
        row = tx.service(service_id)
        if row is None or row.document != document or tx.intent(service_id) is not None:
            raise ResourceBusy("the service is being changed; try again in a moment", retry_after=1.0)
        for member, snapshot in told.items():
            self._learn_gifts(tx, document, site, member, snapshot.blocks)
        for letter in tx.outbox(service_id=service_id, peer=site):
            tx.unpost(letter)
        tx.save_member(MemberRow(service_id=service_id, site=site, clean=True))
        tx.add_event(self.here.event("forgotten", ctx, service_id, document.project_id, member=site))
        self.pools.reclaim(tx, service_id)
        self.outbox.settle(tx, service_id)

    def _learn_gifts(
        self, tx: Tx, document: Document, site: str, member: str, blocks: tuple[Block, ...]
    ) -> None:
        """What the lost site had given to that member, which nobody but the two knew."""
        known = {(h.block.cidr, h.block.index): h.block for h in tx.blocks(document.service_id)}
        kind = self.here.type_of(document.type)
        for block in blocks:
            held = known.get((block.cidr, block.index))
            given = held is not None and held.owner == site and block.version > held.version
            size = kind.block_size(document, block.cidr)
            if given and (block.giver, block.owner) == (site, member) and belongs(block, size):
                tx.put_blocks(document.service_id, [HeldBlock(block=block)])
