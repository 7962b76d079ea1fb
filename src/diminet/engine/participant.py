"""A member's side of a request: being asked, being told, leaving, burying. Read this file for *being asked*.

A document is stored, after being judged and checked against everything committed here, in one
transaction; only then is anything touched, by the reconciler, which does the same after a crash.
"""

from collections.abc import Sequence

from diminet.engine import fence, following
from diminet.engine.instance import Instance
from diminet.engine.ports import NOBODY, SITE, HeldBlock, MemberRow, ReservationRow, ServiceRow, Tx
from diminet.engine.reconciler import Reconciler
from diminet.engine.reservations import Reservations
from diminet.engine.states import States
from diminet.errors import (
    InvalidRequest,
    NotAuthorised,
    QuotaExceeded,
    ResourceBusy,
    RevisionConflict,
    ServiceNotFound,
)
from diminet.logic.blocks import belongs
from diminet.logic.lifecycle import Verdict, believe, judge
from diminet.messages import (
    Acknowledgement,
    Context,
    DocumentPut,
    MemberState,
    Tombstone,
)
from diminet.model import (
    Block,
    Connection,
    Document,
    Pair,
    ProvisioningStatus,
)

PENDING = {ProvisioningStatus.PENDING_CREATE, ProvisioningStatus.PENDING_UPDATE}


