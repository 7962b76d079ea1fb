"""The master's side of a request. Read this file for *create*.

    intent written ─▶ all sites reserve, side by side ─▶ `logic` decides ─▶ document written: the commit
      │ crash: buried      │ refused: released                                  │ crash: resumed
      ▼                    ▼                                                    ▼
    nothing anywhere     nothing anywhere         sent to all, own part made ─▶ active: answered
                                                    │ refused, or away and `revoke`
                                                    ▼
                                                  tombstone (create) or the document before (change)

One operation per service at a time: its intent row. Only a delete pre-empts.
"""

from collections.abc import Callable, Mapping, Sequence

import structlog

from diminet.engine import fence
from diminet.engine.following import within_promise
from diminet.engine.instance import Instance
from diminet.engine.outbox import Outbox
from diminet.engine.participant import Participant
from diminet.engine.ports import HeldBlock, IntentRow, MemberRow, Tx
from diminet.engine.reserving import Reserving
from diminet.engine.spreading import Spreading
from diminet.engine.undoing import Undoing
from diminet.errors import (
    DiminetError,
    QuotaExceeded,
    ResourceBusy,
    RevisionConflict,
    ServiceNotFound,
    SiteUnreachable,
)
from diminet.logic import identifiers
from diminet.logic.service_type import Draft
from diminet.messages import Context, CreateRequest, Reservation, ReserveRequest
from diminet.model import (
    Block,
    Document,
    Entry,
    Epoch,
    Member,
    NetworkFacts,
    Ticket,
)

log = structlog.get_logger()


