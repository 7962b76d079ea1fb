"""An instance among many services: `python -m diminet.bench.crowd fill|serve --database FILE --services N`.

`fill` makes the services through the production store, as the engine writes them: half of them routed, half
stretched, of many projects, between this site and fifty others. `serve` is the production instance on that
database: its north API, its loops and its store; simulated are its VIM and the one other site that answers.
On a line of its standard input it times what users cannot ask for, and says so in a line of JSON.
"""

import argparse
import asyncio
import gc
import json
import re
import statistics
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

from diminet.bench.scale_results import Cost
from diminet.bench.simulated import (
    PROJECT,
    TARGET_ASN,
    Names,
    SimulatedSite,
    Trust,
    Wire,
    tenants_network,
    whole,
)
from diminet.clock import SystemClock
from diminet.config import Settings, SiteSettings, SouthSettings
from diminet.config_limits import LimitSettings
from diminet.engine.instance import Limits
from diminet.engine.ports import HeldBlock, MemberRow, ServiceRow, Tx
from diminet.listener import Listener
from diminet.logic.types import TYPES
from diminet.model import (
    Block,
    Connection,
    Document,
    Epoch,
    Identifiers,
    Initiator,
    Member,
    NetworkFacts,
    ProvisioningStatus,
    Resource,
    Subnet,
)
from diminet.north.app import make_north_app
from diminet.store import SqlStore, upgrade
from diminet.telemetry import Metrics, configure_logging

HERE, NEAR = "A", "B"
AWAY = tuple(f"C{number}" for number in range(1, 50))
SHARED = 25  # services that are shared with the site that answers, however many there are
OF_A_PROJECT = 50
OWN = 4000  # services that this site is the master of, at most: it has 4,095 VNIs
BLOCKS = 16  # of each stretched subnet
AT_ONCE = 200  # services that are written in one transaction
TIMES = 7
NOW = 1_750_000_000.0
WHO = Initiator(user_id="bench", project_id="bench", site=HERE)


# -- filling ---------------------------------------------------------------------------------------


def document(index: int) -> Document:
    """The service of that number, as its master has written it."""
    other = NEAR if index < SHARED else AWAY[index % len(AWAY)]
    numbers = {HERE: 1, NEAR: 2, **{name: number for number, name in enumerate(AWAY, 3)}}
    master = HERE if index < OWN else other
    kind = "l2" if index % 2 else "l3"
    members = (Member(site=HERE, number=1, slot=1), Member(site=other, number=numbers[other], slot=2))
    return Document(
        service_id=service_id(index),
        epoch=Epoch(1, numbers[master]),
        revision=1,
        type=kind,
        project_id=f"p{index // OF_A_PROJECT}" if index >= OF_A_PROJECT else PROJECT,
        name=f"service {index}",
        params={"gateway": "local", "block_size": 16} if kind == "l2" else {},
        members=members,
        resources=tuple(_resource(kind, index, slot, m.site) for slot, m in enumerate(members)),
        identifiers=Identifiers(vni=numbers[master] * 4096 + index % 4095 + 1, asn=TARGET_ASN),
        initiator=WHO,
        created_at=NOW + index,
        updated_at=NOW + index,
    )


def service_id(index: int) -> str:
    """Not in the order in which they were made, as with UUIDs."""
    return f"{index * 2654435761 % 2**32:08x}-0000-4000-8000-{index:012d}"


def cidr(kind: str, index: int, slot: int) -> str:
    """Each project routes and stretches addresses of its own."""
    place = index % OF_A_PROJECT * 2 + (slot if kind == "l3" else 0)
    return f"10.{place}.0.0/24"


def _resource(kind: str, index: int, slot: int, site: str) -> Resource:
    net = cidr(kind, index, slot)
    host = net.removesuffix("0/24")
    gateway = f"{host}{1 if slot == 0 or kind == 'l3' else 129}"
    prefix = 28 if kind == "l2" else None
    subnet = Subnet(cidr=net, ip_version=4, gateway_ip=gateway, block_prefix=prefix)
    return Resource(site=site, resource_id=f"net-{index}-{site}", subnets=(subnet,))