class Participant:
    def __init__(self, here: Instance, reservations: Reservations, reconciler: Reconciler) -> None:
        self.here = here
        self.reservations = reservations
        self.reconciler = reconciler
        self.states = States(here, reconciler.drift)

    # -- being told a document -----------------------------------------------------------------

    async def put(self, ctx: Context, service_id: str, put: DocumentPut) -> MemberState:
        """Store the document, make it so, and say how it is here. Repeated, late and doubled ones
        are answered from what is held."""
        if put.document.service_id != service_id or put.document.tombstone:
            raise InvalidRequest("the document is not one of this service that could be applied")
        await self._master_is_who_it_says(put.document)
        if ctx.sender != put.document.master or await self._is_news(put.document):
            put = await self._from_master(ctx, put.document)
            self._has_a_part(ctx.sender, put.document)
        verdict = await self.here.store.write(lambda tx: self.take(tx, ctx, put, confirmed=False))
        if verdict is Verdict.ASK_MASTER:
            put = await self._from_master(ctx, put.document)
            verdict = await self.here.store.write(lambda tx: self.take(tx, ctx, put, confirmed=True))
        if verdict is Verdict.BURIED:
            raise ServiceNotFound(f"service {service_id} is deleted", sites=[self.here.name])
        if verdict is Verdict.NOT_CONCERNED:
            await self._no_longer_promised(put.document)
        if verdict is not Verdict.NOT_CONCERNED:
            await self.reconciler.realise(service_id)
            await self.here.tell_news()
        return await self.states.state(service_id, put.document)

    async def _no_longer_promised(self, document: Document) -> None:
        """The master goes on without us: an older document that is still on its way finds no promise, and
        nothing that was adopted stays, so that the master may count on what this answer says."""

        def look(tx: Tx) -> list[ReservationRow]:
            fence.known(self.here, tx, document.service_id)
            return tx.reservations_of_service(document.service_id)

        rows = await self.here.store.read(look)
        for rid in sorted({row.rid for row in rows if row.sender in (document.master, NOBODY)}):
            await self.reservations.release(rid)

    async def _from_master(self, ctx: Context, document: Document) -> DocumentPut:
        """The document as its master has it: a document from anyone else is only a hint."""
        snapshot = await self.here.peers.at(document.master).snapshot(ctx, document.service_id)
        if snapshot.document is None and snapshot.fenced:
            raise ResourceBusy(
                f"the database of master {document.master} was restored, and does not know service "
                f"{document.service_id} yet",
                sites=[document.master],
            )
        if snapshot.document is None or snapshot.document.tombstone:
            raise ServiceNotFound(
                f"master {document.master} holds no service {document.service_id}",
                sites=[document.master],
            )
        told = snapshot.document
        if told.service_id != document.service_id:
            raise NotAuthorised(
                f"site {document.master} was asked for service {document.service_id} and told of another",
                sites=[document.master],
            )
        if told.master != document.master:
            raise ResourceBusy(
                f"site {document.master} is not the master of service {document.service_id}",
                sites=[document.master],
                retry_after=1.0,
            )
        told_by_master = ctx.sender == document.master  # of a change, when nothing can be taken back
        left_out = told.member(self.here.name) is None
        if left_out and not snapshot.confirmed and not told_by_master:
            raise ResourceBusy(
                f"service {document.service_id} is being changed at its master; it may be taken back",
                sites=[document.master],
                retry_after=1.0,
            )
        return DocumentPut(document=told, blocks=snapshot.blocks)

    def _has_a_part(self, sender: str | None, document: Document) -> None:
        """Who has none in the document learns nothing of it by handing on a guess."""
        known = {*document.departed, *document.former, *(m.site for m in document.members)}
        if sender is not None and sender not in known:
            raise NotAuthorised(
                f"site {sender} has no part in service {document.service_id}", sites=[self.here.name]
            )

    async def _is_news(self, document: Document) -> bool:
        """Another site says that it is the master: it is asked back, so that an old message, or somebody's
        lie about itself, does not count."""
        row = await self.here.store.read(lambda tx: tx.service(document.service_id))
        return row is not None and following.check(self.here, row, document) is not None

    async def _master_is_who_it_says(self, document: Document) -> None:
        if document.master == self.here.name:
            raise NotAuthorised(
                f"site {self.here.name} itself is the master of service {document.service_id}",
                sites=[self.here.name],
            )
        site = await self.here.directory.site(document.master)
        if site.number != document.epoch.site:
            raise NotAuthorised(
                f"site {document.master} is not number {document.epoch.site} in the directory"
            )

    def take(self, tx: Tx, ctx: Context, put: DocumentPut, *, confirmed: bool) -> Verdict:
        here, document = self.here, put.document
        fence.refuse(here, tx, document.service_id)
        row = tx.service(document.service_id)
        held = row.document if row else None
        old = following.check(here, row, document) if row is not None else None
        promises = self._live(tx, document)
        ids = {r.resource_id for r in document.resources_of(here.name)}
        reserved = {p.network_id for p in promises}
        authorised = {i for i in ids if self._authorised(tx, document, i)}
        verdict = judge(
            held,
            row.left if row else None,
            document,
            here.name,
            reserved=reserved,
            authorised=authorised,
            confirmed=confirmed,
        )
        if verdict is Verdict.UNAUTHORISED:
            known = {r.resource_id for r in held.resources_of(here.name)} if held else set()
            raise ResourceBusy(
                f"site {here.name} no longer keeps its networks for this service; try again",
                sites=[here.name],
                retry_after=1.0,
                networks=sorted(ids - reserved - authorised - known),
            )
        if old is not None and verdict in (Verdict.STORE, Verdict.LEAVE):
            following.follow(here, tx, ctx, old, document)
        if verdict is Verdict.STORE:
            self.accept(tx, ctx, document, put.blocks)
        elif verdict is Verdict.LEAVE and row is not None and row.left is None:
            self.leave(tx, ctx, row, document)
        elif verdict is Verdict.LEAVE and row is not None and document.member(here.name) is None:
            self._stay_away(tx, row, document)
        elif verdict is Verdict.SAME:
            self.learn_blocks(tx, document, put.blocks, document.master)
        return verdict

    def _authorised(self, tx: Tx, document: Document, network_id: str) -> bool:
        """Once for this service; what was adopted (`recovery`), or promised by an older copy of our database,
        was."""
        key, now = (NOBODY, network_id, document.project_id), self.here.clock.now()
        return tx.authorised(document.service_id, network_id, document.project_id) or any(
            (row.sender, row.network_id, row.project_id) == key and row.expires_at > now
            for row in tx.reservations_of_service(document.service_id)
        )

    def _live(self, tx: Tx, document: Document) -> list[ReservationRow]:
        """Our promises on which the document takes us in."""
        me = document.member(self.here.name)
        if me is None or me.rid is None:
            return []
        now = self.here.clock.now()
        return [
            row
            for row in tx.reservation(me.rid)
            if row.service_id == document.service_id
            and row.project_id == document.project_id
            and row.sender in (document.master, *document.former)
            and row.expires_at > now
        ]

    def accept(
        self,
        tx: Tx,
        ctx: Context,
        document: Document,
        blocks: Sequence[Block],
        status: ProvisioningStatus | None = None,
    ) -> ServiceRow:
        """Store a document that was judged fit (a member) or decided (the master), checked against
        everything committed here, and take its networks over from the reservations.

        What is taken in again after a loss of the database is fenced until all its members have told
        of it. Raises Conflict errors, Fenced, and RevisionConflict if the stored pair has moved meanwhile."""
        here = self.here
        service_id, now = document.service_id, here.clock.now()
        fence.refuse(here, tx, service_id)
        adopted = any(row.sender == NOBODY for row in tx.reservations_of_service(service_id))
        committed = {
            row.document.service_id: row.document
            for r in document.resources_of(here.name)
            for row in tx.services_of_network(here.name, r.resource_id)
            if row.document.service_id != service_id
            # Of an older copy of our database: what comes back was allowed beside it, or after it.
            if not (tx.fenced(SITE) and tx.fenced(row.document.service_id))
        }
        here.type_of(document.type).recheck(document, here.name, list(committed.values()))
        before = tx.service(service_id)
        if before is not None and document.pair <= before.document.pair:
            raise RevisionConflict("the service was changed meanwhile; read it again and repeat")
        promised = before.promised if before is not None and before.left is None else None
        following.within_promise(here, promised, document)
        fresh = before is None or before.left is not None
        pending = ProvisioningStatus.PENDING_CREATE if fresh else ProvisioningStatus.PENDING_UPDATE
        if fresh and blocks:
            self._within_quota(tx, document, len(blocks))
        row = ServiceRow(
            document=document,
            status=status or pending,
            confirmed=None if before is None or before.left is not None else before.confirmed,
            applied=None if before is None or before.left is not None else before.applied,
            promised=promised,
            created_at=document.created_at,
            updated_at=now,
            synced_at=now,
        )
        if not tx.save_service(row, expect=before.document.pair if before else None):
            raise RevisionConflict("the service was changed meanwhile; read it again and repeat")
        self._take_over(tx, ctx, document)
        self.learn_blocks(tx, document, blocks, document.master)
        tx.add_event(
            here.event("document-stored", ctx, service_id, document.project_id, pair=document.pair.etag())
        )
        if fresh and adopted:
            tx.raise_fence(service_id)
        return row

    def _within_quota(self, tx: Tx, document: Document, more: int) -> None:
        """Address blocks of a project at this site, whoever owns them. Raises QuotaExceeded."""
        most = self.here.limits.blocks_per_project
        if tx.count_blocks(document.project_id) + more > most:
            raise QuotaExceeded(
                f"the project would have more than {most} address blocks at site {self.here.name}, its "
                "quota: delete a service that stretches a network, or ask the operator for more",
                sites=[self.here.name],
            )

    def _take_over(self, tx: Tx, ctx: Context, document: Document) -> None:
        """Reservations become connections; what the document no longer names is to be removed."""
        service_id, now = document.service_id, self.here.clock.now()
        promised = {row.network_id: row for row in tx.reservations_of_service(service_id)}
        known = {c.resource_id: c for c in tx.connections(service_id)}
        named = {r.resource_id for r in document.resources_of(self.here.name)}
        for network_id in named:
            promise, connection = promised.get(network_id), known.get(network_id)
            if connection is None:
                # Whether a network is ours to delete is our own knowledge, never the document's. Without a
                # promise the VIM remembers it (`Reconciler`).
                if promise is not None:
                    tx.save_connection(
                        Connection(
                            service_id=service_id,
                            resource_id=network_id,
                            made=promise.made,
                            original=promise.original,
                        )
                    )
                tx.authorise(service_id, network_id, document.initiator, now)
            elif connection.state == "REMOVING":
                tx.save_connection(connection.model_copy(update={"state": "PENDING"}))
        for network_id, connection in known.items():
            if network_id not in named:
                tx.save_connection(connection.model_copy(update={"state": "REMOVING"}))
        for rid in {row.rid for row in promised.values() if row.network_id in named}:
            tx.delete_reservations(rid)

    def learn_blocks(self, tx: Tx, document: Document, blocks: Sequence[Block], sender: str) -> None:
        """Merge what a peer says of blocks, as far as it may say it."""
        row = tx.service(document.service_id)
        if row is not None and row.left is not None:
            return  # nothing more becomes ours
        known = {(h.block.cidr, h.block.index): h.block for h in tx.blocks(document.service_id)}
        kind = self.here.type_of(document.type)
        sizes = {cidr: kind.block_size(document, cidr) for cidr in {b.cidr for b in blocks}}
        news = [
            HeldBlock(block=block)
            for block in blocks
            if believe(known.get((block.cidr, block.index)), block, sender, self.here.name, document)
            and belongs(block, sizes[block.cidr])
        ]
        tx.put_blocks(document.service_id, news)

    def leave(self, tx: Tx, ctx: Context, row: ServiceRow, document: Document) -> None:
        """Durably left: documents with our join number, or a lower one, are refused from now on."""
        me = row.document.member(self.here.name)
        left = row.model_copy(
            update={
                "document": document,
                "left": me.join if me else 1,
                "status": ProvisioningStatus.PENDING_DELETE,
                "applied": None,
                "updated_at": self.here.clock.now(),
            }
        )
        tx.save_service(left, expect=row.document.pair)
        tx.delete_intent(document.service_id)  # of a takeover
        tx.add_event(self.here.event("left", ctx, document.service_id, document.project_id))

    @staticmethod
    def _stay_away(tx: Tx, row: ServiceRow, document: Document) -> None:
        """We had left before: the news is only that this pair, too, has nothing of us."""
        applied = document.pair if row.applied == row.document.pair else None
        update = {"document": document, "applied": applied}
        tx.save_service(row.model_copy(update=update), expect=row.document.pair)

    # -- the master's word that all are active -----------------------------------------------------

    @staticmethod
    def confirm(tx: Tx, service_id: str, pair: Pair) -> None:
        """The master has said that every member is active at that pair."""
        row = tx.service(service_id)
        if row is None or row.document.tombstone or row.left is not None:
            return
        if row.document.pair == pair == row.applied and row.confirmed != pair:
            update = {"confirmed": pair, "status": ProvisioningStatus.ACTIVE}
            tx.save_service(row.model_copy(update=update), expect=pair)

    async def ask_whether_confirmed(self, ctx: Context, service_id: str) -> bool:
        """Of the master, about this service alone. True when there is nothing (more) to ask."""
        here = self.here
        row = await here.store.read(lambda tx: tx.service(service_id))
        if row is None or row.document.tombstone or row.left is not None:
            return True
        document = row.document
        if row.confirmed == document.pair or document.master == here.name:
            return True
        snapshot = await here.peers.at(document.master).snapshot(ctx, service_id)
        state = snapshot.state
        if snapshot.document is None or state is None or not snapshot.confirmed:
            return False
        pair = snapshot.document.pair
        master = MemberRow(
            service_id=service_id,
            site=document.master,
            pair=state.pair,
            status=state.provisioning_status,
            operating=state.operating_status.value,
            seen_at=here.clock.now(),
        )

        def decide(tx: Tx) -> None:
            self.confirm(tx, service_id, pair)
            if tx.service(service_id) is not None:
                tx.save_member(master)

        await here.store.write(decide)
        return pair == document.pair

    # -- deletion --------------------------------------------------------------------------------

    async def bury(self, ctx: Context, service_id: str, tombstone: Tombstone) -> Acknowledgement:
        """Take everything of the service down here; answers when it is done."""
        row = await self.here.store.read(lambda tx: tx.service(service_id))
        proven = row is not None and following.claims(row, ctx.sender, tombstone.document)
        if proven:
            tombstone = await self._asked_back(ctx, service_id)
        await self._entomb(ctx, service_id, tombstone, proven=proven)
        rows = await self.here.store.read(lambda tx: tx.reservations_of_service(service_id))
        for rid in sorted({row.rid for row in rows}):
            await self.reservations.release(rid)
        row = await self.here.store.read(lambda tx: tx.service(service_id))
        if row is not None and not row.document.tombstone:  # a document took what was promised before that
            await self._entomb(ctx, service_id, tombstone, proven=proven)
        await self.reconciler.realise(service_id)
        await self.here.tell_news()

        def look(tx: Tx) -> tuple[ServiceRow | None, list[MemberRow]]:
            return tx.service(service_id), tx.members(service_id)

        row, known = await self.here.store.read(look)
        if row is None:
            return Acknowledgement(site=self.here.name, clean=True)
        told = {m.site for m in row.document.members} | {self.here.name}
        return Acknowledgement(
            site=self.here.name,
            clean=row.applied == row.document.pair,
            warnings=row.warnings,
            also=tuple(m.site for m in known if m.site not in told),
        )

    async def _entomb(self, ctx: Context, service_id: str, tombstone: Tombstone, *, proven: bool) -> None:
        await self.here.store.write(lambda tx: self.entomb(tx, ctx, service_id, tombstone, proven=proven))

    async def _asked_back(self, ctx: Context, service_id: str) -> Tombstone:
        """It has taken the service over and deleted it before we heard of the one or the other."""
        sender = ctx.sender or self.here.name
        snapshot = await self.here.peers.at(sender).snapshot(ctx, service_id)
        document = snapshot.document
        if document is None or not document.tombstone or document.master != sender:
            raise NotAuthorised(f"site {sender} is not the master of service {service_id}")
        return Tombstone(service_id=service_id, document=document)

    def entomb(
        self, tx: Tx, ctx: Context, service_id: str, tombstone: Tombstone, *, proven: bool = False
    ) -> None:
        """proven: it comes from a master that we had not heard of, which was asked back."""
        row = fence.known(self.here, tx, service_id)
        if row is None:
            promises = tx.reservations_of_service(service_id)
            if any(p.sender not in (ctx.sender or self.here.name, NOBODY) for p in promises):
                raise NotAuthorised(f"service {service_id} was not asked for by site {ctx.sender}")
            return
        if tombstone.settled and ctx.sender == row.document.master:
            tx.release_identifier(service_id)
        if row.document.tombstone:
            self._was_asked(tx, ctx.sender, row.document)
            return
        masters = (None, row.document.master, *row.document.former)
        if ctx.sender not in masters and not proven:
            raise NotAuthorised(
                f"site {ctx.sender} is not the master of service {service_id}", sites=[self.here.name]
            )
        document = tombstone.document or row.document
        if ctx.sender in row.document.former and ctx.sender != row.document.master and not proven:
            in_order = following.deleted_before(ctx.sender, row, tx.members(service_id), document)
        else:  # the master may have renewed itself
            in_order = proven or document.epoch >= row.document.epoch
        if not in_order or not following.same_service(row.document, document):
            raise NotAuthorised(
                f"the tombstone is not that of service {service_id} as site {self.here.name} knows it",
                sites=[self.here.name],
            )
        buried = row.model_copy(
            update={
                "document": document.model_copy(update={"tombstone": True}),
                "status": ProvisioningStatus.PENDING_DELETE,
                "applied": None,
                "updated_at": self.here.clock.now(),
            }
        )
        tx.save_service(buried, expect=row.document.pair)
        tx.lift_fence(service_id)
        tx.delete_intent(service_id)  # of a takeover: what is deleted needs no master
        known = {m.site for m in tx.members(service_id)} | {m.site for m in document.members}
        for member in row.document.members:  # whom the sender may not know of: told in every answer
            if member.site not in known:
                tx.save_member(MemberRow(service_id=service_id, site=member.site))
        tx.add_event(self.here.event("deleted", ctx, service_id, document.project_id))

    def _was_asked(self, tx: Tx, sender: str | None, document: Document) -> None:
        """What a deletion has come to is told to those that had a part in the service."""
        known = {m.site for m in tx.members(document.service_id)} | {m.site for m in document.members}
        if sender is not None and sender not in known | document.departed.keys():
            raise NotAuthorised(
                f"site {sender} had no part in service {document.service_id}", sites=[self.here.name]
            )
