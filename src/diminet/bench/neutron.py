"""`diminet bench create --south neutron`: creates on real Keystone and Neutrons, beside their floor and the
paper's own sequence (`rivals`) in the same run.

One round of one kind of service over N sites, the receiving one drawn at random: a create and delete by
DIMINET, by the floor and by the paper's sequence, their order drawn too. Rounds of all N and kinds alternate,
so that what else happens on the machine, the instances' background included, meets all alike.
"""

import asyncio
import os
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import openstack.connection
from pydantic import SecretStr

from diminet.bench import idle, machines, services
from diminet.bench.create import Found, Note, Wish, results_of
from diminet.bench.machines import Machine
from diminet.bench.rivals import CIDRS, Bare, Floor, Paper, Rival
from diminet.bench.samples import FloorSample, Operation, Results, Sample, ServiceKind
from diminet.bench.services import KINDS, TENANTS, Draw, draw
from diminet.client import NorthClient
from diminet.cloud import Entry, configured
from diminet.errors import BadSurroundings, DiminetError
from diminet.lab.client import Lab
from diminet.lab.openstack.templates import SERVICE_USER
from diminet.lab.provision import CLOUDS_FILE
from diminet.south.neutron.neutron import Neutron

NEUTRON_TIMEOUT = 30.0  # seconds for one bare call
THREADS = 16  # of the bare calls to one Neutron, as the default of south.threads


def run(state: Path, wish: Wish, command: str, note: Note) -> Results:
    """On a lab that is gone at the end. Raises DiminetError."""
    load = os.getloadavg()[0]
    chance = random.Random(wish.seed)
    found = Found([], [], [], [])
    lab = Lab(state)
    try:
        lab.up(max(wish.sites), progress=note, south="neutron")
        asyncio.run(_measure(lab, wish, chance, note, found))
    finally:
        lab.down()
    return results_of(found, wish, command, load, delays_ms=(0.0,))


async def _measure(lab: Lab, wish: Wish, chance: random.Random, note: Note, found: Found) -> None:
    async with open_bench(lab) as bench:
        for site in bench.machines:
            for kind in KINDS:
                note(f"warming up: {kind} at site {site}")
                others = [name for name in bench.machines if name != site]
                with suppress(DiminetError):  # the first answers of so many fresh servers take their time
                    await bench.service(Draw(kind, (site, *others)))
        for number in range(wish.runs):
            note(f"run {number + 1} of {wish.runs}")
            for count in wish.sites:
                for kind in KINDS:
                    drawn = draw(chance, kind, list(bench.machines), count)
                    try:
                        await _round(bench, drawn, chance, found)
                    except DiminetError as error:
                        sentence = f"{kind}, N={count}, at {drawn.sites[0]}: {error.message}"
                        found.failures.append(sentence)
                        note(f"failed: {sentence}")


async def _round(bench: "Bench", drawn: Draw, chance: random.Random, found: Found) -> None:
    for who in chance.sample(("diminet", "floor", "paper"), 3):
        if who == "diminet":
            found.samples.extend(await bench.service(drawn))
        elif who == "floor":
            found.floor.extend(await bench.rival(Floor(bench.bare), drawn))
        else:
            found.paper.extend(await bench.rival(Paper(bench.bare), drawn))


@asynccontextmanager
async def open_bench(lab: Lab) -> AsyncIterator["Bench"]:
    """With a tenant's networks at every site: DIMINET's, and the rivals'."""
    sites, content = machines.machines(lab), lab.content()
    token = SecretStr(content["sites"][0]["token"])
    bare = {name: Bare(_neutron(lab, name), machine.number, token) for name, machine in sites.items()}
    try:
        networks = {name: _networks(lab, machine, TENANTS) for name, machine in sites.items()}
        for name, machine in sites.items():
            for kind, network_id in _networks(lab, machine, CIDRS).items():
                await bare[name].prepare(kind, network_id)
        north = {s["name"]: NorthClient(s["north"], s["token"], proxies=False) for s in content["sites"]}
        yield Bench(sites, networks, bare, north)
    finally:
        for one in bare.values():
            one.neutron.close()


