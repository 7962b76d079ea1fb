"""Growing a pool: this site's blocks go into its VIM's allocation pool, more are asked from the others.

What is in the pool is written before the VIM is told. How blocks are given: `giving`.

A VIM that does not ask for room (Neutron) is looked at in turns, and nobody says whether a tenant is being
refused there. So towards the end, when the free addresses of a service are fewer than its sites, the last
one goes round: who has it keeps it for a while, for a tenant that repeats a request; who gave it away
unused does not ask for it again at once, so that it gets to where it is used.
"""

import math
from collections.abc import Sequence, Set

from diminet.engine import fence
from diminet.engine.instance import Instance
from diminet.engine.ports import HeldBlock, MemberRow, ServiceRow, Tx
from diminet.engine.turns import Stretch
from diminet.errors import DiminetError
from diminet.logic import blocks as block_logic
from diminet.logic.lifecycle import believe
from diminet.model import MAX_BLOCKS, Block, Document, ProvisioningStatus, Resource


def follows(known: MemberRow, document: Document) -> bool:
    """Has that site acknowledged this document's master, or that it has left?"""
    return known.clean or (known.pair is not None and known.pair.epoch >= document.epoch)


def made_here(tx: Tx, service_id: str, network_id: str) -> bool:
    """Is that a network that we made for the service? Any other is its tenant's."""
    return any(c.made for c in tx.connections(service_id) if c.resource_id == network_id)


