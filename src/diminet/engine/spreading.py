"""After the commit: the document goes to every member, our own part is made, the operation is concluded
or taken back (see the picture in `coordinator`)."""

import asyncio
from collections.abc import Sequence

from diminet.engine.instance import Instance
from diminet.engine.outbox import Outbox
from diminet.engine.participant import Participant
from diminet.engine.ports import IntentRow, ServiceRow, Tx
from diminet.engine.reserving import worst
from diminet.engine.undoing import Undoing
from diminet.errors import DiminetError, RevisionConflict, ServiceNotFound, SiteUnreachable
from diminet.messages import Context, MemberState
from diminet.model import Document, ProvisioningStatus


class Spreading:
    """running: services whose operation runs in this process; what goes on behind an answer ends here."""

    def __init__(
        self, here: Instance, participant: Participant, outbox: Outbox, undoing: Undoing, running: set[str]
    ) -> None:
        self.here = here
        self.participant = participant
        self.outbox = outbox
        self.undoing = undoing
        self.running = running

    async def spread_behind(self, ctx: Context, intent: IntentRow) -> None:
        try:
            await self.spread(ctx, intent)
        except DiminetError:
            return  # told by the service's own status and fault
        finally:
            self.running.discard(intent.service_id)

    async def spread(self, ctx: Context, intent: IntentRow) -> None:
        """Send the committed document to all and make our own part; conclude or take back.

        Sites that leave are told last: what they give up cannot be taken back."""
        here, service_id = self.here, intent.service_id
        row = await here.store.read(lambda tx: tx.service(service_id))
        if row is None or row.document.tombstone:
            raise ServiceNotFound(f"service {service_id} was deleted meanwhile")
        document, clock = row.document, here.clock.now()
        sites = [m.site for m in document.members if not m.deferred]
        answers = await asyncio.gather(*(self._tell(ctx, row, site) for site in sites))
        errors = [a for a in answers if isinstance(a, DiminetError)]
        here.meter.create_step("spread", here.clock.now() - clock)
        revoke = document.on_unreachable == "revoke"
        bad = [e for e in errors if revoke or not isinstance(e, SiteUnreachable)]
        if bad:
            await self.undoing.take_back(ctx, intent, document, worst(bad))
            raise worst(bad)
        known = await here.store.read(lambda tx: tx.members(service_id))
        leaving = [m.site for m in known if document.member(m.site) is None and not m.clean]
        answers += await asyncio.gather(*(self._tell(ctx, row, site) for site in leaving))
        states = [a for a in answers if isinstance(a, MemberState)]
        silent = [s for s, a in zip([*sites, *leaving], answers, strict=True) if isinstance(a, DiminetError)]
        await here.store.write(lambda tx: self._conclude(tx, ctx, intent, document, states, silent))
        await here.tell_news()

    async def _tell(self, ctx: Context, row: ServiceRow, site: str) -> MemberState | DiminetError:
        here, service_id = self.here, row.document.service_id
        try:
            if site == here.name:
                await self.participant.reconciler.realise(service_id)
                return await self.participant.states.state(service_id, row.document)
            put = await here.store.read(lambda tx: self.outbox.letter(tx, service_id))
            if put is None:
                raise ServiceNotFound(f"service {service_id} was deleted meanwhile")
            state = await here.peers.at(site).put(ctx, service_id, put)
            return await self.outbox.own_word(site, state)
        except DiminetError as error:
            if not error.sites:
                error.sites = (site,)
            return error

    def _conclude(
        self,
        tx: Tx,
        ctx: Context,
        intent: IntentRow,
        document: Document,
        states: Sequence[MemberState],
        silent: Sequence[str],
    ) -> None:
        row = tx.service(document.service_id)
        if row is None or row.document.tombstone:
            raise ServiceNotFound(f"service {document.service_id} was deleted meanwhile")
        if row.document.epoch != document.epoch:
            raise RevisionConflict(
                f"site {row.document.master} has taken the service over meanwhile; read it again and repeat"
            )
        if not self.undoing.holds(tx, intent) or row.document.pair != document.pair:
            return  # concluded by another process
        tx.delete_intent(document.service_id)
        self.outbox.post(tx, ctx, document.service_id, silent, "document")
        tx.save_service(
            row.model_copy(update={"status": ProvisioningStatus.ACTIVE, "confirmed": document.pair}),
            expect=document.pair,
        )
        for state in states:
            if state.site != self.here.name:
                self.outbox.note(tx, document.service_id, state)
        tx.add_event(
            self.here.event("active", ctx, document.service_id, document.project_id, waiting=list(silent))
        )
