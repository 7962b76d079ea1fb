"""`diminet bench resiliency`: the paper's experiment (section V.C, Table IV) on a lab of its own.

A network is stretched over three sites; instances ping within the sites and between them while one site is
isolated and healed: first its control plane alone (BGP and DIMINET), then its data plane (VXLAN), then all.
"""

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from diminet.bench import machines
from diminet.bench.machines import Machine
from diminet.bench.outages import Outage, Outages, Pings
from diminet.client import NorthClient
from diminet.errors import BadSurroundings, DiminetError
from diminet.lab.client import Lab
from diminet.lab.plan import Plane

SITES = ("A", "B", "C")
CUT = "C"
PLANES: tuple[Plane, ...] = ("control", "data", "all")
CIDR = "10.0.0.0/24"  # the paper's
INTERVAL = 0.2  # seconds between two pings of a pair: the least that ping lets everybody use
STATUS_POLL = 0.5  # seconds
READY_MOST = 60.0  # seconds until all pings are answered and the service is ONLINE

_ANSWER = re.compile(r"bytes from .*icmp_seq=(\d+)")
_SENT = re.compile(r"(\d+) packets transmitted")


class Wish(NamedTuple):
    """Seconds of each phase."""

    before: float
    during: float
    after: float
    delay_ms: float


class Room(NamedTuple):
    """An instance. namespace: its own."""

    machine: Machine
    namespace: str
    ip: str


class Pair(NamedTuple):
    path: str
    source: Room
    target: Room


def run(state: Path, wish: Wish, command: str, note: Callable[[str], None]) -> Outages:
    """On a lab that is gone at the end. Raises DiminetError."""
    lab = Lab(state)
    try:
        lab.up(len(SITES), wan_delay_ms=wish.delay_ms, progress=note)
        outages = asyncio.run(_measure(lab, wish, note))
    finally:
        lab.down()
    return Outages(
        command=command,
        taken_at=datetime.now(UTC).isoformat(timespec="seconds"),
        version=version("diminet"),
        machine=machines.this_machine(),
        delay_ms=wish.delay_ms,
        cut=CUT,
        sites=SITES,
        outages=tuple(outages),
    )


async def _measure(lab: Lab, wish: Wish, note: Callable[[str], None]) -> list[Outage]:
    entry = lab.site(SITES[0])
    north = NorthClient(entry["north"], entry["token"], proxies=False)
    first = lab.vim(SITES[0]).create_network("stretched", [CIDR])["network_id"]
    resources = [{"site": SITES[0], "resource_id": first}, *({"site": site} for site in SITES[1:])]
    made = await asyncio.to_thread(north.create, {"name": "resiliency", "type": "l2", "resources": resources})
    networks = {entry["site"]: entry["resource_id"] for entry in made.service["resources"]}
    pairs = _pairs(lab, networks)
    found = []
    for plane in PLANES:
        await _until_whole(north, made.service["id"], pairs)
        note(f"{plane}: {wish.before + wish.during + wish.after:g} s")
        found.append(await _outage(lab, plane, wish, Watch(north, made.service["id"]), pairs))
    return found


def _pairs(lab: Lab, networks: Mapping[str, str]) -> list[Pair]:
    """Two instances at each site; from the second one within the site, from the first one to the others."""
    sites = machines.machines(lab)

    def boot(site: str, name: str) -> Room:
        vim = lab.vim(site)
        ip = vim.boot(networks[site], name)["ip"]
        return Room(sites[site], vim.port(name)["binding:vif_details"]["namespace"], ip)

    rooms = {site: (boot(site, "one"), boot(site, "two")) for site in SITES}
    within = [Pair(f"within {site}", rooms[site][1], rooms[site][0]) for site in SITES]
    other = [site for site in SITES if site != CUT]
    across = [Pair(f"{site} to {CUT}", rooms[site][0], rooms[CUT][0]) for site in other]
    return [*within, Pair(f"{other[0]} to {other[1]}", rooms[other[0]][0], rooms[other[1]][0]), *across]


async def _until_whole(north: NorthClient, service_id: str, pairs: Sequence[Pair]) -> None:
    await asyncio.gather(
        *(machines.first_answer(p.source.machine, p.source.namespace, p.target.ip) for p in pairs)
    )
    watch = Watch(north, service_id)
    for _ in range(int(READY_MOST / STATUS_POLL)):
        if await watch.look() == "ONLINE":
            return
        await asyncio.sleep(STATUS_POLL)
    raise BadSurroundings(f"the service is not ONLINE after {READY_MOST:.0f} s: {await watch.look()}")


class Watch:
    """The service's operating status, as the first site tells it."""

    def __init__(self, north: NorthClient, service_id: str) -> None:
        self._north = north
        self._service_id = service_id
        self.seen: list[tuple[float, str]] = []  # on the loop's clock

    async def look(self) -> str:
        service = (await asyncio.to_thread(self._north.show, self._service_id)).service
        return str(service["operating_status"])

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                status = await self.look()
            except DiminetError as error:
                status = error.code
            if not self.seen or self.seen[-1][1] != status:
                self.seen.append((asyncio.get_running_loop().time(), status))
            await asyncio.sleep(STATUS_POLL)


async def _outage(lab: Lab, plane: Plane, wish: Wish, watch: Watch, pairs: Sequence[Pair]) -> Outage:
    loop = asyncio.get_running_loop()
    watching = asyncio.create_task(watch.run())
    running = [await Running.start(pair) for pair in pairs]
    try:
        await asyncio.sleep(wish.before)
        await asyncio.to_thread(lab.isolate, CUT, plane)
        cut = loop.time()
        await asyncio.sleep(wish.during)
        healed = loop.time()
        await asyncio.to_thread(lab.heal)
        await asyncio.sleep(wish.after)
        ended = loop.time()
    finally:
        watching.cancel()
        pings = [await one.stop() for one in running]
    return Outage(
        plane=plane,
        healed=healed - cut,
        ended=ended - cut,
        pings=tuple(one.model_copy(update={"began": one.began - cut}) for one in pings),
        statuses=tuple((when - cut, status) for when, status in watch.seen),
    )


class Running:
    """A ping that goes on until it is stopped."""

    def __init__(self, pair: Pair, process: asyncio.subprocess.Process, began: float) -> None:
        self._pair = pair
        self._process = process
        self._began = began
        self._reading = asyncio.create_task(self._read())

    @classmethod
    async def start(cls, pair: Pair) -> "Running":
        process = await asyncio.create_subprocess_exec(
            *pair.source.machine.inside(),
            *("nsenter", f"--net={pair.source.namespace}", "--"),
            *("ping", "-n", "-i", str(INTERVAL), "--", pair.target.ip),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        return cls(pair, process, asyncio.get_running_loop().time())

    async def _read(self) -> str:
        assert self._process.stdout is not None
        return (await self._process.stdout.read()).decode()

    async def stop(self) -> Pings:
        """began is on the loop's clock."""
        ended = asyncio.get_running_loop().time()
        if self._process.returncode is None:
            self._process.send_signal(2)  # SIGINT: it tells how many it has sent
        said = await self._reading
        await self._process.wait()
        told = _SENT.search(said)
        sent = int(told[1]) if told else 0
        return Pings(
            path=self._pair.path,
            began=self._began,
            interval=(ended - self._began) / max(1, sent),  # ping is a little late each time
            sent=sent,
            answered=tuple(sorted({int(found) - 1 for found in _ANSWER.findall(said)})),
        )