class Pools:
    """Also the PoolKeeper of a South that has its own IPAM."""

    def __init__(self, here: Instance) -> None:
        self.here = here
        self.spare_of: dict[tuple[str, str, str], int] = {}  # (service, cidr, site): a hint, from sync
        # (service, cidr) -> when all others had none, or we had no use for our last, and what we had then
        self.in_vain: dict[tuple[str, str], tuple[float, int]] = {}
        # (service, cidr) -> what was free of ours at the last look at a low pool, and when that last fell
        self.last_use: dict[tuple[str, str], tuple[int, float]] = {}
        self.got: dict[tuple[str, str], float] = {}  # (service, cidr) -> when others last gave us some
        self.leaving: dict[str, set[Block]] = {}  # service -> out of the pool just now, to be given away
        self.watched: set[str] = set()
        self.shaped: set[str] = set()  # networks whose VIM knows, since our start, what is spare

    # -- this site's pool ------------------------------------------------------------------------

    def _mine(self, tx: Tx, document: Document) -> list[HeldBlock]:
        return [h for h in tx.blocks(document.service_id) if h.block.owner == self.here.name]

    async def _first(self, document: Document, resource: Resource) -> None:
        """Where none of our blocks of a subnet is pooled yet: put about half of them into the pool,
        with all that have an address in use, so that no such block is ever spare."""
        held = await self.here.store.read(lambda tx: self._mine(tx, document))
        new = {h.block.cidr for h in held} - {h.block.cidr for h in held if h.pooled}
        if not new:
            return
        ports = [p.ip for p in await self.here.south.ports(resource.resource_id)]

        def decide(tx: Tx) -> None:
            for cidr in new:
                mine = [h.block for h in self._mine(tx, document) if h.block.cidr == cidr]
                taken = [*self.gateways(document, cidr), *ports]
                chosen = block_logic.first_pool(mine, taken, self.size(document, cidr))
                tx.put_blocks(document.service_id, [HeldBlock(block=b, pooled=True) for b in chosen])

        await self.here.store.write(decide)

    def size(self, document: Document, cidr: str) -> int:
        return self.here.type_of(document.type).block_size(document, cidr)

    def gateways(self, document: Document, cidr: str) -> list[str]:
        return [
            s.gateway_ip
            for r in document.resources_of(self.here.name)
            for s in r.subnets
            if s.cidr == cidr and s.gateway_ip
        ]

    async def shape(self, document: Document, resource: Resource) -> None:
        """Give the VIM the subnets and pools as they are written, one after another per network, so
        that an older state never comes last. Nothing is done for a network that has left meanwhile:
        it is as it was before, or about to be. A subnet that is gone is made only where we made the network:
        else its tenant has deleted it, and is told by the audit."""
        network_id = resource.resource_id
        async with self.here.locks[f"shape {network_id}"]:
            row, fenced = await self.here.store.read(
                lambda tx: (tx.service(document.service_id), tx.fenced(document.service_id))
            )
            if row is None or row.document.tombstone or row.left is not None or fenced:
                return
            if all(r.resource_id != network_id for r in row.document.resources_of(self.here.name)):
                return
            self.shaped.discard(network_id)
            await self._first(document, resource)
            held, made = await self.here.store.read(
                lambda tx: (self._mine(tx, document), made_here(tx, document.service_id, network_id))
            )
            pooled = [h.block for h in held if h.pooled]
            for shape in self.here.type_of(document.type).shapes(document, resource, pooled):
                await self.here.south.shape_subnet(network_id, shape, make=made)
            self.shaped.add(network_id)

    async def at_rest(self, document: Document) -> list[str]:
        """Addresses in use here, read when the VIM gives out none that is spare: what was taken out of
        a pool and not told to the VIM (a crash, a refusal between the two) is told first."""
        for resource in document.resources_of(self.here.name):
            if resource.resource_id not in self.shaped:
                await self.shape(document, resource)
        return await self.used(document)

    async def used(self, document: Document) -> list[str]:
        """Addresses in use here: of ports, and our gateways whether a port holds them or not."""
        ports = [
            p.ip
            for resource in document.resources_of(self.here.name)
            for p in await self.here.south.ports(resource.resource_id)
        ]
        cidrs = {s.cidr for r in document.resources_of(self.here.name) for s in r.subnets}
        return [*ports, *(g for cidr in sorted(cidrs) for g in self.gateways(document, cidr))]

    async def free(self, document: Document, cidr: str, used: Sequence[str]) -> tuple[int, int]:
        """Free addresses of ours: in the pool, and spare."""
        held = await self.here.store.read(lambda tx: self._mine(tx, document))
        size = self.size(document, cidr)

        def count(*, pooled: bool) -> int:
            mine = [h.block for h in held if h.block.cidr == cidr and h.pooled is pooled]
            return block_logic.room(mine, size, used)

        return count(pooled=True), count(pooled=False)

    # -- more room ---------------------------------------------------------------------------------

    def port_made(self, network_id: str) -> None:
        self._look_soon(network_id, 0.0)

    def _look_soon(self, network_id: str, seconds: float) -> None:
        if network_id not in self.watched:
            self.watched.add(network_id)
            self.here.later(self._look(network_id, seconds))

    async def _look(self, network_id: str, seconds: float) -> None:
        """Ahead of need: pool more when what is left falls under the watermark."""
        try:
            if seconds:
                await self.here.clock.sleep(seconds)
        finally:
            self.watched.discard(network_id)
        rows = await self.here.store.read(lambda tx: tx.services_of_network(self.here.name, network_id))
        for row in rows:
            await self.keep_ahead(row)

    async def keep_ahead(self, row: ServiceRow) -> None:
        document = row.document
        if row.left is not None or not self.here.type_of(document.type).uses_blocks:
            return
        for resource in document.resources_of(self.here.name):
            for subnet in resource.subnets:
                await self._grow(document, resource, subnet.cidr)

    async def _grow(self, document: Document, resource: Resource, cidr: str) -> None:
        """Until there is enough. A VIM that does not ask is looked at again soon while its pool is low and
        what it has is being used."""
        grew = False
        for _ in range(self.here.limits.growth_steps):
            if not await self._grow_once(document, resource, cidr):
                break
            grew = True
        lately = self.here.clock.now() - self.here.limits.reconcile_interval
        used = self.last_use.get((document.service_id, cidr), (0, -math.inf))[1] > lately
        if (grew or used) and not self.here.south.asks_for_room:
            self._look_soon(resource.resource_id, self.here.limits.deliver_interval)

    async def _grow_once(self, document: Document, resource: Resource, cidr: str) -> bool:
        """Has the pool grown? Enough is the watermark; where the VIM asks when a pool has run dry, of a small
        subnet a quarter of its room."""
        limits, key = self.here.limits, (document.service_id, cidr)
        pooled, spare = await self.free(document, cidr, await self.used(document))
        enough = limits.watermark
        if self.here.south.asks_for_room:
            enough = min(enough, (pooled + spare) // 4)
        else:
            self._note_use(key, pooled + spare, low=pooled < enough)
        if pooled >= enough:
            return False
        if not spare and self._pauses(key, pooled, self.size(document, cidr)):
            return False
        grew = await self.more_room(resource.resource_id, cidr)
        if grew:
            self.in_vain.pop(key, None)
        elif pooled or self.here.south.asks_for_room:
            self.in_vain[key] = (self.here.clock.now(), pooled)
        return grew

    def _note_use(self, key: tuple[str, str], free: int, *, low: bool) -> None:
        """When less was last free than at the look before; forgotten where there is enough."""
        before, at = self.last_use.get(key, (free, -math.inf))
        if low:
            self.last_use[key] = (free, self.here.clock.now() if free < before else at)
        else:
            self.last_use.pop(key, None)

    def _pauses(self, key: tuple[str, str], free: int, size: int) -> bool:
        """Who has asked the others in vain asks again an interval later, or when it has run dry since; where
        the VIM does not ask, when half of what was left then is used, and not at all while nothing is used
        and a step's worth is left. size: of a block."""
        if key not in self.in_vain:
            return False
        at, had = self.in_vain[key]
        asks = self.here.south.asks_for_room
        if had > 0 and free <= (0 if asks else had // 2):
            return False
        idle = not asks and free >= max(had, self.here.limits.pool_step * size)
        return idle or self.here.clock.now() < at + self.here.limits.sync_interval

    def gave_last(self, service_id: str, cidr: str) -> None:
        """We have given away our last address, for which nobody here had a use."""
        self.in_vain[service_id, cidr] = (self.here.clock.now(), 0)

    def keeps_last(self, service_id: str, cidr: str) -> bool:
        """Did we get our last address so lately that who was refused here may not have asked again?"""
        at = self.got.get((service_id, cidr), -math.inf)
        return self.here.clock.now() < at + self.here.limits.reconcile_interval / 2

    def forget(self, stretch: Stretch, live: Set[str]) -> None:
        """What is remembered of services in that stretch that are no more."""

        def kept(service_id: str) -> bool:
            return service_id in live or service_id not in stretch

        self.in_vain = {key: value for key, value in self.in_vain.items() if kept(key[0])}
        self.last_use = {key: value for key, value in self.last_use.items() if kept(key[0])}
        self.got = {key: at for key, at in self.got.items() if kept(key[0])}
        self.spare_of = {key: count for key, count in self.spare_of.items() if kept(key[0])}

    async def more_room(self, network_id: str, cidr: str) -> bool:
        """Pool spare of our own, else ask the others. True if the pool has grown."""
        async with self.here.locks[f"pool {network_id}"]:
            found = await self.here.store.read(lambda tx: tx.network_blocks(self.here.name, network_id, cidr))
            if found is None or found[0].left is not None:
                return False
            document = found[0].document
            if await self.here.store.read(lambda tx: tx.fenced(document.service_id)):
                return False
            spare = await self._pool_spare(document, cidr)
            if not spare and not await self._ask(document, cidr):
                return False
            for resource in document.resources_of(self.here.name):
                if resource.resource_id == network_id:
                    await self.shape(document, resource)
            if not spare and not self.here.south.asks_for_room:
                self.got[document.service_id, cidr] = self.here.clock.now()
            return True

    async def _pool_spare(self, document: Document, cidr: str) -> bool:
        def decide(tx: Tx) -> bool:
            fence.refuse(self.here, tx, document.service_id)
            held = [
                h
                for h in tx.blocks(document.service_id)
                if h.block.owner == self.here.name and h.block.cidr == cidr
            ]
            size, leaving = self.size(document, cidr), set[Block]()
            if not self.here.south.asks_for_room:  # who asks waits for an address: that goes first
                leaving = self.leaving.get(document.service_id, leaving)
            spare = [
                h.block
                for h in held
                if not h.pooled and h.block not in leaving and block_logic.addresses(h.block, size)
            ]
            step = max(self.here.limits.pool_step, len(held) // 8)
            chosen = block_logic.choose_spare(spare, step)
            tx.put_blocks(document.service_id, [HeldBlock(block=b, pooled=True) for b in chosen])
            return bool(chosen)

        return await self.here.store.write(decide)

    async def _ask(self, document: Document, cidr: str) -> bool:
        """The master first, then whoever is said to have most to spare."""
        me = document.member(self.here.name)
        others = [m.site for m in document.members if m.site != self.here.name and not m.deferred]
        if me is None or me.deferred:
            return False

        def eagerness(site: str) -> tuple[bool, int]:
            return (site != document.master, -self.spare_of.get((document.service_id, cidr, site), 0))

        free = sum(await self.free(document, cidr, await self.used(document)))
        for site in sorted(others, key=eagerness):
            try:
                if await self._ask_one(document, cidr, site, free):
                    return True
            except DiminetError:
                continue  # away or refusing: the next one may have room
        return False

    async def ask_for(self, document: Document, block: Block) -> bool:
        """Ask its owner for that very block, in which an address is in use here already."""
        if await self.here.store.read(lambda tx: tx.fenced(document.service_id)):
            return False  # it may be ours
        owner = document.member(block.owner)
        if owner is None or owner.deferred:
            return False
        try:
            free = sum(await self.free(document, block.cidr, await self.used(document)))
            return await self._ask_one(document, block.cidr, owner.site, free, index=block.index)
        except DiminetError:
            return False  # away or refusing: asked again at the next look

    async def pool_block(self, document: Document, block: Block) -> None:
        """Pool a spare block of our own in which an address is in use, so that it is not given away."""

        def decide(tx: Tx) -> None:
            fence.refuse(self.here, tx, document.service_id)
            mine = {(h.block.cidr, h.block.index): h for h in self._mine(tx, document)}
            held = mine.get((block.cidr, block.index))
            if held is not None and not held.pooled:
                tx.put_blocks(document.service_id, [HeldBlock(block=held.block, pooled=True)])

        await self.here.store.write(decide)

    def _wish(self, document: Document, cidr: str, free: int) -> int:
        """How many blocks to ask for. Where the VIM does not ask by itself, what the watermark wants; the
        owner gives no more than leaves both with about the same."""
        step = max(self.here.limits.pool_step, 2)
        if self.here.south.asks_for_room:
            return step
        missing = self.here.limits.watermark - free
        return min(max(step, missing // self.size(document, cidr)), MAX_BLOCKS)

    async def _ask_one(
        self, document: Document, cidr: str, site: str, free: int, index: int | None = None
    ) -> bool:
        """free: addresses that we still have."""
        service_id = document.service_id
        count = 1 if index is not None else self._wish(document, cidr, free)
        request = await self.here.store.write(
            lambda tx: (
                tx.pending_block_request(service_id, site, cidr)
                or tx.start_block_request(service_id, site, cidr, count)
            )
        )
        request = request.model_copy(update={"free": free, "index": index})
        ctx = self.here.context(document.project_id, self.here.limits.request_timeout / 2)
        grant = await self.here.peers.at(site).give(ctx, service_id, request)

        size = self.size(document, cidr)

        def take(tx: Tx) -> bool:
            row = tx.service(service_id)
            if row is None or row.left is not None or row.document.tombstone or tx.fenced(service_id):
                return False
            known = {(h.block.cidr, h.block.index): h.block for h in tx.blocks(service_id)}
            believed = [
                block
                for block in grant.blocks
                if (block.owner, block.cidr) == (self.here.name, cidr)
                and believe(known.get((block.cidr, block.index)), block, site, self.here.name, document)
                and block_logic.belongs(block, size)
            ]
            tx.put_blocks(service_id, [HeldBlock(block=b, pooled=True) for b in believed])
            tx.end_block_request(service_id, site, cidr)
            return bool(believed)

        self.spare_of[service_id, cidr, site] = grant.spare
        return await self.here.store.write(take)

    # -- blocks that come back ------------------------------------------------------------------------

    def reclaim(self, tx: Tx, service_id: str) -> None:
        """At the master: blocks of a site that has left, or was put off, has said so and does not know
        them as its own (given for a join that failed, or on a request whose answer was lost) are ours."""
        row = tx.service(service_id)
        if row is None or row.document.tombstone or row.document.epoch.site != self.here.number:
            return
        if tx.fenced(service_id):
            return
        members = tx.members(service_id)
        if not self._followed(row.document, members):
            return
        gone = {m.site for m in members if self._has_nothing(row.document, m)}
        back = [h.block for h in tx.blocks(service_id) if h.block.owner in gone]
        master = self.here.name
        tx.put_blocks(
            service_id, [HeldBlock(block=block_logic.next_version(b, master, master)) for b in back]
        )

    def _followed(self, document: Document, members: Sequence[MemberRow]) -> bool:
        """Have all masters before us acknowledged that they are not any more, and so told what they have
        reclaimed themselves? Else the same block might be written twice."""
        known = {m.site: m for m in members}
        return all(
            site == self.here.name or (site in known and follows(known[site], document))
            for site in document.former
        )

    @staticmethod
    def _has_nothing(document: Document, known: MemberRow) -> bool:
        member = document.member(known.site)
        if member is None:
            return known.clean
        done = known.pair == document.pair and known.status == ProvisioningStatus.ACTIVE
        return member.deferred and done

    def give_back(self, tx: Tx, document: Document) -> None:
        """On leaving, or being put off: our blocks become the master's."""
        mine = [h.block for h in tx.blocks(document.service_id) if h.block.owner == self.here.name]
        back = [block_logic.next_version(b, document.master, self.here.name) for b in mine]
        tx.put_blocks(document.service_id, [HeldBlock(block=b) for b in back])
