"""Everything of one run: its sites, its network, its one source of chance, its clock, and what is counted."""

import random
from collections import Counter
from collections.abc import Callable
from contextvars import Context
from dataclasses import dataclass, field

from diminet.bench.simulated import Names
from diminet.engine.instance import Limits
from simulator.checks import Checks
from simulator.loop import LIFE, VirtualLoop
from simulator.network import Network
from simulator.site import Site, make_uuid

STEPS_MOST = 60_000  # of one run; beyond that something goes round in circles


@dataclass(frozen=True)
class Violation:
    """invariant: its number in DESIGN section 5, or `bug`."""

    invariant: str
    text: str
    at: float
    step: int


@dataclass
class World:
    """trace: takes each line of a readable trace; None: none is made."""

    seed: int
    names_of_sites: list[str]
    limits: Limits
    trace: Callable[[str], None] | None = None
    projects: tuple[str, ...] = ("demo", "other")
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    steps: int = 0
    violation: Violation | None = None
    ended: bool = False

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.loop = VirtualLoop()
        self.context = Context()
        self.context.run(LIFE.set, None)
        self.names = Names(self.names_of_sites)
        self.network = Network(self)
        self.checks = Checks(self)
        self.sites = {site.name: Site(self, site.name, site.number) for site in self.names.all}

    def uuid(self) -> str:
        return make_uuid(self.rng.getrandbits(128))

    # -- what happens --

    def count(self, what: str, which: str) -> None:
        self.counts[what, which] += 1

    def step(self, kind: str, where: str, told: Callable[[], str] | None) -> None:
        self.steps += 1
        self.counts["step", kind] += 1
        if self.steps > STEPS_MOST:
            self.fail("5", f"no end after {STEPS_MOST} steps")
        if self.trace is not None and told is not None:
            self.trace(f"{self.loop.time():10.4f} {self.steps:6d} {where:>4} {kind:8} {told()}")

    def fail(self, invariant: str, text: str) -> None:
        if self.violation is None:
            self.violation = Violation(invariant, text, self.loop.time(), self.steps)
            self.loop.halted = True
            if self.trace is not None:
                self.trace(f"{self.loop.time():10.4f} {self.steps:6d} VIOLATION of {invariant}: {text}")

    def bug(self, where: str, what: str, error: BaseException) -> None:
        self.fail("bug", f"at {where}, {what}: {type(error).__name__}: {error}")

    def close(self) -> None:
        """Let everything that still runs end."""
        self.loop.own.end()
        for site in self.sites.values():
            site.life.end()
        self.loop.drain()
        for site in self.sites.values():
            site.disk.close()
