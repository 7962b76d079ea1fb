"""Anti-entropy: one exchange per pair of sites and interval, whatever the number of services they share.

It carries both sides' parts and serves both. The site with the lower number asks; the other one asks only
when it has not been asked for a good while: its way may be open where the first one's is not. What is
behind here is fetched, from the master; what is behind there is posted, if we are the master.
"""

from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress

import structlog

from diminet.engine.changes import Changes
from diminet.engine.fencing import Fencing
from diminet.engine.homecoming import Homecoming
from diminet.engine.instance import Instance
from diminet.engine.outbox import Outbox
from diminet.engine.participant import Participant
from diminet.engine.pools import Pools
from diminet.engine.ports import HeldBlock, MemberRow, ServiceRow, Tx
from diminet.engine.takeover import Takeover
from diminet.errors import DiminetError, ServiceNotFound, SiteUnreachable, Unavailable
from diminet.logic import blocks as block_logic
from diminet.logic.takeover import fenced
from diminet.messages import Context, DocumentPut, SyncEntry, SyncReport, Tombstone
from diminet.model import Document, Site

ASKER_WAITS = 0.75  # of sync_interval; looked at four times in it, so it is asked once in each
OTHER_WAITS = 1.5
NOTES_AT_ONCE = 100  # services whose comparison is written in one transaction; others wait that long

log = structlog.get_logger()


