"""Several sites in one process: the production engine, logic, store and messages; simulated are the
network between them and the VIM (named so: nothing here moves a packet)."""

import asyncio
import ipaddress
import uuid
from collections import Counter
from typing import Any

from diminet.clock import SystemClock
from diminet.engine.engine import Engine
from diminet.engine.instance import Instance, Limits
from diminet.errors import (
    DiminetError,
    NetworkNotFound,
    NotAuthorised,
    SiteRefused,
    SiteUnknown,
    SiteUnreachable,
    from_dict,
)
from diminet.logic.types import TYPES
from diminet.messages import Caller, Context, CreateRequest
from diminet.model import (
    AddressRange,
    Capabilities,
    Entry,
    Health,
    Ingress,
    Initiator,
    NetworkFacts,
    PortFacts,
    Remains,
    Site,
    SubnetFacts,
    SubnetShape,
    Target,
)
from diminet.store.store import SqlStore

PROJECT = "demo"
LIMITS = Limits(
    request_timeout=8.0,  # a limit on waiting: nothing here takes that long on a quiet machine
    sync_interval=0.2,
    reconcile_interval=0.2,
    backoff_first=0.1,
    backoff_most=0.2,
    confirm_delay=0.05,
    busy_pause=0.02,
    reservation_lifetime=9.0,
)


