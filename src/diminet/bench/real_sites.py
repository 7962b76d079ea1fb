"""Many creates at once on a real lab, and one service over ever more real sites."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from prometheus_client.parser import text_string_to_metric_families

from diminet.bench import idle, machines, services
from diminet.bench.machines import Machine
from diminet.bench.samples import summarise
from diminet.bench.scale_results import Burst, ServiceKind, Wide
from diminet.client import ANSWER_TIMEOUT, ApiError, NorthClient
from diminet.errors import BadSurroundings, DiminetError, SiteRefused, SiteUnreachable
from diminet.lab.client import Lab
from diminet.lab.launch import default_instance_command as instance_command

PATTERNS: Mapping[str, str] = {
    "disjoint": "sites AB, CD or EF; the master is either",
    "overlapping": "three sites drawn at random, one of them the master",
    "one master": "A and two others drawn at random; A is the master",
}
SITES_AT_ONCE = 6
OVERLAP = 3  # sites of a service of overlapping groups
DELETE_MOST = 300.0  # seconds until all of a burst is gone
DELETE_POLL = 0.2  # seconds
DELETES_AT_ONCE = 4
MESSAGES = "diminet_east_west_messages_total"
BACKGROUND = frozenset({"realised", "remains", "mark"})  # VIM calls that no request makes
PASSING = frozenset({"sync", "hello", "snapshot"})  # messages that no create sends

Note = Callable[[str], None]


class Request(NamedTuple):
    """One create: its sites, the master first, and a network at each."""

    sites: tuple[str, ...]
    networks: tuple[str, ...]

    def body(self, kind: ServiceKind) -> dict[str, Any]:
        resources: list[dict[str, str]] = [{"site": site} for site in self.sites]
        for entry, network in zip(resources, self.networks, strict=False):
            entry["resource_id"] = network
        return {"name": "scale", "type": kind, "resources": resources}


class Outcome(NamedTuple):
    """code: "" if it was granted."""

    service_id: str
    code: str
    seconds: float


def groups(pattern: str, count: int, sites: Sequence[str], chance: random.Random) -> list[tuple[str, ...]]:
    """The sites of each of so many services, the master first."""
    if pattern == "disjoint":
        pairs = [tuple(sites[i : i + 2]) for i in range(0, len(sites) - 1, 2)]
        return [pairs[i % len(pairs)][:: 1 if i // len(pairs) % 2 else -1] for i in range(count)]
    if pattern == "overlapping":
        return [tuple(chance.sample(list(sites), OVERLAP)) for _ in range(count)]
    return [(sites[0], *chance.sample(list(sites[1:]), OVERLAP - 1)) for _ in range(count)]


class Field:
    """A lab that runs, as its tenants and the benchmark see it."""

    def __init__(self, lab: Lab, threads: ThreadPoolExecutor, patience: float) -> None:
        self.machines: dict[str, Machine] = machines.machines(lab)
        self.lab = lab
        self._threads = threads
        self._subnets = 0
        self._north = {
            s["name"]: NorthClient(s["north"], s["token"], proxies=False, timeout=patience)
            for s in lab.content()["sites"]
        }

    async def do(self, work: Callable[[], Any]) -> Any:
        """What blocks, in a thread of its own: as many users as there are requests."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def each(self, works: Sequence[Callable[[], Any]]) -> list[Any]:
        return list(await asyncio.gather(*(self.do(work) for work in works)))

    def network(self, site: str) -> str:
        """A new one, whose addresses no other has. Blocking."""
        self._subnets += 1
        cidr = f"10.{self._subnets // 256 % 256}.{self._subnets % 256}.0/24"
        made: str = self.lab.vim(site).create_network("scale", [cidr])["network_id"]
        return made

    def request(self, kind: ServiceKind, sites: Sequence[str]) -> Request:
        """With its networks, which are made. Blocking."""
        with_network = sites if kind == "l3" else sites[:1]
        return Request(tuple(sites), tuple(self.network(site) for site in with_network))

    def create(self, request: Request, kind: ServiceKind) -> Outcome:
        """Blocking."""
        began = time.monotonic()
        service_id, code = "", ""
        try:
            answer = self._north[request.sites[0]].create(request.body(kind))
            service_id, code = answer.service["id"], "" if answer.status == 201 else str(answer.status)
        except ApiError as error:
            code = error.word
        except SiteUnreachable as error:
            code = error.code
        return Outcome(service_id, code, time.monotonic() - began)

    def delete(self, master: str, service_id: str) -> None:
        """Until it is gone. Blocking; raises BadSurroundings."""
        services.delete(self._north[master], service_id, seconds=DELETE_MOST)

    def drop(self, request: Request) -> None:
        """The networks of the request, once what was refused is undone. Blocking; raises SiteRefused."""
        deadline = time.monotonic() + DELETE_MOST
        for site, network_id in zip(request.sites, request.networks, strict=False):
            while not self._dropped(site, network_id, last=time.monotonic() > deadline):
                time.sleep(DELETE_POLL)

    def _dropped(self, site: str, network_id: str, *, last: bool) -> bool:
        try:
            self.lab.vim(site).delete("networks", network_id)
        except SiteRefused:
            if last:
                raise
            return False
        return True

    async def messages(self) -> Counter[str]:
        """Sent by all sites since their start, by kind."""
        texts = await self.each([partial(machines.metrics, machine) for machine in self.machines.values()])
        return sum((sent(text) for text in texts), Counter[str]())

    async def calls(self) -> int:
        """Of all VIMs since their start, for requests."""
        found = await self.each([partial(machines.figures, machine) for machine in self.machines.values()])
        return sum(
            round(number)
            for figures in found
            for name, number in figures.calls.items()
            if name not in BACKGROUND
        )


