"""What must still reach someone: documents, tombstones, aborts, a user's delete: the *healing* flow.

A row is written in the transaction that makes the news, and goes only when the site has answered. It
carries no copy: what is sent is what the store holds at that moment.
"""

from collections import defaultdict
from collections.abc import Sequence

from diminet.engine.instance import Instance
from diminet.engine.participant import Participant
from diminet.engine.ports import MemberRow, OutboxRow, ServiceRow, Tx
from diminet.errors import (
    Conflict,
    DiminetError,
    Fenced,
    InvalidRequest,
    NotAuthorised,
    ResourceBusy,
    ServiceNotFound,
    Unavailable,
)
from diminet.logic.lifecycle import back_off, provisioning, without
from diminet.logic.takeover import creator
from diminet.messages import (
    Acknowledgement,
    Change,
    Context,
    DocumentPut,
    MemberState,
    Tombstone,
)
from diminet.model import Document, OperatingStatus, ProvisioningStatus

SETTLED = "settled"  # rid of the tombstone that tells the creator that all have acknowledged it


class Outbox:
    def __init__(self, here: Instance, participant: Participant) -> None:
        self.here = here
        self.participant = participant
        self.busy: set[str] = set()  # peers that are being sent to in this process

    def post(
        self, tx: Tx, ctx: Context, service_id: str, sites: Sequence[str], kind: str, rid: str = ""
    ) -> list[OutboxRow]:
        """Write down that this must reach those sites; it is sent by `deliver`, now or later."""
        now = self.here.clock.now()
        rows = [
            OutboxRow(
                peer=site,
                service_id=service_id,
                kind=kind,
                rid=rid,
                created_at=now,
                next_at=now,
                request_id=ctx.request_id,
                initiator=ctx.initiator,
            )
            for site in sites
            if site != self.here.name
        ]
        for row in rows:
            tx.post(row)
        return rows

    async def deliver_due(self) -> None:
        """Begin to send what is due, each peer by itself: one that is slow delays no other."""
        now = self.here.clock.now()
        most = self.here.limits.backoff_most
        rows = await self.here.store.read(lambda tx: tx.outbox(due=now, most=most))
        by_peer: dict[str, list[OutboxRow]] = defaultdict(list)
        for row in rows:
            by_peer[row.peer].append(row)
        for peer in sorted(by_peer.keys() - self.busy):
            self.busy.add(peer)
            self.here.later(self._to_peer(peer, by_peer[peer][: self.here.limits.outbox_batch]))

    async def _to_peer(self, peer: str, rows: Sequence[OutboxRow]) -> None:
        """One after another; a peer that is away costs one try, and the rest waits as long as that."""
        try:
            for done, row in enumerate(rows, 1):
                deadline = self.here.clock.now() + self.here.limits.request_timeout
                error = await self.deliver(row, deadline)
                if isinstance(error, Unavailable) and not isinstance(error, Fenced):
                    await self._put_off(rows[done:])
                    return
        finally:
            self.busy.discard(peer)

    async def _put_off(self, rows: Sequence[OutboxRow]) -> None:
        def decide(tx: Tx) -> None:
            for row in rows:
                self._later(tx, row)

        await self.here.store.write(decide)

    async def deliver(self, row: OutboxRow, deadline: float) -> DiminetError | None:
        """Send one; on an answer the row is done, else it waits for its next turn."""
        ctx = Context(request_id=row.request_id, initiator=row.initiator, deadline=deadline)
        try:
            await self._send(ctx, row)
        except ServiceNotFound:
            await self.here.store.write(lambda tx: self._unknown_there(tx, row))
        except DiminetError as error:
            refusal = error if isinstance(error, Conflict | NotAuthorised | InvalidRequest) else None
            await self.here.store.write(lambda tx: self._later(tx, row, refusal))
            return error
        return None

    def _later(self, tx: Tx, row: OutboxRow, refusal: DiminetError | None = None) -> None:
        """What nobody has taken out meanwhile, because it is for another master now or for nobody."""
        posted = tx.outbox(service_id=row.service_id)
        if all((o.peer, o.kind, o.rid) != (row.peer, row.kind, row.rid) for o in posted):
            return
        if refusal and tx.intent(row.service_id) is None:  # what is being changed is refused by ourselves
            told = {"refused": refusal.message, "code": refusal.code, "networks": refusal.networks}
            row = row.model_copy(update={"refusals": row.refusals + 1, **told})
        limits = self.here.limits
        wait = back_off(row.attempts, limits.backoff_first, limits.backoff_most, self.here.clock.random())
        tx.post(
            row.model_copy(update={"attempts": row.attempts + 1, "next_at": self.here.clock.now() + wait})
        )

    def _unknown_there(self, tx: Tx, row: OutboxRow) -> None:
        """The site knows nothing of it (any more): an abort, a delete or a tombstone has no work."""
        tx.unpost(row)
        if row.kind == "tombstone":
            self._mark_clean(tx, row.service_id, row.peer, ())

    async def _send(self, ctx: Context, row: OutboxRow) -> None:
        here, peer = self.here, self.here.peers.at(row.peer)
        if row.kind == "abort":
            if here.clock.now() < row.created_at + 2 * here.limits.reservation_lifetime:
                await peer.abort(ctx, row.service_id, row.rid)  # else it has run out by itself
            await here.store.write(lambda tx: tx.unpost(row))
        elif row.kind == "delete":
            await peer.hand_in(ctx, row.service_id, Change(operation="delete"))
            await here.store.write(lambda tx: tx.unpost(row))
        elif row.kind == "tombstone":
            held = await here.store.read(lambda tx: tx.service(row.service_id))
            stone = Tombstone(
                service_id=row.service_id,
                document=held.document if held else None,
                settled=row.rid == SETTLED,
            )
            answer = await peer.bury(ctx, row.service_id, stone)
            listed = {site.name for site in await here.directory.sites()}
            also = [site for site in answer.also if site in listed and site != here.name]
            await here.store.write(lambda tx: self._buried(tx, ctx, row, answer, also))
        else:
            put = await here.store.read(lambda tx: self._for(tx, row))
            if put is None:
                await here.store.write(lambda tx: tx.unpost(row))
                return
            state = await peer.put(ctx, row.service_id, put)
            state = await self.own_word(row.peer, state)
            await here.store.write(lambda tx: self.note(tx, row.service_id, state))
            await here.tell_news()

    async def own_word(self, site: str, state: MemberState) -> MemberState:
        """It speaks for itself only, and of others only as far as they are in the directory."""
        if not state.also:
            return state.model_copy(update={"site": site})
        listed = {site.name for site in await self.here.directory.sites()} - {self.here.name}
        return state.model_copy(update={"site": site, "also": tuple(s for s in state.also if s in listed)})

    def _for(self, tx: Tx, row: OutboxRow) -> DocumentPut | None:
        """A site that leaves is told only when the change is concluded: it cannot be called back."""
        put = self.letter(tx, row.service_id)
        leaves = put is not None and put.document.member(row.peer) is None
        if leaves and tx.intent(row.service_id) is not None:
            raise ResourceBusy(f"service {row.service_id} is being changed")
        return put

    def letter(self, tx: Tx, service_id: str) -> DocumentPut | None:
        """What is sent to a member: the document as it stands and the blocks as we know them."""
        row = tx.service(service_id)
        if row is None or row.document.tombstone:
            return None
        return DocumentPut(document=row.document, blocks=tuple(h.block for h in tx.blocks(service_id)))

    def _buried(
        self, tx: Tx, ctx: Context, row: OutboxRow, answer: Acknowledgement, also: Sequence[str]
    ) -> None:
        """also: sites that only the receiver knew of; they are told, too, and waited for."""
        if tx.service(row.service_id) is not None:
            new = sorted(set(also) - {m.site for m in tx.members(row.service_id)})
            for site in new:
                tx.save_member(MemberRow(service_id=row.service_id, site=site))
            self.post(tx, ctx, row.service_id, new, "tombstone")
        if not answer.clean:
            self._later(tx, row)
            return
        tx.unpost(row)
        self._mark_clean(tx, row.service_id, row.peer, answer.warnings)

    def _mark_clean(self, tx: Tx, service_id: str, site: str, warnings: Sequence[str]) -> None:
        if tx.service(service_id) is None:
            return  # it was never made: nothing is waited for
        tx.save_member(MemberRow(service_id=service_id, site=site, clean=True, seen_at=self.here.clock.now()))
        self.settle(tx, service_id, warnings)

    def settle(self, tx: Tx, service_id: str, warnings: Sequence[str] = ()) -> None:
        """A deleted service whose every site is clean is gone; its identifier is free again."""
        row = tx.service(service_id)
        if row is None or not row.document.tombstone:
            return
        waited = [m for m in tx.members(service_id) if m.site != self.here.name and not m.clean]
        done = not waited and row.applied == row.document.pair
        tx.save_service(
            row.model_copy(
                update={
                    "settled": done,
                    "warnings": tuple(dict.fromkeys([*row.warnings, *warnings])),
                    "updated_at": self.here.clock.now(),
                }
            ),
            expect=row.document.pair,
        )
        if done:
            self._free_identifier(tx, row)

    def _free_identifier(self, tx: Tx, buried: ServiceRow) -> None:
        """The creator's own, or the creator is told: it has kept the identifier so far."""
        document = buried.document
        if document.epoch.site != self.here.number:
            return  # its master's to say
        tx.release_identifier(document.service_id)
        if not buried.settled:
            ctx = self.here.context(document.project_id)
            self.post(tx, ctx, document.service_id, [creator(document)], "tombstone", rid=SETTLED)

    def note(self, tx: Tx, service_id: str, state: MemberState) -> None:
        """Keep what a member has answered; a service that waited for nothing else becomes active. Who has
        applied the document needs no letter of it, whoever has posted one."""
        row = tx.service(service_id)
        if row is None or row.document.tombstone:
            return  # of a deleted service only what is said to the tombstone counts
        if tx.fenced(service_id):
            return
        if self._has_detached(row.document, state):
            self._follow_detached(tx, row.document, state)
            return
        done = state.applied == row.document.pair
        member = row.document.member(state.site)
        tx.save_member(
            MemberRow(
                service_id=service_id,
                site=state.site,
                pair=state.pair,
                status=ProvisioningStatus.ACTIVE if done else state.provisioning_status,
                operating=state.operating_status.value,
                fault=state.fault,
                seen_at=self.here.clock.now(),
                clean=done and member is None,
            )
        )
        self.participant.learn_blocks(tx, row.document, state.blocks, state.site)
        self._tell_also(tx, row.document, state)
        if done and (member is None or member.deferred):
            self.participant.reconciler.pools.reclaim(tx, service_id)
        letters = tx.outbox(service_id=service_id, peer=state.site) if done else ()
        for letter in letters:
            if letter.kind == "document":
                tx.unpost(letter)
        self.conclude(tx, row)

    def _has_detached(self, document: Document, state: MemberState) -> bool:
        """Has a member of our service left by itself?"""
        member = document.member(state.site)
        gone = member is not None and state.left is not None and state.left >= member.join
        return gone and document.epoch.site == self.here.number

    def _follow_detached(self, tx: Tx, before: Document, state: MemberState) -> None:
        """The service goes on without it; while that is being changed, when it is told the next time."""
        service_id, site = before.service_id, state.site
        if tx.intent(service_id) is not None:
            return
        ctx = self.here.context(before.project_id)
        document = without(before, site, self.here.clock.now())
        self.participant.accept(tx, ctx, document, state.blocks, ProvisioningStatus.ACTIVE)
        tx.save_member(MemberRow(service_id=service_id, site=site))
        self.post(tx, ctx, service_id, [m.site for m in document.members] + [site], "document")
        tx.add_event(self.here.event("detached", ctx, service_id, before.project_id, member=site))

    def _tell_also(self, tx: Tx, document: Document, state: MemberState) -> None:
        """Sites that a former master had taken in, which this document knows nothing of: they are out."""
        if document.epoch.site == self.here.number and state.site in document.former:
            known = {m.site for m in tx.members(document.service_id)} | {self.here.name}
            new = sorted(set(state.also) - known)
            for site in new:
                tx.save_member(MemberRow(service_id=document.service_id, site=site))
            ctx = self.here.context(document.project_id)
            self.post(tx, ctx, document.service_id, new, "document")

    def conclude(self, tx: Tx, row: ServiceRow) -> None:
        """At the master: ACTIVE, and confirmed, once every member has the current pair."""
        document = row.document
        if document.epoch.site != self.here.number or document.tombstone or tx.fenced(document.service_id):
            return
        # A document that was restored is ACTIVE from the start; its members have yet to say so.
        active = row.status == ProvisioningStatus.ACTIVE
        pending = ProvisioningStatus.PENDING_UPDATE if active else row.status
        states = {
            m.site: m.status if m.pair == document.pair else pending for m in tx.members(document.service_id)
        }
        states[self.here.name] = ProvisioningStatus.ACTIVE if row.applied == document.pair else pending
        status = provisioning(document, states, pending)
        if status == ProvisioningStatus.ACTIVE and tx.intent(document.service_id) is None:
            tx.save_service(
                row.model_copy(update={"status": status, "confirmed": document.pair}),
                expect=document.pair,
            )


def operating_of(rows: Sequence[MemberRow]) -> dict[str, OperatingStatus]:
    return {row.site: OperatingStatus(row.operating) for row in rows}