class SimulatedVim:
    """A South without a data plane: what it was told to connect, and an IPAM that honours pools."""

    kind = "simulated"
    asks_for_room = True

    def __init__(self, number: int) -> None:
        self.number = number
        self.networks: dict[str, NetworkFacts] = {}
        self.port_rows: dict[str, dict[str, PortFacts]] = {}
        self.keys: dict[tuple[str, str], str] = {}
        self.targets: dict[str, Target] = {}
        self.refuse: set[str] = set()
        self.keeper: Any = None
        self.calls: Counter[str] = Counter()
        self.filters: dict[str, tuple[Ingress, ...]] = {}
        self.marks: dict[str, str] = {}

    def _call(self, name: str) -> None:
        self.calls[name] += 1
        if name in self.refuse:
            raise SiteRefused(f"the simulated VIM refuses {name}")

    # a tenant's side

    def add_network(self, *cidrs: str, project: str = PROJECT, name: str = "net") -> str:
        network_id = str(uuid.uuid4())
        self.networks[network_id] = NetworkFacts(
            network_id=network_id, name=name, project_id=project, mtu=1450, subnets=()
        )
        self.port_rows[network_id] = {}
        for cidr in cidrs:
            net = ipaddress.ip_network(cidr)
            gateway = str(net[1])
            last = net[-2] if net.version == 4 else net[-1]
            self._set(
                network_id,
                SubnetShape(
                    cidr=cidr,
                    ip_version=net.version,
                    gateway_ip=gateway,
                    pools=(AddressRange(str(net[2]), str(last)),),
                ),
            )
        return network_id

    async def boot(self, network_id: str) -> str:
        """The address of a new port; asks its keeper for more room when the pool is dry."""
        subnet = self.networks[network_id].subnets[0]
        for _ in range(2):
            ip = self._free(network_id, self.networks[network_id].subnets[0])
            if ip is not None:
                serial = len(self.port_rows[network_id])
                mac = f"02:{self.number:02x}:00:00:{serial // 256:02x}:{serial % 256:02x}"
                self.port_rows[network_id][ip] = PortFacts(ip=ip, mac=mac, infrastructure=False)
                self.keeper.port_made(network_id)
                return ip
            if not await self.keeper.more_room(network_id, subnet.cidr):
                break
        raise RuntimeError("no address")

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

    async def network(self, network_id: str, *, as_user: Any = None) -> NetworkFacts:
        self._call("network")
        if network_id not in self.networks:
            raise NetworkNotFound(f"no network {network_id}")
        return self.networks[network_id]

    async def ports(self, network_id: str) -> tuple[PortFacts, ...]:
        self._call("ports")
        network = await self.network(network_id)
        gateways = tuple(
            PortFacts(ip=s.gateway_ip, mac=f"02:{self.number:02x}:ff:ff:ff:ff", infrastructure=True)
            for s in network.subnets
            if s.gateway_ip
        )
        return (*self.port_rows[network_id].values(), *gateways)

    async def make_network(self, service_id: str, project_id: str, name: str, key: str) -> str:
        self._call("make_network")
        if (service_id, key) not in self.keys:
            network_id = self.add_network(project=project_id, name=name)
            self.networks[network_id] = self.networks[network_id].model_copy(update={"ours": service_id})
            self.keys[service_id, key] = network_id
        return self.keys[service_id, key]

    def _set(self, network_id: str, shape: SubnetShape) -> None:
        network = self.networks[network_id]
        old = next((s for s in network.subnets if s.cidr == shape.cidr), None)
        pools = shape.pools if shape.pools is not None else (old.pools if old else ())
        new = SubnetFacts(
            subnet_id=old.subnet_id if old else str(uuid.uuid4()),
            cidr=shape.cidr,
            ip_version=shape.ip_version,
            gateway_ip=shape.gateway_ip,
            pools=pools,
        )
        others = tuple(s for s in network.subnets if s.cidr != shape.cidr)
        self.networks[network_id] = network.model_copy(update={"subnets": (*others, new)})

    async def shape_subnet(self, network_id: str, shape: SubnetShape, *, make: bool = True) -> None:
        self._call("shape_subnet")
        network = await self.network(network_id)
        if not make and all(s.cidr != shape.cidr for s in network.subnets):
            return
        if shape.gateway_ip in self.port_rows[network_id]:
            raise SiteRefused(f"a port uses {shape.gateway_ip}")
        self._set(network_id, shape)

    async def drop_network(self, network_id: str) -> bool:
        self._call("drop_network")
        if network_id not in self.networks:
            return True
        if self.port_rows[network_id]:
            self.networks[network_id] = self.networks[network_id].model_copy(update={"ours": None})
            return False
        del self.networks[network_id], self.port_rows[network_id]
        self.keys = {k: v for k, v in self.keys.items() if v != network_id}
        return True

    async def connect(self, target: Target) -> None:
        self._call("connect")
        self.targets[target.service_id] = target

    async def disconnect(self, service_id: str) -> None:
        self._call("disconnect")
        self.targets.pop(service_id, None)

    async def realised(self) -> dict[str, Health]:
        return {s: Health(service_id=s) for s in self.targets}

    async def problems(self) -> tuple[str, ...]:
        return ()

    async def ingress(self, network_id: str) -> tuple[Ingress, ...]:
        self._call("ingress")
        return self.filters.get(network_id, ())

    async def remains(self) -> tuple[Remains, ...]:
        return tuple(
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


class Wire:
    """The simulated network: every message crosses as JSON; sites may be cut off."""

    def __init__(self) -> None:
        self.engines: dict[str, Engine] = {}
        self.cuts: set[frozenset[str]] = set()
        self.seen: Counter[tuple[str, str, str]] = Counter()  # (receiver, request id, kind)

    def cut(self, a: str, b: str) -> None:
        self.cuts.add(frozenset((a, b)))

    def isolate(self, a: str) -> None:
        for b in self.engines:
            if a != b:
                self.cut(a, b)

    def heal(self) -> None:
        self.cuts.clear()


class Link:
    """One site's Peers."""

    def __init__(self, wire: Wire, me: str) -> None:
        self.wire, self.me = wire, me

    def at(self, site: str) -> Any:
        return _Remote(self.wire, self.me, site)


class _Remote:
    def __init__(self, wire: Wire, me: str, site: str) -> None:
        self.wire, self.me, self.site = wire, me, site

    def __getattr__(self, kind: str) -> Any:
        async def call(ctx: Context, *arguments: Any) -> Any:
            away = SiteUnreachable(f"site {self.site} does not answer", sites=[self.site], retry_after=1.0)
            if frozenset((self.me, self.site)) in self.wire.cuts or self.site not in self.wire.engines:
                await asyncio.sleep(0.05)
                raise away
            self.wire.seen[self.site, ctx.request_id, kind] += 1
            told = ctx.model_copy(update={"sender": self.me})
            copies = [
                type(a).model_validate_json(a.model_dump_json()) if hasattr(a, "model_dump_json") else a
                for a in arguments
            ]
            await asyncio.sleep(0)
            try:
                answer = await getattr(self.wire.engines[self.site], kind)(told, *copies)
            except Crash:
                raise away from None
            except DiminetError as error:
                raise from_dict(error.as_dict(), sites=[self.site]) from None
            if frozenset((self.me, self.site)) in self.wire.cuts:
                raise away
            return type(answer).model_validate_json(answer.model_dump_json()) if answer is not None else None

        return call


class Names:
    """Directory."""

    def __init__(self, names: list[str]) -> None:
        self.all = tuple(
            Site(name=n, number=i + 1, north_url=f"http://{n}", east_west_url=f"https://{n}")
            for i, n in enumerate(names)
        )

    async def site(self, name: str) -> Site:
        for site in self.all:
            if site.name == name:
                return site
        raise SiteUnknown(f"site {name} is not in the directory", sites=[name])

    async def sites(self) -> tuple[Site, ...]:
        return self.all


class Trust:
    """Identity: every site vouches for the project demo only."""

    async def authenticate(self, token: str) -> Caller:
        raise NotImplementedError

    async def authorise(self, ctx: Context, project_id: str) -> None:
        if ctx.initiator.project_id != project_id or (ctx.sender and project_id != PROJECT):
            raise NotAuthorised("not vouched for")


class Crash(BaseException):
    """The instance is gone at once, as by kill -9."""


class Life:
    """Counts an instance's steps (durable writes, calls of the VIM, messages); ends it at one of them.

    at: number of the step, None: lives on. after: the step takes effect, its answer is lost."""

    def __init__(self, at: int | None = None, *, after: bool = False) -> None:
        self.at, self.after = at, after
        self.steps = 0
        self.alive = True

    async def step(self, call: Any, *arguments: Any, **more: Any) -> Any:
        if not self.alive:
            raise Crash
        self.steps += 1
        if self.at is not None and self.steps >= self.at:
            self.alive = False
            if self.after:
                await call(*arguments, **more)
            raise Crash
        result = await call(*arguments, **more)
        if not self.alive:
            raise Crash
        return result


class Mortal:
    """A port of an instance that ends with it."""

    def __init__(self, inner: Any, life: Life) -> None:
        self.inner, self.life = inner, life

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.inner, name)
        if name == "at":
            return lambda site: Mortal(method(site), self.life)
        if not callable(method):
            return method

        async def call(*arguments: Any, **more: Any) -> Any:
            return await self.life.step(method, *arguments, **more)

        return call


