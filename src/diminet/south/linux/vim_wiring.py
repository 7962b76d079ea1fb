"""Makes the kernel what the rows of the database say: bridges, gateways, plugged instances.

Rows come first and the kernel follows, so every step here may be repeated, and `repair` is the same
code over all rows: after a crash, or after a reboot that took all namespaces away.
"""

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol
from uuid import UUID

from diminet.south.linux import names
from diminet.south.linux.vim_store import VimStore, VimTx
from diminet.south.linux.vim_tables import NetworkRow, PortRow, SubnetRow

_NO_PORT = str(UUID(int=0))  # names no port: unplugging it removes a namespace that has none left


class VimKernel(Protocol):
    """What is needed of `kernel.Kernel`. All methods may be repeated. Errors: SiteRefused."""

    def instance_path(self, ns_name: str) -> Path: ...
    async def make_bridge(self, network_id: str, mtu: int) -> None: ...
    async def delete_bridge(self, network_id: str) -> None: ...
    async def bridges(self) -> dict[str, int]: ...

    async def plug(
        self,
        network_id: str,
        port_id: str,
        ns_name: str,
        *,
        mac: str,
        addresses: Iterable[tuple[str, int]],
        gateways: Iterable[str],
        mtu: int,
    ) -> None: ...

    async def unplug(self, port_id: str, ns_name: str) -> None: ...
    async def ports(self) -> set[str]: ...

    async def set_gateway(
        self, network_id: str, addresses: Iterable[tuple[str, int]], *, mac: str, mtu: int
    ) -> None: ...

    async def remove_gateway(self, network_id: str) -> None: ...
    async def gateways(self) -> set[str]: ...


