"""The networking service of a plain linux site: networks, subnets and ports of projects.

Neutron's semantics, with two differences that DIMINET needs: the pools of a subnet that is shared with
other sites are binding, and when they are dry the keeper of the pools is asked for more, within the
request. Every change is durable first and in the kernel next (`vim_wiring`); `repair` does the rest.

Errors: VimError (what Neutron would say), and of DiminetError StorageUnavailable and SiteRefused (the
kernel's).
"""

import asyncio
import time
from collections.abc import Callable
from typing import Any, TypeVar
from uuid import uuid4

from diminet.engine.ports import PoolKeeper
from diminet.errors import DiminetError
from diminet.south.linux import vim_access as access
from diminet.south.linux import vim_macs as macs
from diminet.south.linux import vim_subnets as rules
from diminet.south.linux.vim_access import Actor, Quotas
from diminet.south.linux.vim_errors import InUse
from diminet.south.linux.vim_requests import (
    IPV6_MTU_MIN,
    NetworkCreate,
    NetworkUpdate,
    PortCreate,
    PortUpdate,
    SubnetCreate,
    SubnetUpdate,
)
from diminet.south.linux.vim_store import VimStore, VimTx
from diminet.south.linux.vim_tables import NetworkRow, PortRow, SubnetRow
from diminet.south.linux.vim_wiring import VimKernel, Wiring

DEFAULT_MTU = 1450  # bytes: an underlay of 1500 less VXLAN over IPv4
MORE_ROOM_TIMEOUT = 8.0  # seconds for the keeper to find more addresses, while the client waits
MORE_ROOM_ATTEMPTS = 4  # times that the keeper is asked for one port

DEFAULT_QUOTAS = Quotas()

T = TypeVar("T")
R = TypeVar("R", NetworkRow, SubnetRow, PortRow)