async def fill(database: str, services: int) -> None:
    upgrade(database)
    store = SqlStore(database)
    try:
        for first in range(0, services, AT_ONCE):
            await store.write(partial(_fill_some, first=first, end=min(first + AT_ONCE, services)))
    finally:
        store.close()


def _fill_some(tx: Tx, first: int, end: int) -> None:
    for index in range(first, end):
        _fill_one(tx, document(index), own=index < OWN)


def _as_it_should_be(made: Document) -> ServiceRow:
    return ServiceRow(
        document=made,
        status=ProvisioningStatus.ACTIVE,
        applied=made.pair,
        confirmed=made.pair,
        created_at=made.created_at,
        updated_at=made.updated_at,
    )


def _fill_one(tx: Tx, made: Document, *, own: bool) -> None:
    here, other = made.resources
    tx.save_service(_as_it_should_be(made), expect=None)
    connection = Connection(service_id=made.service_id, resource_id=here.resource_id, made=False)
    tx.save_connection(connection.model_copy(update={"state": "ACTIVE"}))
    tx.authorise(made.service_id, here.resource_id, WHO, made.created_at)
    if own:
        tx.take_identifier(made.service_id, 1, 4095)
        tx.save_member(MemberRow(service_id=made.service_id, site=other.site, pair=made.pair))
    if made.type == "l2":
        net = made.resources[0].subnets[0].cidr
        tx.put_blocks(made.service_id, [_block(made, net, index) for index in range(BLOCKS)])