class Quiet:
    def create_step(self, step: str, seconds: float) -> None:
        return

    def set_services(self, counts: Any) -> None:
        return

    def set_blocks(self, counts: Any) -> None:
        return

    def set_outbox(self, depth: int, oldest_age: float) -> None:
        return

    def set_audit(self, counts: Any) -> None:
        return


class Cloud:
    def __init__(self, *names: str, url: str = "sqlite://", limits: Limits = LIMITS) -> None:
        self.wire = Wire()
        self.vims: dict[str, SimulatedVim] = {}
        self.names = Names(list(names))
        self.limits = limits
        self.loops: list[asyncio.Task[None]] = []
        self.stores: dict[str, SqlStore] = {}
        for i, name in enumerate(names):
            self.vims[name] = SimulatedVim(i + 1)
            self.stores[name] = SqlStore(url, threaded=False)
            self.start(name, i + 1)

    def start(self, name: str, number: int, life: Life | None = None) -> None:
        life = life or Life()
        here = Instance(
            name=name,
            number=number,
            store=Mortal(self.stores[name], life),
            peers=Mortal(Link(self.wire, name), life),
            south=Mortal(self.vims[name], life),
            directory=self.names,
            identity=Trust(),
            clock=SystemClock(),
            types=TYPES,
            asn=64999,
            meter=Quiet(),
            limits=self.limits,
        )
        engine = Engine(here)
        self.vims[name].keeper = engine.pools
        self.wire.engines[name] = engine

    def __getitem__(self, name: str) -> Engine:
        return self.wire.engines[name]

    async def restart(self, name: str, life: Life | None = None) -> None:
        """Kill the instance and start it again on its database and VIM."""
        old = self.wire.engines.pop(name, None)
        if old is not None:
            await old.stop()
        self.start(name, next(s.number for s in self.names.all if s.name == name), life)

    async def run(self) -> None:
        """Start the background loops of all sites."""
        self.loops = [asyncio.create_task(e.run()) for e in self.wire.engines.values()]

    async def close(self) -> None:
        for loop in self.loops:
            loop.cancel()
        await asyncio.gather(*self.loops, return_exceptions=True)
        for engine in self.wire.engines.values():
            await engine.stop()
        for store in self.stores.values():
            store.close()

    def caller(self, project: str = PROJECT, *roles: str) -> Caller:
        return Caller(
            user_id="alice", project_id=project, roles=frozenset(roles or ("member",)), token="secret"
        )

    def ctx(self, site: str, project: str = PROJECT) -> Context:
        return Context(
            request_id=f"req-{uuid.uuid4()}",
            initiator=Initiator(user_id="alice", project_id=project, site=site),
        )

    async def create(
        self, at: str, kind: str, *entries: str | Entry, ctx: Context | None = None, **more: Any
    ) -> Any:
        """entries: "A:ID" or "A"."""
        resources = []
        for entry in entries:
            if isinstance(entry, Entry):
                resources.append(entry)
            else:
                site, _, network = entry.partition(":")
                resources.append(Entry(site=site, resource_id=network or None))
        request = CreateRequest(type=kind, name="web", resources=tuple(resources), **more)
        view, _ = await self[at].requests.create(
            self.caller(), ctx or self.ctx(at), request, wait=True, idempotency=None
        )
        return view

    def pictures(self) -> dict[str, Any]:
        return {name: vim.picture() for name, vim in self.vims.items()}


async def until(condition: Any, seconds: float = 15.0) -> None:
    """Wait, bounded, for a condition (sync or async)."""
    for _ in range(int(seconds / 0.02)):
        result = condition()
        if asyncio.iscoroutine(result):
            result = await result
        if result:
            return
        await asyncio.sleep(0.02)
    raise AssertionError("it did not come true in time")
