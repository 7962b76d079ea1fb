"""One fenced service of a restored database: what has become of it, as its members tell (docs/adr/0020).

all members have told
  │ it is deleted: buried; nobody shares it: left
  │ another masters it: its document, the blocks as their owners say they are
  │ we master it: the same, and an epoch behind a gap, with votes as in a takeover
  ▼
fence of the service lifted
"""

import asyncio
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet

import structlog

from diminet.engine.coordinator import Coordinator
from diminet.engine.following import same_service
from diminet.engine.homecoming import Homecoming
from diminet.engine.instance import Instance
from diminet.engine.ports import NOBODY, SITE, HeldBlock, ServiceRow, Tx
from diminet.engine.takeover import Takeover
from diminet.errors import DiminetError, ResourceBusy
from diminet.logic import restored
from diminet.logic.blocks import belongs
from diminet.messages import Context, DocumentPut, Snapshot, Tombstone
from diminet.model import Document, Epoch

log = structlog.get_logger()


class Rejoining:
    def __init__(
        self, here: Instance, coordinator: Coordinator, takeover: Takeover, homecoming: Homecoming
    ) -> None:
        self.here = here
        self.coordinator = coordinator
        self.participant = coordinator.participant
        self.takeover = takeover
        self.homecoming = homecoming
        self.sharing: dict[str, frozenset[str]] = {}  # site -> services that it shares with us, as it says

    async def round(self, services: Sequence[str]) -> None:
        turns = asyncio.Semaphore(self.here.limits.parallel_repairs)
        await asyncio.gather(*(self._try(turns, service_id) for service_id in services))

    async def _try(self, turns: asyncio.Semaphore, service_id: str) -> None:
        async with turns:
            row = await self.here.store.read(lambda tx: tx.service(service_id))
            ctx = self.here.context(row.document.project_id) if row else self.here.context()
            try:
                await self.rejoin(ctx, service_id)
            except DiminetError as error:
                log.info("restored", service=service_id, code=error.code, message=error.message)

    async def rejoin(self, ctx: Context, service_id: str, gone: AbstractSet[str] = frozenset()) -> None:
        """Learn what has become of a fenced service and lift its fence. gone: sites that an operator has
        declared gone for good. Raises Unavailable while a member does not answer, ResourceBusy while
        what they tell is not of one piece."""
        here = self.here
        row, knows_all = await here.store.read(lambda tx: (tx.service(service_id), not tx.fenced(SITE)))
        if row is None or row.document.tombstone or row.left is not None:
            if row is None or row.applied == row.document.pair:
                await here.store.write(lambda tx: tx.lift_fence(service_id))
            return
        told = await self._told(ctx, row.document, gone)
        known = {
            site: snap.document
            for site, snap in told.items()
            if snap.document is not None and same_service(row.document, snap.document)
        }
        if not known and (told or not (knows_all or gone)):
            await self._leave(ctx, row, told, knows_all=knows_all)
            return
        best = max([row.document, *known.values()], key=lambda d: d.pair)
        ours = here.name in (row.document.master, best.master)
        masters = {row.document.master, best.master, *best.former}
        buried = [d for site, d in known.items() if d.tombstone and (ours or site in masters)]
        if buried:
            await self._bury(ctx, row, buried[0], told)
        elif best.master == here.name or best.master in gone:
            await self._as_master(ctx, row, best, told, gone)
        else:
            await self._as_member(ctx, row, told[best.master], best, told)
        await self.participant.reconciler.realise(service_id)
        await here.tell_news()

    async def _told(self, ctx: Context, document: Document, gone: AbstractSet[str]) -> dict[str, Snapshot]:
        """By all members, and by who has said that it shares the service with us."""
        told = await self.homecoming.told_by_all(ctx, document, gone)
        for site in sorted(site for site, ids in self.sharing.items() if document.service_id in ids):
            if site not in told and site not in gone:
                told[site] = await self.here.peers.at(site).snapshot(ctx, document.service_id)
        return told

    async def _leave(
        self, ctx: Context, row: ServiceRow, told: Mapping[str, Snapshot], *, knows_all: bool
    ) -> None:
        """Nobody shares it with us any more: it is deleted and forgotten, or we had left it. The fence stays
        until it is taken down, so that nothing is given back."""
        service_id = row.document.service_id
        if not knows_all or any(snap.fenced for snap in told.values()):
            raise ResourceBusy(f"no member knows service {service_id}; all sites are to be asked first")
        if row.document.master == self.here.name:
            await self._bury(ctx, row, row.document, told)
            await self.participant.reconciler.realise(service_id)
            return

        def decide(tx: Tx) -> None:
            current = tx.service(service_id)
            if current is not None and current.document == row.document and current.left is None:
                self.participant.leave(tx, ctx, current, row.document)
                self.drop_promises(tx, service_id)

        await self.here.store.write(decide)
        await self.participant.reconciler.realise(service_id)

    async def _bury(
        self, ctx: Context, row: ServiceRow, document: Document, told: Mapping[str, Snapshot]
    ) -> None:
        service_id = row.document.service_id

        def decide(tx: Tx) -> None:
            current = tx.service(service_id)
            if current is None or current.document.tombstone:
                return
            stone = Tombstone(service_id=service_id, document=document)
            self.participant.entomb(tx, ctx, service_id, stone, proven=True)
            if document.master == self.here.name:
                self.coordinator.expect_members(tx, document, sorted(told))
                self.coordinator.outbox.post(tx, ctx, service_id, sorted(told), "tombstone")
            self.drop_promises(tx, service_id)

        await self.here.store.write(decide)

    async def _as_member(
        self,
        ctx: Context,
        row: ServiceRow,
        master: Snapshot,
        best: Document,
        told: Mapping[str, Snapshot],
    ) -> None:
        document = master.document
        if master.fenced or document is None or document.pair < best.pair:
            raise ResourceBusy(
                f"site {best.master} does not know service {row.document.service_id} as others do",
                sites=[best.master],
            )
        told_by_master = ctx.model_copy(update={"sender": best.master})

        def decide(tx: Tx, *, take: bool) -> None:
            if not self._recollect(tx, row, document, told):
                return
            self._keep_votes(tx, row, told)
            if take and document.pair > row.document.pair:
                put = DocumentPut(document=document)
                self.participant.take(tx, told_by_master, put, confirmed=True)
            self._done(tx, document)

        try:
            await self.here.store.write(lambda tx: decide(tx, take=True))
        except ResourceBusy:  # what was allowed since is forgotten, and the master is to be told so
            await self.here.store.write(lambda tx: decide(tx, take=False))

    async def _as_master(
        self,
        ctx: Context,
        row: ServiceRow,
        best: Document,
        told: Mapping[str, Snapshot],
        gone: AbstractSet[str],
    ) -> None:
        """First what was, then an epoch of its own, so that nothing is written again under an old pair."""
        here, service_id = self.here, row.document.service_id

        def recollect(tx: Tx) -> None:
            if not self._recollect(tx, row, best, told):
                return
            if best.pair > row.document.pair:  # our own, from before any vote that was told since
                free = row.model_copy(update={"promised": None})
                tx.save_service(free, expect=row.document.pair)
                self.participant.accept(tx, ctx, best, ())
            self._keep_votes(tx, row, told)
            self.coordinator.expect_members(tx, best, [*best.departed])
            tx.raise_fence(service_id)

        def lift(tx: Tx) -> None:
            tx.lift_fence(service_id)
            self._done(tx, best)

        await here.store.write(recollect)
        members = {m.site for m in best.members}
        away = {s for s, snap in told.items() if snap.document is None or self._has_left(snap)}
        behind = restored.epoch_behind(best, self._promised(row, told))
        votes = frozenset((gone | away) & members)
        await self.takeover.run(ctx, service_id, votes, behind=behind, lift=lift)

    @staticmethod
    def _has_left(snapshot: Snapshot) -> bool:
        return snapshot.state is not None and snapshot.state.left is not None

    @staticmethod
    def _promised(row: ServiceRow, told: Mapping[str, Snapshot]) -> Epoch | None:
        votes = [row.promised, *(snap.promised for snap in told.values())]
        return max((vote for vote in votes if vote is not None), default=None)

    def _recollect(self, tx: Tx, row: ServiceRow, document: Document, told: Mapping[str, Snapshot]) -> bool:
        """Blocks and numbered requests as the members know them; the fence is lifted for what else the
        transaction does. False: it was lifted meanwhile."""
        service_id = row.document.service_id
        current = tx.service(service_id)
        if not tx.fenced(service_id) or current is None or current.document != row.document:
            return False
        tx.lift_fence(service_id)
        self._recollect_blocks(tx, document, told)
        for site, snapshot in told.items():
            for cidr, number in snapshot.asked.items():
                if tx.grant(service_id, site, cidr, number) is None:
                    tx.add_grant(service_id, site, cidr, number, ())
        return True

    def _keep_votes(self, tx: Tx, row: ServiceRow, told: Mapping[str, Snapshot]) -> None:
        """The highest that anybody knows of may be ours."""
        current = tx.service(row.document.service_id)
        assert current is not None
        update = {"promised": self._promised(row, told)}
        tx.save_service(current.model_copy(update=update), expect=current.document.pair)

    def _recollect_blocks(self, tx: Tx, document: Document, told: Mapping[str, Snapshot]) -> None:
        service_id, kind = document.service_id, self.here.type_of(document.type)
        held = {(h.block.cidr, h.block.index): h for h in tx.blocks(service_id)}
        belonging = {
            site: [
                block for block in snapshot.blocks if belongs(block, kind.block_size(document, block.cidr))
            ]
            for site, snapshot in told.items()
        }
        now = restored.recollect((h.block for h in held.values()), belonging, self.here.name)
        news = [
            HeldBlock(block=block)
            for block in now
            if (block.cidr, block.index) not in held or held[block.cidr, block.index].block != block
        ]
        tx.put_blocks(service_id, news)

    def _done(self, tx: Tx, document: Document) -> None:
        """What is ours from here on has versions that were never used."""
        service_id = document.service_id
        row = tx.service(service_id)
        tx.lift_fence(service_id)
        if row is not None and row.left is None:
            mine = [h for h in tx.blocks(service_id) if h.block.owner == self.here.name]
            tx.put_blocks(
                service_id,
                [h.model_copy(update={"block": restored.outbid(h.block, self.here.name)}) for h in mine],
            )
        self.drop_promises(tx, service_id)
        tx.add_event(self.here.event("unfenced", self.here.context(), service_id, document.project_id))

    def drop_promises(self, tx: Tx, service_id: str) -> None:
        """Of before, which no document has taken up."""
        for promise in tx.reservations_of_service(service_id):
            if promise.sender == NOBODY:
                tx.add_reservation(promise.model_copy(update={"expires_at": 0.0}))
