"""Taking back what was begun, and a user's delete: the same way to nothing, or to the document before.

What was not committed leaves no row; a create that was is buried, a change is answered by the document
before it. Sites that cannot be told now are told by the outbox.
"""

import asyncio
from collections.abc import Sequence

from diminet.engine import fence
from diminet.engine.instance import Instance
from diminet.engine.outbox import Outbox
from diminet.engine.participant import Participant
from diminet.engine.ports import IntentRow, ServiceRow, Tx
from diminet.errors import DiminetError, ResourceBusy, ServiceNotFound
from diminet.messages import Context
from diminet.model import Document, Event, ProvisioningStatus


class Undoing:
    def __init__(self, here: Instance, participant: Participant, outbox: Outbox) -> None:
        self.here = here
        self.participant = participant
        self.outbox = outbox

    def holds(self, tx: Tx, intent: IntentRow) -> bool:
        """Is the operation still the one that runs? If not, it was concluded elsewhere or pre-empted."""
        current = tx.intent(intent.service_id)
        return current is not None and current.ticket == intent.ticket

    async def give_up(
        self, ctx: Context, intent: IntentRow, error: DiminetError, silent: Sequence[str] = ()
    ) -> None:
        """Nothing was committed: forget the intent. silent: sites that may hold a promise for it."""
        word = intent.ticket.word()

        def decide(tx: Tx) -> None:
            tx.delete_intent(intent.service_id)
            tx.release_identifier(intent.service_id)
            self.outbox.post(tx, ctx, intent.service_id, silent, "abort", rid=word)
            tx.add_event(self._refusal(ctx, intent.service_id, error))

        await self.here.store.write(decide)
        mine = await self.here.store.read(lambda tx: tx.reservations_of_service(intent.service_id))
        for rid in sorted({row.rid for row in mine}):
            await self.participant.reservations.try_release(rid)
        await self.here.tell_news()

    async def drop_intent(
        self, ctx: Context, intent: IntentRow, error: DiminetError, silent: Sequence[str] = ()
    ) -> None:
        """A change that was not committed; the document stands. silent: as in `give_up`."""
        word = intent.ticket.word()

        def decide(tx: Tx) -> None:
            if self.holds(tx, intent):
                tx.delete_intent(intent.service_id)
            self.outbox.post(tx, ctx, intent.service_id, silent, "abort", rid=word)
            tx.add_event(self._refusal(ctx, intent.service_id, error))

        await self.here.store.write(decide)

    def _refusal(self, ctx: Context, service_id: str, error: DiminetError) -> Event:
        return self.here.event(
            "refused", ctx, service_id, code=error.code, message=error.message, sites=list(error.sites)
        )

    async def take_back(
        self, ctx: Context, intent: IntentRow, document: Document, error: DiminetError
    ) -> None:
        """A create is buried everywhere; a change is answered by the document before it. Nothing is
        done by who no longer holds the operation: a delete or another process was faster."""
        if intent.before is not None:
            await self._restore(ctx, intent, document, intent.before, error)
        else:
            await self.bury(ctx, document.service_id, fault=error, intent=intent)

    async def _restore(
        self, ctx: Context, intent: IntentRow, document: Document, before: Document, error: DiminetError
    ) -> None:
        staying = {m.site for m in before.members}
        joined = {m.site: m.join for m in document.members if m.site not in staying}
        restored = before.model_copy(
            update={
                "revision": document.revision + 1,
                "departed": {**before.departed, **joined},
                "updated_at": self.here.clock.now(),
            }
        )

        def decide(tx: Tx) -> list[str]:
            if not self.holds(tx, intent):
                return []
            tx.delete_intent(document.service_id)
            row = self.participant.accept(tx, ctx, restored, (), ProvisioningStatus.ACTIVE)
            tx.save_service(row.model_copy(update={"fault": error.as_dict()}), expect=row.document.pair)
            sites = [m.site for m in tx.members(document.service_id) if not m.clean]
            self.outbox.post(tx, ctx, document.service_id, sites, "document")
            tx.add_event(self._refusal(ctx, document.service_id, error))
            return sites

        sites = await self.here.store.write(decide)
        await self._deliver(document.service_id, sites)
        try:
            await self.participant.reconciler.realise(document.service_id)
        except DiminetError:
            return  # tried again by the reconciler

    async def bury(
        self,
        ctx: Context,
        service_id: str,
        fault: DiminetError | None = None,
        intent: IntentRow | None = None,
    ) -> tuple[str, ...]:
        """Delete: the tombstone is written, then goes to every site that was ever asked. Returns the
        sites that are not clean yet. fault: the service is REVOKED because of it. intent: only while
        that operation is the one that runs."""

        def decide(tx: Tx) -> list[str]:
            if intent is not None and not self.holds(tx, intent):
                return []
            row = tx.service(service_id)
            if row is None:
                raise ServiceNotFound(f"there is no service {service_id}")
            fence.refuse(self.here, tx, service_id)
            tx.delete_intent(service_id)
            if row.document.epoch.site != self.here.number:
                if row.document.tombstone:
                    return []  # another master has deleted it, and tells everybody
                raise ResourceBusy(
                    f"site {row.document.master} has taken the service over meanwhile; try again",
                    sites=[row.document.master],
                    retry_after=1.0,
                )
            if not row.document.tombstone:
                told = self.here.event("deleted", ctx, service_id, row.document.project_id)
                self.entomb(tx, row, fault)
                tx.add_event(self._refusal(ctx, service_id, fault) if fault else told)
            return self.post_tombstones(tx, ctx, service_id)

        sites = await self.here.store.write(decide)
        waiting = await self._deliver(service_id, sites, own=True)
        clean = await self.here.store.write(lambda tx: self._settled(tx, service_id))
        await self.here.tell_news()
        return waiting if waiting or clean else (self.here.name,)

    def _settled(self, tx: Tx, service_id: str) -> bool:
        self.outbox.settle(tx, service_id)
        row = tx.service(service_id)
        return row is None or row.settled or not row.document.tombstone

    def post_tombstones(self, tx: Tx, ctx: Context, service_id: str) -> list[str]:
        """To every site that was ever asked and is not clean; returns them."""
        sites = [m.site for m in tx.members(service_id) if not m.clean and m.site != self.here.name]
        self.outbox.post(tx, ctx, service_id, sites, "tombstone")
        return sites

    def entomb(self, tx: Tx, row: ServiceRow, fault: DiminetError | None = None) -> None:
        status = ProvisioningStatus.REVOKED if fault else ProvisioningStatus.PENDING_DELETE
        tx.save_service(
            row.model_copy(
                update={
                    "document": row.document.model_copy(update={"tombstone": True}),
                    "status": status,
                    "applied": None,
                    "fault": fault.as_dict() if fault else row.fault,
                    "updated_at": self.here.clock.now(),
                }
            ),
            expect=row.document.pair,
        )

    async def _deliver(self, service_id: str, sites: Sequence[str], *, own: bool = False) -> tuple[str, ...]:
        """Send what is posted for this service now, within the undo share; the rest goes on later."""
        posted = await self.here.store.read(lambda tx: tx.outbox(service_id=service_id))
        rows = [row for row in posted if row.peer in sites]
        limits = self.here.limits
        deadline = self.here.clock.now() + limits.request_timeout * limits.undo_share
        works = [self.outbox.deliver(row, deadline) for row in rows]
        if own:
            works.append(self._own_part(service_id))
        await asyncio.gather(*works)
        left = await self.here.store.read(lambda tx: tx.outbox(service_id=service_id))
        return tuple(sorted({row.peer for row in left if row.kind != "abort"}))

    async def _own_part(self, service_id: str) -> DiminetError | None:
        try:
            await self.participant.reconciler.realise(service_id)
        except DiminetError as error:
            return error
        return None
