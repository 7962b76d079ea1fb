"""A background look at what the VIM has against what the services state (`logic.audit`).

Owners give and nobody takes, here too: an address that a tenant fixed in a block of another site is
reported, and its owner is asked for that very block; while it has not given it the service is degraded.
Sites tell each other the addresses and MACs of a stretched network by a digest in the periodic exchange,
and in full only when that has changed.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence, Set

import structlog

from diminet.engine.instance import Instance
from diminet.engine.pools import Pools, made_here
from diminet.engine.ports import HeldBlock, ServiceRow
from diminet.engine.turns import Stretch, Turn
from diminet.errors import DiminetError, NetworkNotFound
from diminet.logic import audit as logic
from diminet.logic.audit import Finding
from diminet.logic.blocks import belongs
from diminet.messages import Context, SyncEntry
from diminet.model import Block, Document, Resource

log = structlog.get_logger()


class Audit:
    def __init__(self, here: Instance, pools: Pools) -> None:
        self.here = here
        self.pools = pools
        self.findings: dict[str, tuple[Finding, ...]] = {}  # by service, of the last round
        self.mine: dict[str, dict[str, str]] = {}  # service -> address -> MAC, at this site
        self.theirs: dict[str, dict[str, tuple[str, Mapping[str, str]]]] = {}  # service -> site -> digest, …
        self.differing: dict[str, dict[str, list[Finding]]] = {}  # service -> site -> what it told otherwise
        self.looking = Turn()

    # -- what is told --------------------------------------------------------------------------------

    def problems(self, service_id: str) -> tuple[str, ...]:
        return tuple(f.text for f in self.findings.get(service_id, ()) if f.hard)

    def warnings(self, service_id: str) -> tuple[str, ...]:
        return tuple(f.text for f in self.findings.get(service_id, ()) if not f.hard)

    def digest(self, service_id: str) -> str:
        """Of this site's addresses and MACs; empty while there are none."""
        seen = self.mine.get(service_id)
        return _digest(seen) if seen else ""

    async def heard(self, ctx: Context, site: str, entry: SyncEntry) -> None:
        """A peer's digest: what it has is read where that is news."""
        known = self.theirs.get(entry.service_id, {}).get(site, ("", {}))
        if entry.ports == known[0]:
            return
        if entry.ports:
            snapshot = await self.here.peers.at(site).snapshot(ctx, entry.service_id)
            self.theirs.setdefault(entry.service_id, {})[site] = (entry.ports, snapshot.ports)
            return
        of_others = self.theirs[entry.service_id]
        del of_others[site]
        if not of_others:
            del self.theirs[entry.service_id]

    async def blocks_told(
        self, site: str, document: Document, before: Sequence[Block], theirs: Sequence[Block]
    ) -> None:
        """What that site has of the blocks, of which we had `before` and now have what of it we believe."""
        service_id, kind = document.service_id, self.here.type_of(document.type)
        now = [h.block for h in await self._held(document)]
        possible = [b for b in theirs if belongs(b, kind.block_size(document, b.cidr))]
        findings = logic.of_blocks(self.here.name, site, now, possible)
        self.differing.setdefault(service_id, {})[site] = findings
        if back := len(now) - len(before):
            said = f"{back} address blocks were gone from this site's database; site {site} has told them"
            event = self.here.seen("drift", service_id, document.project_id, problems=[said])
            await self.here.store.write(lambda tx: tx.add_event(event))
            await self.here.tell_news()

    def blocks_agree(self, site: str, service_id: str) -> None:
        """Both have the same."""
        self.differing.get(service_id, {}).pop(site, None)

    # -- looking -------------------------------------------------------------------------------------

    async def round(self) -> None:
        """The next services, in turns."""
        after, most = self.looking.after, self.here.limits.round_batch
        rows = await self.here.store.read(lambda tx: tx.services_page(after, most))
        stretch = self.looking.took({row.document.service_id for row in rows}, most)
        live = {
            row.document.service_id: row
            for row in rows
            if row.applied is not None and row.left is None and not row.document.tombstone
        }
        found: dict[str, tuple[Finding, ...]] = {}
        for service_id, row in live.items():
            try:
                found[service_id] = tuple(dict.fromkeys(await self._look(row)))
            except DiminetError as error:  # the VIM is away: what was seen last still stands
                log.info("audit", service=service_id, code=error.code, message=error.message)
                found[service_id] = self.findings.get(service_id, ())
        for service_id, findings in found.items():
            news = [f for f in findings if f not in self.findings.get(service_id, ())]
            if news:
                await self._tell(live[service_id], news)
        kept = {service_id: seen for service_id, seen in self.findings.items() if service_id not in stretch}
        self.findings = {**kept, **{service_id: seen for service_id, seen in found.items() if seen}}
        self._forget(stretch, live.keys())
        self.here.meter.set_audit(Counter(f.kind for fs in self.findings.values() for f in fs))

    def _forget(self, stretch: Stretch, live: Set[str]) -> None:
        for seen in (self.mine, self.theirs, self.differing):
            for service_id in [i for i in seen if i in stretch and i not in live]:
                del seen[service_id]

    async def _look(self, row: ServiceRow) -> list[Finding]:
        document, findings = row.document, list[Finding]()
        seen: dict[str, str] = {}
        for resource in document.resources_of(self.here.name):
            try:
                findings += await self._subnets(document, resource)
                ports = await self.here.south.ports(resource.resource_id)
                ingress = await self.here.south.ingress(resource.resource_id)
            except NetworkNotFound:
                continue  # told as what appeared is
            if self.here.type_of(document.type).uses_blocks:
                cidrs = [subnet.cidr for subnet in resource.subnets]
                gateways = [subnet.gateway_ip for subnet in resource.subnets if subnet.gateway_ip]
                own = logic.sightings(ports, cidrs, gateways)
                findings += logic.of_gateways(self.here.name, document, own)
                findings += await self._addresses(document, resource, own)
                seen |= own
            findings += logic.of_filters(self.here.name, document, resource.resource_id, ingress)
        for site, differing in self.differing.get(document.service_id, {}).items():
            findings += differing if document.member(site) is not None else []
        self.mine[document.service_id] = dict(sorted(seen.items())[: self.here.limits.audit_ports])
        return findings

    async def _subnets(self, document: Document, resource: Resource) -> list[Finding]:
        """Read while nothing of ours changes them."""
        here, network_id = self.here, resource.resource_id
        async with here.locks[f"shape {network_id}"]:
            network = await here.south.network(network_id)
            held, made = await here.store.read(
                lambda tx: (
                    tx.blocks(document.service_id),
                    made_here(tx, document.service_id, network_id),
                )
            )
            pooled = [h.block for h in held if h.pooled and h.block.owner == here.name]
            shapes = here.type_of(document.type).shapes(document, resource, pooled)
        wanted = [subnet.cidr for subnet in resource.subnets]
        findings, changed = logic.of_subnets(here.name, network, wanted, shapes, made=made)
        if changed:
            await self._shape(document, resource)
        return findings

    async def _held(self, document: Document) -> list[HeldBlock]:
        return await self.here.store.read(lambda tx: tx.blocks(document.service_id))

    async def _addresses(
        self, document: Document, resource: Resource, own: Mapping[str, str]
    ) -> list[Finding]:
        findings = []
        for subnet in resource.subnets:
            found = await self._strays(document, subnet.cidr, own)
            if found:
                await self._claim(document, resource, found)
                found = await self._strays(document, subnet.cidr, own)
            findings += logic.of_strays(self.here.name, document, found)
        for site, (_, theirs) in self.theirs.get(document.service_id, {}).items():
            if document.member(site) is not None:
                findings += logic.of_others(self.here.name, site, own, theirs)
        return findings

    async def _strays(self, document: Document, cidr: str, own: Mapping[str, str]) -> tuple[logic.Stray, ...]:
        held = [h for h in await self._held(document) if h.block.cidr == cidr]
        size = self.here.type_of(document.type).block_size(document, cidr)
        pooled = [h.block for h in held if h.pooled]
        return logic.strays(self.here.name, size, pooled, [h.block for h in held], own)

    async def _claim(self, document: Document, resource: Resource, found: Sequence[logic.Stray]) -> None:
        """Our own spare is pooled, so that it is not given away; another's is asked for."""
        blocks = {stray.block.index: stray.block for stray in found}
        for block in blocks.values():
            if block.owner == self.here.name:
                await self.pools.pool_block(document, block)
            else:
                await self.pools.ask_for(document, block)
        await self._shape(document, resource)

    async def _shape(self, document: Document, resource: Resource) -> None:
        """What the VIM refuses (a port has the gateway's address) is found, and told, by the rest."""
        try:
            await self.pools.shape(document, resource)
        except DiminetError as error:
            log.info("audit", service=document.service_id, code=error.code, message=error.message)

    async def _tell(self, row: ServiceRow, news: Sequence[Finding]) -> None:
        document = row.document
        findings = [{"kind": f.kind, "message": f.text} for f in news]
        event = self.here.seen("audit", document.service_id, document.project_id, findings=findings)
        await self.here.store.write(lambda tx: tx.add_event(event))
        await self.here.tell_news()


def _digest(seen: Mapping[str, str]) -> str:
    lines = [f"{ip} {seen[ip]}" for ip in sorted(seen)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:32]
