"""The Markdown page of `diminet bench create`, made from its results alone."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from diminet.bench.samples import Results, Sample, mean_of, summarise

PROVISIONAL_LOAD = 1.0
"""Mean run queue before it began, beyond which other programs were at work while it was measured."""
GROWTH_MOST = 1.15  # DIMINET over floor at the most sites, to that at the fewest
ROUND_TRIPS = 2.0
ROUND_TRIPS_SLACK = 0.5  # for what a median of few runs wavers
IDLE_BYTES = 120_000_000
IDLE_CPU = 0.01
MB = 1_000_000
NONE = "-"  # in a table: not measured

_TITLES = {"l2": "L2 (a network stretched)", "l3": "L3 (networks routed)"}
REST = "rest"  # HTTP, reading back and concluding: what no step of the coordinator covers


def markdown(results: Results, *, json_name: str, figure_name: str) -> str:
    parts = [
        _head(results, json_name),
        _aims(results),
        f"![Median seconds of a create over the number of sites]({figure_name})\n",
        *(
            _operation(results, kind, operation)
            for kind in ("l2", "l3")
            for operation in ("create", "delete")
        ),
        steps(results),
        _idle(results),
        failures(results),
        _method(),
    ]
    return "\n".join(part for part in parts if part)


def _head(results: Results, json_name: str) -> str:
    delays = ", ".join(f"{delay:g}" for delay in results.delays_ms)
    return (
        "# Create and delete: how long, against what they cannot do without\n\n"
        f"Made by `{results.command}` at {results.taken_at}, DIMINET {results.version}, seed {results.seed}, "
        f"{results.runs} runs each, {range_of(results.sites)} sites, {delays} ms WAN delay one way.\n"
        f"Machine: {results.machine}. All values are in [{json_name}]({json_name}).\n\n{remark(results)}"
    )


def remark(results: Results) -> str:
    """Whether other programs were at work; the load at the end has the benchmark itself in it."""
    before, after = results.load
    if before > PROVISIONAL_LOAD:
        return (
            f"**Provisional**: other programs were at work (load {before:.1f} before, {after:.1f} after); "
            "repeat it on a quiet machine before you compare.\n"
        )
    return f"Load {before:.1f} before, {after:.1f} after, the benchmark itself included.\n"


def range_of(sites: Sequence[int]) -> str:
    return f"{min(sites)} to {max(sites)}" if len(sites) > 1 else str(sites[0])


# -- the aims --------------------------------------------------------------------------------------


def _aims(results: Results) -> str:
    rows = [*_growth(results), *_wan(results), *_resting(results)]
    return "## The aims\n\n" + table(("aim", "wanted", "seen", ""), rows)


def verdict(good: bool) -> str:
    return "met" if good else "**missed**"


def _growth(results: Results) -> list[list[str]]:
    few, many = min(results.sites), max(results.sites)
    rows = []
    for kind in ("l2", "l3"):
        for delay in results.delays_ms:
            seen = results.growth(kind, "create", delay)
            if seen is not None and few != many:
                what = f"{kind} create, {delay:g} ms: ratio to the floor at N={many}, to that at N={few}"
                rows.append([what, f"at most {GROWTH_MOST}", f"{seen:.2f}", verdict(seen <= GROWTH_MOST)])
    return rows


def _wan(results: Results) -> list[list[str]]:
    rows = []
    for kind in ("l2", "l3"):
        for count in dict.fromkeys((min(results.sites), max(results.sites))):
            seen = results.round_trips(kind, "create", count)
            if seen is not None:
                good = (
                    seen <= ROUND_TRIPS + ROUND_TRIPS_SLACK
                )  # waiting for the WAN leaves the processor free
                what = f"{kind} create, N={count}: WAN part, in round trips"
                rows.append([what, f"at most {ROUND_TRIPS:g}", f"{seen:.2f}", verdict(good)])
    return rows


def _resting(results: Results) -> list[list[str]]:
    if not results.idle:
        return []
    rss, cpu = max(one.rss for one in results.idle), max(one.cpu for one in results.idle)
    return [
        [
            "idle instance, memory (RSS)",
            f"at most {IDLE_BYTES // MB} MB",
            f"{rss / MB:.0f} MB",
            verdict(rss <= IDLE_BYTES),
        ],
        ["idle instance, processor", f"under {IDLE_CPU:.0%}", f"{cpu:.2%}", verdict(cpu < IDLE_CPU)],
    ]


# -- the tables ------------------------------------------------------------------------------------


def _operation(results: Results, kind: str, operation: str) -> str:
    rows = [
        _row(results, kind, operation, count, delay)
        for delay in results.delays_ms
        for count in results.sites
        if results.of(kind, operation, count, delay)
    ]
    if not rows:
        return ""
    columns = ["delay", "N", "mean ± se", "median", "p99", "floor", "ratio"]
    if operation == "create":
        columns += ["WAN", "first ping"]
    legend = "Milliseconds; ratio of medians"
    if operation == "create":
        legend += "; WAN: what the delay adds, in round trips; first ping: median, from the request"
    return f"## {_TITLES[kind]}: {operation}\n\n{legend}.\n\n" + table(columns, rows)


def _row(results: Results, kind: str, operation: str, count: int, delay: float) -> list[str]:
    seen = cells(results, kind, operation, count, delay)
    mean = seen.mean if seen.stderr == NONE else f"{seen.mean} ± {seen.stderr}"
    row = [f"{delay:g} ms", str(count), mean, seen.median, seen.p99, seen.floor, seen.ratio]
    return [*row, seen.trips, seen.ping] if operation == "create" else row


class Cells(NamedTuple):
    """Milliseconds as text; ratio of medians; trips: what the WAN adds, in round trips."""

    mean: str
    stderr: str
    median: str
    p99: str
    floor: str
    ratio: str
    trips: str
    ping: str


def cells(results: Results, kind: str, operation: str, count: int, delay: float) -> Cells:
    """Of what was not measured, NONE."""
    seen = summarise(s.seconds for s in results.of(kind, operation, count, delay))
    floor = summarise(f.seconds for f in results.floor_of(kind, operation, count, delay))
    pinged = results.of(kind, operation, count, delay, data_plane=True)
    ping = summarise(s.first_ping for s in pinged if s.first_ping is not None)
    far = delay == max(results.delays_ms)
    return Cells(
        mean=ms(seen.mean if seen else None),
        stderr=ms(seen.stderr if seen else None),
        median=ms(seen.median if seen else None),
        p99=ms(seen.p99 if seen else None),
        floor=ms(floor.median if floor else None),
        ratio=plain(results.ratio(kind, operation, count, delay)),
        trips=plain(results.round_trips(kind, operation, count) if far else None),
        ping=ms(ping.median if ping else None),
    )


def plain(number: float | None) -> str:
    return NONE if number is None else f"{number:.2f}"


def ms(seconds: float | None) -> str:
    return NONE if seconds is None else f"{seconds * 1000:.0f}"


def steps(results: Results) -> str:
    rows = []
    names = step_names(results.samples)
    for kind in ("l2", "l3"):
        for delay in results.delays_ms:
            for count in results.sites:
                samples = results.of(kind, "create", count, delay)
                if samples:
                    total = mean_of(samples, lambda s: s.seconds)
                    shares = [f"{share(samples, name):.0%}" for name in (*names, REST)]
                    vim = f"{mean_of(samples, lambda s: s.vim) / total:.0%}"
                    rows.append([kind, f"{delay:g} ms", str(count), *shares, vim])
    if not rows:
        return ""
    legend = (
        "Mean share of the time that the user waits. `intent` to `spread`: the receiving site's own clock; "
        f"`{REST}`: HTTP, concluding, reading back. `in VIM`: calls to VIM, data plane and FRR at the member "
        "where they took longest (part of `reserve` and `spread`)."
    )
    columns = ("kind", "delay", "N", *(f"`{name}`" for name in (*names, REST)), "in VIM")
    return f"## Where a create's time goes\n\n{legend}\n\n" + table(columns, rows)


def step_names(samples: Iterable[Sample]) -> list[str]:
    """In the order in which they were met."""
    return list(dict.fromkeys(name for sample in samples for name in sample.steps))


def share(samples: Sequence[Sample], step: str) -> float:
    """Of the mean time; `rest`: what no step has."""
    total = mean_of(samples, lambda s: s.seconds)
    of_step: Callable[[Sample], float] = lambda s: s.steps.get(step, 0.0)  # noqa: E731
    if step == REST:
        of_step = lambda s: s.seconds - sum(s.steps.values())  # noqa: E731
    return mean_of(samples, of_step) / total if total else 0.0


def _idle(results: Results) -> str:
    if not results.idle:
        return ""
    rows = [
        [one.site, f"{one.rss / MB:.0f}", f"{one.pss / MB:.0f}", f"{one.cpu:.2%}", f"{one.own_cpu:.2%}"]
        for one in results.idle
    ]
    seconds = results.idle[0].seconds
    legend = (
        f"Over {seconds:.0f} s, without services. PSS counts what instances of one machine share once; "
        "processor: of one core, with the programs that the instance starts, and without."
    )
    columns = ("site", "RSS (MB)", "PSS (MB)", "processor", "its own")
    return f"## An idle instance\n\n{legend}\n\n" + table(columns, rows)


def failures(results: Results) -> str:
    if not results.failures:
        return ""
    lines = "\n".join(f"- {sentence}" for sentence in results.failures)
    return f"## What failed\n\nThese rounds are not in the figures, or only up to there.\n\n{lines}\n"


def _method() -> str:
    return """## What is compared

