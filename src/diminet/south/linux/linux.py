"""A plain linux site as a `South`: its own networking service, and bridges, VXLAN and FRR beneath.

What DIMINET makes and changes is marked in the networking service's own database (`ours`, `key`,
`pools_before`, links), so that it is found again when DIMINET's database is lost (invariant 9).
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol
from uuid import uuid4

from pydantic import SecretStr

from diminet.errors import NetworkNotFound, SiteRefused, StorageUnavailable
from diminet.model import (
    Capabilities,
    Health,
    Ingress,
    NetworkFacts,
    PortFacts,
    Remains,
    SubnetFacts,
    SubnetShape,
    Target,
)
from diminet.south.linux import ipam, names
from diminet.south.linux import vim_access as access
from diminet.south.linux import vim_subnets as rules
from diminet.south.linux.dataplane import NetworkInfo
from diminet.south.linux.vim import LinuxVim
from diminet.south.linux.vim_errors import Missing, VimError
from diminet.south.linux.vim_store import VimTx
from diminet.south.linux.vim_tables import LinkRow, NetworkRow, SubnetRow


class SiteDataPlane(Protocol):
    """What is needed of `dataplane.DataPlane`. Errors: SiteRefused."""

    async def connect(self, target: Target, networks: Mapping[str, NetworkInfo]) -> None: ...
    async def disconnect(self, service_id: str) -> None: ...
    async def realised(self) -> dict[str, Health]: ...
    async def problems(self) -> tuple[str, ...]: ...


class LinuxSouth:
    """South of a linux site. mtu: bytes that a tunnel carries. vtep: this site's tunnel address. vteps:
    site number -> tunnel address of the others, shared with the data plane and learned from targets.

    The keeper of the pools is set on the networking service (`vim.keeper`), which asks it.
    """

    kind = "linux"
    asks_for_room = True

    def __init__(
        self,
        vim: LinuxVim,
        dataplane: SiteDataPlane,
        *,
        mtu: int | None = None,
        vtep: str | None = None,
        vteps: dict[int, str] | None = None,
    ) -> None:
        self._vim = vim
        self._store = vim.store
        self._wiring = vim.wiring
        self._dataplane = dataplane
        self._mtu = mtu or vim.mtu
        self._vtep = vtep
        self._vteps = {} if vteps is None else vteps

    async def capabilities(self) -> Capabilities:
        return Capabilities(kind=self.kind, mtu=self._mtu, shared_gateway=True, vtep=self._vtep)

    # -- what is there -----------------------------------------------------------------------------

    async def owner(self, network_id: str, *, as_user: SecretStr | None = None) -> str:
        """as_user makes no difference: this site's users are Identity's, which has decided."""
        return await self._store.read(lambda tx: _network(tx, network_id).project_id)

    async def network(self, network_id: str) -> NetworkFacts:
        def read(tx: VimTx) -> NetworkFacts:
            row = _network(tx, network_id)
            return NetworkFacts(
                network_id=row.id,
                name=row.name,
                project_id=row.project_id,
                mtu=row.mtu,
                subnets=tuple(_facts(subnet) for subnet in tx.subnets(network_id=row.id)),
                ours=row.ours,
            )

        return await self._store.read(read)

    async def ports(self, network_id: str) -> tuple[PortFacts, ...]:
        """Of all ports, those being made and removed included; and the gateways."""

        def read(tx: VimTx) -> tuple[PortFacts, ...]:
            row = _network(tx, network_id)
            anycast = any(link.anycast for link in tx.links(network_id=network_id))
            mac = names.ANYCAST_MAC if anycast else names.gateway_mac(self._wiring.site_number, row.id)
            gateways = [
                PortFacts(ip=subnet.gateway_ip, mac=mac, infrastructure=True)
                for subnet in tx.subnets(network_id=network_id)
                if subnet.gateway_ip
            ]
            tenants = [
                PortFacts(
                    ip=address.ip, mac=port.mac, infrastructure=port.device_owner.startswith("network:")
                )
                for port in tx.ports(network_id=network_id)
                for address in port.fixed_ips
            ]
            return tuple(gateways + tenants)

        return await self._store.read(read)

    # -- networks of ours --------------------------------------------------------------------------

    async def make_network(
        self, service_id: str, project_id: str, name: str, key: str, *, first: bool = False
    ) -> str:
        """It is looked for in any case, in the transaction that makes it."""
        now = self._vim.clock()

        def write(tx: VimTx) -> str:
            found = tx.networks(ours=service_id, key=key)
            if found:
                return found[0].id
            row = NetworkRow(
                id=str(uuid4()),
                project_id=project_id,
                name=name,
                mtu=self._mtu,
                ours=service_id,
                key=key,
                created_at=now,
                updated_at=now,
            )
            tx.save_network(row)
            return row.id

        network_id = await self._store.write(write)
        await self._wiring.network(network_id)
        return network_id

    async def settled(self, network_id: str) -> bool:
        """Pools and addresses are of one database, one transaction after another."""
        return True

    async def drop_network(self, network_id: str) -> bool:
        def write(tx: VimTx) -> bool:
            row = tx.network(network_id)
            if row is None:
                return True
            if not tx.ports(network_id=network_id):
                access.mark_network_deleting(tx, network_id)
                return True
            tx.save_network(row.model_copy(update={"ours": None, "key": None}))
            for subnet in tx.subnets(network_id=network_id):
                tx.save_subnet(subnet.model_copy(update={"pools_before": None}))
            return False

        gone = await self._store.write(write)
        if gone:
            await self._wiring.remove_network(network_id)
        return gone

    async def ingress(self, network_id: str) -> tuple[Ingress, ...]:
        """Nothing on a linux site filters what reaches an instance."""
        return ()

    async def remains(self) -> tuple[Remains, ...]:
        return await self._store.read(_remains)

    async def mark(self, name: str) -> str | None:
        """A mark of this site in the networking service, e.g. of DIMINET's database (DESIGN section 5)."""
        return await self._store.read(lambda tx: tx.mark(name))

    async def set_mark(self, name: str, value: str) -> None:
        await self._store.write(lambda tx: tx.set_mark(name, value))

    # -- subnets -----------------------------------------------------------------------------------

    async def shape_subnet(self, network_id: str, shape: SubnetShape, *, make: bool = True) -> None:
        """See South. Addresses are chosen in transactions of the same thread, so the pools hold for
        every port that is asked for from when this is committed."""
        with _refusals():
            moved = await self._store.write(lambda tx: self._shape(tx, network_id, shape, make=make))
        if moved or self._wiring.behind(network_id):
            await self._wiring.network(network_id, replug=True)

    def _shape(self, tx: VimTx, network_id: str, shape: SubnetShape, *, make: bool) -> bool:
        """True if the gateway is another than before."""
        network = _network(tx, network_id)
        rules.check_gateway(shape.cidr, shape.gateway_ip)
        rules.check_pools(shape.cidr, shape.pools or ())
        cidr = str(ipam.network_of(shape.cidr))
        before = next((s for s in tx.subnets(network_id=network_id) if s.cidr == cidr), None)
        if before is None and not make:
            return False
        if before is None:
            tx.save_subnet(self._made(tx, network, shape))
            return True
        rules.check_gateway_free(tx, before, shape.gateway_ip)
        after = before.model_copy(update={"gateway_ip": shape.gateway_ip})
        if shape.pools is not None:
            after = after.model_copy(update={"pools": shape.pools, "pools_before": before.pools})
            if before.pools_before is not None:
                after = after.model_copy(update={"pools_before": before.pools_before})
        after = _unless_restored(tx, after)
        if after != before:
            tx.save_subnet(self._bumped(after))
        return before.gateway_ip != after.gateway_ip

    def _bumped(self, row: SubnetRow) -> SubnetRow:
        return row.model_copy(update={"updated_at": self._vim.clock(), "revision": row.revision + 1})

    def _made(self, tx: VimTx, network: NetworkRow, shape: SubnetShape) -> SubnetRow:
        rules.check_apart(tx, network.id, shape.cidr)
        now = self._vim.clock()
        pools = shape.pools
        return SubnetRow(
            id=str(uuid4()),
            network_id=network.id,
            project_id=network.project_id,
            name=network.name,
            cidr=str(ipam.network_of(shape.cidr)),
            ip_version=shape.ip_version,
            gateway_ip=shape.gateway_ip,
            pools=ipam.default_pools(shape.cidr, shape.gateway_ip) if pools is None else pools,
            pools_before=None if pools is None else (),
            created_at=now,
            updated_at=now,
        )

    # -- the data plane ----------------------------------------------------------------------------

    async def connect(self, target: Target) -> None:
        self._vteps.update(target.vteps)
        for network in [await self.network(network_id) for network_id in target.networks]:
            if target.layer == "l3" and not any(subnet.gateway_ip for subnet in network.subnets):
                raise SiteRefused(
                    f"Network {network.network_id} has no gateway to route through: set gateway_ip on its "
                    "subnet first."
                )
        links = [
            LinkRow(
                service_id=target.service_id,
                network_id=network_id,
                layer=target.layer,
                anycast=target.anycast_gateway,
            )
            for network_id in target.networks
        ]
        resized = await self._store.write(lambda tx: self._link(tx, target, links))
        for network_id in resized:
            await self._wiring.network(network_id, replug=True)
        infos = {}
        for network in [await self.network(network_id) for network_id in target.networks]:
            cidrs = tuple(subnet.cidr for subnet in network.subnets)
            infos[network.network_id] = NetworkInfo(network.network_id, network.mtu, cidrs)
        await self._dataplane.connect(target, infos)

    def _link(self, tx: VimTx, target: Target, rows: list[LinkRow]) -> list[str]:
        """Ids of networks that the kernel has to follow: those made for this service whose MTU is another
        now, and those where it failed before."""
        left = {link.network_id for link in tx.links(service_id=target.service_id)} - set(target.networks)
        tx.set_links(target.service_id, rows)
        self._unshape(tx, left)
        resized = []
        for network_id in target.networks:
            row = _network(tx, network_id)
            if target.mtu and row.ours == target.service_id and row.mtu != target.mtu:
                tx.save_network(row.model_copy(update={"mtu": target.mtu}))
                resized.append(network_id)
            elif self._wiring.behind(network_id):
                resized.append(network_id)
        return resized

    async def disconnect(self, service_id: str) -> None:
        await self._dataplane.disconnect(service_id)

        def write(tx: VimTx) -> None:
            left = {link.network_id for link in tx.links(service_id=service_id)}
            if left:
                tx.set_links(service_id, [])
                self._unshape(tx, left)

        await self._store.write(write)

    def _unshape(self, tx: VimTx, network_ids: set[str]) -> None:
        """Subnets whose pools were put back before the data plane was off are the tenant's own again."""
        for network_id in network_ids:
            for subnet in tx.subnets(network_id=network_id):
                after = _unless_restored(tx, subnet)
                if after != subnet:
                    tx.save_subnet(after)

    async def realised(self) -> Mapping[str, Health]:
        """Also services that are linked to a network but have no data plane, as a crash leaves them."""
        found = await self._dataplane.realised()
        links, known = await self._store.read(lambda tx: (tx.links(), {row.id for row in tx.networks()}))
        damaged = await self._wiring.damaged()
        for service_id in found.keys() - {link.service_id for link in links}:
            said = "the networking service has lost its record of it"
            before = found[service_id]
            found[service_id] = before.model_copy(update={"problems": (*before.problems, said)})
        for link in links:
            problems = []
            if link.service_id not in found:
                problems.append("the service has no data plane at this site")
            if link.network_id not in known:
                problems.append(f"the network {link.network_id} is gone")
            elif link.network_id in damaged:
                problems.append(f"the {damaged[link.network_id]} of network {link.network_id} is gone")
            if problems:
                before = found.get(link.service_id, Health(service_id=link.service_id))
                update = {"problems": (*before.problems, *problems)}
                found[link.service_id] = before.model_copy(update=update)
        return found

    async def problems(self) -> tuple[str, ...]:
        try:
            await self._store.read(lambda tx: tx.mark(""))
        except StorageUnavailable as error:
            return (error.message, *await self._dataplane.problems())
        return await self._dataplane.problems()


