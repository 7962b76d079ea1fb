"""The master's side of a modify, a join, a leave: the next revision of a document.

As a create (see `coordinator`), with the document before it to go back to. Only a change that adds a
network reserves, at all members then, so that two changes that meet anywhere are put in order.
"""

import asyncio
from collections.abc import Sequence, Set

from diminet.engine.coordinator import Coordinator
from diminet.engine.instance import Instance
from diminet.engine.pools import Pools
from diminet.engine.ports import IntentRow, Refusal, ServiceRow, Tx
from diminet.engine.reserving import for_good
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
from diminet.logic.lifecycle import back_off
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
            waiting = await self.coordinator.undoing.bury(ctx, service_id)
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
        same = entries == entries_of(document) and all(getattr(document, f) == v for f, v in fields.items())
        if not same:
            await self.write(ctx, document, entries, fields, change.operation)
        answer = await self._answer(service_id)
        if answer.document is not None and any(m.deferred for m in answer.document.members):
            self.here.later(self._complete_now(ctx, service_id))
        return answer

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
        *,
        asked: Set[str] = frozenset(),
    ) -> None:
        """Make the next revision with these entries and fields, and spread it. asked: deferred sites
        that are to be taken in; the others are left alone."""
        here, master = self.here, self.coordinator
        started = here.clock.now()
        ctx = ctx.model_copy(update={"deadline": started + master.forward()})
        for site in sorted({e.site for e in entries} - {m.site for m in before.members}):
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
            got, away = dict[str, Reservation](), list[str]()
            try:
                got, away = await self._reserve(ctx, intent, before, entries, asked)
                await self._commit(ctx, intent, before, entries, fields, got, away)
            except DiminetError as error:
                untold = [*away, *await master.reserving.release(ctx, got)]
                await master.undoing.drop_intent(ctx, intent, error, untold)
                raise
            await master.spreading.spread(ctx, intent)
        finally:
            master.running.discard(before.service_id)

    async def _reserve(
        self,
        ctx: Context,
        intent: IntentRow,
        before: Document,
        entries: tuple[Entry, ...],
        asked: Set[str],
    ) -> tuple[dict[str, Reservation], list[str]]:
        known = {e.key for e in entries_of(before)}
        new = {e.site for e in entries if e.key not in known} | asked
        waiting = {m.site for m in before.members if m.deferred} - new
        if not new:
            return {}, sorted(waiting)
        own = await self.coordinator.own(entries, before.project_id)
        kind = self.here.type_of(before.type)
        draft = self._draft(before, (), entries, {})
        wanted = kind.wanted(own, before.params, before)
        requests = {
            site: self.coordinator.reserve_request(
                intent, before.project_id, before.type, before.name, draft, wanted, site
            )
            for site in dict.fromkeys(e.site for e in entries)
            if site not in waiting
        }
        defer = intent.on_unreachable == "defer" or bool(asked)
        got, away = await self.coordinator.reserving.all(ctx, requests, defer=defer)
        if asked and not asked & got.keys():
            await self.coordinator.reserving.release(ctx, got)
            raise SiteUnreachable(f"sites {', '.join(sorted(asked))} do not answer", sites=sorted(asked))
        return got, [*away, *sorted(waiting)]

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
            posted = tx.outbox(service_id=service_id)
            waiting = sorted({o.peer for o in posted if o.kind != "abort"})
            confirmed = row is not None and row.confirmed == row.document.pair
            return ChangeAnswer(
                document=row.document if row else None, confirmed=confirmed, waiting=tuple(waiting)
            )

        return await self.here.store.read(look)

    # -- deferred sites ------------------------------------------------------------------------------

    async def complete(self, ctx: Context, row: ServiceRow, sites: Set[str]) -> None:
        """Ask sites again that were away when the service was made. What they refuse for good is the
        service's fault until it changes, and they are asked later and later."""
        document = row.document
        if document.service_id in self.coordinator.running:
            return
        try:
            await self.write(ctx, document, entries_of(document), {}, "complete", asked=sites)
        except DiminetError as error:
            refusal = error
            if for_good(refusal):
                await self.here.store.write(lambda tx: self._note_refusal(tx, row, sites, refusal))
                await self.here.tell_news()
            raise

    def _note_refusal(self, tx: Tx, row: ServiceRow, sites: Set[str], error: DiminetError) -> None:
        current = tx.service(row.document.service_id)
        if current is None or current.document.tombstone:
            return
        limits, now = self.here.limits, self.here.clock.now()
        refusals = dict(row.refusals)
        for site in sorted(sites & set(error.sites) or sites):
            attempts = refusals[site].attempts + 1 if site in refusals else 0
            most = limits.refusal_backoff_most
            wait = back_off(attempts, limits.sync_interval, most, self.here.clock.random())
            refusals[site] = Refusal(message=error.message, attempts=attempts, next_at=now + wait)
        fault = {"code": error.code, "message": error.message, "sites": list(error.sites or sorted(sites))}
        tx.save_service(
            current.model_copy(update={"fault": fault, "refusals": refusals}), expect=current.document.pair
        )

    async def _complete_now(self, ctx: Context, service_id: str) -> None:
        """Behind a user's request: who has said no may decide otherwise by what this user shows them."""
        row = await self.here.store.read(lambda tx: tx.service(service_id))
        if row is None or row.document.tombstone:
            return
        back = await self.back({m.site for m in row.document.members if m.deferred})
        if back:
            await self.complete(ctx, row, back)

    async def back(self, sites: Set[str]) -> set[str]:
        """Those of the sites that answer; each is asked once, side by side."""
        ctx = self.here.context()

        async def answers(site: str) -> bool:
            try:
                await self.here.peers.at(site).hello(ctx)
            except DiminetError:
                return False
            return True

        asked = sorted(sites)
        found = await asyncio.gather(*(answers(site) for site in asked))
        return {site for site, there in zip(asked, found, strict=True) if there}
