"""Sites in one process, for what no machine has room for: the production engine, logic, store and messages;
simulated are the network between the sites, their VIMs (nothing here moves a packet) and, on a VirtualLoop,
time.
"""

import asyncio
import ipaddress
import selectors
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from pydantic import BaseModel, SecretStr

from diminet.clock import SystemClock
from diminet.engine.engine import Engine
from diminet.engine.instance import Instance, Limits, Meter
from diminet.errors import DiminetError, NetworkNotFound, NotAuthenticated, SiteUnknown, from_dict
from diminet.logic.types import TYPES
from diminet.messages import Caller, Context
from diminet.model import (
    AddressRange,
    Capabilities,
    Health,
    Ingress,
    NetworkFacts,
    PortFacts,
    Remains,
    Site,
    SubnetFacts,
    SubnetShape,
    Target,
)
from diminet.store import SqlStore

START_OF_TIME = 1_750_000_000.0  # UTC, epoch seconds; when a VirtualLoop begins
TARGET_ASN = 64999
MTU = 1450
PROJECT = "bench"
TOKEN = "bench-token"  # noqa: S105 - of the simulated identity
ADMIN_TOKEN = "bench-admin-token"  # noqa: S105


# -- time ------------------------------------------------------------------------------------------


class _Jumping(selectors.SelectSelector):
    """Waits for nothing: the time that it was to wait is over at once."""

    skipped = 0.0

    def select(self, timeout: float | None = None) -> Any:
        if timeout is None:
            raise RuntimeError("nothing is left to wait for in virtual time")
        self.skipped += max(0.0, timeout)
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """Goes from timer to timer without waiting: `time()` tells what the timers say, not how long it took."""

    def __init__(self) -> None:
        self._jumping = _Jumping()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.skipped


class LoopClock(SystemClock):
    """The running loop's time."""

    def now(self) -> float:
        return START_OF_TIME + asyncio.get_running_loop().time()


# -- the network -----------------------------------------------------------------------------------


class Wire:
    """The simulated WAN. delay: seconds, one way. Every message and answer crosses as JSON."""

    def __init__(self, delay: float) -> None:
        self.delay = delay
        self.engines: dict[str, Engine] = {}
        self.messages: Counter[str] = Counter()  # by kind, answers not counted
        self.bytes = 0  # of bodies, answers included


class Link:
    """One site's Peers."""

    def __init__(self, wire: Wire, site: str) -> None:
        self._wire = wire
        self._site = site

    def at(self, site: str) -> Any:
        return _Remote(self._wire, self._site, site)


class _Remote:
    def __init__(self, wire: Wire, sender: str, receiver: str) -> None:
        self._wire = wire
        self._sender = sender
        self._receiver = receiver

    def __getattr__(self, kind: str) -> Any:
        async def call(ctx: Context, *arguments: Any) -> Any:
            wire = self._wire
            wire.messages[kind] += 1
            parts = [self._carried(part) for part in arguments]
            await asyncio.sleep(wire.delay)
            told = ctx.model_copy(update={"sender": self._sender})
            try:
                answer = await getattr(wire.engines[self._receiver], kind)(told, *parts)
            except DiminetError as error:
                await asyncio.sleep(wire.delay)
                raise from_dict(error.as_dict(), sites=[self._receiver]) from None
            await asyncio.sleep(wire.delay)
            return self._carried(answer)

        return call

    def _carried(self, part: Any) -> Any:
        if not isinstance(part, BaseModel):
            return part
        text = part.model_dump_json()
        self._wire.bytes += len(text)
        return type(part).model_validate_json(text)


class Names:
    """Directory."""

    def __init__(self, names: Sequence[str]) -> None:
        self.all = tuple(
            Site(name=name, number=number, north_url=f"http://{name}", east_west_url=f"https://{name}")
            for number, name in enumerate(names, 1)
        )
        self.by_name = {site.name: site for site in self.all}

    async def site(self, name: str) -> Site:
        if name not in self.by_name:
            raise SiteUnknown(f"site {name} is not in the directory", sites=[name])
        return self.by_name[name]

    async def sites(self) -> tuple[Site, ...]:
        return self.all