class LinuxVim:
    """mtu: bytes, of networks that state none. clock: UTC, epoch seconds."""

    def __init__(
        self,
        store: VimStore,
        kernel: VimKernel,
        site_number: int,
        *,
        keeper: PoolKeeper | None = None,
        mtu: int = DEFAULT_MTU,
        quotas: Quotas = DEFAULT_QUOTAS,
        more_room_timeout: float = MORE_ROOM_TIMEOUT,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.store = store
        self.wiring = Wiring(store, kernel, site_number)
        self.keeper = keeper
        self.mtu = mtu
        self._quotas = quotas
        self._more_room_timeout = more_room_timeout
        self.clock = clock
        self._creating: dict[str, asyncio.Lock] = {}

    async def start(self) -> None:
        """Open the database and repair what a crash or a reboot left."""
        await self.store.open()
        await self.wiring.repair()

    async def close(self) -> None:
        await self.store.close()

    # -- networks ----------------------------------------------------------------------------------

    async def networks(self, actor: Actor) -> list[NetworkRow]:
        rows = await self.store.read(lambda tx: tx.networks())
        return [row for row in rows if access.sees_network(actor, row)]

    async def network(self, actor: Actor, network_id: str) -> NetworkRow:
        return await self.store.read(lambda tx: access.network(tx, actor, network_id))

    async def subnet_ids(self, *network_id: str) -> dict[str, list[str]]:
        """Network id -> ids of its subnets, of all networks or of the one given."""
        found: dict[str, list[str]] = {}
        where = {"network_id": network_id[0]} if network_id else {}
        for row in await self.store.read(lambda tx: tx.subnets(**where)):
            found.setdefault(row.network_id, []).append(row.id)
        return found

    async def create_network(self, actor: Actor, request: NetworkCreate) -> NetworkRow:
        project_id = access.project(actor, request.project)
        if request.shared and not actor.admin:
            raise access.forbidden("make a network shared")
        now = self.clock()
        row = NetworkRow(
            id=str(uuid4()),
            project_id=project_id,
            mtu=request.mtu or self.mtu,
            created_at=now,
            updated_at=now,
            **request.model_dump(exclude={"project_id", "tenant_id", "mtu"}),
        )

        def write(tx: VimTx) -> None:
            access.within_quota("network", len(tx.networks(project_id=project_id)), self._quotas.networks)
            tx.save_network(row)

        await self.store.write(write)
        await self._made_in_kernel(row.id)
        return await self.network(actor, row.id)

    async def _made_in_kernel(self, network_id: str) -> None:
        """The kernel's part of a new network; if it fails, the network is gone again."""
        try:
            await self.wiring.network(network_id)
        except DiminetError:
            await self.store.write(lambda tx: access.mark_network_deleting(tx, network_id))
            await self.wiring.remove_network(network_id)
            raise

    async def update_network(self, actor: Actor, network_id: str, request: NetworkUpdate) -> NetworkRow:
        def write(tx: VimTx) -> tuple[NetworkRow, NetworkRow]:
            before = access.own_network(tx, actor, network_id)
            changes = request.model_dump(include=request.model_fields_set)
            if request.shared != before.shared and "shared" in changes and not actor.admin:
                raise access.forbidden("change 'shared'")
            if "mtu" in changes:
                changes["mtu"] = request.mtu or self.mtu
                self._check_mtu(tx, before, changes["mtu"])
            after = self._changed(before, changes)
            tx.save_network(after)
            return before, after

        before, after = await self.store.write(write)
        if (before.mtu, before.admin_state_up) != (after.mtu, after.admin_state_up):
            await self.wiring.network(network_id, replug=True)
        return after

    def _check_mtu(self, tx: VimTx, network: NetworkRow, mtu: int) -> None:
        if mtu != network.mtu and tx.links(network_id=network.id):
            raise InUse("NetworkInUse", f"Network {network.id} is in an inter-site service: its MTU stays.")
        if mtu < IPV6_MTU_MIN and any(s.ip_version == 6 for s in tx.subnets(network_id=network.id)):
            raise rules.mtu_too_small(mtu)

    async def delete_network(self, actor: Actor, network_id: str) -> None:
        def write(tx: VimTx) -> None:
            row = access.own_network(tx, actor, network_id)
            access.check_not_in_service(tx, row)
            ports = [port.id for port in tx.ports(network_id=network_id)]
            if ports:
                raise InUse(
                    "NetworkInUse",
                    f"Unable to complete operation on network {network_id}. There are one or more ports "
                    f"still in use on the network, id for these ports is: {', '.join(ports[:10])}.",
                )
            access.mark_network_deleting(tx, network_id)

        await self.store.write(write)
        await self.wiring.remove_network(network_id)
        self._creating.pop(network_id, None)

    # -- subnets -----------------------------------------------------------------------------------

    async def subnets(self, actor: Actor) -> list[SubnetRow]:
        def read(tx: VimTx) -> list[SubnetRow]:
            networks = {row.id for row in tx.networks() if access.sees_network(actor, row)}
            return [row for row in tx.subnets() if row.network_id in networks]

        return await self.store.read(read)

    async def subnet(self, actor: Actor, subnet_id: str) -> SubnetRow:
        return await self.store.read(lambda tx: access.subnet(tx, actor, subnet_id))

    async def create_subnet(self, actor: Actor, request: SubnetCreate) -> SubnetRow:
        rules.check_modes(request)
        row = rules.new_subnet(request, self.clock())

        def write(tx: VimTx) -> SubnetRow:
            network = access.own_network(tx, actor, request.network_id)
            access.same_project(request.project, network)
            if rules.stretched(tx, network.id) or network.ours:
                raise InUse(
                    "NetworkInUse",
                    f"Network {network.id} is stretched over several sites: its subnets are those of the "
                    "service. Use another network.",
                )
            access.within_quota(
                "subnet", len(tx.subnets(project_id=network.project_id)), self._quotas.subnets
            )
            rules.check_apart(tx, network.id, row.cidr)
            if row.ip_version == 6 and network.mtu < IPV6_MTU_MIN:
                raise rules.mtu_too_small(network.mtu)
            subnet = row.model_copy(update={"project_id": network.project_id})
            tx.save_subnet(subnet)
            return subnet

        subnet = await self.store.write(write)
        await self.wiring.network(subnet.network_id)
        return subnet

    async def update_subnet(self, actor: Actor, subnet_id: str, request: SubnetUpdate) -> SubnetRow:
        sent = request.model_fields_set

        def write(tx: VimTx) -> tuple[SubnetRow, SubnetRow]:
            before = access.own_subnet(tx, actor, subnet_id)
            changes = request.model_dump(include=sent - {"allocation_pools"})
            if request.allocation_pools is not None:
                changes["pools"] = request.allocation_pools
            after = self._changed(before, changes)
            if (after.gateway_ip, after.pools) != (before.gateway_ip, before.pools):
                self._check_reshaped(tx, after)
            tx.save_subnet(after)
            return before, after

        before, after = await self.store.write(write)
        if before.gateway_ip != after.gateway_ip:
            await self.wiring.network(after.network_id, replug=True)
        return after

    def _check_reshaped(self, tx: VimTx, after: SubnetRow) -> None:
        if rules.shaped(tx, after):
            raise InUse(
                "SubnetInUse",
                f"Subnet {after.cidr} is shared with other sites by an inter-site service, which sets its "
                "gateway and allocation pools; change or delete that service first.",
            )
        if after.gateway_ip is None and tx.links(network_id=after.network_id):
            raise InUse(
                "SubnetInUse",
                f"Subnet {after.cidr} is routed by an inter-site service through its gateway: keep one.",
            )
        rules.check_gateway(after.cidr, after.gateway_ip)
        rules.check_pools(after.cidr, after.pools)
        rules.check_gateway_apart(after.gateway_ip, after.pools)
        rules.check_gateway_free(tx, after, after.gateway_ip)

    async def delete_subnet(self, actor: Actor, subnet_id: str) -> None:
        def write(tx: VimTx) -> str:
            row = access.own_subnet(tx, actor, subnet_id)
            if tx.used(subnet_id):
                raise InUse(
                    "SubnetInUse",
                    f"Unable to complete operation on subnet {subnet_id}: One or more ports have an IP "
                    "allocation from this subnet.",
                )
            access.check_not_in_service(tx, access.network(tx, actor, row.network_id))
            tx.delete_subnet(subnet_id)
            return row.network_id

        network_id = await self.store.write(write)
        await self.wiring.network(network_id)

    # -- ports -------------------------------------------------------------------------------------

    async def ports(self, actor: Actor) -> list[PortRow]:
        def read(tx: VimTx) -> list[PortRow]:
            mine = {row.id for row in tx.networks() if row.project_id == actor.project_id}
            return [p for p in tx.ports() if access.sees(actor, p.project_id) or p.network_id in mine]

        return await self.store.read(read)

    async def port(self, actor: Actor, port_id: str) -> PortRow:
        return await self.store.read(lambda tx: access.port(tx, actor, port_id))

    async def create_port(self, actor: Actor, request: PortCreate) -> PortRow:
        """Address, MAC and, unless the port is the network's own, an instance's namespace."""
        project_id = access.project(actor, request.project)
        await self.network(actor, request.network_id)
        port_id = str(uuid4())

        def write(tx: VimTx) -> PortRow:
            network = access.network(tx, actor, request.network_id)
            access.within_quota("port", tx.count_ports(project_id), self._quotas.ports)
            row = self._new_port(tx, network, port_id, project_id, request)
            tx.save_port(row)
            return row

        row = await self._with_room(request.network_id, write)
        try:
            await self.wiring.port(row.id)
        except DiminetError:
            await self._remove_port(row.id)
            raise
        if self.keeper is not None:
            self.keeper.port_made(row.network_id)
        return await self.port(actor, row.id)

    def _new_port(
        self, tx: VimTx, network: NetworkRow, port_id: str, project_id: str, request: PortCreate
    ) -> PortRow:
        now = self.clock()
        number, mac = self.wiring.site_number, request.mac_address
        if mac is None:
            mac = macs.free(tx, network, port_id, number)
        else:
            macs.check(tx, network, mac, number)
        left_out = {"project_id", "tenant_id", "mac_address", "fixed_ips", "host_id"}
        return PortRow(
            id=port_id,
            project_id=project_id,
            mac=mac,
            instance=access.instance_name(tx, port_id, project_id, request),
            fixed_ips=rules.give(tx, network, request.fixed_ips, mac),
            created_at=now,
            updated_at=now,
            **request.model_dump(exclude=left_out),
        )

    async def update_port(self, actor: Actor, port_id: str, request: PortUpdate) -> PortRow:
        """Changes of addresses and of `admin_state_up` reach the instance at once."""
        known = await self.port(actor, port_id)

        def write(tx: VimTx) -> tuple[PortRow, PortRow]:
            before = access.own_port(tx, actor, port_id)
            changes = request.model_dump(include=request.model_fields_set - {"fixed_ips", "host_id"})
            network = tx.network(before.network_id)
            if request.fixed_ips is not None and network is not None:
                own = before.fixed_ips
                changes["fixed_ips"] = rules.give(tx, network, request.fixed_ips, before.mac, own)
            after = self._changed(before, changes)
            tx.save_port(after)
            return before, after

        before, after = await self._with_room(known.network_id, write)
        if (before.fixed_ips, before.admin_state_up) != (after.fixed_ips, after.admin_state_up):
            await self.wiring.port(port_id)
        return after

    async def delete_port(self, actor: Actor, port_id: str) -> None:
        await self.store.read(lambda tx: access.own_port(tx, actor, port_id))
        await self._remove_port(port_id)

    async def _remove_port(self, port_id: str) -> None:
        def write(tx: VimTx) -> PortRow | None:
            row = tx.port(port_id)
            if row is not None:
                tx.save_port(row.model_copy(update={"state": "DELETING"}))
            return row

        row = await self.store.write(write)
        if row is not None:
            await self.wiring.remove_port(row)

    async def _with_room(self, network_id: str, write: Callable[[VimTx], T]) -> T:
        """Run `write`; when the pools are dry ask the keeper and run it again.

        One at a time per network: what the keeper found is for the one that asked.
        """
        async with self._creating.setdefault(network_id, asyncio.Lock()):
            for attempt in range(MORE_ROOM_ATTEMPTS + 1):
                try:
                    return await self.store.write(write)
                except rules.PoolsDry as dry:
                    if attempt == MORE_ROOM_ATTEMPTS or not await self._more_room(network_id, dry.cidrs):
                        break
        raise InUse(
            "IpAddressGenerationFailure",
            f"No more IP addresses available on network {network_id}. Delete ports that are not needed, or "
            "give the subnet larger allocation pools.",
        )

    async def _more_room(self, network_id: str, cidrs: tuple[str, ...]) -> bool:
        if self.keeper is None:
            return False
        try:
            async with asyncio.timeout(self._more_room_timeout):
                for cidr in cidrs:
                    if await self.keeper.more_room(network_id, cidr):
                        return True
        except TimeoutError:
            return False
        return False

    # -- all three ---------------------------------------------------------------------------------

    async def set_tags(self, actor: Actor, collection: str, id_: str, tags: tuple[str, ...]) -> None:
        """Replace the tags of one object. collection: networks, subnets or ports."""

        def write(tx: VimTx) -> None:
            if collection == "networks":
                tx.save_network(self._changed(access.own_network(tx, actor, id_), {"tags": tags}))
            elif collection == "subnets":
                tx.save_subnet(self._changed(access.own_subnet(tx, actor, id_), {"tags": tags}))
            else:
                tx.save_port(self._changed(access.own_port(tx, actor, id_), {"tags": tags}))

        await self.store.write(write)

    def _changed(self, row: R, changes: dict[str, Any]) -> R:
        bumped = {"updated_at": self.clock(), "revision": row.revision + 1}
        return type(row).model_validate(row.model_dump() | changes | bumped)