def sent(text: str) -> Counter[str]:
    """Messages that an instance has sent, by kind, of the text of its metrics."""
    counts: Counter[str] = Counter()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == MESSAGES and sample.labels["direction"] == "out":
                counts[sample.labels["kind"]] += round(sample.value)
    return counts


# -- many at once ----------------------------------------------------------------------------------


def patient(seconds: float) -> tuple[str, ...]:
    """Starts an instance whose requests, and calls of its VIM, may take so long."""
    given = {"REQUEST_TIMEOUT": seconds, "VIM_TIMEOUT": seconds, "RESERVATION_LIFETIME": seconds * 2}
    return ("env", *(f"DIMINET_LIMITS__{name}={value}" for name, value in given.items()), *instance_command())


def bursts(
    state: Path, counts: Sequence[int], timeout: float, seed: int, note: Note, failures: list[str]
) -> list[Burst]:
    """On a lab of its own, which is gone at the end. timeout: of a request, seconds. Raises DiminetError."""
    lab, chance, found = Lab(state), random.Random(seed), list[Burst]()
    with ThreadPoolExecutor(max(counts)) as threads:
        try:
            lab.up(SITES_AT_ONCE, progress=note, instance_command=patient(timeout))
            field = Field(lab, threads, timeout * 2)
            for pattern in PATTERNS:
                for count in counts:
                    note(f"{count} creates at once, {pattern}")
                    of = groups(pattern, count, list(field.machines), chance)
                    with _told(failures, f"{count} creates at once, {pattern}"):
                        found.append(asyncio.run(_burst(field, pattern, of)))
        finally:
            lab.down()
    return found


@contextmanager
def _told(failures: list[str], what: str) -> Iterator[None]:
    """A round that fails is told, and the next one goes on."""
    try:
        yield
    except DiminetError as error:
        failures.append(f"{what}: {error.message}")


async def _burst(field: Field, pattern: str, of: Sequence[tuple[str, ...]]) -> Burst:
    requests = [await field.do(partial(field.request, "l3", sites)) for sites in of]
    before, began = await field.messages(), time.monotonic()
    outcomes: list[Outcome] = await field.each([partial(field.create, r, "l3") for r in requests])
    seconds = time.monotonic() - began
    messages = await field.messages() - before
    await _clear(field, requests, outcomes)
    summary = summarise(outcome.seconds for outcome in outcomes)
    assert summary is not None
    return Burst(
        pattern=pattern,
        creates=len(of),
        seconds=seconds,
        p50=summary.median,
        p99=summary.p99,
        refused=dict(Counter(outcome.code for outcome in outcomes if outcome.code)),
        reserves=messages["reserve"],
        needed=sum(len(sites) - 1 for sites in of),
    )


async def _clear(field: Field, requests: Sequence[Request], outcomes: Sequence[Outcome]) -> None:
    """All services and networks go, a few at a time: the next round begins with nothing."""
    turns = asyncio.Semaphore(DELETES_AT_ONCE)

    async def one(request: Request, outcome: Outcome) -> None:
        async with turns:
            if outcome.service_id:
                await field.do(partial(field.delete, request.sites[0], outcome.service_id))
            await field.do(partial(field.drop, request))

    await asyncio.gather(*map(one, requests, outcomes))


# -- one service over ever more sites --------------------------------------------------------------


def wide(state: Path, counts: Sequence[int], runs: int, note: Note, failures: list[str]) -> list[Wide]:
    """On a lab of its own, which is gone at the end. Raises DiminetError."""
    lab, found = Lab(state), list[Wide]()
    kinds: tuple[ServiceKind, ...] = ("l3", "l2")
    with ThreadPoolExecutor(max(counts)) as threads:
        try:
            lab.up(max(counts), progress=note)
            field = Field(lab, threads, ANSWER_TIMEOUT)
            for count in counts:
                for kind in kinds:
                    note(f"one {kind} service over {count} sites")
                    with _told(failures, f"one {kind} service over {count} sites"):
                        found.append(asyncio.run(_wide(field, kind, list(field.machines)[:count], runs)))
        finally:
            lab.down()
    return found


async def _wide(field: Field, kind: ServiceKind, sites: Sequence[str], runs: int) -> Wide:
    """The first create, for which connections are opened, is not counted."""
    seconds, messages, calls = list[float](), Counter[str](), 0
    for run in range(runs + 1):
        request: Request = await field.do(partial(field.request, kind, sites))
        before, called = await field.messages(), await field.calls()
        outcome: Outcome = await field.do(partial(field.create, request, kind))
        if run:
            seconds.append(outcome.seconds)
            messages += await field.messages() - before
            calls += await field.calls() - called
        await _clear(field, [request], [outcome])
        if outcome.code:
            raise BadSurroundings(f"the create was answered {outcome.code}")
    return Wide(
        kind=kind,
        sites=len(sites),
        seconds=tuple(seconds),
        messages={name: number / runs for name, number in messages.items() if name not in PASSING},
        vim_calls=calls / runs,
        rss=idle.memory(field.machines[sites[0]].pid),
    )
