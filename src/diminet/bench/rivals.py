"""What a create on real Neutrons is compared with: bare calls, made from the benchmark's own process by the
class that the instances use (openstacksdk in threads), to all Neutrons from one event loop. No DIMINET, no
decision, no journal; route targets and shares of addresses are known beforehand.

`Floor`: what no such service can do without, each site by itself, all sites at once:

    l3, at every site           show the network (as the user) | list its subnets;
                                create a BGP VPN; associate the network
    l2, at the receiving site   show the network (as the user) | list its subnets | list its ports;
                                set the pools; create a BGP VPN; associate the network
    l2, elsewhere               create a network; create a subnet; create a BGP VPN; associate the network

`Paper`: the sequence of sections IV-D, IV-E and V-B of the paper, where the receiving instance asks the other
sites' Neutrons itself and a BGP VPN connects two sites:

    l3   1  all sites at once: show the network          2  all at once: show the subnet
         3  here: a BGP VPN and its association for each other site, one after another
         4  all others at once: the same for each of their others
    l2   1  here: show the network, show the subnet      2  others at once: list subnets of that CIDR
         3  as above                                     4  here: set the pools
         5  others at once: create a network, create a subnet, then as above
    then it is done: what the instances tell each other costs nothing here, nor does the answer's route target

What is joined by `|` is asked at once, what is parted by `;` one after another.
"""

import asyncio
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from ipaddress import IPv4Network
from typing import Any, NamedTuple, Protocol

from pydantic import SecretStr

from diminet.bench.samples import ServiceKind
from diminet.bench.services import Draw
from diminet.south.neutron.neutron import Json, Neutron

VPNS = "/bgpvpn/bgpvpns"
ASN = 64998  # of the rivals' route targets: not DIMINET's, which would refuse to meet them
CIDRS: Mapping[ServiceKind, str] = {"l3": "10.3.{}.0/24", "l2": "10.4.{}.0/24"}
PAIRS = 64  # route targets of one service and site: more than a benchmark has sites


class Ground(NamedTuple):
    """A site's network that is there before a create, and its only subnet. pools: as they were."""

    network_id: str
    subnet_id: str
    cidr: str
    project_id: str
    pools: tuple[Json, ...]


class Rival(Protocol):
    async def create(self, drawn: Draw, serial: int) -> None: ...
    async def delete(self) -> None: ...


class Bare:
    """Calls of one site's Neutron. user: the tenant's token."""

    def __init__(self, neutron: Neutron, number: int, user: SecretStr) -> None:
        self.neutron = neutron
        self.number = number
        self._user = user
        self.grounds: dict[ServiceKind, Ground] = {}
        self._vpns: list[str] = []
        self._made: list[str] = []
        self._changed: list[Ground] = []

    async def prepare(self, kind: ServiceKind, network_id: str) -> None:
        """The tenant's network of that kind of service."""
        network, subnets = await asyncio.gather(self.show(network_id), self.subnets(network_id))
        subnet = subnets[0]
        pools = tuple(subnet["allocation_pools"])
        self.grounds[kind] = Ground(
            network_id, subnet["id"], subnet["cidr"], network["network"]["project_id"], pools
        )

    # -- looking -----------------------------------------------------------------------------------

    async def show(self, network_id: str) -> Json:
        return await self.neutron.get("show a network", f"/networks/{network_id}", as_user=self._user)

    async def subnet(self, subnet_id: str) -> Json:
        return await self.neutron.get("show a subnet", f"/subnets/{subnet_id}", as_user=self._user)

    async def subnets(self, network_id: str) -> list[Json]:
        return await self.neutron.list("list subnets", "/subnets", "subnets", network_id=network_id)

    async def subnets_of(self, cidr: str) -> list[Json]:
        return await self.neutron.list("list subnets", "/subnets", "subnets", cidr=cidr)

    async def ports(self, network_id: str) -> list[Json]:
        return await self.neutron.list("list ports", "/ports", "ports", network_id=network_id)

    # -- making ------------------------------------------------------------------------------------

    async def network(self, ground: Ground, pool: Json) -> str:
        """With a subnet of the ground's CIDR whose only pool that is."""
        body: Json = {"name": "bench", "project_id": ground.project_id}
        made = (await self.neutron.post("create a network", "/networks", {"network": body}))["network"]
        self._made.append(made["id"])
        body = {
            "network_id": made["id"],
            "project_id": ground.project_id,
            "cidr": ground.cidr,
            "ip_version": 4,
            "gateway_ip": None,
            "allocation_pools": [pool],
        }
        await self.neutron.post("create a subnet", "/subnets", {"subnet": body})
        return str(made["id"])

    async def set_pool(self, ground: Ground, pool: Json) -> None:
        self._changed.append(ground)
        await self._set_pools(ground, [pool])

    async def _set_pools(self, ground: Ground, pools: Sequence[Json]) -> None:
        body = {"subnet": {"allocation_pools": list(pools)}}
        await self.neutron.put("set pools", f"/subnets/{ground.subnet_id}", body)

    async def vpn(
        self, kind: ServiceKind, network_id: str, project_id: str, export: str, imports: Sequence[str]
    ) -> None:
        """With its association."""
        body: Json = {
            "name": "bench",
            "type": kind,
            "project_id": project_id,
            "route_targets": [],
            "import_targets": list(imports),
            "export_targets": [export],
        }
        made = (await self.neutron.post("create a BGP VPN", VPNS, {"bgpvpn": body}))["bgpvpn"]
        self._vpns.append(made["id"])
        path = f"{VPNS}/{made['id']}/network_associations"
        body = {"network_id": network_id, "project_id": project_id}
        await self.neutron.post("associate a network", path, {"network_association": body})

    # -- back --------------------------------------------------------------------------------------

    async def undo(self) -> None:
        """All that was made or changed, data plane first."""
        while self._vpns:
            await self.neutron.delete("delete a BGP VPN", f"{VPNS}/{self._vpns.pop()}")
        while self._made:
            await self.neutron.delete("delete a network", f"/networks/{self._made.pop()}")
        while self._changed:
            ground = self._changed.pop()
            await self._set_pools(ground, ground.pools)