class Sync:
    def __init__(
        self,
        here: Instance,
        participant: Participant,
        outbox: Outbox,
        pools: Pools,
        changes: Changes,
        takeover: Takeover,
        homecoming: Homecoming,
        fencing: Fencing,
    ) -> None:
        self.here = here
        self.participant = participant
        self.outbox = outbox
        self.pools = pools
        self.changes = changes
        self.takeover = takeover
        self.homecoming = homecoming
        self.fencing = fencing
        self.busy: set[str] = set()  # peers with which an exchange is under way in this process
        self.taking_in: set[str] = set()  # peers whose report is being looked at behind an answer
        self.met: dict[str, float] = {}  # peer -> when an exchange that serves both last began
        self.sharing: set[str] | None = None  # as of the last round; None: this is the first since the start

    # -- answering -----------------------------------------------------------------------------------

    async def answer(self, ctx: Context, theirs: SyncReport | None) -> SyncReport:
        """What we have; what the asker has told of itself is looked at behind the answer, one report of
        it at a time: what it tells meanwhile it tells again."""
        asker = ctx.sender or self.here.name
        await self.fencing.heard(asker, ctx.incarnation, theirs)
        if theirs is not None and theirs.fenced:
            return await self.fencing.all_for(asker, await self.report(asker, left=True))
        if theirs is not None and asker not in self.taking_in:
            self.met[asker] = self.here.clock.now()
            self.taking_in.add(asker)
            self.here.later(self._take_in_behind(asker, theirs))
        return await self.report(asker)

    async def _take_in_behind(self, asker: str, theirs: SyncReport) -> None:
        try:
            await self._take_in(asker, theirs)
        finally:
            self.taking_in.discard(asker)

    async def report(self, asker: str, *, left: bool = False) -> SyncReport:
        """What we have of every service that the other site has a part in. left: also of those that we
        have left for good."""

        def look(tx: Tx) -> SyncReport:
            shared = tx.services_shared_with(asker)
            rows = [row for row in shared if left or self._concerns(tx, row, asker)]
            return self.fencing.report(tx, asker, [self._entry(tx, row) for row in rows])

        return await self.here.store.read(look)

    @staticmethod
    def _concerns(tx: Tx, row: ServiceRow, asker: str) -> bool:
        """Not a service that one of us has left for good, both knowing it."""
        if row.left is not None and row.applied == row.document.pair:
            return False
        if row.document.member(asker) is not None:
            return True
        return any(m.site == asker and not m.clean for m in tx.members(row.document.service_id))

    def _entry(self, tx: Tx, row: ServiceRow) -> SyncEntry:
        held = tx.blocks(row.document.service_id)
        spare: dict[str, int] = defaultdict(int)
        for h in held:
            if h.block.owner == self.here.name and not h.pooled:
                spare[h.block.cidr] += 1
        state = self.participant.states.state_of(row, ())
        return SyncEntry(
            service_id=row.document.service_id,
            pair=row.document.pair,
            tombstone=row.document.tombstone,
            confirmed=row.confirmed == row.document.pair,
            fault=row.fault,
            provisioning_status=state.provisioning_status,
            operating_status=state.operating_status,
            digest=block_logic.digest(h.block for h in held),
            ports=self.participant.states.drift.audit.digest(row.document.service_id),
            promised=row.promised if fenced(row.document, row.promised) else None,
            spare=dict(spare),
        )

    # -- asking --------------------------------------------------------------------------------------

    async def round(self) -> None:
        """Begin to ask every site that we share something with and whose turn it is; one that is slow
        delays no other. With whom we have just begun to share something its creation has told both all there
        is: that turn comes an interval later, not in the midst of the create."""
        shared = await self.here.store.read(lambda tx: tx.sharing_sites())
        for name in shared - (shared if self.sharing is None else self.sharing):
            self.met[name] = self.here.clock.now()
        self.sharing = shared
        for site in await self.here.directory.sites():
            if site.name in shared - {self.here.name} - self.busy and self._is_due(site):
                self.busy.add(site.name)
                self.here.later(self._exchange(site.name))

    def _is_due(self, site: Site) -> bool:
        first = self.here.number < site.number
        wait = self.here.limits.sync_interval * (ASKER_WAITS if first else OTHER_WAITS)
        return self.here.clock.now() >= self.met.get(site.name, 0.0) + wait

    async def _exchange(self, site: str) -> None:
        try:
            await self.with_peer(site)
        finally:
            self.busy.discard(site)

    async def with_peer(self, site: str) -> DiminetError | None:
        """One exchange; a peer that is away is asked again at the next interval."""
        self.met[site] = self.here.clock.now()
        try:
            mine = await self.report(site)
            told = mine if len(mine.services) <= self.here.limits.sync_entries else None
            report = await self.here.peers.at(site).sync(self.here.context(), told)
            await self.fencing.heard(site, report.incarnation, report)
            await self._take_in(site, report)
        except DiminetError as error:
            return error
        return None

    async def _take_in(self, site: str, report: SyncReport) -> None:
        for start in range(0, len(report.services), NOTES_AT_ONCE):
            await self._take_some_in(site, report.services[start : start + NOTES_AT_ONCE])
        await self._unknown_there(site, {e.service_id for e in report.services})

    async def _take_some_in(self, site: str, entries: Sequence[SyncEntry]) -> None:
        """What is the same is noted in one transaction: it is what most exchanges find, and each one
        waits for the disk."""
        same: list[SyncEntry] = []

        def note(tx: Tx) -> None:
            for entry in same:
                self._note(tx, site, entry)

        try:
            for entry in entries:
                if await self._compare_one(site, entry):
                    same.append(entry)
        except Unavailable:
            await self.here.store.write(note)
            raise
        if same:
            await self.here.store.write(note)

    async def _compare_one(self, site: str, entry: SyncEntry) -> bool:
        """Do both have the same? What fails with one service is tried again at the next interval and
        keeps no other back."""
        try:
            return await self._compare(site, entry)
        except Unavailable:
            raise
        except DiminetError as error:
            log.info("sync", peer=site, service=entry.service_id, code=error.code, message=error.message)
            return False

    async def _compare(self, site: str, entry: SyncEntry) -> bool:
        def look(tx: Tx) -> tuple[ServiceRow | None, list[HeldBlock], bool]:
            row = tx.service(entry.service_id)
            if tx.fenced(entry.service_id):
                return row, [], False  # all its members are asked first
            if row is None:
                return None, [], bool(tx.reservations_of_service(entry.service_id))
            return row, tx.blocks(entry.service_id), self._was_asked(tx, row, site)

        row, held, concerned = await self.here.store.read(look)
        if not concerned:
            return False  # nobody here has anything to do with it, or nobody there
        if row is not None and row.left is not None:
            return False  # only a new promise of ours takes us in again
        if row is not None and row.document.tombstone:
            if not entry.tombstone and row.document.epoch.site == self.here.number:
                await self._post(row, site, "tombstone")
            return False
        if row is not None:
            gone_on = entry.pair.epoch if row.document.member(site) is None else None  # whom we have removed
            self.takeover.heard(row, max((e for e in (entry.promised, gone_on) if e), default=None))
        if entry.tombstone and row is not None:
            await self._buried_there(site, row)
        elif row is None or entry.pair > row.document.pair:
            await self._fetch(site, entry.service_id, row)
        elif entry.pair < row.document.pair and row.document.epoch.site == self.here.number:
            await self._post(row, site, "document")
        else:
            await self._same(site, entry, row, held)
            return True
        return False

    @staticmethod
    def _was_asked(tx: Tx, row: ServiceRow, site: str) -> bool:
        """Has that site a part in the service, or had it one? Nobody else learns of it by naming it."""
        document = row.document
        if document.member(site) is not None or site in document.departed:
            return True
        return any(member.site == site for member in tx.members(document.service_id))

    async def _post(self, row: ServiceRow, site: str, kind: str) -> None:
        document = row.document
        ctx = self.here.context(document.project_id)

        def decide(tx: Tx) -> None:
            posted = tx.outbox(service_id=document.service_id)
            if all((o.peer, o.kind) != (site, kind) for o in posted):  # else its refusals are forgotten
                self.outbox.post(tx, ctx, document.service_id, [site], kind)

        await self.here.store.write(decide)

    async def _buried_there(self, site: str, row: ServiceRow) -> None:
        """Only the word of the master, or of one before it, counts; from another site it is a hint to ask
        them. A tombstone that a master before has written stands, whoever has taken over."""
        if row.left is not None:
            return
        document = row.document
        ctx = self.here.context(document.project_id)
        masters = [m for m in (document.master, *document.former) if m != self.here.name]
        for master in [site] if site == document.master else masters:
            with suppress(SiteUnreachable):
                snapshot = await self.here.peers.at(master).snapshot(ctx, document.service_id)
                found = snapshot.document  # of another master's tombstone this one's word is none
                if found is not None and found.tombstone and found.master == master:
                    stone = Tombstone(service_id=document.service_id, document=found)
                    told = ctx.model_copy(update={"sender": master})
                    await self.participant.bury(told, document.service_id, stone)
                    return

    async def _fetch(self, site: str, service_id: str, row: ServiceRow | None) -> None:
        """Read the newer document at that site; applying it asks the master if the site is not it."""
        ctx = self.here.context()
        snapshot = await self.here.peers.at(site).snapshot(ctx, service_id)
        if snapshot.document is not None and row is None and snapshot.document.master == self.here.name:
            await self.homecoming.take_in(snapshot.document)
            return
        if snapshot.document is None or snapshot.document.tombstone:
            return
        me = snapshot.document.member(self.here.name)
        if me is None and not snapshot.confirmed:
            return  # a change that may still be taken back: we leave when it is concluded
        if row is None and (me is None or me.deferred):
            return  # what we have promised is for a document that is still to come
        told = ctx.model_copy(update={"sender": site})
        put = DocumentPut(document=snapshot.document, blocks=snapshot.blocks)
        try:
            await self.participant.put(told, service_id, put)
        except ServiceNotFound:
            return  # the master says that it is gone: its tombstone is on the way

    async def _same(self, site: str, entry: SyncEntry, row: ServiceRow, held: Sequence[HeldBlock]) -> None:
        document, audit = row.document, self.participant.states.drift.audit
        if entry.digest != block_logic.digest(h.block for h in held):
            snapshot = await self.here.peers.at(site).snapshot(
                self.here.context(document.project_id), entry.service_id
            )
            await self.here.store.write(
                lambda tx: self.participant.learn_blocks(tx, document, snapshot.blocks, site)
            )
            await audit.blocks_told(site, document, [h.block for h in held], snapshot.blocks)
        else:
            audit.blocks_agree(site, entry.service_id)
        await audit.heard(self.here.context(document.project_id), site, entry)
        dealt = {h.block.cidr for h in held}
        for cidr in dealt & entry.spare.keys():
            self.pools.spare_of[entry.service_id, cidr, site] = entry.spare[cidr]

    def _note(self, tx: Tx, site: str, entry: SyncEntry) -> None:
        row = tx.service(entry.service_id)
        if row is None or row.document.pair != entry.pair or row.document.tombstone or row.left is not None:
            return
        if row.document.member(site) is None:
            return  # it has left: what it acknowledged stays as it is
        tx.save_member(
            MemberRow(
                service_id=entry.service_id,
                site=site,
                pair=entry.pair,
                status=entry.provisioning_status,
                operating=entry.operating_status.value,
                seen_at=self.here.clock.now(),
            )
        )
        update: dict[str, object] = {"synced_at": self.here.clock.now()}
        if site == row.document.master:
            update["fault"] = entry.fault
        row = row.model_copy(update=update)
        tx.save_service(row, expect=row.document.pair)
        if site == row.document.master and entry.confirmed:
            self.participant.confirm(tx, entry.service_id, entry.pair)
        self.outbox.conclude(tx, row)

    async def _unknown_there(self, site: str, known: set[str]) -> None:
        """Services of ours that the site does not have although it should."""

        def look(tx: Tx) -> list[ServiceRow]:
            return [
                row
                for row in tx.services_shared_with(site)
                if row.document.service_id not in known
                and row.document.epoch.site == self.here.number
                and not row.settled
                and row.left is None
                and not tx.fenced(row.document.service_id)
            ]

        for row in await self.here.store.read(look):
            member = row.document.member(site)
            if row.document.tombstone:
                await self._post(row, site, "tombstone")
            elif member is not None and not member.deferred:
                await self._post(row, site, "document")

    # -- deferred sites --------------------------------------------------------------------------------

    async def complete_deferred(self) -> None:
        """Services of which a site was away at creation: take it in once it answers; one that refuses
        is asked ever more seldom."""
        now = self.here.clock.now()
        rows = [
            row
            for row in await self.here.store.read(lambda tx: tx.services_waiting())
            if row.document.epoch.site == self.here.number
        ]
        due = {row.document.service_id: self._due(row, now) for row in rows}
        back = await self.changes.back({site for sites in due.values() for site in sites})
        for row in rows:
            sites = due[row.document.service_id] & back
            try:
                if sites:
                    await self.changes.complete(self._for(row.document), row, sites)
            except DiminetError:
                continue  # told by an event and the fault; asked again later

    @staticmethod
    def _due(row: ServiceRow, now: float) -> set[str]:
        later = {site for site, refusal in row.refusals.items() if refusal.next_at > now}
        return {m.site for m in row.document.members if m.deferred} - later

    def _for(self, document: Document) -> Context:
        return self.here.context(document.project_id).model_copy(update={"initiator": document.initiator})
