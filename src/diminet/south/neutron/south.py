"""A Neutron as a `South`: real networks, subnets, ports and BGP VPNs through its REST API.

What belongs together is done by one task that goes on to its end though who asked has gone (a time-out
of the user's request): a write that is half done is finished, or has failed, before the next one of the
same object begins.
"""

import asyncio
from collections.abc import Coroutine, Mapping
from time import monotonic
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from pydantic import SecretStr

from diminet.errors import DiminetError
from diminet.model import (
    Capabilities,
    Health,
    Ingress,
    NetworkFacts,
    PortFacts,
    Remains,
    SubnetShape,
    Target,
)
from diminet.south.neutron import marks, subnets
from diminet.south.neutron.bgpvpns import BgpVpns, differs, targets_of
from diminet.south.neutron.ingress import ingress_of
from diminet.south.neutron.networks import Networks
from diminet.south.neutron.neutron import Json, Neutron, Refused
from diminet.south.neutron.subnets import LATE_S, Subnets

T = TypeVar("T")

PROVIDER_S = 60.0  # seconds that the name of the BGP VPN provider is believed


class NeutronSouth:
    """mtu: bytes that the way between the sites carries. target_asn: of our route targets. late_s: seconds
    in which a change of a subnet that Neutron did not answer may still be done."""

    kind = "neutron"
    asks_for_room = False

    def __init__(
        self, neutron: Neutron, *, mtu: int = 1450, target_asn: int = 64999, late_s: float = LATE_S
    ) -> None:
        self._neutron = neutron
        self._mtu = mtu
        self._asn = target_asn
        self._subnets = Subnets(neutron, late_s=late_s)
        self._networks = Networks(neutron, self._subnets)
        self._vpns = BgpVpns(neutron)
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._targets: dict[str, Target] = {}  # what each service was last told to be
        self._data_plane: tuple[bool, float] | None = None

    async def _whole(self, key: str, work: Coroutine[Any, Any, T]) -> T:
        """Runs it to its end, one at a time for that key."""
        lock = self._locks.setdefault(key, asyncio.Lock())

        async def run() -> T:
            async with lock:
                return await work

        task = asyncio.create_task(run())
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return await asyncio.shield(task)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # who asked may have gone: it is not lost, the reconciler looks again

    # -- what is there -----------------------------------------------------------------------------

    async def capabilities(self) -> Capabilities:
        return Capabilities(
            kind=self.kind,
            mtu=self._mtu,
            shared_gateway=False,
            movable_gateway=False,
            data_plane=await self._has_data_plane(),
        )

    async def _has_data_plane(self) -> bool:
        """Behind networking-bgpvpn's Dummy provider there is only a database."""
        if self._data_plane is None or monotonic() - self._data_plane[1] > PROVIDER_S:
            what, path = "list service providers", "/service-providers"
            found = await self._neutron.list(what, path, "service_providers", service_type="BGPVPN")
            real = any("dummy" not in str(provider["name"]).lower() for provider in found)
            self._data_plane = (real, monotonic())
        return self._data_plane[0]

    async def network(self, network_id: str) -> NetworkFacts:
        network = await self._networks.recent(network_id)
        made = marks.made_of(network["tags"])
        found = await (self._subnets.recent if made else self._subnets.of)(network_id)
        if not found and not made:
            network = await self._networks.show(network_id)  # it has none, or is gone
        return NetworkFacts(
            network_id=network["id"],
            name=network["name"],
            project_id=network["project_id"],
            mtu=network["mtu"],
            subnets=tuple(subnets.facts(s) for s in sorted(found, key=lambda s: str(s["cidr"]))),
            ours=made.service_id if made else None,
        )

    async def owner(self, network_id: str, *, as_user: SecretStr | None = None) -> str:
        return str((await self._networks.show(network_id, as_user))["project_id"])

    async def ports(self, network_id: str) -> tuple[PortFacts, ...]:
        """Of Neutron's gateway address only where a port has it: that cannot be moved."""
        if self._subnets.has_none_yet(network_id):
            return ()  # without a subnet there are no addresses
        rows = await self._networks.ports(network_id)
        if not rows:
            await self._networks.recent(network_id)  # none, or no network
        return tuple(
            PortFacts(
                ip=address["ip_address"],
                mac=row["mac_address"],
                infrastructure=row["device_owner"].startswith("network:"),
            )
            for row in rows
            for address in row["fixed_ips"]
        )

    async def ingress(self, network_id: str) -> tuple[Ingress, ...]:
        return await ingress_of(self._neutron, await self._networks.ports(network_id))

    # -- networks and subnets ----------------------------------------------------------------------

    async def make_network(
        self, service_id: str, project_id: str, name: str, key: str, *, first: bool = False
    ) -> str:
        work = self._networks.make(marks.Made(service_id, key), project_id, name, first=first)
        return await self._whole(f"made {service_id} {key}", work)

    async def drop_network(self, network_id: str) -> bool:
        return await self._whole(f"subnets {network_id}", self._networks.drop(network_id))

    async def shape_subnet(self, network_id: str, shape: SubnetShape, *, make: bool = True) -> None:
        """One at a time for each network: the last one that was asked for is the one that stands."""
        show = self._networks.recent
        await self._whole(f"subnets {network_id}", self._subnets.shape(network_id, shape, show, make=make))

    async def settled(self, network_id: str) -> bool:
        """Neutron reserves quota before it chooses a port's address, and gives it back when the port is
        there (extension quota_details): without a reservation no request of the owner's is on its way.
        Of other projects' requests nothing is known."""
        network = await self._networks.recent(network_id)
        if network.get("shared", True):
            return False
        what, path = "look for ports in the making", f"/quotas/{network['project_id']}/details"
        try:
            answer = await self._neutron.get(what, path)
        except Refused:
            return False  # it keeps no such account
        port = answer.get("quota", {}).get("port", {})
        # The driver with locks keeps no reservations of what has no limit.
        return bool(port.get("reserved") == 0 and port.get("limit", -1) >= 0)

    # -- the data plane ----------------------------------------------------------------------------

    async def connect(self, target: Target) -> None:
        await self._whole(f"service {target.service_id}", self._connect(target))

    async def _connect(self, target: Target) -> None:
        self._targets.pop(target.service_id, None)
        if target.layer == "l2" and target.mtu is not None:
            for network_id in target.networks:
                await self._networks.set_mtu(network_id, target.service_id, target.mtu)
        await self._vpns.connect(target)
        self._targets[target.service_id] = target

    async def disconnect(self, service_id: str) -> None:
        await self._whole(f"service {service_id}", self._disconnect(service_id))

    async def _disconnect(self, service_id: str) -> None:
        self._targets.pop(service_id, None)
        await self._vpns.disconnect(service_id)

    async def realised(self) -> Mapping[str, Health]:
        """Every service with a BGP VPN here. What it should be is known only since it was last told, so
        one that was not told since our start is to be told again."""
        health: dict[str, Health] = {}
        for vpn in sorted(await self._vpns.all(), key=lambda v: str(v["id"])):
            service_id = marks.service_of(vpn["name"])
            if service_id is None:
                continue
            target = self._targets.get(service_id)
            problems = _problems(vpn, target) if target else ()
            if service_id in health:
                problems = (*health[service_id].problems, "it has two BGP VPNs at this site")
            health[service_id] = Health(service_id=service_id, problems=problems, compared=target is not None)
        return health

    async def problems(self) -> tuple[str, ...]:
        """Neutron away, without BGP VPNs, or with others' route targets of our AS number."""
        try:
            found = await self._vpns.all()
        except DiminetError as error:
            return (error.message,)
        base = f"{self._asn}:"
        return tuple(
            f"BGP VPN {vpn['id']} ({vpn['name'] or 'no name'}), which DIMINET did not make, has route "
            f"targets of AS {self._asn}, as DIMINET's: set identifiers.target_asn of all sites to another"
            for vpn in found
            if not marks.is_ours(vpn["name"]) and any(t.startswith(base) for t in targets_of(vpn))
        )

    # -- what is remembered here -------------------------------------------------------------------

    async def remains(self) -> tuple[Remains, ...]:
        vpns, made, changed = await asyncio.gather(
            self._vpns.all(), self._networks.ours(), self._subnets.changed()
        )
        joined = {
            n: (s, vpn) for vpn in vpns if (s := marks.service_of(vpn["name"])) for n in vpn["networks"]
        }
        found = [_made(network, joined.get(network["id"])) for network in made]
        theirs = (joined.keys() | changed.keys()) - {network["id"] for network in made}
        found += [_theirs(n, joined.get(n), changed.get(n, [])) for n in theirs]
        return tuple(sorted(found, key=lambda remains: remains.network_id))

    async def mark(self, name: str) -> str | None:
        return await self._vpns.mark(name)

    async def set_mark(self, name: str, value: str) -> None:
        await self._whole(f"mark {name}", self._vpns.set_mark(name, value))