class Floor:
    """sites: by name."""

    def __init__(self, sites: Mapping[str, Bare]) -> None:
        self._sites = sites
        self._concerned: tuple[str, ...] = ()

    async def create(self, drawn: Draw, serial: int) -> None:
        self._concerned = drawn.sites
        make = self._routed if drawn.kind == "l3" else self._stretched
        await all_at_once(make(drawn, site, serial) for site in drawn.sites)

    async def delete(self) -> None:
        await all_at_once(self._sites[site].undo() for site in self._concerned)

    async def _routed(self, drawn: Draw, site: str, serial: int) -> None:
        bare = self._sites[site]
        ground = bare.grounds["l3"]
        await asyncio.gather(bare.show(ground.network_id), bare.subnets(ground.network_id))
        await self._join(drawn, site, serial, ground.network_id, ground.project_id)

    async def _stretched(self, drawn: Draw, site: str, serial: int) -> None:
        bare, ground = self._sites[site], self._sites[drawn.sites[0]].grounds["l2"]
        pool = share(ground.cidr, drawn.sites.index(site), len(drawn.sites))
        network_id = ground.network_id
        if site == drawn.sites[0]:
            await asyncio.gather(bare.show(network_id), bare.subnets(network_id), bare.ports(network_id))
            await bare.set_pool(ground, pool)
        else:
            network_id = await bare.network(ground, pool)
        await self._join(drawn, site, serial, network_id, ground.project_id)

    async def _join(self, drawn: Draw, site: str, serial: int, network_id: str, project_id: str) -> None:
        others = [target(serial, drawn, other) for other in drawn.sites if other != site]
        export = target(serial, drawn, site)
        await self._sites[site].vpn(drawn.kind, network_id, project_id, export, others)


class Paper:
    """sites: by name."""

    def __init__(self, sites: Mapping[str, Bare]) -> None:
        self._sites = sites
        self._concerned: tuple[str, ...] = ()

    async def create(self, drawn: Draw, serial: int) -> None:
        self._concerned = drawn.sites
        await (self._routed(drawn, serial) if drawn.kind == "l3" else self._stretched(drawn, serial))

    async def delete(self) -> None:
        await all_at_once(self._sites[site].undo() for site in self._concerned)

    async def _routed(self, drawn: Draw, serial: int) -> None:
        here, *others = drawn.sites
        all_sites = [self._sites[site] for site in drawn.sites]
        await all_at_once(bare.show(bare.grounds["l3"].network_id) for bare in all_sites)
        await all_at_once(bare.subnet(bare.grounds["l3"].subnet_id) for bare in all_sites)
        networks = {site: self._sites[site].grounds["l3"].network_id for site in drawn.sites}
        await self._interconnect(drawn, serial, here, networks[here])
        await all_at_once(self._interconnect(drawn, serial, site, networks[site]) for site in others)

    async def _stretched(self, drawn: Draw, serial: int) -> None:
        here, *others = drawn.sites
        mine = self._sites[here]
        ground = mine.grounds["l2"]
        await mine.show(ground.network_id)
        await mine.subnet(ground.subnet_id)
        await all_at_once(self._sites[site].subnets_of(ground.cidr) for site in others)
        await self._interconnect(drawn, serial, here, ground.network_id)
        await mine.set_pool(ground, share(ground.cidr, 0, len(drawn.sites)))
        await all_at_once(self._extend(drawn, serial, site, ground) for site in others)

    async def _extend(self, drawn: Draw, serial: int, site: str, ground: Ground) -> None:
        pool = share(ground.cidr, drawn.sites.index(site), len(drawn.sites))
        network_id = await self._sites[site].network(ground, pool)
        await self._interconnect(drawn, serial, site, network_id)

    async def _interconnect(self, drawn: Draw, serial: int, site: str, network_id: str) -> None:
        """A BGP VPN for each pair that the site is in."""
        bare = self._sites[site]
        project_id = self._sites[drawn.sites[0]].grounds[drawn.kind].project_id
        for other in drawn.sites:
            if other != site:
                export, wanted = target(serial, drawn, site, other), target(serial, drawn, other, site)
                await bare.vpn(drawn.kind, network_id, project_id, export, [wanted])


async def all_at_once(work: Iterable[Coroutine[Any, Any, Any]]) -> None:
    await asyncio.gather(*work)


def target(serial: int, drawn: Draw, site: str, towards: str | None = None) -> str:
    """The route target that a site exports, to all or to that one. Distinct within a service, and from
    those of the services before it."""
    exporting = drawn.sites.index(site) + 1
    importing = drawn.sites.index(towards) + 1 if towards else 0
    return f"{ASN}:{(serial * PAIRS + exporting) * PAIRS + importing}"


def share(cidr: str, index: int, count: int) -> Json:
    """Of `count` sites' pools the one of site `index`, beside the first address, which is a gateway's."""
    addresses = IPv4Network(cidr)
    size = (addresses.num_addresses - 3) // count
    first = 2 + index * size
    return {"start": str(addresses[first]), "end": str(addresses[first + size - 1])}
