"""`diminet bench create`: creates and deletes on a lab of its own, against the floor of the same run.

One round of one kind of service over N sites, the receiving one drawn at random:

    1  create and delete, not counted    the peers' connections are open then, as between sites that
                                         share a service
    2  the floor: create and delete      instances paused, `floor` at all N sites at once
    3  create and delete                 control plane only
    4  create and delete                 pings on their way from the receiving site's instance

Rounds of all N and kinds alternate, so that what else happens on the machine meets all alike.
"""

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

from diminet.bench import idle, machines, services
from diminet.bench.machines import Agent, Machine
from diminet.bench.orders import Order
from diminet.bench.samples import FloorSample, Idle, Results, Sample, ServiceKind
from diminet.bench.services import KINDS, TENANTS, Draw, draw
from diminet.client import NorthClient
from diminet.errors import BadSurroundings, DiminetError
from diminet.lab.client import Lab
from diminet.logic import identifiers
from diminet.model import AddressRange, SubnetShape, Target

IDLE_SETTLE = 10.0  # seconds after the start of a lab before its instances are called idle
FLOOR_NUMBER = 4095  # whose VNIs the floor uses: no lab has that many sites
FLOOR_ASN = 64999  # of route targets, as the sites' setting identifiers.target_asn
# As TENANTS, of the floor.
FLOORS: Mapping[ServiceKind, str] = {"l3": "10.3.{}.0/24", "l2": "10.4.0.0/24"}

Note = Callable[[str], None]


class Wish(NamedTuple):
    """What to measure. sites: numbers of sites of a service. delays_ms: one way. idle_seconds: 0: not."""

    runs: int
    sites: tuple[int, ...]
    delays_ms: tuple[float, ...]
    seed: int
    idle_seconds: float


class Home(NamedTuple):
    """What a tenant has at one site: an instance on a network to route, and one on a network to stretch.
    ip: of the routed instance. rooms: the instances' namespaces, by kind of service."""

    networks: Mapping[ServiceKind, str]
    ip: str
    rooms: Mapping[ServiceKind, str]


def run(state: Path, wish: Wish, command: str, note: Note) -> Results:
    """One lab after another, one for each delay; they are gone at the end. Raises DiminetError."""
    load = os.getloadavg()[0]
    chance = random.Random(wish.seed)
    every = Found([], [], [], [])
    resting: tuple[Idle, ...] = ()
    for delay in wish.delays_ms:
        lab = Lab(state)
        try:
            lab.up(max(wish.sites), wan_delay_ms=delay, progress=note)
            if wish.idle_seconds and not resting:
                note(f"idle for {wish.idle_seconds:g} s")
                time.sleep(IDLE_SETTLE)
                resting = idle.look(machines.machines(lab).values(), wish.idle_seconds)
            asyncio.run(_measure(lab, delay, wish, chance, note, every))
        finally:
            lab.down()
    return results_of(every, wish, command, load, delays_ms=wish.delays_ms, resting=resting)


class Found(NamedTuple):
    """failures: sentences, one for each round that was given up. paper: of the paper's own sequence."""

    samples: list[Sample]
    floor: list[FloorSample]
    failures: list[str]
    paper: list[FloorSample]


def results_of(
    found: Found,
    wish: Wish,
    command: str,
    load: float,
    *,
    delays_ms: tuple[float, ...],
    resting: tuple[Idle, ...] = (),
) -> Results:
    """load: the machine's when it began."""
    return Results(
        command=command,
        taken_at=datetime.now(UTC).isoformat(timespec="seconds"),
        version=version("diminet"),
        machine=machines.this_machine(),
        load=(load, os.getloadavg()[0]),
        seed=wish.seed,
        runs=wish.runs,
        sites=wish.sites,
        delays_ms=delays_ms,
        samples=tuple(found.samples),
        floor=tuple(found.floor),
        paper=tuple(found.paper),
        failures=tuple(found.failures),
        idle=resting,
    )


async def _measure(
    lab: Lab, delay: float, wish: Wish, chance: random.Random, note: Note, found: Found
) -> None:
    """All rounds at that delay, added to `found`."""
    async with open_bench(lab, delay) as bench:
        for number in range(wish.runs):
            note(f"delay {delay:g} ms: run {number + 1} of {wish.runs}")
            for count in wish.sites:
                for kind in KINDS:
                    drawn = draw(chance, kind, list(bench.machines), count)
                    try:
                        await _round(bench, drawn, found)
                    except DiminetError as error:
                        sentence = f"{kind}, N={count}, {delay:g} ms, at {drawn.sites[0]}: {error.message}"
                        found.failures.append(sentence)
                        note(f"failed: {sentence}")


