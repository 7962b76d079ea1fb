"""A member that is cut off from its master leaves a service at once; the master learns of it later.

It is durable before anything is taken down: from then on no document with our join number takes us in
again. The master hears of it with the answer to its next letter (`MemberState.left`), and goes on without us.
"""

import structlog

from diminet.engine import fence
from diminet.engine.instance import Instance
from diminet.engine.participant import Participant
from diminet.engine.ports import ServiceRow, Tx
from diminet.errors import DiminetError, ResourceBusy, RevisionConflict, ServiceNotFound
from diminet.logic.lifecycle import without
from diminet.messages import Change, ChangeAnswer, Context
from diminet.model import Document

log = structlog.get_logger()


class Detaching:
    def __init__(self, here: Instance, participant: Participant) -> None:
        self.here = here
        self.participant = participant

    def leaves_here(self, document: Document, change: Change) -> bool:
        """Is it this site that would leave, with all that it has in the service?"""
        entry = change.entry
        if change.operation != "leave" or entry is None or entry.site != self.here.name:
            return False
        return all(entry.resource_id in (None, r.resource_id) for r in document.resources_of(self.here.name))

    async def detach(self, ctx: Context, row: ServiceRow) -> ChangeAnswer:
        """The master is away: we leave now, and it learns of it when it is back."""
        service_id, document = row.document.service_id, row.document

        def decide(tx: Tx) -> None:
            fence.refuse(self.here, tx, service_id)
            current = tx.service(service_id)
            if current is None or current.left is not None or current.document.tombstone:
                raise ServiceNotFound(f"there is no service {service_id} at site {self.here.name}")
            if current.document.pair != document.pair:
                raise RevisionConflict("the service was changed meanwhile; read it again and repeat")
            if tx.intent(service_id) is not None:
                raise ResourceBusy("the service is being taken over here; try again in a moment")
            self.participant.leave(tx, ctx, current, document)

        await self.here.store.write(decide)
        try:
            await self.participant.reconciler.realise(service_id)
        except DiminetError as error:
            log.warning("detach", service=service_id, code=error.code, message=error.message)
        left = without(document, self.here.name, self.here.clock.now())
        return ChangeAnswer(document=left, waiting=(document.master,))
