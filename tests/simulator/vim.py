"""A South without a data plane: what it was told to connect, and an IPAM that honours pools.

Shared by the simulator and by the tests of the engine (simulated_cloud). Nothing here moves a packet.
"""

import ipaddress
import uuid
from collections import Counter
from collections.abc import Callable
from typing import Any

from diminet.errors import NetworkNotFound, SiteRefused
from diminet.model import (
    AddressRange,
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

PROJECT = "demo"


def _nothing(_what: str, _name: str) -> None:
    return


class SimulatedVim:
    """ids: makes new UUIDs. changed(what, id): told behind each change; what is `network` (id of one) or
    `target` (id of a service). refuse: methods of South that are answered with SiteRefused."""

    kind = "simulated"
    asks_for_room = True

    def __init__(
        self,
        number: int,
        *,
        ids: Callable[[], str] = lambda: str(uuid.uuid4()),
        changed: Callable[[str, str], None] = _nothing,
    ) -> None:
        self.number = number
        self.ids = ids
        self.changed = changed
        self.networks: dict[str, NetworkFacts] = {}
        self.port_rows: dict[str, dict[str, PortFacts]] = {}
        self.keys: dict[tuple[str, str], str] = {}
        self.targets: dict[str, Target] = {}
        self.refuse: set[str] = set()
        self.keeper: Any = None
        self.calls: Counter[str] = Counter()
        self.ports_made = 0
        self.filters: dict[str, tuple[Ingress, ...]] = {}
        self.marks: dict[str, str] = {}
        self.gateways_in_use: set[str] = set()  # networks whose gateway could not be put back
        self.before: dict[str, dict[str, SubnetShape]] = {}  # as a real one remembers what we changed

    def _call(self, name: str) -> None:
        self.calls[name] += 1
        if name in self.refuse:
            raise SiteRefused(f"the simulated VIM refuses {name}")

    # a tenant's side

    def add_network(self, *cidrs: str, project: str = PROJECT, name: str = "net") -> str:
        network_id = self.ids()
        self.networks[network_id] = NetworkFacts(
            network_id=network_id, name=name, project_id=project, mtu=1450, subnets=()
        )
        self.port_rows[network_id] = {}
        for cidr in cidrs:
            self.add_subnet(network_id, cidr)
        return network_id

    def add_subnet(self, network_id: str, cidr: str) -> None:
        net = ipaddress.ip_network(cidr)
        last = net[-2] if net.version == 4 else net[-1]
        pools = (AddressRange(str(net[2]), str(last)),)
        shape = SubnetShape(cidr=cidr, ip_version=net.version, gateway_ip=str(net[1]), pools=pools)
        self._set(network_id, shape)

    async def boot(self, network_id: str) -> str:
        """The address of a new port; asks its keeper for more room when the pool is dry."""
        subnet = self.networks[network_id].subnets[0]
        for _ in range(2):
            if (ip := self.add_port(network_id)) is not None:
                self.keeper.port_made(network_id)
                return ip
            if not await self.keeper.more_room(network_id, subnet.cidr):
                break
        raise RuntimeError("no address")

    def add_port(self, network_id: str) -> str | None:
        """The address of a new port in the first subnet; None when its pools are dry."""
        ip = self._free(network_id, self.networks[network_id].subnets[0])
        if ip is not None:
            self.ports_made += 1
            serial = f"{self.ports_made // 256:02x}:{self.ports_made % 256:02x}"
            mac = f"02:{self.number:02x}:00:00:{serial}"
            self.port_rows[network_id][ip] = PortFacts(ip=ip, mac=mac, infrastructure=False)
            self.changed("network", network_id)
        return ip

    def delete_port(self, network_id: str, ip: str) -> None:
        del self.port_rows[network_id][ip]
        self.changed("network", network_id)

    def delete_network(self, network_id: str) -> None:
        """By its tenant: only an empty one goes."""
        if self.port_rows[network_id]:
            raise SiteRefused("there are ports on it")
        del self.networks[network_id], self.port_rows[network_id]
        self.keys = {k: v for k, v in self.keys.items() if v != network_id}
        self.changed("network", network_id)

    def _free(self, network_id: str, subnet: SubnetFacts) -> str | None:
        for first, last in subnet.pools:
            for n in range(int(ipaddress.ip_address(first)), int(ipaddress.ip_address(last)) + 1):
                ip = str(ipaddress.ip_address(n))
                if ip not in self.port_rows[network_id] and ip != subnet.gateway_ip:
                    return ip
        return None

    # South

    async def capabilities(self) -> Capabilities:
        return Capabilities(kind="simulated", shared_gateway=True, data_plane=True)

    async def network(self, network_id: str) -> NetworkFacts:
        self._call("network")
        return self._network(network_id)

    def _network(self, network_id: str) -> NetworkFacts:
        if network_id not in self.networks:
            raise NetworkNotFound(f"no network {network_id}")
        return self.networks[network_id]

    async def ports(self, network_id: str) -> tuple[PortFacts, ...]:
        self._call("ports")
        return (*self.gateways(network_id), *self.port_rows[network_id].values())

    def gateways(self, network_id: str) -> tuple[PortFacts, ...]:
        mac = f"02:{self.number:02x}:ff:ff:ff:ff"
        return tuple(
            PortFacts(ip=s.gateway_ip, mac=mac, infrastructure=True)
            for s in self._network(network_id).subnets
            if s.gateway_ip
        )

    async def owner(self, network_id: str, *, as_user: Any = None) -> str:
        self._call("owner")
        return self._network(network_id).project_id

    async def make_network(
        self, service_id: str, project_id: str, name: str, key: str, *, first: bool = False
    ) -> str:
        self._call("make_network")
        if (service_id, key) not in self.keys:
            network_id = self.add_network(project=project_id, name=name)
            self.networks[network_id] = self.networks[network_id].model_copy(update={"ours": service_id})
            self.keys[service_id, key] = network_id
            self.changed("network", network_id)
        return self.keys[service_id, key]

    def _set(self, network_id: str, shape: SubnetShape) -> None:
        network = self.networks[network_id]
        old = next((s for s in network.subnets if s.cidr == shape.cidr), None)
        pools = shape.pools if shape.pools is not None else (old.pools if old else ())
        new = SubnetFacts(
            subnet_id=old.subnet_id if old else self.ids(),
            cidr=shape.cidr,
            ip_version=shape.ip_version,
            gateway_ip=shape.gateway_ip,
            pools=pools,
        )
        others = tuple(s for s in network.subnets if s.cidr != shape.cidr)
        self.networks[network_id] = network.model_copy(update={"subnets": (*others, new)})
        self.changed("network", network_id)

    async def shape_subnet(self, network_id: str, shape: SubnetShape, *, make: bool = True) -> None:
        self._call("shape_subnet")
        network = self._network(network_id)
        if not make and all(s.cidr != shape.cidr for s in network.subnets):
            return
        if shape.gateway_ip in self.port_rows[network_id]:
            self.gateways_in_use.add(network_id)
            raise SiteRefused(f"a port uses {shape.gateway_ip}")
        if network.ours is None:
            self._remember(network, shape)
        self._set(network_id, shape)

    async def settled(self, network_id: str) -> bool:
        return False

    def _remember(self, network: NetworkFacts, shape: SubnetShape) -> None:
        before = self.before.setdefault(network.network_id, {})
        for subnet in network.subnets:
            if subnet.cidr == shape.cidr and subnet.shape() != shape:
                before.setdefault(shape.cidr, subnet.shape())
        if before.get(shape.cidr) == shape:
            del before[shape.cidr]

    async def drop_network(self, network_id: str) -> bool:
        self._call("drop_network")
        if network_id not in self.networks:
            return True
        if self.port_rows[network_id]:
            self.networks[network_id] = self.networks[network_id].model_copy(update={"ours": None})
            self.changed("network", network_id)
            return False
        self.delete_network(network_id)
        return True

    async def connect(self, target: Target) -> None:
        self._call("connect")
        self.targets[target.service_id] = target
        self.changed("target", target.service_id)

    async def disconnect(self, service_id: str) -> None:
        self._call("disconnect")
        if self.targets.pop(service_id, None) is not None:
            self.changed("target", service_id)

    async def realised(self) -> dict[str, Health]:
        return {s: Health(service_id=s) for s in self.targets}

    async def problems(self) -> tuple[str, ...]:
        return ()

    async def ingress(self, network_id: str) -> tuple[Ingress, ...]:
        self._call("ingress")
        return self.filters.get(network_id, ())

    async def remains(self) -> tuple[Remains, ...]:
        made = tuple(
            Remains(
                service_id=service_id,
                project_id=self.networks[network_id].project_id,
                network_id=network_id,
                made=True,
                key=key,
            )
            for (service_id, key), network_id in self.keys.items()
            if self.networks[network_id].ours
        )
        known = {remains.network_id for remains in made}
        joined = (
            Remains(
                service_id=target.service_id,
                project_id=target.project_id,
                network_id=network_id,
                joined=True,
                shapes=tuple(self.before.get(network_id, {}).values()),
            )
            for target in self.targets.values()
            for network_id in target.networks
            if network_id not in known
        )
        found = (*made, *joined)
        known = {remains.network_id for remains in found}
        changed = (
            Remains(
                service_id="",
                project_id=self.networks[network_id].project_id,
                network_id=network_id,
                shapes=tuple(shapes.values()),
            )
            for network_id, shapes in self.before.items()
            if shapes and network_id in self.networks and network_id not in known
        )
        return (*found, *changed)

    async def mark(self, name: str) -> str | None:
        return self.marks.get(name)

    async def set_mark(self, name: str, value: str) -> None:
        self.marks[name] = value

    def picture(self) -> dict[str, Any]:
        """Everything there is, for comparing before and after."""
        return {
            "networks": {
                i: (n.name, n.ours, sorted((s.cidr, s.gateway_ip, s.pools) for s in n.subnets))
                for i, n in self.networks.items()
            },
            "targets": dict(self.targets),
        }
