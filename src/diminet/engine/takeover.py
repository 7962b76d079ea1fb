"""A service gets another master, because it agrees or because it is gone (docs/protocol.md, *Takeover*).

    own vote written ─▶ all members asked, side by side ─▶ enough votes: document of the new epoch written
      │ crash: given up                 │ not enough                      │ crash: nothing is left to do
      ▼                                 ▼                                 ▼
    the master goes on, with a      the same                       sent to all by the outbox
    new epoch if it was fenced

A vote is never taken back. Who has been voted against and stands, the master, asks for votes itself
(`renew`), so that a candidate that vanished half-way does not stop the service.
"""

import asyncio
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet

import structlog

from diminet.engine import fence
from diminet.engine.coordinator import Coordinator
from diminet.engine.instance import Instance
from diminet.engine.ports import IntentRow, ServiceRow, Tx
from diminet.errors import (
    DiminetError,
    InvalidRequest,
    NotAuthorised,
    ResourceBusy,
    RevisionConflict,
    ServiceNotFound,
    SiteRefused,
    SiteUnreachable,
)
from diminet.logic import restored
from diminet.logic import takeover as logic
from diminet.logic.takeover import Ballot
from diminet.messages import Context, Vote, VoteRequest
from diminet.model import Document, Epoch, ProvisioningStatus

ATTEMPTS = 3  # with ever higher epochs, where sites have voted for others before

log = structlog.get_logger()


