"""The engine put together, what it answers to peers, and its background loops.

Each loop is periodic and can be woken; it takes no input, so a first run and a repair are the same.
A bug in one round is logged with its traceback and counted; the loop goes on, since a site that no
longer heals is worse than one that reports.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

from diminet.engine.audit import Audit
from diminet.engine.changes import Changes
from diminet.engine.coordinator import Coordinator
from diminet.engine.drift import Drift
from diminet.engine.fencing import Fencing
from diminet.engine.giving import Giving
from diminet.engine.homecoming import Homecoming
from diminet.engine.instance import Instance
from diminet.engine.outbox import Outbox
from diminet.engine.participant import Participant
from diminet.engine.pools import Pools
from diminet.engine.ports import ServiceRow, Tx
from diminet.engine.reconciler import Reconciler
from diminet.engine.refusals import Refusals
from diminet.engine.rejoining import Rejoining
from diminet.engine.requests import Requests
from diminet.engine.reservations import Reservations
from diminet.engine.reserving import Reserving
from diminet.engine.resuming import Resuming
from diminet.engine.sync import Sync
from diminet.engine.takeover import Takeover
from diminet.engine.turns import Turn
from diminet.engine.views import Views
from diminet.errors import DiminetError, ResourceBusy, Unavailable
from diminet.messages import (
    PROTOCOL_MAJOR,
    PROTOCOL_MINOR,
    Acknowledgement,
    BlockGrant,
    BlockRequest,
    Change,
    ChangeAnswer,
    Context,
    DocumentPut,
    Hello,
    MemberState,
    Reservation,
    ReserveRequest,
    Snapshot,
    SyncReport,
    Tombstone,
    Vote,
    VoteRequest,
)
from diminet.rates import Buckets

log = structlog.get_logger()

LEASE = "background"
MOST_SITES = 4095  # numbers that a site may have
T = TypeVar("T")


class Engine:
    """Satisfies `ports.Horizontal`; `requests` is what the north side talks to."""

    def __init__(self, here: Instance) -> None:
        self.here = here
        self.reservations = Reservations(here)
        self.pools = Pools(here)
        self.giving = Giving(here, self.pools)
        self.audit = Audit(here, self.pools)
        self.drift = Drift(here, self.audit)
        self.reconciler = Reconciler(here, self.pools, self.drift)
        self.participant = Participant(here, self.reservations, self.reconciler)
        self.outbox = Outbox(here, self.participant)
        self.coordinator = Coordinator(
            here, self.participant, Reserving(here, self.reservations, self.outbox), self.outbox
        )
        self.changes = Changes(here, self.coordinator, self.pools)
        self.takeover = Takeover(here, self.coordinator)
        homecoming = Homecoming(here, self.participant, self.coordinator, self.outbox)
        rejoining = Rejoining(here, self.coordinator, self.takeover, homecoming)
        self.fencing = Fencing(here, rejoining)
        self.sync_ = Sync(
            here,
            self.participant,
            self.outbox,
            self.pools,
            self.changes,
            self.takeover,
            homecoming,
            self.fencing,
        )
        hourly = here.limits.peer_refusals_per_hour
        self.told = Buckets(rate=hourly / 3600, burst=hourly, most=MOST_SITES, clock=here.clock.now)
        self.leads_until = 0.0
        self.filling = {name: Turn() for name, kind in here.types.items() if kind.uses_blocks}
        self.forgetting = Turn()  # through authorisations
        views = Views(here, self.drift)
        self.resuming = Resuming(here, self.coordinator)
        self.refusals = Refusals(here, self.coordinator)
        self.requests = Requests(
            here,
            self.coordinator,
            self.participant,
            self.changes,
            self.outbox,
            self.pools,
            views,
            self.resuming,
            self.takeover,
            rejoining,
        )

    # -- Horizontal ----------------------------------------------------------------------------------

    async def hello(self, ctx: Context) -> Hello:
        meta = await self.here.store.read(lambda tx: tx.meta())
        return Hello(
            name=self.here.name,
            number=self.here.number,
            protocol=f"{PROTOCOL_MAJOR}.{PROTOCOL_MINOR}",
            capabilities=tuple(sorted(self.here.types)),
            incarnation=meta.incarnation,
        )

    async def reserve(self, ctx: Context, request: ReserveRequest) -> Reservation:
        work = self.reservations.reserve(ctx, request, ctx.sender or self.here.name)
        return await self._audited("reserve", ctx, request.service_id, work)

    async def put(self, ctx: Context, service_id: str, put: DocumentPut) -> MemberState:
        began = self.here.clock.now()
        state = await self._audited("put", ctx, service_id, self.participant.put(ctx, service_id, put))
        if put.document.member(self.here.name) is not None:
            took = self.here.clock.now() - began
            self.here.later(self._confirm_soon(ctx, service_id, took))
        return state

    async def bury(self, ctx: Context, service_id: str, tombstone: Tombstone) -> Acknowledgement:
        work = self.participant.bury(ctx, service_id, tombstone)
        return await self._audited("bury", ctx, service_id, work)

    async def abort(self, ctx: Context, service_id: str, rid: str) -> None:
        work = self.reservations.abort(service_id, rid, ctx.sender or self.here.name)
        await self._audited("abort", ctx, service_id, work)

    async def snapshot(self, ctx: Context, service_id: str) -> Snapshot:
        return await self.participant.states.snapshot(ctx, service_id)

    async def give(self, ctx: Context, service_id: str, request: BlockRequest) -> BlockGrant:
        return await self._audited("give", ctx, service_id, self.giving.give(ctx, service_id, request))

    async def hand_in(self, ctx: Context, service_id: str, change: Change) -> ChangeAnswer:
        work = self.requests.handed_in(ctx, service_id, change)
        return await self._audited(change.operation, ctx, service_id, work)

    async def vote(self, ctx: Context, service_id: str, request: VoteRequest) -> Vote:
        return await self._audited("vote", ctx, service_id, self.takeover.vote(ctx, service_id, request))

    async def sync(self, ctx: Context, mine: SyncReport | None = None) -> SyncReport:
        return await self.sync_.answer(ctx, mine)

    async def _audited(self, what: str, ctx: Context, service_id: str, work: Awaitable[T]) -> T:
        """What a peer was refused is in the history, for operators only: the peer's word on whose
        project it is was not believed. Busy and away are no refusals: they are asked again. Of a peer
        that is refused without end only so much is told, so that it pushes nobody else's out."""
        try:
            return await work
        except (ResourceBusy, Unavailable):
            raise
        except DiminetError as error:
            if self.told.take(ctx.sender or self.here.name) is not None:
                raise
            told = {"operation": what, "peer": ctx.sender, "code": error.code, "message": error.message}
            event = self.here.event("peer-refused", ctx, service_id, **told)
            event = event.model_copy(update={"project_id": None})
            await self.here.store.write(lambda tx: tx.add_event(event))
            raise

    async def _confirm_soon(self, put: Context, service_id: str, took: float) -> None:
        """Learn the master's word that all are active ahead of the interval. took: seconds of our own part;
        where that is long the others are not done sooner, and are not to be disturbed."""
        here, wait = self.here, max(self.here.limits.confirm_delay, took)
        for _ in range(5):
            await here.clock.sleep(wait)
            ctx = here.context().model_copy(update={"initiator": put.initiator})
            try:
                if await self.participant.ask_whether_confirmed(ctx, service_id):
                    return
            except Unavailable:
                return  # heard at the interval
            wait *= 2

    # -- background ------------------------------------------------------------------------------------

    async def start(self) -> None:
        """First run: no peer is needed. What was interrupted is undone or finished behind the start."""
        try:
            await self.fencing.compare_with_vim()
        except DiminetError as error:  # looked at again with every audit
            log.warning("start", code=error.code, message=error.message)
        await self.reservations.release_expired()

    async def run(self) -> None:
        """Until cancelled."""
        limits = self.here.limits
        works: list[tuple[float, Callable[[], Awaitable[None]]]] = [
            (limits.deliver_interval, self.reservations.release_expired),
            (limits.deliver_interval, self.resuming.resume),
            (limits.deliver_interval, self.outbox.deliver_due),
            (limits.reconcile_interval, self._repair),
            (limits.reconcile_interval, self._grow),
            (limits.reconcile_interval, self._tidy),
            (limits.audit_interval, self.audit.round),
            (limits.audit_interval, self.reconciler.sweep_networks),
            (limits.audit_interval, self.fencing.compare_with_vim),
            (limits.sync_interval / 4, self.fencing.round),
            (limits.sync_interval / 4, self.sync_.round),
            (limits.sync_interval, self.refusals.settle),
            (limits.sync_interval, self.takeover.renew),
            (limits.sync_interval, self.sync_.complete_deferred),
        ]
        try:
            async with asyncio.TaskGroup() as group:
                for seconds, work in works:
                    group.create_task(self._every(seconds, work))
        finally:
            await self._resign()

    async def _leads(self) -> bool:
        """Of several processes on one database one does the background work: it holds the lease."""
        now, seconds = self.here.clock.now(), self.here.limits.lease_lifetime
        if not seconds / 2 <= self.leads_until - now <= seconds:  # soon over, or the clock was set back
            holder = self.coordinator.process
            got = await self.here.store.write(lambda tx: tx.lease(LEASE, holder, now, seconds))
            self.leads_until = now + seconds if got else 0.0
        return self.leads_until > now

    async def _resign(self) -> None:
        """Stopped on purpose: the next process need not wait for the lease to run out."""
        holder, now = self.coordinator.process, self.here.clock.now()
        if self.leads_until > now:
            self.leads_until = 0.0
            await self.here.store.write(lambda tx: tx.lease(LEASE, holder, now, 0.0))

    async def _every(self, seconds: float, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                if await self._leads():
                    await work()
            except DiminetError as error:
                log.warning("background", work=work.__name__, code=error.code, message=error.message)
            except Exception:
                log.exception("bug", work=work.__name__)
            await self.here.clock.sleep(seconds * (0.75 + 0.5 * self.here.clock.random()))

    async def _repair(self) -> None:
        for error in await self.reconciler.repair():
            log.warning("repair", code=error.code, message=error.message, sites=error.sites)
        await self.drift.look_for_overlaps()

    async def _grow(self) -> None:
        """Pools that run low, a few at a time: asking for blocks waits for other sites."""
        turns = asyncio.Semaphore(self.here.limits.parallel_repairs)

        async def one(row: ServiceRow) -> None:
            async with turns:
                try:
                    await self.pools.keep_ahead(row)
                except DiminetError as error:
                    log.warning("pool", service=row.document.service_id, code=error.code, why=error.message)

        rows = [row for name in self.filling for row in await self._next_of(name)]
        await asyncio.gather(*(one(row) for row in rows if row.applied is not None))

    async def _tidy(self) -> None:
        """What is over is forgotten, what nobody owns any more is the master's again."""
        self.forgetting.took(await self.here.store.write(self._prune), self.here.limits.round_batch)
        await self._settle()
        for service_id in await self.here.store.read(lambda tx: tx.services_to_reclaim()):
            await self._reclaim_one(service_id)
        await self._figures()

    async def _reclaim_one(self, service_id: str) -> None:
        await self.here.store.write(lambda tx: self.pools.reclaim(tx, service_id))

    async def _figures(self) -> None:
        """How much there is of everything, for the metrics."""

        found = await self.here.store.read(lambda tx: tx.figures())
        blocks: Counter[tuple[str, str]] = Counter()
        for (owner, pooled), number in found.blocks.items():
            own = owner == self.here.name
            blocks[owner, ("pooled" if pooled else "spare") if own else "remote"] += number
        self.here.meter.set_services(found.services)
        self.here.meter.set_blocks(blocks)
        oldest = 0.0 if found.oldest is None else self.here.clock.now() - found.oldest
        self.here.meter.set_outbox(found.outbox, oldest)

    async def _next_of(self, kind: str) -> list[ServiceRow]:
        """The next services of a type whose pools may run low, in turns."""
        turn, most = self.filling[kind], self.here.limits.round_batch
        rows = await self.here.store.read(lambda tx: tx.services_of_type(kind, turn.after, most))
        ids = {row.document.service_id for row in rows}
        self.pools.forget(turn.took(ids, most), ids)
        return rows

    async def _settle(self) -> None:
        for service_id in await self.here.store.read(lambda tx: tx.services_buried()):
            await self._settle_one(service_id)

    async def _settle_one(self, service_id: str) -> None:
        await self.here.store.write(lambda tx: self.outbox.settle(tx, service_id))

    def _prune(self, tx: Tx) -> list[str]:
        """Ids of services whose authorisations were looked at."""
        limits, now = self.here.limits, self.here.clock.now()
        tx.prune(
            events_before=now - limits.events_ttl,
            events_most=limits.events_most,
            settled_before=now - limits.revoked_ttl,
            now=now,
        )
        before, after = now - limits.revoked_ttl, self.forgetting.after
        return tx.forget_authorisations(before=before, after=after, limit=limits.round_batch)

    async def stop(self) -> None:
        """End what goes on behind answers; everything of it can be repeated."""
        for task in list(self.here.tasks):
            task.cancel()
        await asyncio.gather(*self.here.tasks, return_exceptions=True)