class Coordinator:
    def __init__(
        self, here: Instance, participant: Participant, reserving: Reserving, outbox: Outbox
    ) -> None:
        self.here = here
        self.participant = participant
        self.reserving = reserving
        self.outbox = outbox
        self.serial = 0
        self.running: set[str] = set()  # services whose operation runs in this process
        self.undoing = Undoing(here, participant, outbox)
        self.spreading = Spreading(here, participant, outbox, self.undoing, self.running)
        self.process = here.clock.uuid()

    # -- create ------------------------------------------------------------------------------------

    async def create(
        self,
        ctx: Context,
        project_id: str,
        request: CreateRequest,
        service_id: str,
        *,
        wait: bool,
        admit: Callable[[Tx], None],
    ) -> None:
        """Make the service, or raise and leave nothing. wait False: returns after the commit.

        admit: what has to hold in the transaction that begins the operation; raises otherwise."""
        here = self.here
        started = here.clock.now()
        ctx = ctx.model_copy(update={"deadline": started + self.forward()})
        kind = here.type_of(request.type)
        params = kind.check(request.resources, request.params, here.name)
        sites = tuple(dict.fromkeys(e.site for e in request.resources))
        for site in sites:
            await here.directory.site(site)
        own = await self.own(request.resources, project_id) if kind.uses_blocks else []
        wanted = kind.wanted(own, params, None)
        intent = IntentRow(
            service_id=service_id,
            operation="create",
            sites=sites,
            ticket=self.ticket(),
            deadline=started + here.limits.request_timeout,
            initiator=ctx.initiator,
            request_id=ctx.request_id,
            on_unreachable=request.on_unreachable,
            holder=self.process,
        )

        def begin(tx: Tx) -> None:
            admit(tx)
            self.begin(tx, ctx, intent, project_id)

        goes_on = False
        self.running.add(service_id)
        try:
            await here.store.write(begin)
            here.meter.create_step("intent", here.clock.now() - started)
            await self._create(ctx, intent, project_id, request, params, wanted, wait=wait)
            goes_on = not wait
        finally:
            if not goes_on:
                self.running.discard(service_id)

    async def _create(
        self,
        ctx: Context,
        intent: IntentRow,
        project_id: str,
        request: CreateRequest,
        params: dict[str, object],
        wanted: dict[str, object],
        *,
        wait: bool,
    ) -> None:
        here, service_id = self.here, intent.service_id
        draft = Draft(
            service_id=service_id,
            master=here.name,
            members=(),
            entries=request.resources,
            params=params,
            reservations={},
        )
        asked = {
            site: self.reserve_request(intent, project_id, request.type, request.name, draft, wanted, site)
            for site in intent.sites
        }
        clock, got, away = here.clock.now(), dict[str, Reservation](), list[str]()
        try:
            got, away = await self.reserving.all(ctx, asked, defer=request.on_unreachable == "defer")
            if here.name in away or len(got) < 1:
                raise SiteUnreachable(f"site {here.name} cannot use its own VIM", sites=[here.name])
            here.meter.create_step("reserve", here.clock.now() - clock)
            clock = here.clock.now()
            await self._commit_create(ctx, intent, project_id, request, draft, got, away)
            here.meter.create_step("commit", here.clock.now() - clock)
        except DiminetError as error:
            silent = (*away, *await self.reserving.release(ctx, got))
            await self.undoing.give_up(ctx, intent, error, silent)
            raise
        if wait:
            await self.spreading.spread(ctx, intent)
        else:
            here.later(self.spreading.spread_behind(ctx, intent))

    async def own(self, entries: Sequence[Entry], project_id: str) -> list[NetworkFacts]:
        """Our own networks among the entries, as the VIM has them now."""
        ids = [e.resource_id for e in entries if e.site == self.here.name and e.resource_id]
        return [await self.participant.reservations.theirs(i, project_id) for i in ids]

    def forward(self) -> float:
        limits = self.here.limits
        return limits.request_timeout * (1 - limits.undo_share)

    def ticket(self) -> Ticket:
        self.serial += 1
        return Ticket(int(self.here.clock.now() * 1000), self.here.number, self.serial)

    def begin(self, tx: Tx, ctx: Context, intent: IntentRow, project_id: str) -> None:
        if intent.before is None:
            fence.refuse_new(self.here, tx)
        elif intent.operation != "takeover":
            fence.refuse(self.here, tx, intent.service_id)
        if intent.before is not None:
            row = tx.service(intent.service_id)
            if row is None or row.document.tombstone:
                raise ServiceNotFound(f"service {intent.service_id} was deleted meanwhile")
            if row.document.pair != intent.before.pair:
                raise RevisionConflict("the service was changed meanwhile; read it again and repeat")
            if intent.operation != "takeover":
                within_promise(self.here, row.promised, row.document)
        if not tx.add_intent(intent):
            raise ResourceBusy(
                f"service {intent.service_id} is being changed; try again in a moment", retry_after=1.0
            )
        tx.add_event(
            self.here.event(
                f"{intent.operation}-asked", ctx, intent.service_id, project_id, sites=list(intent.sites)
            )
        )

    def reserve_request(
        self,
        intent: IntentRow,
        project_id: str,
        type_name: str,
        name: str,
        draft: Draft,
        wanted: dict[str, object],
        site: str,
    ) -> ReserveRequest:
        return ReserveRequest(
            service_id=intent.service_id,
            type=type_name,
            project_id=project_id,
            ticket=intent.ticket,
            lifetime=self.here.limits.reservation_lifetime,
            entries=tuple(e for e in draft.entries if e.site == site),
            members=tuple(dict.fromkeys(e.site for e in draft.entries)),
            name=name,
            params=draft.params,
            wanted=wanted,
        )

    async def _commit_create(
        self,
        ctx: Context,
        intent: IntentRow,
        project_id: str,
        request: CreateRequest,
        draft: Draft,
        got: dict[str, Reservation],
        away: Sequence[str],
    ) -> None:
        here = self.here
        members = await self.members_of(None, draft.entries, got, away)
        draft = draft.model_copy(update={"members": members, "reservations": got})
        decision = here.type_of(request.type).decide(draft)
        now = here.clock.now()

        def decide(tx: Tx) -> None:
            self._within_quota(tx, project_id)
            self.still_promised(tx, got)
            k = tx.take_identifier(intent.service_id, here.limits.vni_k_first, here.limits.vni_k_last)
            document = Document(
                service_id=intent.service_id,
                epoch=Epoch(1, here.number),
                revision=1,
                type=request.type,
                project_id=project_id,
                name=request.name,
                description=request.description,
                tags=request.tags,
                on_unreachable=request.on_unreachable,
                members=members,
                resources=decision.resources,
                params=decision.params,
                identifiers=identifiers.mint(here.number, k, here.asn),
                initiator=intent.initiator,
                created_at=now,
                updated_at=now,
            )
            self.still_ours(tx, intent)
            self.participant.accept(tx, ctx, document, decision.blocks)
            self.expect_members(tx, document, intent.sites)

        await here.store.write(decide)

    def _within_quota(self, tx: Tx, project_id: str) -> None:
        """Looked at with the commit: of several creates at once, only as many as fit get through."""
        most = self.here.limits.services_per_project
        if tx.count_services(project_id) >= most:
            raise QuotaExceeded(f"the project has {most} services at this site, its quota: delete one first")

    def still_promised(self, tx: Tx, got: Mapping[str, Reservation]) -> None:
        """Our own networks are as they were when they were looked at: the promise has not run out."""
        mine, now = got.get(self.here.name), self.here.clock.now()
        rows = tx.reservation(mine.rid) if mine else []
        if mine and (not rows or any(row.expires_at <= now for row in rows)):
            raise ResourceBusy(
                f"site {self.here.name} took too long and no longer keeps its networks; try again",
                sites=[self.here.name],
                retry_after=1.0,
            )

    def still_ours(self, tx: Tx, intent: IntentRow) -> None:
        """A delete, or another master, has pre-empted us if our intent is gone."""
        if not self.undoing.holds(tx, intent):
            raise ServiceNotFound(f"service {intent.service_id} was deleted or taken over meanwhile")

    def expect_members(self, tx: Tx, document: Document, sites: Sequence[str]) -> None:
        """A row for every other site that was ever asked: whom a tombstone must reach."""
        known = {m.site for m in tx.members(document.service_id) if not m.clean}
        for site in {*sites, *(m.site for m in document.members)} - known - {self.here.name}:
            tx.save_member(MemberRow(service_id=document.service_id, site=site))

    async def members_of(
        self,
        before: Document | None,
        entries: Sequence[Entry],
        got: dict[str, Reservation],
        away: Sequence[str],
    ) -> tuple[Member, ...]:
        """The members as they are to be: known ones keep slot and join number, new ones get them."""
        known = {m.site: m for m in before.members} if before else {}
        joins = before.departed if before else {}
        names = list(dict.fromkeys(e.site for e in entries))
        new = [name for name in names if name not in known]
        slots = dict(
            zip(new, identifiers.free_slots({m.slot for m in known.values()}, len(new)), strict=True)
        )
        members: list[Member] = []
        for name in names:
            old, promise = known.get(name), got.get(name)
            site = await self.here.directory.site(name)
            members.append(
                Member(
                    site=name,
                    number=site.number,
                    slot=old.slot if old else slots[name],
                    join=self._join(old, joins.get(name, 0), promise.left if promise else 0),
                    rid=promise.rid if promise else (old.rid if old else None),
                    vtep=promise.capabilities.vtep if promise else (old.vtep if old else None),
                    deferred=name in away,
                    wanted=tuple(e for e in entries if e.site == name) if name in away else (),
                )
            )
        return tuple(members)

    @staticmethod
    def _join(old: Member | None, departed: int, left: int) -> int:
        """left: as the site itself has told; it may have left by itself, or under another master."""
        return max(old.join, left + 1) if old else max(departed, left) + 1

    def give(self, tx: Tx, service_id: str, gives: Sequence[Block]) -> None:
        """Blocks of our own whose next version we write because of a change."""
        tx.put_blocks(service_id, [HeldBlock(block=block) for block in gives])