class Takeover:
    def __init__(self, here: Instance, coordinator: Coordinator) -> None:
        self.here = here
        self.coordinator = coordinator
        self.contested: dict[str, Epoch] = {}  # of services that we master: the highest epoch voted for
        self.waited: dict[str, Epoch] = {}  # the same, an interval ago

    # -- being asked ---------------------------------------------------------------------------------

    async def vote(self, ctx: Context, service_id: str, request: VoteRequest) -> Vote:
        """Promise that epoch, durably, unless it or ours is higher. Raises ServiceNotFound, NotAuthorised,
        ResourceBusy while we, the master, are changing the service."""
        candidate = await self.here.directory.site(ctx.sender or self.here.name)
        if candidate.number != request.epoch.site:
            raise NotAuthorised(f"site {candidate.name} claims an epoch of another site")
        vote = await self.here.store.write(lambda tx: self._vote(tx, ctx, service_id, request))
        await self.here.tell_news()
        return vote

    def _vote(self, tx: Tx, ctx: Context, service_id: str, request: VoteRequest) -> Vote:
        here, candidate = self.here, ctx.sender or self.here.name
        row = fence.known(here, tx, service_id)
        if row is None or row.left is not None or row.document.tombstone:
            raise ServiceNotFound(f"site {here.name} has no part in service {service_id}", sites=[here.name])
        held = row.document
        if not restored.is_behind_all(request.epoch, held, row.promised):
            fence.refuse(here, tx, service_id)  # what it has voted for since is forgotten
        ballot = logic.ballot(held, row.promised, candidate, request.epoch, request.pair)
        if ballot is Ballot.STRANGER:
            raise NotAuthorised(f"site {candidate} is not a member of service {service_id}")
        if ballot is Ballot.GRANTED and row.promised != request.epoch:
            if tx.intent(service_id) is not None:
                raise ResourceBusy(
                    f"service {service_id} is being changed at its master; try again in a moment",
                    sites=[here.name],
                    retry_after=1.0,
                )
            row = row.model_copy(update={"promised": request.epoch})
            tx.save_service(row, expect=held.pair)
            told = {"candidate": candidate, "epoch": list(request.epoch)}
            tx.add_event(here.event("voted", ctx, service_id, held.project_id, **told))
        return Vote(site=here.name, granted=ballot is Ballot.GRANTED, pair=held.pair, promised=row.promised)

    # -- asking --------------------------------------------------------------------------------------

    async def run(
        self,
        ctx: Context,
        service_id: str,
        gone: AbstractSet[str] = frozenset(),
        *,
        behind: Epoch | None = None,
        lift: Callable[[Tx], None] | None = None,
    ) -> None:
        """Become the master, or raise and leave the service as it is. gone: sites that an operator has
        declared gone for good. behind: claim a higher epoch than that. lift: done with the commit, of a
        service that is fenced."""
        running = self.coordinator.running
        if service_id in running:
            raise ResourceBusy("the service is being changed; try again in a moment", retry_after=1.0)
        running.add(service_id)
        try:
            known = [e for e in (self.contested.get(service_id), behind) if e is not None]
            seen: Epoch | None = max(known, default=None)
            for _ in range(ATTEMPTS):
                seen = await self._attempt(ctx, service_id, gone, seen, lift)
                if seen is None:
                    await self._spread(ctx, service_id)
                    return
        finally:
            running.discard(service_id)
        raise ResourceBusy("other sites claim the service, too; try again in a moment", retry_after=1.0)

    async def _attempt(
        self,
        ctx: Context,
        service_id: str,
        gone: AbstractSet[str],
        seen: Epoch | None,
        lift: Callable[[Tx], None] | None,
    ) -> Epoch | None:
        """None: we are the master. Else a higher epoch that somebody has voted for."""
        here = self.here

        def begin(tx: Tx) -> tuple[IntentRow, Epoch]:
            if lift is None:
                fence.refuse(here, tx, service_id)
            return self._begin(tx, ctx, service_id, gone, seen)

        def commit(tx: Tx) -> None:
            if lift is not None:
                lift(tx)
            self._commit(tx, ctx, intent, epoch, gone)

        intent, epoch = await here.store.write(begin)
        base = intent.before
        assert base is not None  # of a takeover there always is one
        try:
            votes, errors = await self._ask(ctx, base, epoch)
            if not self._judge(base, votes, errors, gone):
                await here.store.write(lambda tx: tx.delete_intent(service_id))
                return max((v.promised for v in votes if v.promised is not None), default=epoch)
            await here.store.write(commit)
        except DiminetError as error:
            await self.coordinator.undoing.drop_intent(ctx, intent, error)
            raise
        self.contested.pop(service_id, None)
        return None

    def _begin(
        self, tx: Tx, ctx: Context, service_id: str, gone: AbstractSet[str], seen: Epoch | None
    ) -> tuple[IntentRow, Epoch]:
        """Our vote for ourselves, and the operation."""
        here, master = self.here, self.coordinator
        row = tx.service(service_id)
        if row is None or row.left is not None or row.document.tombstone:
            raise ServiceNotFound(f"there is no service {service_id} at site {here.name}")
        document = row.document
        self._may(document, gone)
        epoch = logic.next_epoch([document.epoch, row.promised, seen], here.number)
        intent = IntentRow(
            service_id=service_id,
            operation="takeover",
            sites=tuple(m.site for m in document.members),
            ticket=master.ticket(),
            deadline=here.clock.now() + here.limits.request_timeout,
            initiator=ctx.initiator,
            request_id=ctx.request_id,
            on_unreachable=document.on_unreachable,
            before=document,
            holder=master.process,
        )
        master.begin(tx, ctx, intent, document.project_id)
        tx.save_service(row.model_copy(update={"promised": epoch}), expect=document.pair)
        return intent, epoch

    def _may(self, document: Document, gone: AbstractSet[str]) -> None:
        me = document.member(self.here.name)
        if me is None or me.deferred:
            raise InvalidRequest(
                f"site {self.here.name} has no part in the service yet", sites=[self.here.name]
            )
        strangers = sorted(gone - {m.site for m in document.members}) + sorted(gone & {self.here.name})
        if strangers:
            raise InvalidRequest(
                f"{', '.join(strangers)} cannot be declared gone: name other members of the service",
                sites=strangers,
            )

    async def _ask(
        self, ctx: Context, base: Document, epoch: Epoch
    ) -> tuple[list[Vote], dict[str, DiminetError]]:
        """The votes, and what was answered or not by who gave none; those declared gone are asked, too."""
        here, request = self.here, VoteRequest(epoch=epoch, pair=base.pair)
        deadline = here.clock.now() + self.coordinator.forward()
        ctx = ctx.model_copy(update={"deadline": deadline, "sender": None})

        async def one(site: str) -> Vote | DiminetError:
            try:
                vote = await here.peers.at(site).vote(ctx, base.service_id, request)
                return vote.model_copy(update={"site": site})  # it speaks for itself only
            except DiminetError as error:
                return error

        sites = sorted(logic.voters(base) - {here.name})
        answers = dict(zip(sites, await asyncio.gather(*(one(site) for site in sites)), strict=True))
        votes = [Vote(site=here.name, granted=True, pair=base.pair)]
        votes += [answer for answer in answers.values() if isinstance(answer, Vote)]
        return votes, {s: answer for s, answer in answers.items() if isinstance(answer, DiminetError)}

    def _judge(
        self, base: Document, votes: Sequence[Vote], errors: dict[str, DiminetError], gone: AbstractSet[str]
    ) -> bool:
        """Have we won? False: no, but with a higher epoch we may. Raises why not."""
        away = {site for site, error in errors.items() if isinstance(error, SiteUnreachable)}
        lost = {site for site, error in errors.items() if isinstance(error, ServiceNotFound)}
        back = sorted(gone & ({v.site for v in votes} | (errors.keys() - away - lost)))
        if back:
            raise InvalidRequest(f"{', '.join(back)} answers, so it is not gone", sites=back)
        if base.master in errors.keys() - away - lost:
            raise errors[base.master]
        newer = sorted(v.site for v in votes if v.pair > base.pair)
        if base.master in newer:
            raise ResourceBusy(
                f"site {base.master} has a newer document; try again in a moment", retry_after=1.0
            )
        granted = {v.site for v in votes if v.granted}
        if logic.wins(base, self.here.name, granted, gone):
            return True
        if newer:
            raise SiteRefused(
                f"site {newer[0]} has a newer document of the service; ask it to take over", sites=newer
            )
        if len(granted | {v.site for v in votes}) >= logic.needed(base, gone):
            return False
        raise self._too_few(base, granted, away, gone)

    @staticmethod
    def _too_few(
        base: Document, granted: AbstractSet[str], away: AbstractSet[str], gone: AbstractSet[str]
    ) -> DiminetError:
        sites = sorted(away - gone)
        return SiteUnreachable(
            f"{len(granted)} of {logic.needed(base, gone)} votes that are needed; not reached: "
            f"{', '.join(sites) or 'none'}; try again when they are, or declare gone what is lost for good",
            sites=sites,
        )

    def _commit(self, tx: Tx, ctx: Context, intent: IntentRow, epoch: Epoch, gone: AbstractSet[str]) -> None:
        master, service_id = self.coordinator, intent.service_id
        master.still_ours(tx, intent)
        row = tx.service(service_id)
        if row is None or row.left is not None or row.document != intent.before:
            raise RevisionConflict("the service was changed meanwhile; read it again and repeat")
        base = row.document
        document = logic.successor(base, epoch, self.here.clock.now())
        tx.delete_intent(service_id)
        master.participant.accept(tx, ctx, document, (), ProvisioningStatus.ACTIVE)
        master.expect_members(tx, document, [*document.departed])
        sites = [m.site for m in tx.members(service_id) if not m.clean]
        master.outbox.post(tx, ctx, service_id, sites, "document")
        self._done_here(tx, ctx, service_id)
        told = {"before": base.master, "epoch": list(epoch), "gone": sorted(gone)}
        tx.add_event(self.here.event("taken-over", ctx, service_id, base.project_id, **told))

    def _done_here(self, tx: Tx, ctx: Context, service_id: str) -> None:
        """A user's delete that waited for the master before is ours to do."""
        wishes = [letter for letter in tx.outbox(service_id=service_id) if letter.kind == "delete"]
        row = tx.service(service_id)
        if wishes and row is not None:
            for wish in wishes:
                tx.unpost(wish)
            self.coordinator.undoing.entomb(tx, row)
            self.coordinator.undoing.post_tombstones(tx, ctx, service_id)

    async def _spread(self, ctx: Context, service_id: str) -> None:
        """What does not arrive now goes on in the outbox."""
        here, limits = self.here, self.here.limits
        posted = await here.store.read(lambda tx: tx.outbox(service_id=service_id))
        deadline = here.clock.now() + limits.request_timeout * limits.undo_share
        letters = [self.coordinator.outbox.deliver(row, deadline) for row in posted]
        await asyncio.gather(self._own_part(service_id), *letters)
        await here.tell_news()

    async def _own_part(self, service_id: str) -> None:
        try:
            await self.coordinator.participant.reconciler.realise(service_id)
        except DiminetError as error:
            log.warning("taken over", service=service_id, code=error.code, message=error.message)

    # -- a master that was voted against ---------------------------------------------------------------

    def heard(self, row: ServiceRow, theirs: Epoch | None) -> None:
        """Of a service that we master: what we, and a peer, have voted for."""
        document = row.document
        votes = [epoch for epoch in (row.promised, theirs) if epoch is not None and epoch > document.epoch]
        if votes and document.epoch.site == self.here.number:
            service_id = document.service_id
            self.contested[service_id] = max([*votes, self.contested.get(service_id, votes[0])])

    async def renew(self) -> None:
        """One round: where a vote against us has stood for an interval and no document has come of it."""
        due = {i: epoch for i, epoch in self.contested.items() if self.waited.get(i) == epoch}
        self.waited = dict(self.contested)
        for service_id, epoch in due.items():
            try:
                await self._renew_one(service_id, epoch)
            except DiminetError as error:
                log.info("renew", service=service_id, code=error.code, message=error.message)

    async def _renew_one(self, service_id: str, epoch: Epoch) -> None:
        row = await self.here.store.read(lambda tx: tx.service(service_id))
        mine = row is not None and row.left is None and not row.document.tombstone
        if row is None or not mine or row.document.epoch > epoch or row.document.master != self.here.name:
            self.contested.pop(service_id, None)
            return
        await self.run(self.here.context(row.document.project_id), service_id)