async def _round(bench: "Bench", drawn: Draw, found: Found) -> None:
    await bench.service(drawn, data_plane=False)
    found.floor.extend(await bench.floor(drawn))
    found.samples.extend(await bench.service(drawn, data_plane=False))
    found.samples.extend(await bench.service(drawn, data_plane=True))


@asynccontextmanager
async def open_bench(lab: Lab, delay_ms: float) -> AsyncIterator["Bench"]:
    """With everything that a tenant has, and a floor agent at every site."""
    sites = machines.machines(lab)
    homes = {name: _home(lab, machine) for name, machine in sites.items()}
    async with AsyncExitStack() as stack:
        agents = {name: await Agent.start(machine, stack) for name, machine in sites.items()}
        north = {
            s["name"]: NorthClient(s["north"], s["token"], proxies=False) for s in lab.content()["sites"]
        }
        bench = Bench(delay_ms, sites, homes, agents, north)
        await bench.prepare_floor()
        yield bench


def _home(lab: Lab, machine: Machine) -> Home:
    vim = lab.vim(machine.name)
    networks = {
        kind: vim.create_network(kind, [cidr.format(machine.number)])["network_id"]
        for kind, cidr in TENANTS.items()
    }
    ips = {kind: vim.boot(network_id, f"bench-{kind}")["ip"] for kind, network_id in networks.items()}
    rooms = {kind: vim.port(f"bench-{kind}")["binding:vif_details"]["namespace"] for kind in networks}
    return Home(networks, ips["l3"], rooms)