@contextmanager
def _refusals() -> Iterator[None]:
    """What the networking service refuses, in DIMINET's words."""
    try:
        yield
    except Missing as error:
        raise NetworkNotFound(error.message) from error
    except VimError as error:
        raise SiteRefused(error.message) from error


def _network(tx: VimTx, network_id: str) -> NetworkRow:
    row = tx.network(network_id)
    if row is None or row.state == "DELETING":
        raise NetworkNotFound(f"Network {network_id} is not at this site; name one that is.")
    return row


def _remains(tx: VimTx) -> tuple[Remains, ...]:
    """Networks that we made, that we linked, or whose subnets we shaped."""
    links = {link.network_id: link.service_id for link in tx.links()}
    found = []
    for row in tx.networks():
        shaped = [s for s in tx.subnets(network_id=row.id) if s.pools_before is not None and not row.ours]
        if row.ours or row.id in links or shaped:
            found.append(
                Remains(
                    service_id=row.ours or links.get(row.id, ""),
                    project_id=row.project_id,
                    network_id=row.id,
                    made=row.ours is not None,
                    key=row.key or "",
                    joined=row.id in links,
                    shapes=tuple(_before(subnet) for subnet in shaped),
                )
            )
    return tuple(found)


def _before(row: SubnetRow) -> SubnetShape:
    """Its pools as they were; which gateway it had is not written down here."""
    return SubnetShape(
        cidr=row.cidr, ip_version=row.ip_version, gateway_ip=row.gateway_ip, pools=row.pools_before
    )


def _facts(row: SubnetRow) -> SubnetFacts:
    return SubnetFacts(
        subnet_id=row.id,
        cidr=row.cidr,
        ip_version=row.ip_version,
        gateway_ip=row.gateway_ip,
        pools=row.pools,
        slaac=row.slaac,
    )


def _unless_restored(tx: VimTx, row: SubnetRow) -> SubnetRow:
    """Not shaped any longer, if its pools are those of before and no L2 service has the network."""
    if row.pools_before is None or tx.links(network_id=row.network_id, layer="l2"):
        return row
    if ipam.as_numbers(row.pools) != ipam.as_numbers(row.pools_before):
        return row
    return row.model_copy(update={"pools_before": None})