def _problems(vpn: Json, target: Target) -> tuple[str, ...]:
    """How the BGP VPN differs from what it was told to be."""
    problems = []
    if differs(vpn, target):
        problems.append("somebody has changed the route targets of its BGP VPN")
    if set(vpn.get("networks") or ()) != set(target.networks):
        problems.append("somebody has changed the networks of its BGP VPN")
    if (vpn["type"], vpn["project_id"]) != (target.layer, target.project_id):
        problems.append("its BGP VPN is of another type or project")
    return tuple(problems)


def _made(network: Json, joined: tuple[str, Json] | None) -> Remains:
    service_id, key = marks.made_of(network["tags"]) or ("", "")
    return Remains(
        service_id=service_id,
        project_id=network["project_id"],
        network_id=network["id"],
        made=True,
        key=key,
        joined=joined is not None and joined[0] == service_id,
    )


def _theirs(network_id: str, joined: tuple[str, Json] | None, changed: list[Json]) -> Remains:
    """changed: rows of its subnets that carry how they were."""
    shapes = [marks.shape_before(marks.was_tag(row["tags"]) or "", row["cidr"]) for row in changed]
    owner = joined[1] if joined else changed[0]
    return Remains(
        service_id=joined[0] if joined else "",
        project_id=owner["project_id"],
        network_id=network_id,
        joined=joined is not None,
        shapes=tuple(shape for shape in shapes if shape is not None),
    )
