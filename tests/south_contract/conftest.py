"""The same South contract on every kind of site: what a tenant does there differs, what holds does not."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Protocol

import pytest
from keystoneauth1.exceptions import Conflict

from diminet.engine.ports import South
from diminet.south.linux.linux import LinuxSouth
from diminet.south.linux.vim_errors import InUse
from diminet.south.linux.vim_requests import NetworkCreate, PortCreate, SubnetCreate
from neutron_site import NeutronSite
from recorded_site import recorded_site


class Place(Protocol):
    """A site: its South, a tenant's project there, and what that tenant does."""

    south: South
    project: str

    async def network(self, cidr: str) -> str:
        """A network with one subnet, the gateway its first address, the pool all others."""

    async def boot(self, network_id: str) -> tuple[str, str, str]:
        """A port: (id, address, MAC). Raises LookupError if no address is left for it."""

    async def unplug(self, port_id: str) -> None: ...
    async def drop(self, network_id: str) -> None: ...
    async def networks(self) -> set[str]:
        """Ids of all networks of the tenant."""


class LinuxPlace:
    def __init__(self, vim: Any, site: Any) -> None:
        self.vim, self.site = vim, site
        self.south: South = LinuxSouth(vim, site.dataplane)
        self.project = "blue"

    async def network(self, cidr: str) -> str:
        network = await self.vim.create_network(self.site.tenant, NetworkCreate(name="web"))
        await self.vim.create_subnet(self.site.tenant, SubnetCreate(network_id=network.id, cidr=cidr))
        return str(network.id)

    async def boot(self, network_id: str) -> tuple[str, str, str]:
        try:
            port = await self.vim.create_port(self.site.tenant, PortCreate(network_id=network_id))
        except InUse as error:
            raise LookupError(error.message) from error
        return port.id, port.fixed_ips[0].ip, port.mac

    async def unplug(self, port_id: str) -> None:
        await self.vim.delete_port(self.site.tenant, port_id)

    async def drop(self, network_id: str) -> None:
        await self.vim.delete_network(self.site.tenant, network_id)

    async def networks(self) -> set[str]:
        return {network.id for network in await self.vim.networks(self.site.tenant)}


class NeutronPlace:
    def __init__(self, site: NeutronSite) -> None:
        self.tenant = site.tenant
        self.south: South = site.south
        self.project = site.project

    async def network(self, cidr: str) -> str:
        return await asyncio.to_thread(self.tenant.network, cidr)

    async def boot(self, network_id: str) -> tuple[str, str, str]:
        try:
            port = await asyncio.to_thread(self.tenant.boot, network_id)
        except Conflict as error:
            raise LookupError(error.message) from error
        return port["id"], port["fixed_ips"][0]["ip_address"], port["mac_address"]

    async def unplug(self, port_id: str) -> None:
        await asyncio.to_thread(self.tenant.drop, "port", port_id)

    async def drop(self, network_id: str) -> None:
        await asyncio.to_thread(self.tenant.drop, "network", network_id)

    async def networks(self) -> set[str]:
        return {network["id"] for network in await asyncio.to_thread(self.tenant.list, "network")}


Work = Callable[[Any], Awaitable[None]]


@pytest.fixture(params=["linux", "neutron"])
def place(request: pytest.FixtureRequest, tmp_path: Any) -> Callable[[Work], None]:
    """Runs the work at a site of each kind."""
    cloud = request.getfixturevalue("cloud") if request.param == "neutron" else None

    @asynccontextmanager
    async def opened() -> AsyncIterator[Place]:
        if cloud is None:
            site = recorded_site(tmp_path)
            async with site.vim() as vim:
                yield LinuxPlace(vim, site)
        else:
            neutron = NeutronSite(cloud, "A")
            try:
                yield NeutronPlace(neutron)
            finally:
                neutron.close()

    def run(work: Work) -> None:
        async def main() -> None:
            async with opened() as one:
                await work(one)

        asyncio.run(asyncio.wait_for(main(), 120))

    return run