Each run draws the receiving site and its partners, then does, on one lab with as many sites as the largest N:
one create and delete that are not counted (the instances' connections to each other are open then); the
floor; a create and delete, control plane only; a create and delete with pings on their way. Times are taken
by the user's client on the host, a create until 201, a delete until every member is clean.

**The floor** is what the result cannot do without: in each of the N sites, at once, a small program calls
the same `LinuxSouth` over the same kernel, FRR and disk, with a database of its own, while all instances are
paused (SIGSTOP). It calls each function that the result needs once (`diminet.bench.floor`): for an L3 create
`network`, `ports`, `connect`; for an L2 create `network`, `ports`, `shape_subnet`, `connect` where the
network is, and `make_network`, `shape_subnet`, `connect` elsewhere; for a delete `disconnect`, then
`drop_network` or `shape_subnet`. No HTTP, no other site, no decision, no journal. It is the time until the
last site is done.

**First ping**: L3: ping runs from the receiving site's instance to one at each other site from before the
request (every 10 ms); the last pair's first answer counts. L2: the other sites' networks do not exist before,
so it starts when the answer is there, and goes to the gateways that the other sites have on the stretched
network.

**WAN** is the median at the longest delay less that at the shortest, in round trips (two delays). The delay
is made by a relay process on the same machine, whose own work therefore counts as WAN.
"""


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """As Markdown."""
    line = "| " + " | ".join(columns) + " |"
    rule = "|" + "|".join("---" for _ in columns) + "|"
    return "\n".join([line, rule, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"
