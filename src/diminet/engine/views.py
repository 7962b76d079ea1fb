"""A service as this site knows it, for the north side; no peer is asked."""

from collections.abc import Sequence

from diminet.engine.drift import Drift
from diminet.engine.instance import Instance
from diminet.engine.ports import HeldBlock, MemberRow, OutboxRow, ServiceRow, Tx
from diminet.errors import NetworkNotFound, SiteRefused, Unavailable
from diminet.logic import blocks as block_logic
from diminet.logic.lifecycle import operating
from diminet.messages import PoolView, ResourceView, ServiceView
from diminet.model import (
    Connection,
    Document,
    Member,
    OperatingStatus,
    ProvisioningStatus,
    Resource,
    Subnet,
)

GONE = {ProvisioningStatus.PENDING_DELETE, ProvisioningStatus.REVOKED}


class Views:
    def __init__(self, here: Instance, drift: Drift) -> None:
        self.here = here
        self.drift = drift

    async def of(self, row: ServiceRow, *, in_full: bool = True) -> ServiceView:
        """in_full False: without what has to be read from the VIM (lists)."""
        service_id = row.document.service_id

        def look(
            tx: Tx,
        ) -> tuple[list[MemberRow], list[HeldBlock], list[Connection], list[OutboxRow], bool]:
            held = tx.blocks(service_id) if in_full else []
            posted = tx.outbox(service_id=service_id)
            return tx.members(service_id), held, tx.connections(service_id), posted, tx.fenced(service_id)

        members, held, connections, outbox, fenced = await self.here.store.read(look)
        known = {m.site: m for m in members}
        document = row.document
        states = {m.site: self._operating(row, m, known.get(m.site)) for m in document.members}
        resources = [await self._resource(row, r, known, states, held) for r in document.resources]
        resources += [v for m in document.members if m.deferred for v in self._missing(row, m)]
        capabilities = await self.here.south.capabilities() if in_full else None
        warnings = [*row.warnings, *self.drift.problems(service_id)]
        warnings += self.drift.audit.warnings(service_id)
        if fenced:
            warnings.append(f"fenced: the database of site {self.here.name} was restored (ADR 20)")
        if capabilities is not None and not capabilities.data_plane:
            warnings.append("no-data-plane")
        return ServiceView(
            document=document,
            provisioning_status=row.status,
            operating_status=OperatingStatus.OFFLINE if document.tombstone else operating(document, states),
            synced_at=row.synced_at,
            warnings=tuple(warnings),
            fault=row.fault,
            waiting=self._waiting(row, members, outbox),
            resources=tuple(resources),
            connections=tuple(c.model_dump(mode="json") for c in connections),
        )

    async def of_left(self, document: Document, *, confirmed: bool) -> ServiceView:
        """The service that this site has just left, as its master told of it then."""
        status = ProvisioningStatus.ACTIVE if confirmed else ProvisioningStatus.PENDING_UPDATE
        row = ServiceRow(
            document=document,
            status=status,
            confirmed=document.pair if confirmed else None,
            created_at=document.created_at,
            updated_at=document.updated_at,
            synced_at=self.here.clock.now(),
            warnings=(f"site {self.here.name} has left this service; from now on ask one of the others",),
        )
        return await self.of(row, in_full=False)

    def _waiting(
        self, row: ServiceRow, members: Sequence[MemberRow], outbox: Sequence[OutboxRow]
    ) -> tuple[str, ...]:
        sites = {o.peer for o in outbox if o.kind != "abort"}
        if row.document.tombstone:
            sites |= {m.site for m in members if not m.clean and m.site != self.here.name}
        sites |= {m.site for m in row.document.members if m.deferred}
        return tuple(sorted(sites))

    def _operating(self, row: ServiceRow, member: Member, known: MemberRow | None) -> OperatingStatus:
        if member.site == self.here.name:
            return self.drift.operating(row)
        if known is None or known.seen_at is None:
            return OperatingStatus.UNKNOWN
        if known.seen_at < self.here.clock.now() - 3 * self.here.limits.sync_interval:
            return OperatingStatus.OFFLINE
        return OperatingStatus(known.operating)

    def _missing(self, row: ServiceRow, member: Member) -> list[ResourceView]:
        """Entries of a deferred site: not made yet."""
        refusal = row.refusals.get(member.site)
        return [
            ResourceView(
                resource=Resource(site=e.site, resource_id=e.resource_id or ""),
                provisioning_status=ProvisioningStatus.PENDING_CREATE,
                operating_status=OperatingStatus.OFFLINE,
                seen_at=None,
                fault=refusal.message if refusal else None,
            )
            for e in member.wanted
        ]

    async def _resource(
        self,
        row: ServiceRow,
        resource: Resource,
        known: dict[str, MemberRow],
        states: dict[str, OperatingStatus],
        held: Sequence[HeldBlock],
    ) -> ResourceView:
        here = resource.site == self.here.name
        member = known.get(resource.site)
        if row.document.tombstone:
            status = ProvisioningStatus.PENDING_DELETE
        elif here:
            done = row.applied == row.document.pair
            status = ProvisioningStatus.ACTIVE if done else row.status
        else:
            status = member.status if member else ProvisioningStatus.PENDING_CREATE
            if row.confirmed == row.document.pair and row.document.epoch.site != self.here.number:
                status = ProvisioningStatus.ACTIVE
        return ResourceView(
            resource=resource,
            provisioning_status=status,
            operating_status=states.get(resource.site, OperatingStatus.UNKNOWN),
            seen_at=self.here.clock.now() if here else (member.seen_at if member else None),
            fault=member.fault if member else None,
            subnets=await self._pools(row, resource, held) if here else self._plain(resource),
        )

    @staticmethod
    def _plain(resource: Resource) -> tuple[PoolView, ...]:
        return tuple(PoolView(cidr=s.cidr, gateway_ip=s.gateway_ip) for s in resource.subnets)

    async def _pools(
        self, row: ServiceRow, resource: Resource, held: Sequence[HeldBlock]
    ) -> tuple[PoolView, ...]:
        if not held:
            return self._plain(resource)
        try:
            network = await self.here.south.network(resource.resource_id)
            ports = [p.ip for p in await self.here.south.ports(resource.resource_id)]
        except (NetworkNotFound, SiteRefused, Unavailable):
            return self._plain(resource)
        pools = {s.cidr: s.pools for s in network.subnets}
        return tuple(
            self._pool(row, subnet, held, pools.get(subnet.cidr, ()), ports) for subnet in resource.subnets
        )

    def _pool(
        self,
        row: ServiceRow,
        subnet: Subnet,
        held: Sequence[HeldBlock],
        pools: Sequence[tuple[str, str]],
        ports: Sequence[str],
    ) -> PoolView:
        mine = [h for h in held if h.block.cidr == subnet.cidr and h.block.owner == self.here.name]
        size = self.here.type_of(row.document.type).block_size(row.document, subnet.cidr)
        used = sum(1 for ip in ports if any(block_logic.in_use(h.block, size, [ip]) for h in mine))
        pooled = sum(1 for h in mine if h.pooled)
        return PoolView(
            cidr=subnet.cidr,
            gateway_ip=subnet.gateway_ip,
            allocation_pools=tuple((first, last) for first, last in pools),
            used=used,
            blocks={"pooled": pooled, "spare": len(mine) - pooled},
        )