class Bench:
    """A lab that is ready to be measured."""

    def __init__(
        self,
        delay_ms: float,
        sites: Mapping[str, Machine],
        homes: Mapping[str, Home],
        agents: Mapping[str, Agent],
        north: Mapping[str, NorthClient],
    ) -> None:
        self.machines = sites
        self._delay_ms = delay_ms
        self._homes = homes
        self._agents = agents
        self._north = north
        self._floor_networks: dict[tuple[ServiceKind, str], str] = {}
        self._k = 0

    # -- the services ------------------------------------------------------------------------------

    async def service(self, drawn: Draw, *, data_plane: bool) -> list[Sample]:
        """Create and delete it, timed where the user is."""
        north = self._north[drawn.sites[0]]
        body = services.body(drawn, {site: self._homes[site].networks[drawn.kind] for site in drawn.sites})
        before = await services.figures_of(self.machines, drawn.sites)
        loop = asyncio.get_running_loop()
        began = loop.time()
        pings = self._pings(drawn, self._routed(drawn)) if data_plane and drawn.kind == "l3" else []
        made: dict[str, Any] = {}
        try:
            answer = await asyncio.to_thread(north.create, body)
            seconds, made = loop.time() - began, answer.service
            if answer.status != 201:
                raise BadSurroundings(f"a create was answered {answer.status} after {seconds:.1f} s, not 201")
            if data_plane and drawn.kind == "l2":
                pings = self._pings(drawn, _gateways(made))
            arrived = await asyncio.gather(*pings)
        except DiminetError:
            for ping in pings:
                ping.cancel()
            await asyncio.gather(*pings, return_exceptions=True)
            if made:
                await asyncio.to_thread(services.delete, north, made["id"])
            raise
        first_ping = max(arrived) - began if arrived else None
        after = await services.figures_of(self.machines, drawn.sites)
        created = services.sample(
            drawn,
            "create",
            seconds,
            before,
            after,
            delay_ms=self._delay_ms,
            data_plane=data_plane,
            first_ping=first_ping,
        )
        began = loop.time()
        await asyncio.to_thread(services.delete, north, made["id"])
        seconds = loop.time() - began
        last = await services.figures_of(self.machines, drawn.sites)
        deleted = services.sample(
            drawn, "delete", seconds, after, last, delay_ms=self._delay_ms, data_plane=data_plane
        )
        return [created, deleted]

    def _routed(self, drawn: Draw) -> list[str]:
        return [self._homes[site].ip for site in drawn.sites[1:]]

    def _pings(self, drawn: Draw, addresses: Sequence[str]) -> list[asyncio.Task[float]]:
        receiver = drawn.sites[0]
        room = self._homes[receiver].rooms[drawn.kind]
        return [
            asyncio.create_task(machines.first_answer(self.machines[receiver], room, address))
            for address in addresses
        ]

    # -- the floor ---------------------------------------------------------------------------------

    async def prepare_floor(self) -> None:
        """The networks that exist before a create, as the tenant's do."""
        for name, agent in self._agents.items():
            for kind, cidr in FLOORS.items():
                made = await agent.ask(Order(op="network", cidr=cidr.format(self.machines[name].number)))
                self._floor_networks[kind, name] = made.network_id or ""

    async def floor(self, drawn: Draw) -> list[FloorSample]:
        self._k = self._k % (identifiers.KS_A_SITE - 1) + 1
        service_id = str(uuid4())
        orders = {site: self._order(drawn, site, service_id) for site in drawn.sites}
        async with machines.paused(self.machines.values()):
            created, made = await self._at_once(orders)
            undo = {site: self._undo(orders[site], made[site]) for site in orders}
            deleted, _ = await self._at_once(undo)
        return [
            FloorSample(
                kind=drawn.kind,
                operation=operation,
                sites=len(drawn.sites),
                delay_ms=self._delay_ms,
                seconds=seconds,
            )
            for operation, seconds in (("create", created), ("delete", deleted))
        ]

    async def _at_once(self, orders: Mapping[str, Order]) -> tuple[float, dict[str, str]]:
        """Seconds until the last site is done, and the network at each."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        done = await asyncio.gather(*(self._agents[site].ask(order) for site, order in orders.items()))
        seconds = loop.time() - began
        return seconds, {site: one.network_id or "" for site, one in zip(orders, done, strict=True)}

    def _order(self, drawn: Draw, site: str, service_id: str) -> Order:
        made = drawn.kind == "l2" and site != drawn.sites[0]
        shape = floor_shape(drawn.sites.index(site), len(drawn.sites)) if drawn.kind == "l2" else None
        return Order(
            op="create",
            network_id=None if made else self._floor_networks[drawn.kind, site],
            made=made,
            target=self._target(drawn, site, service_id),
            shape=shape,
        )

    def _target(self, drawn: Draw, site: str, service_id: str) -> Target:
        given = identifiers.mint(FLOOR_NUMBER, self._k, FLOOR_ASN)
        slots = {name: slot for slot, name in enumerate(drawn.sites, start=1)}
        others = [name for name in drawn.sites if name != site]
        cidrs = {name: FLOORS[drawn.kind].format(self.machines[name].number) for name in drawn.sites}
        return Target(
            service_id=service_id,
            project_id="floor",
            layer=drawn.kind,
            vni=given.vni,
            export_target=given.target(slots[site]),
            import_targets=tuple(given.target(slots[name]) for name in others),
            networks=(),
            local_cidrs=(cidrs[site],),
            remote_cidrs=tuple(cidrs[name] for name in others) if drawn.kind == "l3" else (),
            peers=tuple(self.machines[name].number for name in others),
            vteps={self.machines[name].number: self.machines[name].vtep for name in others},
        )

    @staticmethod
    def _undo(order: Order, network_id: str) -> Order:
        whole = floor_shape(0, 1) if order.shape is not None and not order.made else None
        return order.model_copy(update={"op": "delete", "network_id": network_id, "shape": whole})


def floor_shape(index: int, count: int) -> SubnetShape:
    """Of the floor's network to stretch, the part of site `index` of `count`; its first address is the
    gateway."""
    cidr = FLOORS["l2"]
    addresses = IPv4Network(cidr)
    size = (addresses.num_addresses - 2) // count
    first = 1 + index * size
    pool = AddressRange(str(addresses[first + 1]), str(addresses[first + size - 1]))
    return SubnetShape(cidr=cidr, ip_version=4, gateway_ip=str(addresses[first]), pools=(pool,))


def _gateways(service: Mapping[str, Any]) -> list[str]:
    """The addresses of the other sites' gateways on a stretched network: they answer pings."""
    return [subnet["gateway_ip"] for entry in service["resources"][1:] for subnet in entry.get("subnets", ())]
