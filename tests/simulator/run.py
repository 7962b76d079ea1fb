"""One seed: a storm of requests and faults, then calm, then the end of all services; each is checked."""

import asyncio
import gc
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace

import structlog

from diminet.engine.instance import Limits
from diminet.messages import Change
from simulator.checks import live
from simulator.emphasis import EMPHASES
from simulator.faults import Faults
from simulator.quiet import Complaint, Quiet
from simulator.workload import Workload
from simulator.world import Violation, World

PATIENCE_S = 240.0  # virtual: until everything has to be at rest


@dataclass(frozen=True)
class Plan:
    """What is the same for many seeds. steps: of the storm, at least. emphasis: one of EMPHASES."""

    steps: int = 1000
    sites: int | None = None
    faults: frozenset[str] | None = None
    emphasis: str = ""
    trace: Callable[[str], None] | None = None


@dataclass(frozen=True)
class Outcome:
    seed: int
    violation: Violation | None
    steps: int
    seconds: float  # virtual
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)


def run(seed: int, plan: Plan) -> Outcome:
    """Play one seed to its end, or to the first violation."""
    shape = random.Random(f"shape {seed}")
    emphasis = EMPHASES[plan.emphasis]
    count = plan.sites or shape.choice(emphasis.sites)
    limits = Limits(
        reservation_lifetime=shape.choice([12.0, 30.0]),
        deliver_interval=shape.choice([1.0, 2.0]),
        settle_interval=shape.choice([0.0, 0.5]),
        watermark=shape.choice([1, 4, 8]),
        pool_step=shape.choice([1, 2]),
    )
    limits = replace(limits, **emphasis.limits)
    names = [chr(ord("A") + n) if n < 26 else f"S{n}" for n in range(count)]
    world = World(seed, names, limits, trace=plan.trace)
    gc.disable()  # no finaliser in the middle of a run
    try:
        with _Listening(world):
            world.loop.run(_whole(world, plan))
            if world.violation is None and not world.ended:
                world.fail("bug", "nothing more happens, and it is not at its end")
    finally:
        world.close()
        gc.enable()
    return Outcome(seed, world.violation, world.steps, world.loop.time(), world.counts)


class _Listening:
    """Bugs that production code only logs are failures here."""

    def __init__(self, world: World) -> None:
        self.world = world

    def __enter__(self) -> None:
        structlog.configure(processors=[self._heard])

    def __exit__(self, *_: object) -> None:
        structlog.reset_defaults()

    def _heard(self, _logger: object, method: str, event: dict[str, object]) -> dict[str, object]:
        if method in ("error", "exception") and event["event"] == "bug":
            error = event.get("exc_info")
            if error is True:
                error = sys.exc_info()[1]
            self.world.bug("background", str(event.get("work", "")), error)  # type: ignore[arg-type]
        raise structlog.DropEvent


async def _whole(world: World, plan: Plan) -> None:
    for site in world.sites.values():
        site.newer_minor = world.rng.random() < 0.2
        site.start()
    workload = Workload(world, EMPHASES[plan.emphasis])
    workload.pace = world.rng.choice(workload.emphasis.pace)
    workload.begin()
    faults = Faults(world, workload, plan.faults)
    world.step("fault", "all", lambda: f"of this seed: {', '.join(sorted(faults.kinds)) or 'none'}")
    background = [world.loop.create_task(workload.run()), world.loop.create_task(faults.run())]
    while world.steps < plan.steps:
        await asyncio.sleep(1.0)
    workload.open = False
    faults.end()
    for task in background:
        task.cancel()
    world.step("fault", "all", lambda: "calm")
    await _calm(world, workload, bool(faults.kinds))
    world.ended = True


async def _calm(world: World, workload: Workload, faulty: bool) -> None:
    limits, quiet = world.limits, Quiet(world, workload)
    while workload.running:
        await asyncio.sleep(1.0)
    await asyncio.sleep(limits.request_timeout)  # what was on its way has been given up
    if not faulty:
        _circles(world, workload)
    intervals = 2 * limits.sync_interval * 1.25 + limits.request_timeout
    await _until(world, quiet.unfenced, PATIENCE_S)
    await _until(world, quiet.alike, intervals)
    await _until(world, quiet.at_rest, PATIENCE_S)
    world.step("fault", "all", lambda: "the end of all services")
    await _delete_all(world, workload)
    await _until(world, quiet.at_rest, PATIENCE_S)
    for name, rows in world.checks.rows.items():
        for service_id, row in rows.items():
            if live(row):
                world.fail("3", f"{service_id} is not deleted at {name}")


def _circles(world: World, workload: Workload) -> None:
    """Invariant 10: without any fault, one of the requests in a circle is granted."""
    for circle in workload.circles:
        if set(circle.outcomes.values()) == {"resource-busy"}:
            world.fail("10", f"none of the requests in a circle over {circle.sites} was granted")


async def _until(world: World, complaints: Callable[[], Iterable[Complaint]], seconds: float) -> None:
    """Fail with the first complaint that is still there after so many seconds."""
    end = world.loop.time() + seconds
    while (found := _first(complaints())) is not None:
        if world.loop.time() >= end:
            world.fail(found[0], f"{found[1]} ({seconds:g} s after all faults have ended)")
            await asyncio.sleep(0)
        await asyncio.sleep(2.0)


def _first(complaints: Iterable[Complaint]) -> Complaint | None:
    iterator: Iterator[Complaint] = iter(complaints)
    return next(iterator, None)


async def _delete_all(world: World, workload: Workload) -> None:
    for site in world.sites.values():
        for row in list(world.checks.rows[site.name].values()):
            if live(row) and row.document.epoch.site == site.number:
                workload._change(site, row, Change(operation="delete"), [])
    while workload.running:
        await asyncio.sleep(1.0)
