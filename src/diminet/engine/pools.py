"""Growing a pool: this site's blocks go into its VIM's allocation pool, more are asked from the others.

Owners give, nobody takes (DESIGN section 5): a block's next version is written, durably, by its owner
only, before the answer goes out; a numbered request is answered the same when it is repeated. What is
in the pool is written before the VIM is told; what is to be given is taken out of it first.
"""

from collections.abc import Sequence

from diminet.engine.instance import Instance
from diminet.engine.ports import HeldBlock, MemberRow, ServiceRow, Tx
from diminet.errors import DiminetError, NotAuthorised, ServiceNotFound
from diminet.logic import blocks as block_logic
from diminet.logic.lifecycle import believe
from diminet.messages import BlockGrant, BlockRequest, Context
from diminet.model import Block, Document, Event, ProvisioningStatus, Resource


def follows(known: MemberRow, document: Document) -> bool:
    """Has that site acknowledged this document's master, or that it has left?"""
    return known.clean or (known.pair is not None and known.pair.epoch >= document.epoch)


class Pools:
    """Also the PoolKeeper of a South that has its own IPAM."""

    def __init__(self, here: Instance) -> None:
        self.here = here
        self.spare_of: dict[tuple[str, str, str], int] = {}  # (service, cidr, site): a hint, from sync
        self.in_vain: dict[tuple[str, str], float] = {}  # (service, cidr) -> when all others had none
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
                taken = [*self._gateways(document, cidr), *ports]
                chosen = block_logic.first_pool(mine, taken, self._size(document, cidr))
                tx.put_blocks(document.service_id, [HeldBlock(block=b, pooled=True) for b in chosen])

        await self.here.store.write(decide)

    def _size(self, document: Document, cidr: str) -> int:
        return self.here.type_of(document.type).block_size(document, cidr)

    def _gateways(self, document: Document, cidr: str) -> list[str]:
        return [
            s.gateway_ip
            for r in document.resources_of(self.here.name)
            for s in r.subnets
            if s.cidr == cidr and s.gateway_ip
        ]

    async def shape(self, document: Document, resource: Resource) -> None:
        """Give the VIM the subnets and pools as they are written, one after another per network, so
        that an older state never comes last. Nothing is done for a network that has left meanwhile:
        it is as it was before, or about to be."""
        network_id = resource.resource_id
        async with self.here.locks[f"shape {network_id}"]:
            row = await self.here.store.read(lambda tx: tx.service(document.service_id))
            if row is None or row.document.tombstone or row.left is not None:
                return
            if all(r.resource_id != network_id for r in row.document.resources_of(self.here.name)):
                return
            self.shaped.discard(network_id)
            await self._first(document, resource)
            held = await self.here.store.read(lambda tx: self._mine(tx, document))
            pooled = [h.block for h in held if h.pooled]
            for shape in self.here.type_of(document.type).shapes(document, resource, pooled):
                await self.here.south.shape_subnet(network_id, shape)
            self.shaped.add(network_id)

    async def at_rest(self, document: Document) -> list[str]:
        """Addresses in use here, read when the VIM gives out none that is spare: what was taken out of
        a pool and not told to the VIM (a crash, a refusal between the two) is told first."""
        for resource in document.resources_of(self.here.name):
            if resource.resource_id not in self.shaped:
                await self.shape(document, resource)
        return [a for cidr in self._cidrs(document) for a in await self._used(document, cidr)]

    def _cidrs(self, document: Document) -> set[str]:
        return {s.cidr for r in document.resources_of(self.here.name) for s in r.subnets}

    # -- more room ---------------------------------------------------------------------------------

    def port_made(self, network_id: str) -> None:
        if network_id not in self.watched:
            self.watched.add(network_id)
            self.here.later(self._look(network_id))

    async def _look(self, network_id: str) -> None:
        """Ahead of need: pool more when what is left falls under the watermark."""
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
        """Until the watermark is reached, of a small subnet a quarter of its room. A VIM that does not ask
        when a pool has run dry keeps at least what one step brings; who has asked the others for that in
        vain asks again an interval later."""
        limits, key, now = self.here.limits, (document.service_id, cidr), self.here.clock.now()
        step = 0 if self.here.south.asks_for_room else limits.pool_step * self._size(document, cidr)
        for _ in range(limits.growth_steps):
            pooled, spare = await self._free(document, cidr)
            if pooled >= min(limits.watermark, max((pooled + spare) // 4, step)):
                return
            if not spare and now < self.in_vain.get(key, 0.0) + limits.sync_interval:
                return
            if not await self.more_room(resource.resource_id, cidr):
                self.in_vain[key] = now
                return
            self.in_vain.pop(key, None)

    async def _free(self, document: Document, cidr: str) -> tuple[int, int]:
        """Free addresses of ours: in the pool, and spare."""
        held = await self.here.store.read(lambda tx: self._mine(tx, document))
        size = self._size(document, cidr)
        used = await self._used(document, cidr)

        def count(*, pooled: bool) -> int:
            mine = [h.block for h in held if h.block.cidr == cidr and h.pooled is pooled]
            return block_logic.room(mine, size, used)

        return count(pooled=True), count(pooled=False)

    async def _used(self, document: Document, cidr: str) -> list[str]:
        """Addresses in use here: of ports, and our gateways whether a port holds them or not."""
        ports = [
            p.ip
            for resource in document.resources_of(self.here.name)
            for p in await self.here.south.ports(resource.resource_id)
        ]
        return [*ports, *self._gateways(document, cidr)]

    async def more_room(self, network_id: str, cidr: str) -> bool:
        """Pool spare of our own, else ask the others. True if the pool has grown."""
        async with self.here.locks[f"pool {network_id}"]:
            found = await self.here.store.read(lambda tx: tx.network_blocks(self.here.name, network_id, cidr))
            if found is None or found[0].left is not None:
                return False
            document = found[0].document
            grown = await self._pool_spare(document, cidr) or await self._ask(document, cidr)
            if grown:
                for resource in document.resources_of(self.here.name):
                    if resource.resource_id == network_id:
                        await self.shape(document, resource)
            return grown

    async def _pool_spare(self, document: Document, cidr: str) -> bool:
        def decide(tx: Tx) -> bool:
            held = [
                h
                for h in tx.blocks(document.service_id)
                if h.block.owner == self.here.name and h.block.cidr == cidr
            ]
            spare = [h.block for h in held if not h.pooled]
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

        for site in sorted(others, key=eagerness):
            try:
                if await self._ask_one(document, cidr, site):
                    return True
            except DiminetError:
                continue  # away or refusing: the next one may have room
        return False

    async def ask_for(self, document: Document, block: Block) -> bool:
        """Ask its owner for that very block, in which an address is in use here already."""
        owner = document.member(block.owner)
        if owner is None or owner.deferred:
            return False
        try:
            return await self._ask_one(document, block.cidr, owner.site, index=block.index)
        except DiminetError:
            return False  # away or refusing: asked again at the next look

    async def pool_block(self, document: Document, block: Block) -> None:
        """Pool a spare block of our own in which an address is in use, so that it is not given away."""

        def decide(tx: Tx) -> None:
            mine = {(h.block.cidr, h.block.index): h for h in self._mine(tx, document)}
            held = mine.get((block.cidr, block.index))
            if held is not None and not held.pooled:
                tx.put_blocks(document.service_id, [HeldBlock(block=held.block, pooled=True)])

        await self.here.store.write(decide)

    async def _ask_one(self, document: Document, cidr: str, site: str, index: int | None = None) -> bool:
        service_id = document.service_id
        count = 1 if index is not None else max(self.here.limits.pool_step, 2)
        request = await self.here.store.write(
            lambda tx: (
                tx.pending_block_request(service_id, site, cidr)
                or tx.start_block_request(service_id, site, cidr, count)
            )
        )
        free = sum(await self._free(document, cidr))
        request = request.model_copy(update={"free": free, "index": index})
        ctx = self.here.context(document.project_id, self.here.limits.request_timeout / 2)
        grant = await self.here.peers.at(site).give(ctx, service_id, request)

        size = self._size(document, cidr)

        def take(tx: Tx) -> bool:
            row = tx.service(service_id)
            if row is None or row.left is not None or row.document.tombstone:
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

    # -- giving ------------------------------------------------------------------------------------

    async def give(self, ctx: Context, service_id: str, request: BlockRequest) -> BlockGrant:
        """Give spare blocks to a member; if none is spare, free some out of the pool first."""
        requester = ctx.sender or self.here.name
        async with self.here.locks[f"give {service_id}"]:
            row = await self.here.store.read(lambda tx: tx.service(service_id))
            member = row.document.member(requester) if row and not row.document.tombstone else None
            if row is None or row.left is not None:
                raise ServiceNotFound(f"site {self.here.name} has no part in service {service_id}")
            if member is None or member.deferred:
                raise NotAuthorised(f"site {requester} is not a member of service {service_id}")
            await self.at_rest(row.document)
            most = await self._most(row.document, request)
            blocks = await self._gift(row, requester, request, most)
            if not blocks and most and await self._free_some(row, request, most):
                blocks = await self._gift(row, requester, request, most)
        held = await self.here.store.read(lambda tx: tx.blocks(service_id))
        return BlockGrant(blocks=blocks, spare=len(self._spare(held, request.cidr)))

    async def _most(self, document: Document, request: BlockRequest) -> int:
        """How many blocks we may give: as many as leave both with about the same; a site that has
        nothing left gets one if we can part with a whole one."""
        size = self._size(document, request.cidr)
        free = sum(await self._free(document, request.cidr))
        if request.index is not None:
            return 1 if free > size else 0
        fair = (free - request.free) // (2 * size) if size else 0
        needy = 1 if request.free == 0 and free >= size > 0 else 0
        return min(request.count, max(fair, needy, 0))

    async def _gift(
        self, row: ServiceRow, requester: str, request: BlockRequest, most: int
    ) -> tuple[Block, ...]:
        used = await self._used(row.document, request.cidr)
        return await self.here.store.write(
            lambda tx: self._write_gift(tx, row, requester, request, most, used)
        )

    def _spare(self, held: Sequence[HeldBlock], cidr: str) -> list[Block]:
        return [
            h.block for h in held if h.block.owner == self.here.name and h.block.cidr == cidr and not h.pooled
        ]

    def _write_gift(
        self,
        tx: Tx,
        row: ServiceRow,
        requester: str,
        request: BlockRequest,
        most: int,
        used: Sequence[str],
    ) -> tuple[Block, ...]:
        service_id = row.document.service_id
        current = tx.service(service_id)
        if current is None or current.left is not None or current.document.tombstone:
            return ()
        if current.document.member(requester) is None:
            return ()  # it has left meanwhile
        given = tx.grant(service_id, requester, request.cidr, request.number)
        if given is not None:
            return given
        size = self._size(row.document, request.cidr)
        spare = [
            block
            for block in self._spare(tx.blocks(service_id), request.cidr)
            if request.index in (None, block.index)
            and not block_logic.in_use(block, size, used)  # a VIM whose pools are advisory
        ]
        chosen = block_logic.choose_gift(spare, most) if most else ()
        gift = tuple(block_logic.next_version(b, requester, self.here.name) for b in chosen)
        if gift:
            tx.put_blocks(service_id, [HeldBlock(block=b) for b in gift])
            tx.add_grant(service_id, requester, request.cidr, request.number, gift)
            tx.add_event(self._given(row.document, requester, gift))
        return gift

    def _given(self, document: Document, requester: str, gift: Sequence[Block]) -> Event:
        return Event(
            at=self.here.clock.now(),
            kind="blocks-given",
            service_id=document.service_id,
            project_id=document.project_id,
            request_id=None,
            site=requester,
            detail={"cidr": gift[0].cidr, "blocks": [b.index for b in gift]},
        )

    async def _free_some(self, row: ServiceRow, request: BlockRequest, most: int) -> bool:
        """Take unused blocks out of the pool: written, then told to the VIM, then looked at, twice."""
        document = row.document
        for resource in document.resources_of(self.here.name):
            ports = [p.ip for p in await self.here.south.ports(resource.resource_id)]
            wanted = request.model_copy(update={"count": most})
            if await self._free_of(document, resource, wanted, ports):
                return True
        return False

    async def _free_of(
        self, document: Document, resource: Resource, request: BlockRequest, ports: Sequence[str]
    ) -> bool:
        self.shaped.discard(resource.resource_id)
        out = await self.here.store.write(lambda tx: self._unpool(tx, document, request, ports))
        if not out:
            return False
        await self.shape(document, resource)
        await self.here.clock.sleep(self.here.limits.settle_interval)
        now_used = [p.ip for p in await self.here.south.ports(resource.resource_id)]
        size = self._size(document, request.cidr)
        back = [HeldBlock(block=b, pooled=True) for b in out if block_logic.in_use(b, size, now_used)]
        if back:
            await self.here.store.write(lambda tx: tx.put_blocks(document.service_id, back))
            await self.shape(document, resource)
        return len(back) < len(out)

    def _unpool(self, tx: Tx, document: Document, request: BlockRequest, ports: Sequence[str]) -> list[Block]:
        """Unused pooled blocks, the last ones first, so that the pool stays in one piece."""
        size = self._size(document, request.cidr)
        mine = [h for h in tx.blocks(document.service_id) if h.block.owner == self.here.name and h.pooled]
        gateways = self._gateways(document, request.cidr)
        unused = [
            h.block
            for h in mine
            if h.block.cidr == request.cidr
            and request.index in (None, h.block.index)
            and not block_logic.in_use(h.block, size, [*ports, *gateways])
        ]
        out = sorted(unused, key=lambda b: b.index)[-request.count :]
        tx.put_blocks(document.service_id, [HeldBlock(block=b, pooled=False) for b in out])
        return out

    def reclaim(self, tx: Tx, service_id: str) -> None:
        """At the master: blocks of a site that has left, or was put off, has said so and does not know
        them as its own (given for a join that failed, or on a request whose answer was lost) are ours."""
        row = tx.service(service_id)
        if row is None or row.document.tombstone or row.document.epoch.site != self.here.number:
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
