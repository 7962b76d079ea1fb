"""A restored database is not trusted (DESIGN section 5, docs/adr/0020): it is noticed, and fenced until the
others have told what became of what it shares with them.

    older copy noticed ─▶ SITE and every service fenced ─▶ what the VIM has and we do not know: adopted
                                                             │
        each service: `rejoining` ◀──────────────────────────┤
                                                             ▼
              all sites of the directory have told what they share with us and which VNIs of ours
              they use, and what was adopted has come back with its service or is no part of it
                                                             │
                                                             ▼
                               fence of SITE lifted: what nobody knows is undone
"""

import asyncio

import structlog

from diminet.engine.instance import Instance
from diminet.engine.ports import NOBODY, SITE, PeerRow, Tx
from diminet.engine.reconciler import MARK, as_mark, database_of, writes_of
from diminet.engine.recovery import Recovery
from diminet.engine.rejoining import Rejoining
from diminet.errors import DiminetError
from diminet.logic import identifiers, restored
from diminet.messages import Count, SyncEntry, SyncReport

PAGE = 200  # services looked at in one transaction

log = structlog.get_logger()


class Fencing:
    def __init__(self, here: Instance, rejoining: Rejoining) -> None:
        self.here = here
        self.rejoining = rejoining
        self.reconciler = rejoining.participant.reconciler
        self.named: set[str] = set()  # services that we master, as others say
        self.rested = False  # what the instance before us had sent out is answered or given up

    # -- noticing ------------------------------------------------------------------------------------

    async def compare_with_vim(self) -> None:
        """The VIM says how often this database had been written; else it is told."""
        mark = await self.here.south.mark(MARK)
        meta = await self.here.store.read(lambda tx: tx.meta())
        if mark is None or database_of(mark) != meta.database_id:
            return
        if writes_of(mark) > meta.writes:
            await self._behind(writes_of(mark), "the VIM")
        elif writes_of(mark) < meta.writes:
            await self.here.south.set_mark(MARK, as_mark(meta))

    async def heard(self, site: str, incarnation: str | None, report: SyncReport | None) -> None:
        """Of a peer: what it has told of itself, and what it has seen of us."""

        def decide(tx: Tx) -> bool:
            before, now = tx.peer(site), self.here.clock.now()
            counts = [before.count if before else Count(), report.count if report else Count()]
            count = max(counts, key=lambda c: c.writes)
            tx.save_peer(PeerRow(site=site, incarnation=incarnation, count=count, seen_at=now))
            if report is None:
                return False
            meta = tx.meta()
            return restored.is_older(meta.key, meta.writes, report.seen.writes, report.seen.proof)

        if await self.here.store.write(decide) and report is not None:
            await self._behind(report.seen.writes, f"site {site}")

    async def _behind(self, seen: int, who: str) -> None:
        """While it is fenced the database is not fenced again: what it writes now is known."""

        def decide(tx: Tx) -> bool:
            fresh = not tx.fenced(SITE)
            tx.outbid_writes(seen)
            if fresh:
                tx.fence(self.here.clock.uuid())
                tx.add_event(self.here.event("fenced", self.here.context(), None, by=who, seen=seen))
            return fresh

        if await self.here.store.write(decide):
            self.rested = self.reconciler.adopted = False
            self.rejoining.sharing, self.named = {}, set()
            log.warning("restored", seen=seen, by=who, what="the database is an older copy: fenced")

    # -- telling -------------------------------------------------------------------------------------

    def report(self, tx: Tx, asker: str, entries: list[SyncEntry]) -> SyncReport:
        meta, peer = tx.meta(), tx.peer(asker)
        return SyncReport(
            site=self.here.name,
            number=self.here.number,
            incarnation=meta.incarnation,
            services=tuple(entries),
            count=Count(writes=meta.writes, proof=restored.proof(meta.key, meta.writes)),
            seen=peer.count if peer else Count(),
        )

    async def all_for(self, asker: str, report: SyncReport) -> SyncReport:
        """With all identifiers that the asker has minted and that are not free yet, as far as we know:
        also of services that it has left."""
        number = (await self.here.directory.site(asker)).number
        minted: dict[str, int] = {}
        after: str | None = ""
        while after is not None:
            after = await self._minted_page(number, after, minted)
        return report.model_copy(update={"minted": minted})

    async def _minted_page(self, number: int, after: str, minted: dict[str, int]) -> str | None:
        """The id behind which the next page begins; None: that was the last."""
        rows = await self.here.store.read(lambda tx: tx.services_page(after, PAGE))
        for row in rows:
            vni = row.document.identifiers.vni
            if identifiers.creator(vni) == number and not (row.document.tombstone and row.settled):
                minted[row.document.service_id] = vni
        return rows[-1].document.service_id if len(rows) == PAGE else None

    # -- the site ------------------------------------------------------------------------------------

    async def round(self) -> None:
        fences = await self.here.store.read(lambda tx: tx.fences())
        if not fences or (SITE in fences and not await self.adopt(fences)):
            return
        if not self.rested:
            await self.here.clock.sleep(self.here.limits.request_timeout)
            self.rested = True
        if SITE in fences:
            await self._ask_all()
        await self.rejoining.round([service_id for service_id in fences if service_id != SITE])

    async def adopt(self, fences: list[str]) -> bool:
        """What the VIM remembers and the copy does not; and what the copy remembers and the VIM does not,
        is put back already. False: an operator has to say first that this is our VIM."""
        if self.reconciler.adopted:
            return True
        here = self.here
        mark = await here.south.mark(MARK)
        meta = await here.store.read(lambda tx: tx.meta())
        if mark is not None and database_of(mark) != meta.database_id:
            return False
        await Recovery(here.store, here.south, here.clock).take_in()
        there = {(r.service_id, r.network_id) for r in await here.south.remains()}

        def decide(tx: Tx) -> None:
            for service_id in fences:
                for connection in tx.connections(service_id):
                    if (service_id, connection.resource_id) not in there:
                        tx.save_connection(connection.model_copy(update={"made": False, "original": ()}))

        await here.store.write(decide)
        self.reconciler.adopted = True
        return True

    async def _ask_all(self) -> None:
        """All sites of the directory, also those that the copy shares nothing with; again, as long as one
        of them names a service that was adopted and has not come back."""
        sharing = self.rejoining.sharing
        sites = {site.name for site in await self.here.directory.sites()} - {self.here.name}
        await asyncio.gather(*(self._ask(site) for site in sorted(sites - sharing.keys())))
        if not sites <= sharing.keys():
            return
        away = await self.here.store.read(self._away)
        naming = [(site, s) for site in sorted(sharing) for s in sorted(sharing[site] & away)]
        if naming:
            sharing.clear()
            self.named.clear()
            for site, service_id in naming:
                try:
                    await self._settle(site, service_id)
                except DiminetError as error:
                    log.info("restored", service=service_id, code=error.code, message=error.message)
            return
        await self.here.store.write(self._lift)
        log.info("restored", what="all sites have told")

    async def _ask(self, site: str) -> None:
        here = self.here
        question = await here.store.read(lambda tx: self.report(tx, site, []))
        try:
            report = await here.peers.at(site).sync(
                here.context(), question.model_copy(update={"fenced": True})
            )
        except DiminetError as error:
            log.info("restored", waits_for=site, code=error.code, message=error.message)
            return
        await self.heard(site, report.incarnation, report)
        await here.store.write(lambda tx: self._keep_identifiers(tx, report))
        self.rejoining.sharing[site] = frozenset(entry.service_id for entry in report.services)
        live = (entry for entry in report.services if not entry.tombstone)
        self.named |= {e.service_id for e in live if e.pair.epoch.site == here.number}

    def _keep_identifiers(self, tx: Tx, report: SyncReport) -> None:
        for service_id, vni in report.minted.items():
            if identifiers.creator(vni) != self.here.number:
                continue
            k = vni % identifiers.KS_A_SITE
            holder = tx.identifier_holder(k)
            if holder is not None and holder != service_id and tx.fenced(holder):
                tx.release_identifier(holder)  # it was free again, and minted for this one
            tx.take_identifier(service_id, k, k)

    def _away(self, tx: Tx) -> set[str]:
        """Services that are not back, but that we master, or for which something was adopted."""
        adopted = {row.service_id for row in tx.all_reservations() if row.sender == NOBODY}
        return {service_id for service_id in adopted | self.named if tx.service(service_id) is None}

    async def _settle(self, site: str, service_id: str) -> None:
        """One that has us comes with the usual exchange (`sync`), or home if it is ours. If its master says
        that it is deleted, goes on without us or has put us off, what was adopted for it is put back."""
        here = self.here
        snapshot = await here.peers.at(site).snapshot(here.context(), service_id)
        hint = snapshot.document
        if hint is not None and hint.master not in (site, here.name):
            snapshot = await here.peers.at(hint.master).snapshot(here.context(), service_id)
        document = snapshot.document
        if document is None:
            return
        me = document.member(here.name)
        if document.master == here.name:
            await self.rejoining.homecoming.take_in(document)
        elif document.tombstone or (snapshot.confirmed and (me is None or me.deferred)):
            await here.store.write(lambda tx: self.rejoining.drop_promises(tx, service_id))

    def _lift(self, tx: Tx) -> None:
        """What was adopted and has not come back is undone as any promise."""
        tx.lift_fence(SITE)
        tx.add_event(self.here.event("unfenced", self.here.context(), None))
        for service_id in {row.service_id for row in tx.all_reservations() if row.sender == NOBODY}:
            if not tx.fenced(service_id):
                self.rejoining.drop_promises(tx, service_id)