class Trust:
    """Identity: two tokens, and every peer vouches for everybody."""

    async def authenticate(self, token: str) -> Caller:
        if token == ADMIN_TOKEN:
            roles = frozenset({"admin", "member", "reader"})
        elif token == TOKEN:
            roles = frozenset({"member", "reader"})
        else:
            raise NotAuthenticated("this is not the benchmark's token")
        return Caller(user_id="bench", project_id=PROJECT, roles=roles, token=SecretStr(token))

    async def authorise(self, ctx: Context, project_id: str) -> None:
        """No token of this identity is known to the VIM."""


class Quiet:
    """Meter that nobody reads."""

    def create_step(self, step: str, seconds: float) -> None:
        """Not measured here."""

    def set_services(self, counts: Mapping[tuple[str, str], int]) -> None:
        """Not measured here."""

    def set_blocks(self, counts: Mapping[tuple[str, str], int]) -> None:
        """Not measured here."""

    def set_outbox(self, depth: int, oldest_age: float) -> None:
        """Not measured here."""

    def set_audit(self, counts: Mapping[str, int]) -> None:
        """Not measured here."""


# -- the VIM ---------------------------------------------------------------------------------------


class SimulatedSouth:
    """Networks as they were told to be, without ports of tenants. given: makes tenants' networks when they
    are asked for, from their ids, so that many take no memory here."""

    kind = "simulated"
    asks_for_room = True

    def __init__(self, given: Callable[[str], NetworkFacts | None]) -> None:
        self._given = given
        self.calls: Counter[str] = Counter()
        self.realised_ids: set[str] = set()
        self._networks: dict[str, NetworkFacts] = {}
        self._made: dict[tuple[str, str], str] = {}
        self._marks: dict[str, str] = {}

    def add_network(self, cidr: str) -> str:
        """Of a tenant."""
        network_id = str(uuid.uuid4())
        self._networks[network_id] = tenants_network(network_id, whole(cidr), PROJECT)
        return network_id

    async def capabilities(self) -> Capabilities:
        return Capabilities(kind="simulated", shared_gateway=True, data_plane=True)

    async def network(self, network_id: str) -> NetworkFacts:
        self.calls["network"] += 1
        return self._network(network_id)

    def _network(self, network_id: str) -> NetworkFacts:
        found = self._networks.get(network_id) or self._given(network_id)
        if found is None:
            raise NetworkNotFound(f"there is no network {network_id}")
        return found

    async def ports(self, network_id: str) -> tuple[PortFacts, ...]:
        self.calls["ports"] += 1
        gateways = [s.gateway_ip for s in self._network(network_id).subnets if s.gateway_ip]
        return tuple(PortFacts(ip=ip, mac="02:00:00:ff:ff:ff", infrastructure=True) for ip in gateways)

    async def owner(self, network_id: str, *, as_user: SecretStr | None = None) -> str:
        self.calls["owner"] += 1
        return self._network(network_id).project_id

    async def settled(self, network_id: str) -> bool:
        return True

    async def make_network(
        self, service_id: str, project_id: str, name: str, key: str, *, first: bool = False
    ) -> str:
        self.calls["make_network"] += 1
        if (service_id, key) not in self._made:
            network_id = str(uuid.uuid4())
            self._made[service_id, key] = network_id
            self._networks[network_id] = NetworkFacts(
                network_id=network_id, name=name, project_id=project_id, mtu=MTU, subnets=(), ours=service_id
            )
        return self._made[service_id, key]

    async def shape_subnet(self, network_id: str, shape: SubnetShape, *, make: bool = True) -> None:
        self.calls["shape_subnet"] += 1
        network = self._network(network_id)
        old = next((s for s in network.subnets if s.cidr == shape.cidr), None)
        if old is None and not make:
            return
        others = tuple(s for s in network.subnets if s.cidr != shape.cidr)
        new = _subnet(network_id, shape, old.pools if old else ())
        self._networks[network_id] = network.model_copy(update={"subnets": (*others, new)})

    async def drop_network(self, network_id: str) -> bool:
        self.calls["drop_network"] += 1
        self._networks.pop(network_id, None)
        self._made = {key: made for key, made in self._made.items() if made != network_id}
        return True

    async def connect(self, target: Target) -> None:
        self.calls["connect"] += 1
        self.realised_ids.add(target.service_id)

    async def disconnect(self, service_id: str) -> None:
        self.calls["disconnect"] += 1
        self.realised_ids.discard(service_id)

    async def realised(self) -> dict[str, Health]:
        return {service_id: Health(service_id=service_id) for service_id in self.realised_ids}

    async def problems(self) -> tuple[str, ...]:
        return ()

    async def ingress(self, network_id: str) -> tuple[Ingress, ...]:
        return ()

    async def remains(self) -> tuple[Remains, ...]:
        return tuple(
            Remains(
                service_id=service_id,
                project_id=self._networks[network_id].project_id,
                network_id=network_id,
                made=True,
                key=key,
            )
            for (service_id, key), network_id in self._made.items()
        )

    async def mark(self, name: str) -> str | None:
        return self._marks.get(name)

    async def set_mark(self, name: str, value: str) -> None:
        self._marks[name] = value


