"""Documents that a member refuses for good, behind the answer: the master writes one that can stand.

A member speaks for its own networks only. One that has nothing of the service yet is put off, as if it
had been away (`defer`), and is asked anew; of any other the networks that it cannot have in the service
leave it, and the service tells why (`fault`).
"""

from typing import Any

from diminet.engine.coordinator import Coordinator
from diminet.engine.instance import Instance
from diminet.engine.ports import OutboxRow, ServiceRow, Tx
from diminet.errors import DiminetError
from diminet.messages import Context
from diminet.model import Document, Entry, ProvisioningStatus


class Refusals:
    def __init__(self, here: Instance, coordinator: Coordinator) -> None:
        self.here = here
        self.coordinator = coordinator

    async def settle(self) -> None:
        """One round over what members have refused often enough (`Limits.refusals`)."""
        most = self.here.limits.refusals

        def look(tx: Tx) -> list[tuple[ServiceRow, OutboxRow]]:
            refused = [o for o in tx.outbox(refusals=most) if o.kind == "document"]
            found = [(tx.service(o.service_id), o) for o in refused]
            return [(row, o) for row, o in found if row is not None]

        for row, posted in await self.here.store.read(look):
            try:
                await self._settle_one(row, posted)
            except DiminetError:
                continue  # being changed: at the next interval

    async def _settle_one(self, row: ServiceRow, posted: OutboxRow) -> None:
        here, service_id = self.here, posted.service_id
        ctx = Context(request_id=posted.request_id, initiator=row.document.initiator)
        if await here.store.write(lambda tx: self._decide(tx, ctx, row.document, posted)):
            await here.tell_news()
            await self.coordinator.participant.reconciler.realise(service_id)

    def _decide(self, tx: Tx, ctx: Context, before: Document, posted: OutboxRow) -> bool:
        service_id, master, site = before.service_id, self.coordinator, posted.peer
        if before.epoch.site != self.here.number:
            tx.unpost(posted)  # taken over meanwhile
            return False
        if tx.intent(service_id) is not None or service_id in master.running or before.tombstone:
            return False
        known = next((m for m in tx.members(service_id) if m.site == site), None)
        new_there = known is None or known.pair is None
        document = self._put_off(before, site) if new_there else self._without(before, posted)
        if document is None:
            return False
        tx.unpost(posted)
        row = master.participant.accept(tx, ctx, document, (), ProvisioningStatus.ACTIVE)
        sites = [m.site for m in document.members]  # the answer of who is put off: nothing of ours is there
        why: dict[str, Any] = {"member": site, "code": posted.code, "why": posted.refused}
        if new_there:
            tx.add_event(self.here.event("put-off", ctx, service_id, before.project_id, **why))
        else:
            sites.append(site)
            fault = {"code": posted.code, "message": posted.refused, "sites": [site]}
            tx.save_service(row.model_copy(update={"fault": fault}), expect=document.pair)
            why["networks"] = list(posted.networks)
            tx.add_event(self.here.event("taken-out", ctx, service_id, before.project_id, **why))
        master.outbox.post(tx, ctx, service_id, list(dict.fromkeys(sites)), "document")
        return True

    def _put_off(self, before: Document, site: str) -> Document | None:
        """A member of a `defer` service that was away when its first document went out and no longer
        keeps its networks becomes a deferred one, with what it was to join."""
        old = before.member(site)
        if old is None or old.deferred or before.on_unreachable != "defer":
            return None
        wanted = tuple(
            Entry(site=site, resource_id=None if r.made else r.resource_id) for r in before.resources_of(site)
        )
        waiting = old.model_copy(update={"deferred": True, "rid": None, "wanted": wanted})
        return before.model_copy(
            update={
                "revision": before.revision + 1,
                "members": tuple(waiting if m.site == site else m for m in before.members),
                "resources": tuple(r for r in before.resources if r.site != site),
                "updated_at": self.here.clock.now(),
            }
        )

    def _without(self, before: Document, posted: OutboxRow) -> Document | None:
        """Less the networks of that member that stand against it; it leaves if it has no other."""
        out = {(posted.peer, network_id) for network_id in posted.networks}
        kept = tuple(r for r in before.resources if (r.site, r.resource_id) not in out)
        if len(kept) == len(before.resources):
            return None
        stays = any(r.site == posted.peer for r in kept)
        gone = {m.site: m.join for m in before.members if m.site == posted.peer and not stays}
        return before.model_copy(
            update={
                "revision": before.revision + 1,
                "members": tuple(m for m in before.members if m.site not in gone),
                "resources": kept,
                "departed": {**before.departed, **gone},
                "updated_at": self.here.clock.now(),
            }
        )