def _block(made: Document, net: str, index: int) -> HeldBlock:
    mine = index < BLOCKS // 2
    owner = made.members[0 if mine else 1].site
    block = Block(cidr=net, index=index, owner=owner, version=1, giver=made.master)
    return HeldBlock(block=block, pooled=mine and index < BLOCKS // 4)


# -- serving ---------------------------------------------------------------------------------------


class Instance:
    """The instance, and the site that answers it."""

    def __init__(self, database: str, services: int) -> None:
        self.metrics = Metrics()
        self.wire = Wire(0.0)
        names, limits = Names([HERE, NEAR]), Limits(services_per_project=10**6)
        self.site = SimulatedSite(
            HERE,
            1,
            self.wire,
            names,
            SqlStore(database),
            clock=SystemClock(),
            limits=limits,
            meter=self.metrics,
            given=partial(_given, slot=0),
        )
        memory = SqlStore("sqlite://", threaded=False)
        self.near = SimulatedSite(
            NEAR,
            2,
            self.wire,
            names,
            memory,
            clock=SystemClock(),
            limits=limits,
            given=partial(_given, slot=1),
        )
        self.site.south.realised_ids |= {service_id(index) for index in range(services)}
        self.near.south.realised_ids |= {service_id(index) for index in range(min(services, SHARED))}
        self.spare = {
            HERE: self.site.south.add_network("10.200.0.0/24"),
            NEAR: self.near.south.add_network("10.201.0.0/24"),
        }

    def counted(self) -> dict[str, int]:
        """SQL statements of the instance, and messages, since the start."""
        return {"statements": self.site.statements, "messages": self.wire.messages.total()}

    async def costs(self) -> dict[str, Cost]:
        """Of what nobody asks for: medians of a few."""
        engine = self.site.engine
        await self._settled()
        works: dict[str, Callable[[], Awaitable[object]]] = {
            "anti-entropy with one site": lambda: engine.sync_.with_peer(NEAR),
            "anti-entropy answered": lambda: engine.sync_.report(NEAR),
            "audit round": engine.audit.round,
            "repair round": engine._repair,
            "pools round": engine._grow,
            "tidying round": engine._tidy,
            "outbox round": engine.outbox.deliver_due,
            "sweep of networks": engine.reconciler.sweep_networks,
            "/metrics": self._metrics,
        }
        costs = {name: await self._cost(work) for name, work in works.items()}
        return {**costs, "anti-entropy answered to all fifty sites": await self._cost(self._reports, times=1)}

    async def _settled(self) -> None:
        """The first exchanges tell of what both have seen in their VIMs; the later ones are idle."""
        for _ in range(3):
            await self.site.engine.audit.round()
            await self.site.engine.sync_.with_peer(NEAR)

    async def _metrics(self) -> None:
        self.metrics.text()

    async def _reports(self) -> None:
        """What grows with what is shared: an interval in which all of them ask."""
        for site in (NEAR, *AWAY):
            await self.site.engine.sync_.report(site)

    async def _cost(self, work: Callable[[], Awaitable[object]], times: int = TIMES) -> Cost:
        loop, seconds = asyncio.get_running_loop(), []
        for _ in range(times):
            statements, messages = self.site.statements, self.wire.messages.total()
            began = loop.time()
            await work()
            seconds.append(loop.time() - began)
        return Cost(
            seconds=statistics.median(seconds),
            statements=self.site.statements - statements,
            messages=self.wire.messages.total() - messages,
        )


def _given(network_id: str, slot: int) -> NetworkFacts | None:
    """A network of a service of the crowd, as one of its sites has it."""
    found = re.fullmatch(r"net-(\d+)-\w+", network_id)
    if found is None:
        return None
    made = document(int(found[1]))
    shape = whole(made.resources[slot].subnets[0].cidr)
    if made.type == "l2":  # what DIMINET has told it when the service was made
        held = [_block(made, shape.cidr, index) for index in range(BLOCKS)]
        pooled = [h.block for h in held if h.pooled]
        (shape,) = TYPES["l2"].shapes(made, made.resources[slot], pooled)
    return tenants_network(network_id, shape, made.project_id)


@asynccontextmanager
async def serving(instance: Instance) -> AsyncIterator[int]:
    """The port of the north API."""
    settings = Settings(
        site=SiteSettings(name=HERE, number=1),
        south=SouthSettings(vtep_ip="127.0.0.1"),
        limits=LimitSettings(rate_per_second=1e6, rate_burst=10**6),
    )

    async def ready() -> list[str]:
        return []

    north = make_north_app(instance.site.engine.requests, Trust(), instance.metrics, ready, settings)
    listener = Listener(north, "127.0.0.1", 0, None, name="north API")
    listener.bind()
    await listener.start()
    try:
        yield listener.port
    finally:
        await listener.stop()


async def serve(database: str, services: int) -> None:
    """Tells its port, then answers each line that comes: `run` and `rest` start and end the loops, `count`
    tells statements and messages, `costs` what `Instance.costs` finds."""
    instance = Instance(database, services)
    await fill_near(instance, min(services, SHARED))
    await instance.site.engine.start()
    gc.collect()
    gc.freeze()
    running: asyncio.Task[None] | None = None
    async with serving(instance) as port:
        _say({"port": port, "networks": instance.spare})
        while line := await asyncio.to_thread(sys.stdin.readline):
            if line.strip() == "run":
                running = asyncio.create_task(instance.site.engine.run())
                _say({})
            elif line.strip() == "rest" and running is not None:
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)
                _say({})
            elif line.strip() == "count":
                _say(instance.counted())
            else:
                costs = await instance.costs()
                _say({name: cost.model_dump() for name, cost in costs.items()})
    await instance.site.close()
    await instance.near.close()


async def fill_near(instance: Instance, services: int) -> None:
    """What the other site has of the services that both share."""

    def decide(tx: Tx) -> None:
        for index in range(services):
            made = document(index)
            tx.save_service(_as_it_should_be(made), expect=None)
            if made.type == "l2":
                net = made.resources[0].subnets[0].cidr
                held = [_block(made, net, block) for block in range(BLOCKS)]
                tx.put_blocks(made.service_id, [HeldBlock(block=h.block) for h in held])

    await instance.near.store.write(decide)


def _say(what: object) -> None:
    print(json.dumps(what), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("fill", "serve"))
    parser.add_argument("--database", required=True)
    parser.add_argument("--services", type=int, required=True)
    given = parser.parse_args()
    configure_logging("warning")  # to stderr: what is told goes to stdout
    url = f"sqlite:///{given.database}"
    asyncio.run((fill if given.what == "fill" else serve)(url, given.services))


if __name__ == "__main__":
    main()