def whole(cidr: str) -> SubnetShape:
    """A subnet all of which is in its pool, but for the gateway, its first address."""
    net = ipaddress.ip_network(cidr)
    pool = AddressRange(str(net[2]), str(net[-2]))
    return SubnetShape(cidr=cidr, ip_version=4, gateway_ip=str(net[1]), pools=(pool,))


def tenants_network(network_id: str, shape: SubnetShape, project_id: str) -> NetworkFacts:
    """With that one subnet."""
    return NetworkFacts(
        network_id=network_id,
        name="net",
        project_id=project_id,
        mtu=MTU,
        subnets=(_subnet(network_id, shape, ()),),
    )


def no_network(_network_id: str) -> None:
    """None is there but what was made."""


def _subnet(network_id: str, shape: SubnetShape, before: tuple[AddressRange, ...]) -> SubnetFacts:
    return SubnetFacts(
        subnet_id=f"{network_id}-{shape.cidr}",
        cidr=shape.cidr,
        ip_version=shape.ip_version,
        gateway_ip=shape.gateway_ip,
        pools=shape.pools if shape.pools is not None else before,
    )


# -- a site ----------------------------------------------------------------------------------------


class SimulatedSite:
    """A production instance between its ports. statements: of SQL that it has run, BEGIN and COMMIT not
    counted. The caller closes it."""

    def __init__(
        self,
        name: str,
        number: int,
        wire: Wire,
        names: Names,
        store: SqlStore,
        *,
        clock: SystemClock,
        limits: Limits,
        meter: Meter | None = None,
        given: Callable[[str], NetworkFacts | None] = no_network,
    ) -> None:
        self.name = name
        self.store = store
        self.south = SimulatedSouth(given)
        self.statements = 0
        sa.event.listen(store._engine, "before_cursor_execute", self._counted)
        here = Instance(
            name=name,
            number=number,
            store=store,
            peers=Link(wire, name),
            south=self.south,
            directory=names,
            identity=Trust(),
            clock=clock,
            types=TYPES,
            asn=TARGET_ASN,
            meter=meter or Quiet(),
            limits=limits,
        )
        self.engine = wire.engines[name] = Engine(here)

    def _counted(self, *_: Any) -> None:
        self.statements += 1

    async def close(self) -> None:
        await self.engine.stop()
        self.store.close()