def _neutron(lab: Lab, site: str) -> Neutron:
    """As the instance's own user, as the instance asks it."""
    entry = Entry(SERVICE_USER, lab.state_dir / site / CLOUDS_FILE, site)
    connection = openstack.connection.Connection(config=configured(entry, timeout=NEUTRON_TIMEOUT))
    return Neutron(connection, site=site, threads=THREADS, timeout=NEUTRON_TIMEOUT)


def _networks(lab: Lab, machine: Machine, cidrs: Mapping[ServiceKind, str]) -> dict[ServiceKind, str]:
    vim = lab.vim(machine.name)
    return {
        kind: str(vim.create_network(kind, [cidr.format(machine.number)])["network_id"])
        for kind, cidr in cidrs.items()
    }


class Bench:
    """A lab that is ready to be measured."""

    def __init__(
        self,
        sites: Mapping[str, Machine],
        networks: Mapping[str, Mapping[ServiceKind, str]],
        bare: Mapping[str, Bare],
        north: Mapping[str, NorthClient],
    ) -> None:
        self.machines = sites
        self.bare = bare
        self._networks = networks
        self._north = north
        self._serial = 0

    async def service(self, drawn: Draw) -> list[Sample]:
        """Create and delete it, timed where the user is."""
        north, loop = self._north[drawn.sites[0]], asyncio.get_running_loop()
        body = services.body(drawn, {site: self._networks[site][drawn.kind] for site in drawn.sites})
        before = await services.figures_of(self.machines, drawn.sites)
        watch, began = Watch(self._members(drawn)), loop.time()
        answer = await asyncio.to_thread(north.create, body)
        seconds, cpu = loop.time() - began, watch.gained()
        after = await services.figures_of(self.machines, drawn.sites)
        service_id = str(answer.service["id"])
        began = loop.time()
        await asyncio.to_thread(services.delete, north, service_id)
        gone = loop.time() - began
        if answer.status != 201:
            raise BadSurroundings(f"a create was answered {answer.status} after {seconds:.1f} s, not 201")
        last = await services.figures_of(self.machines, drawn.sites)
        created = services.sample(drawn, "create", seconds, before, after, delay_ms=0.0)
        return [
            created.model_copy(update={"cpu": cpu}),
            services.sample(drawn, "delete", gone, after, last, delay_ms=0.0),
        ]

    async def rival(self, rival: Rival, drawn: Draw) -> list[FloorSample]:
        self._serial += 1
        loop = asyncio.get_running_loop()
        watch, began = Watch(self._members(drawn)), loop.time()
        try:
            await rival.create(drawn, self._serial)
            seconds, cpu = loop.time() - began, watch.gained()
        finally:
            began = loop.time()
            await rival.delete()
        gone = loop.time() - began
        return [_timed(drawn, "create", seconds, cpu), _timed(drawn, "delete", gone, {})]

    def _members(self, drawn: Draw) -> list[Machine]:
        return [self.machines[site] for site in drawn.sites]


class Watch:
    """Processor seconds from now on."""

    def __init__(self, members: list[Machine]) -> None:
        self._pids = {
            "instances": [machine.pid for machine in members],
            "Neutrons": [machine.neutron for machine in members if machine.neutron],
            "benchmark": [os.getpid()],
        }
        self._before = self._now()

    def gained(self) -> dict[str, float]:
        return {name: now - self._before[name] for name, now in self._now().items()}

    def _now(self) -> dict[str, float]:
        return {name: sum(idle.spent(pid).own for pid in pids) for name, pids in self._pids.items()}


def _timed(drawn: Draw, operation: Operation, seconds: float, cpu: dict[str, float]) -> FloorSample:
    return FloorSample(
        kind=drawn.kind,
        operation=operation,
        sites=len(drawn.sites),
        delay_ms=0.0,
        seconds=seconds,
        cpu=cpu,
    )