class Wiring:
    """The kernel side of the networking service of the site with that number."""

    def __init__(self, store: VimStore, kernel: VimKernel, site_number: int) -> None:
        self._store = store
        self._kernel = kernel
        self.site_number = site_number
        self._locks: dict[str, asyncio.Lock] = {}
        self._behind: set[str] = set()

    def instance_path(self, instance: str) -> Path:
        return self._kernel.instance_path(instance)

    def _lock(self, id_: str) -> asyncio.Lock:
        """One after the other on one network or port, so that the last to read its row is the last to
        act: a port that is being removed must not be plugged in again."""
        return self._locks.setdefault(id_, asyncio.Lock())

    # -- networks ----------------------------------------------------------------------------------

    def behind(self, network_id: str) -> bool:
        """Whether the kernel failed to follow the rows of that network: to be tried again."""
        return network_id in self._behind

    async def network(self, network_id: str, *, replug: bool = False) -> None:
        """Bridge and gateway as the rows say, and with `replug` every port on it (MTU, gateways)."""
        replug = replug or network_id in self._behind
        self._behind.add(network_id)
        await self._bridge_and_gateway(network_id)
        if replug:
            for port in await self._store.read(lambda tx: tx.ports(network_id=network_id)):
                await self.port(port.id)
        self._behind.discard(network_id)

    async def _bridge_and_gateway(self, network_id: str) -> None:
        async with self._lock(network_id):
            found = await self._store.read(
                lambda tx: (tx.network(network_id), tx.subnets(network_id=network_id))
            )
            row, subnets = found
            if row is None or row.state == "DELETING":
                return
            await self._kernel.make_bridge(row.id, row.mtu)
            addresses = [(s.gateway_ip, s.prefix_length) for s in subnets if s.gateway_ip]
            if addresses:
                mac = names.gateway_mac(self.site_number, row.id)
                await self._kernel.set_gateway(row.id, addresses, mac=mac, mtu=row.mtu)
            else:
                await self._kernel.remove_gateway(row.id)
            if row.state == "BUILD":
                await self._store.write(lambda tx: _network_active(tx, row.id))

    async def remove_network(self, network_id: str) -> None:
        """Of a network whose row is DELETING: the kernel's part first, then the row."""
        async with self._lock(network_id):
            await self._kernel.remove_gateway(network_id)
            await self._kernel.delete_bridge(network_id)
            await self._store.write(lambda tx: tx.delete_network(network_id))
        self._locks.pop(network_id, None)
        self._behind.discard(network_id)

    # -- ports -------------------------------------------------------------------------------------

    async def port(self, port_id: str) -> None:
        """The port's instance is plugged in, or taken out where port or network is switched off."""
        async with self._lock(port_id):
            await self._port(port_id)

    async def _port(self, port_id: str) -> None:
        def look(tx: VimTx) -> tuple[PortRow, NetworkRow, list[SubnetRow]] | None:
            port = tx.port(port_id)
            network = tx.network(port.network_id) if port else None
            if port is None or network is None:
                return None
            return port, network, tx.subnets(network_id=network.id)

        found = await self._store.read(look)
        if found is None or found[0].state == "DELETING":
            return
        port, network, subnets = found
        if port.instance and port.admin_state_up and network.admin_state_up:
            await self._plug(port, port.instance, network, {subnet.id: subnet for subnet in subnets})
        elif port.instance:
            await self._kernel.unplug(port.id, port.instance)
        if port.state == "BUILD":
            await self._store.write(lambda tx: _port_active(tx, port.id))

    async def _plug(
        self, port: PortRow, instance: str, network: NetworkRow, subnets: dict[str, SubnetRow]
    ) -> None:
        mine = [subnets[address.subnet_id] for address in port.fixed_ips]
        gateways = {s.ip_version: s.gateway_ip for s in reversed(mine) if s.gateway_ip}
        await self._kernel.plug(
            network.id,
            port.id,
            instance,
            mac=port.mac,
            addresses=[(a.ip, subnets[a.subnet_id].prefix_length) for a in port.fixed_ips],
            gateways=list(gateways.values()),
            mtu=network.mtu,
        )

    async def remove_port(self, port: PortRow) -> None:
        """Of a port whose row is DELETING: its address is free only when nothing answers to it."""
        async with self._lock(port.id):
            if port.instance:
                await self._kernel.unplug(port.id, port.instance)
            await self._store.write(lambda tx: tx.delete_port(port.id))
        self._locks.pop(port.id, None)

    # -- repair ------------------------------------------------------------------------------------

    async def repair(self) -> None:
        """Finish what a crash left half done, make what is missing, delete what has no row."""
        networks, ports = await self._store.read(lambda tx: (tx.networks(), tx.ports()))
        for port in ports:
            if port.state == "DELETING":
                await self.remove_port(port)
        await self._remove_strangers(networks, [port for port in ports if port.state != "DELETING"])
        for network in networks:
            if network.state == "DELETING":
                await self.remove_network(network.id)
            else:
                await self.network(network.id)
        for port in ports:
            await self.port(port.id)

    async def _remove_strangers(self, networks: list[NetworkRow], ports: list[PortRow]) -> None:
        known = {port.id for port in ports}
        for port_id in await self._kernel.ports() - known:
            await self._kernel.unplug(port_id, f"vm-{port_id}")
        instances = {port.instance for port in ports}
        gateways = await self._kernel.gateways()
        for name in _names_in(self._kernel.instance_path("x").parent):
            network_id = names.network_of_gateway(name)
            if network_id is not None:
                gateways.add(network_id)  # a crash may leave the namespace without its device
            elif name not in instances:
                await self._kernel.unplug(_NO_PORT, name)
        known = {network.id for network in networks}
        for network_id in gateways - known:
            await self._kernel.remove_gateway(network_id)
        for network_id in set(await self._kernel.bridges()) - known:
            await self._kernel.delete_bridge(network_id)

    async def damaged(self) -> dict[str, str]:
        """Id of each network that is not in the kernel as it was made -> what is gone. Those are `behind`
        from now on."""
        rows, subnets = await self._store.read(lambda tx: (tx.networks(state="ACTIVE"), tx.subnets()))
        bridges, gateways = await self._kernel.bridges(), await self._kernel.gateways()
        routed = {subnet.network_id for subnet in subnets if subnet.gateway_ip}
        found = {row.id: "gateway" for row in rows if row.id in routed - gateways}
        found |= {row.id: "bridge" for row in rows if row.id not in bridges}
        self._behind |= found.keys()
        return found


def _names_in(directory: Path) -> list[str]:
    return sorted(entry.name for entry in directory.iterdir()) if directory.is_dir() else []


def _network_active(tx: VimTx, network_id: str) -> None:
    row = tx.network(network_id)
    if row is not None and row.state == "BUILD":
        tx.save_network(row.model_copy(update={"state": "ACTIVE"}))


def _port_active(tx: VimTx, port_id: str) -> None:
    row = tx.port(port_id)
    if row is not None and row.state == "BUILD":
        tx.save_port(row.model_copy(update={"state": "ACTIVE"}))
