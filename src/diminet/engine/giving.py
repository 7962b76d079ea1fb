"""Giving blocks of this site's to a member that asks: spare ones, else some out of the pool.

Owners give, nobody takes (DESIGN section 5): a block's next version is written, durably, by its owner
only, before the answer goes out; a numbered request is answered the same when it is repeated. What is
to be given is taken out of the VIM's pool first, and looked at again before it is given.
"""

from collections.abc import Sequence

from diminet.engine import fence
from diminet.engine.instance import Instance
from diminet.engine.pools import Pools
from diminet.engine.ports import HeldBlock, ServiceRow, Tx
from diminet.errors import NotAuthorised, ServiceNotFound
from diminet.logic import blocks as block_logic
from diminet.messages import BlockGrant, BlockRequest, Context
from diminet.model import Block, Document, Event, Resource


class Giving:
    def __init__(self, here: Instance, pools: Pools) -> None:
        self.here = here
        self.pools = pools

    def _may_decide(self, tx: Tx, service_id: str) -> None:
        fence.refuse(self.here, tx, service_id)
        fence.known(self.here, tx, service_id)

    async def give(self, ctx: Context, service_id: str, request: BlockRequest) -> BlockGrant:
        """Give spare blocks to a member; if none is spare, free some out of the pool first."""
        requester = ctx.sender or self.here.name
        await self.here.store.read(lambda tx: self._may_decide(tx, service_id))
        async with self.here.locks[f"give {service_id}"]:
            row = await self.here.store.read(lambda tx: tx.service(service_id))
            member = row.document.member(requester) if row and not row.document.tombstone else None
            if row is None or row.left is not None:
                raise ServiceNotFound(f"site {self.here.name} has no part in service {service_id}")
            if member is None or member.deferred:
                raise NotAuthorised(f"site {requester} is not a member of service {service_id}")
            used = await self.pools.at_rest(row.document)
            try:
                blocks = await self._give(row, requester, request, used)
            finally:
                self.pools.leaving.pop(service_id, None)
        held = await self.here.store.read(lambda tx: tx.blocks(service_id))
        return BlockGrant(blocks=blocks, spare=len(self._spare(held, request.cidr)))

    async def _give(
        self, row: ServiceRow, requester: str, request: BlockRequest, used: Sequence[str]
    ) -> tuple[Block, ...]:
        """used: addresses in use here, just read."""
        document, cidr = row.document, request.cidr
        held = await self.here.store.read(lambda tx: tx.blocks(document.service_id))
        free = sum(await self.pools.free(document, cidr, used))
        most = self._most(document, request, free)
        short = most - len(self._giveable(held, document, request, used))
        if short > 0 and (short == most or not self.here.south.asks_for_room):
            used = await self._free_some(row, request, short, used)
        blocks = await self._gift(row, requester, request, most, used)
        if blocks and free <= len(blocks) * self.pools.size(document, cidr):
            self.pools.gave_last(document.service_id, cidr)
        return blocks

    def _most(self, document: Document, request: BlockRequest, free: int) -> int:
        """How many blocks we may give: as many as leave both with about the same; a site that has
        nothing left gets one if we can part with a whole one, though it be our last: unless that came
        only just now, and nobody here has had the time to use it."""
        size = self.pools.size(document, request.cidr)
        if request.index is not None:
            return 1 if free > size else 0
        fair = (free - request.free) // (2 * size) if size else 0
        last = free < 2 * size and self.pools.keeps_last(document.service_id, request.cidr)
        needy = 1 if request.free == 0 and free >= size > 0 and not last else 0
        return min(request.count, max(fair, needy, 0))

    async def _gift(
        self, row: ServiceRow, requester: str, request: BlockRequest, most: int, used: Sequence[str]
    ) -> tuple[Block, ...]:
        return await self.here.store.write(
            lambda tx: self._write_gift(tx, row, requester, request, most, used)
        )

    def _spare(self, held: Sequence[HeldBlock], cidr: str) -> list[Block]:
        return [
            h.block for h in held if h.block.owner == self.here.name and h.block.cidr == cidr and not h.pooled
        ]

    def _giveable(
        self, held: Sequence[HeldBlock], document: Document, request: BlockRequest, used: Sequence[str]
    ) -> list[Block]:
        """Spare, of use to somebody, and (where the pools of a VIM are advisory) with none in use here."""
        size = self.pools.size(document, request.cidr)
        return [
            block
            for block in self._spare(held, request.cidr)
            if request.index in (None, block.index) and self._unused(block, size, used)
        ]

    @staticmethod
    def _unused(block: Block, size: int, used: Sequence[str]) -> bool:
        """It has addresses, and none of them is in use."""
        return bool(block_logic.addresses(block, size)) and not block_logic.in_use(block, size, used)

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
        fence.refuse(self.here, tx, service_id)
        current = tx.service(service_id)
        if current is None or current.left is not None or current.document.tombstone:
            return ()
        if current.document.member(requester) is None:
            return ()  # it has left meanwhile
        given = tx.grant(service_id, requester, request.cidr, request.number)
        if given is not None:
            return given
        spare = self._giveable(tx.blocks(service_id), row.document, request, used)
        keep_half = self.here.south.asks_for_room  # for that
        chosen = block_logic.choose_gift(spare, most, keep_half=keep_half) if most else ()
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

    async def _free_some(
        self, row: ServiceRow, request: BlockRequest, count: int, used: Sequence[str]
    ) -> Sequence[str]:
        """Take so many unused blocks out of the pool: written, then told to the VIM, then looked at again.
        The addresses in use then."""
        wanted = request.model_copy(update={"count": count})
        for resource in row.document.resources_of(self.here.name):
            out, used = await self._free_of(row.document, resource, wanted, used)
            if out:
                break
        return used

    async def _free_of(
        self, document: Document, resource: Resource, request: BlockRequest, used: Sequence[str]
    ) -> tuple[bool, Sequence[str]]:
        """Did any come free, and what is in use then?"""
        self.pools.shaped.discard(resource.resource_id)
        out = await self.here.store.write(lambda tx: self._unpool(tx, document, request, used))
        if not out:
            return False, used
        await self.pools.shape(document, resource)
        await self.here.clock.sleep(self.here.limits.settle_interval)
        used = await self.pools.used(document)
        size = self.pools.size(document, request.cidr)
        back = [HeldBlock(block=b, pooled=True) for b in out if block_logic.in_use(b, size, used)]
        if back:
            await self.here.store.write(lambda tx: tx.put_blocks(document.service_id, back))
            await self.pools.shape(document, resource)
        return len(back) < len(out), used

    def _unpool(self, tx: Tx, document: Document, request: BlockRequest, used: Sequence[str]) -> list[Block]:
        """Unused pooled blocks, the last ones first, so that the pool stays in one piece. Until they are
        given they are not pooled again, however short we are ourselves."""
        fence.refuse(self.here, tx, document.service_id)
        size = self.pools.size(document, request.cidr)
        mine = [h for h in tx.blocks(document.service_id) if h.block.owner == self.here.name and h.pooled]
        unused = [
            h.block
            for h in mine
            if h.block.cidr == request.cidr
            and request.index in (None, h.block.index)
            and self._unused(h.block, size, used)
        ]
        out = sorted(unused, key=lambda b: b.index)[-request.count :]
        self.pools.leaving[document.service_id] = set(out)
        tx.put_blocks(document.service_id, [HeldBlock(block=b, pooled=False) for b in out])
        return out
