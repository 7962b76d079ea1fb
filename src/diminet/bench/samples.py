"""What a benchmark found, as it is written to JSON, and the statistics of it. Seconds unless said."""

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

from diminet.model import Model

ServiceKind = Literal["l2", "l3"]
Operation = Literal["create", "delete"]


class Summary(Model):
    """Of `count` values. stderr: of the mean, None for a single value. p99: nearest rank, so the largest
    of fewer than 100 values."""

    count: int
    mean: float
    stderr: float | None
    median: float
    p99: float


def summarise(values: Iterable[float]) -> Summary | None:
    """None of no values."""
    ordered = sorted(values)
    if not ordered:
        return None
    spread = statistics.stdev(ordered) / math.sqrt(len(ordered)) if len(ordered) > 1 else None
    return Summary(
        count=len(ordered),
        mean=statistics.fmean(ordered),
        stderr=spread,
        median=statistics.median(ordered),
        p99=ordered[math.ceil(len(ordered) * 0.99) - 1],
    )


class Sample(Model):
    """One operation on one service.

    data_plane: instances were there, and pings on their way. first_ping: from the request until a ping
    of the receiving site's instance had been answered by every other site. steps: of the create, as the
    receiving site's metrics tell them. vim: in the VIM, at the member where that took longest.
    vim_calls: over all members. cpu: processor seconds of all members' instances and Neutrons.
    """

    kind: ServiceKind
    operation: Operation
    sites: int
    delay_ms: float
    data_plane: bool
    receiver: str
    seconds: float
    first_ping: float | None = None
    steps: dict[str, float] = {}
    vim: float = 0.0
    vim_calls: dict[str, int] = {}
    cpu: dict[str, float] = {}


class FloorSample(Model):
    """The same VIM calls without DIMINET, at all sites at once: until the last site had done them. cpu:
    processor seconds of all members' Neutrons, and of the benchmark that asks them."""

    kind: ServiceKind
    operation: Operation
    sites: int
    delay_ms: float
    seconds: float
    cpu: dict[str, float] = {}


class Idle(Model):
    """An instance of a lab in which nothing is asked. rss, pss: bytes. cpu: share of one core over
    `seconds`, programs that it started (vtysh) included; own_cpu: without these."""

    site: str
    seconds: float
    rss: int
    pss: int
    cpu: float
    own_cpu: float


class Results(Model):
    """taken_at: RFC 3339. machine: sentence. load: mean of the run queue over one minute, at the start
    and at the end. delays_ms: one way. paper: the paper's own sequence (of neutron only). failures:
    sentences, one for each round that was given up."""

    command: str
    taken_at: str
    version: str
    machine: str
    load: tuple[float, float]
    seed: int
    runs: int
    sites: tuple[int, ...]
    delays_ms: tuple[float, ...]
    samples: tuple[Sample, ...]
    floor: tuple[FloorSample, ...]
    paper: tuple[FloorSample, ...] = ()
    failures: tuple[str, ...] = ()
    idle: tuple[Idle, ...]

    def of(
        self, kind: str, operation: str, sites: int, delay_ms: float, *, data_plane: bool = False
    ) -> list[Sample]:
        return [
            s
            for s in self.samples
            if (s.kind, s.operation, s.sites, s.delay_ms, s.data_plane)
            == (kind, operation, sites, delay_ms, data_plane)
        ]

    def floor_of(self, kind: str, operation: str, sites: int, delay_ms: float) -> list[FloorSample]:
        return [
            f
            for f in self.floor
            if (f.kind, f.operation, f.sites, f.delay_ms) == (kind, operation, sites, delay_ms)
        ]

    def ratio(self, kind: str, operation: str, sites: int, delay_ms: float) -> float | None:
        """Median operation to the same run's median floor."""
        taken = summarise(s.seconds for s in self.of(kind, operation, sites, delay_ms))
        floor = summarise(f.seconds for f in self.floor_of(kind, operation, sites, delay_ms))
        return taken.median / floor.median if taken and floor and floor.median else None

    def growth(self, kind: str, operation: str, delay_ms: float) -> float | None:
        """The ratio at the most sites to that at the fewest."""
        few = self.ratio(kind, operation, min(self.sites), delay_ms)
        many = self.ratio(kind, operation, max(self.sites), delay_ms)
        return many / few if many and few else None

    def round_trips(self, kind: str, operation: str, sites: int) -> float | None:
        """What the WAN adds, in round trips: between the longest delay and the shortest."""
        near, far = min(self.delays_ms), max(self.delays_ms)
        if near == far:
            return None
        medians = [
            summarise(s.seconds for s in self.of(kind, operation, sites, delay)) for delay in (near, far)
        ]
        if medians[0] is None or medians[1] is None:
            return None
        return (medians[1].median - medians[0].median) / (2 * (far - near) / 1000)


def mean_of(samples: Sequence[Sample], value: Callable[[Sample], float]) -> float:
    """0 of no samples."""
    return statistics.fmean(value(s) for s in samples) if samples else 0.0
