"""The master's side of a modify, a join, a leave: the next revision of a document.

As a create (see `coordinator`), with the document before it to go back to. Only a change that adds a
network reserves, at all members then, so that two changes that meet anywhere are put in order.
"""

from collections.abc import Sequence

from diminet.engine.coordinator import Coordinator
from diminet.engine.instance import Instance
from diminet.engine.pools import Pools
from diminet.engine.ports import IntentRow, Tx
from diminet.errors import (
    DiminetError,
    InvalidRequest,
    NetworkNotFound,
    NotAuthorised,
    QuotaExceeded,
    ResourceBusy,
    RevisionConflict,
    ServiceNotFound,
    SiteUnreachable,
)
from diminet.logic.blocks import in_use
from diminet.logic.service_type import Decision, Draft
from diminet.messages import Change, ChangeAnswer, Context, Reservation
from diminet.model import Document, Entry, Member

KEPT = ("name", "description", "tags", "on_unreachable")


def entries_of(document: Document) -> tuple[Entry, ...]:
    """What the tenant has asked for so far, deferred sites included."""
    joined = tuple(Entry(site=r.site, resource_id=r.resource_id) for r in document.resources)
    waiting = tuple(e for m in document.members if m.deferred for e in m.wanted)
    return joined + waiting


class Changes:
    def __init__(self, here: Instance, coordinator: Coordinator, pools: Pools) -> None:
        self.here = here
        self.coordinator = coordinator
        self.pools = pools

    async def apply(self, ctx: Context, service_id: str, change: Change) -> ChangeAnswer:
        """Raises ServiceNotFound, NotAuthorised, RevisionConflict, ResourceBusy and what the type or
        a site refuses; the service then is as it was."""
        row = await self.here.store.read(lambda tx: tx.service(service_id))
        if row is None or (row.document.tombstone and row.settled):
            raise ServiceNotFound(f"there is no service {service_id}")
        self._may(ctx, row.document, change)
        if change.if_match not in (None, "*", row.document.pair.etag()):
            raise RevisionConflict("the service has changed since you read it; read it again and repeat")
        if change.operation == "delete":
            waiting = await self.coordinator.bury(ctx, service_id)
            return ChangeAnswer(document=row.document if waiting else None, waiting=waiting)
        document = row.document
        if document.tombstone:
            raise ServiceNotFound(f"service {service_id} is being deleted")
        entries = self._entries(document, change)
        fields = self._fields(change)
        self.here.type_of(document.type).check_change(entries)
        most = self.here.limits.members_per_service
        if len({e.site for e in entries}) > max(most, len(document.members)):
            raise QuotaExceeded(f"a service has at most {most} members: make a second one, or remove sites")
        if entries == entries_of(document) and all(getattr(document, f) == v for f, v in fields.items()):
            return ChangeAnswer(document=document)
        await self.write(ctx, document, entries, fields, change.operation)
        return await self._answer(service_id)

    @staticmethod
    def _fields(change: Change) -> dict[str, object]:
        """What else is to change: by a join or leave nothing, since a site that joins has no other say."""
        if change.operation != "modify":
            return {}
        return {f: getattr(change, f) for f in KEPT if getattr(change, f) is not None}

    def _may(self, ctx: Context, document: Document, change: Change) -> None:
        if document.epoch.site != self.here.number:
            raise NotAuthorised(f"site {self.here.name} is not the master of this service")
        if ctx.initiator.project_id != document.project_id:
            raise ServiceNotFound(f"there is no service {document.service_id}")
        joining = change.operation == "join" and change.entry is not None and change.entry.site == ctx.sender
        if ctx.sender is not None and document.member(ctx.sender) is None and not joining:
            raise ServiceNotFound(f"there is no service {document.service_id}")

    def _entries(self, document: Document, change: Change) -> tuple[Entry, ...]:
        """The whole list as it is to be. A member's network named without id stays what it is."""
        now = entries_of(document)
        if change.operation == "join":
            if change.entry is None:
                raise InvalidRequest("a join names one entry")
            return now if self._has(now, change.entry) else (*now, change.entry)
        if change.operation == "leave":
            return self._without(document, now, change.entry)
        if change.resources is None:
            return now
        wished = [
            next((e for e in now if e.site == wish.site), wish) if wish.resource_id is None else wish
            for wish in change.resources
        ]
        return self._checked(document, tuple(dict.fromkeys(wished)))

    @staticmethod
    def _has(entries: Sequence[Entry], entry: Entry) -> bool:
        return any(e.site == entry.site and entry.resource_id in (None, e.resource_id) for e in entries)

    def _without(self, document: Document, now: Sequence[Entry], entry: Entry | None) -> tuple[Entry, ...]:
        if entry is None or not self._has(now, entry):
            raise NetworkNotFound("the service has no such entry; show it to see what it joins")
        kept = tuple(
            e for e in now if not (e.site == entry.site and entry.resource_id in (None, e.resource_id))
        )
        return self._checked(document, kept)

    def _checked(self, document: Document, entries: tuple[Entry, ...]) -> tuple[Entry, ...]:
        if not any(e.site == document.master for e in entries):
            raise InvalidRequest(
                f"site {document.master} is the master of this service and cannot leave it; delete the "
                "service, or take it over at another site first"
            )
        return entries

    async def write(
        self,
        ctx: Context,
        before: Document,
        entries: tuple[Entry, ...],
        fields: dict[str, object],
        operation: str,
    ) -> None:
        """Make the next revision with these entries and fields, and spread it."""
        here, master = self.here, self.coordinator
        started = here.clock.now()
        ctx = ctx.model_copy(update={"deadline": started + master.forward()})
        for site in {e.site for e in entries} - {m.site for m in before.members}:
            await here.directory.site(site)
        policy = str(fields.get("on_unreachable", before.on_unreachable))
        intent = IntentRow(
            service_id=before.service_id,
            operation=operation,
            sites=tuple(dict.fromkeys([e.site for e in entries] + [m.site for m in before.members])),
            ticket=master.ticket(),
            deadline=started + here.limits.request_timeout,
            initiator=ctx.initiator,
            request_id=ctx.request_id,
            on_unreachable=policy,
            before=before,
            holder=master.process,
        )
        if before.service_id in master.running:
            raise ResourceBusy("the service is being changed; try again in a moment", retry_after=1.0)
        master.running.add(before.service_id)
        try:
            await here.store.write(lambda tx: master.begin(tx, ctx, intent, before.project_id))
            got: dict[str, Reservation] = {}
            try:
                got, away = await self._reserve(ctx, intent, before, entries)
                await self._commit(ctx, intent, before, entries, fields, got, away)
            except DiminetError as error:
                await master.reserving.release(ctx, got)
                await master.drop_intent(ctx, intent, error)
                raise
            await master.spread(ctx, intent)
        finally:
            master.running.discard(before.service_id)

    async def _reserve(
        self, ctx: Context, intent: IntentRow, before: Document, entries: tuple[Entry, ...]
    ) -> tuple[dict[str, Reservation], list[str]]:
        joined = {(r.site, r.resource_id) for r in before.resources}
        fresh = [e for e in entries if e.key not in joined]
        if not fresh:
            return {}, [m.site for m in before.members if m.deferred]
        own = await self.coordinator.own(entries, before.project_id)
        kind = self.here.type_of(before.type)
        draft = self._draft(before, (), entries, {})
        wanted = kind.wanted(own, before.params, before)
        asked = {
            site: self.coordinator.reserve_request(
                intent, before.project_id, before.type, before.name, draft, wanted, site
            )
            for site in dict.fromkeys(e.site for e in entries)
        }
        return await self.coordinator.reserving.all(ctx, asked, defer=intent.on_unreachable == "defer")

    def _draft(
        self,
        before: Document,
        members: tuple[Member, ...],
        entries: tuple[Entry, ...],
        got: dict[str, Reservation],
    ) -> Draft:
        return Draft(
            service_id=before.service_id,
            master=self.here.name,
            members=members,
            entries=entries,
            params=before.params,
            reservations=got,
            before=before,
        )

    async def _commit(
        self,
        ctx: Context,
        intent: IntentRow,
        before: Document,
        entries: tuple[Entry, ...],
        fields: dict[str, object],
        got: dict[str, Reservation],
        away: Sequence[str],
    ) -> None:
        held_before = {m.site for m in before.members if not m.deferred}
        if set(away) & held_before:
            sites = sorted(set(away) & held_before)
            raise SiteUnreachable(
                f"members {', '.join(sites)} do not answer, so nothing can be added now; try again later",
                sites=sites,
                retry_after=5.0,
            )
        members = await self.coordinator.members_of(before, entries, got, away)
        staying = {m.site for m in members}
        gone = {m.site: m.join for m in before.members if m.site not in staying}
        draft = self._draft(before, members, entries, got)
        kind = self.here.type_of(before.type)

        def decide(tx: Tx) -> None:
            held = tx.blocks(before.service_id)
            spare = [
                h.block
                for h in held
                if h.block.owner == self.here.name
                and not h.pooled
                and not in_use(h.block, kind.block_size(before, h.block.cidr), used)
            ]
            decision: Decision = kind.decide(
                draft.model_copy(update={"blocks": tuple(h.block for h in held), "spare": tuple(spare)})
            )
            self.coordinator.still_ours(tx, intent)
            self.coordinator.still_promised(tx, got)
            document = before.model_copy(
                update={
                    **fields,
                    "revision": before.revision + 1,
                    "members": members,
                    "resources": decision.resources,
                    "params": decision.params,
                    "departed": {**before.departed, **gone},
                    "updated_at": self.here.clock.now(),
                }
            )
            self.coordinator.participant.accept(tx, ctx, document, ())
            self.coordinator.give(tx, before.service_id, decision.gives)
            self.coordinator.expect_members(tx, document, intent.sites)

        # Not while a block is on its way out of the pool: written as spare, the VIM not told yet.
        async with self.here.locks[f"give {before.service_id}"]:
            used = await self.pools.at_rest(before) if kind.uses_blocks and got else []
            await self.here.store.write(decide)

    async def _answer(self, service_id: str) -> ChangeAnswer:
        def look(tx: Tx) -> ChangeAnswer:
            row = tx.service(service_id)
            waiting = sorted({o.peer for o in tx.outbox(service_id=service_id)})
            return ChangeAnswer(document=row.document if row else None, waiting=tuple(waiting))

        return await self.here.store.read(look)

    # -- deferred sites ------------------------------------------------------------------------------

    async def complete_deferred(self, ctx: Context, document: Document) -> None:
        """Ask again the sites that were away when the service was made."""
        if not any(m.deferred for m in document.members) or document.service_id in self.coordinator.running:
            return
        await self.write(ctx, document, entries_of(document), {}, "complete")
