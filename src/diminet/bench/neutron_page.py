"""The page and the picture of `diminet bench create --south neutron`, made from its results alone."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Literal

from diminet.bench import figure, page
from diminet.bench.figure import Line, Point
from diminet.bench.samples import FloorSample, Results, Sample, mean_of, summarise

MOST = 1.3  # DIMINET's mean create to the floor's
NO_DELAY = 0.0  # ms
PAPERS_SECONDS: Mapping[str, Mapping[int, float]] = {
    "l3": {2: 3.5006, 3: 3.56017, 4: 3.61324, 5: 3.8076, 6: 4.08032},
    "l2": {2: 3.47927, 3: 3.66885, 4: 3.98471, 5: 4.07191, 6: 4.40295},
}
"""Table III: mean of 100, between DevStacks on machines of their own."""

Who = Literal["diminet", "floor", "paper"]
_COLOURS: Mapping[Who, str] = {"diminet": "#1f6f8b", "floor": "#5b8c5a", "paper": "#c8553d"}
_LABELS: Mapping[Who, str] = {
    "diminet": "DIMINET",
    "floor": "the floor",
    "paper": "the paper's sequence, bare",
}
_TITLES = {"l2": "L2 (a network stretched)", "l3": "L3 (networks routed)"}


def seconds(results: Results, who: Who, kind: str, operation: str, sites: int) -> list[float]:
    """All that was measured of it."""
    if who == "diminet":
        return [s.seconds for s in results.of(kind, operation, sites, NO_DELAY)]
    samples = results.floor if who == "floor" else results.paper
    return [s.seconds for s in samples if _is(s, kind, operation, sites)]


def _is(sample: FloorSample, kind: str, operation: str, sites: int) -> bool:
    return (sample.kind, sample.operation, sample.sites) == (kind, operation, sites)


def ratio(results: Results, who: Who, kind: str, operation: str, sites: int) -> float | None:
    """Mean to the floor's mean."""
    taken = summarise(seconds(results, who, kind, operation, sites))
    floor = summarise(seconds(results, "floor", kind, operation, sites))
    return taken.mean / floor.mean if taken and floor and floor.mean else None


def markdown(results: Results, *, json_name: str, figure_name: str) -> str:
    parts = [
        _head(results, json_name),
        _aim(results),
        f"![Mean seconds of a create over the number of sites]({figure_name})\n",
        *(_operation(results, kind, what) for kind in ("l2", "l3") for what in ("create", "delete")),
        page.steps(results),
        _calls(results),
        _processor(results),
        page.failures(results),
        _method(),
    ]
    return "\n".join(part for part in parts if part)


def svg(results: Results) -> str:
    panels = [(kind, [_line(results, who, kind) for who in _LABELS]) for kind in ("l2", "l3")]
    return figure.drawn("Mean time of a create over the number of sites", results.sites, panels)


def _line(results: Results, who: Who, kind: str) -> Line:
    points = []
    for count in results.sites:
        summary = summarise(seconds(results, who, kind, "create", count))
        if summary is not None:
            error = summary.stderr or 0.0
            points.append(Point(count, summary.mean, summary.mean - error, summary.mean + error))
    return Line(_LABELS[who], _COLOURS[who], who == "floor", tuple(points))


def _head(results: Results, json_name: str) -> str:
    return (
        "# Create on real OpenStack: how long, against the floor and the paper's sequence\n\n"
        f"Made by `{results.command}` at {results.taken_at}, DIMINET {results.version}, seed {results.seed}, "
        f"{results.runs} runs each, {page.range_of(results.sites)} sites: the counterpart of the paper's "
        "Table III and Figure 9, on one Keystone, and one Neutron and one instance for each site, all on one "
        f"machine.\nMachine: {results.machine}. All values are in [{json_name}]({json_name}).\n\n"
        f"{page.remark(results)}"
    )


def _aim(results: Results) -> str:
    """Where rounds failed the slow ones are missing: what is left would flatter."""
    rows = []
    for kind in ("l2", "l3"):
        for count in results.sites:
            seen = ratio(results, "diminet", kind, "create", count)
            if seen is not None:
                what = f"{kind} create, N={count}: DIMINET's mean to the floor's"
                lost = sum(one.startswith(f"{kind}, N={count},") for one in results.failures)
                told = f"**not told**: {lost} of {results.runs} rounds failed" if lost else ""
                rows.append([what, f"at most {MOST}", f"{seen:.2f}", told or page.verdict(seen <= MOST)])
    return "## The aim\n\n" + page.table(("aim", "wanted", "seen", ""), rows)


def _operation(results: Results, kind: str, operation: str) -> str:
    rows = [_row(results, kind, operation, count) for count in results.sites]
    columns = ["N", "DIMINET", "floor", "paper's, bare", "DIMINET / floor", "paper's / floor"]
    legend = "Mean ± standard error, milliseconds; ratios of means."
    if operation == "create":
        columns.append("Table III")
        legend += " Table III: what the paper measured, on other machines."
    return f"## {_TITLES[kind]}: {operation}\n\n{legend}\n\n" + page.table(columns, rows)


def _row(results: Results, kind: str, operation: str, count: int) -> list[str]:
    cells = [str(count)]
    for who in _LABELS:
        cells.append(_mean(seconds(results, who, kind, operation, count)))
    for who in ("diminet", "paper"):
        cells.append(
            page.plain(ratio(results, "diminet" if who == "diminet" else "paper", kind, operation, count))
        )
    if operation == "create":
        cells.append(page.ms(PAPERS_SECONDS[kind].get(count)))
    return cells


def _mean(values: Sequence[float]) -> str:
    summary = summarise(values)
    if summary is None:
        return page.NONE
    error = "" if summary.stderr is None else f" ± {page.ms(summary.stderr)}"
    return page.ms(summary.mean) + error


def _calls(results: Results) -> str:
    """What the instances ask of their networking service for one create, all members together."""
    rows = []
    names = sorted({name for s in results.samples if s.operation == "create" for name in s.vim_calls})
    for kind in ("l2", "l3"):
        for count in results.sites:
            samples = results.of(kind, "create", count, NO_DELAY)
            if samples:
                rows.append([kind, str(count), *(_times(samples, name) for name in names)])
    legend = "Calls of `South` for one create, all members together (mean); each is a request or more."
    columns = ("kind", "N", *(f"`{name}`" for name in names))
    return f"## What Neutron is asked\n\n{legend}\n\n" + page.table(columns, rows)


def _times(samples: Sequence[Sample], name: str) -> str:
    return f"{mean_of(samples, lambda s: s.vim_calls.get(name, 0)):.1f}"


def _processor(results: Results) -> str:
    """Where there are more sites than processors, this is what the time is."""
    rows = []
    for kind in ("l2", "l3"):
        for count in results.sites:
            ours = [s.cpu for s in results.of(kind, "create", count, NO_DELAY)]
            floor = [s.cpu for s in results.floor if _is(s, kind, "create", count)]
            paper = [s.cpu for s in results.paper if _is(s, kind, "create", count)]
            if ours and floor and paper:
                cells = [(ours, "Neutrons"), (ours, "instances"), (floor, "Neutrons"), (floor, "benchmark")]
                cells += [(paper, "Neutrons"), (paper, "benchmark")]
                rows.append([kind, str(count), *(_spent(cpu, name) for cpu, name in cells)])
    if not rows:
        return ""
    legend = (
        "Mean processor time of one create, milliseconds, all members together: it hardly depends on what "
        "else runs. `client`: the benchmark's process, which makes the bare calls."
    )
    columns = ["kind", "N", "DIMINET: Neutrons", "instances", "floor: Neutrons", "client"]
    columns += ["paper's: Neutrons", "client"]
    return f"## What it costs in processor time\n\n{legend}\n\n" + page.table(columns, rows)


def _spent(cpu: Sequence[Mapping[str, float]], name: str) -> str:
    return page.ms(statistics.fmean(one.get(name, 0.0) for one in cpu))


def _method() -> str:
    return """## What is compared

Each round draws the receiving site and its partners, then the order of three: a create and delete by
DIMINET (timed at the user's client until 201, and until every member is clean), by the floor, and by the
paper's sequence. No WAN delay is added.

**The floor** and **the paper's sequence** are bare calls (`diminet.bench.rivals`) from the benchmark's
own process, by the class that the instances use too (openstacksdk in a pool of threads, kept
connections, one token): without DIMINET between, a decision, a database, another HTTP API, or anything
told to another site.

The floor, all sites at once, each by itself:

- L3, each site: show the network as the user and list its subnets (both at once); create a BGP VPN;
  associate the network.
- L2, the receiving site: show the network as the user, list its subnets, list its ports (all at once);
  set the pools; create a BGP VPN; associate the network.
- L2, the others: create a network; create a subnet; create a BGP VPN; associate the network.

The paper's sequence (its sections IV-D, IV-E and V-B): the receiving site asks the others' Neutrons
itself, and a BGP VPN connects two sites, so that each of N sites makes N-1.

- L3: show the network, all sites at once; show the subnet, all at once; at the receiving site a BGP VPN
  and its association for each other site, one after another; then the same at all others, these at once.
- L2: show the network, then the subnet, at the receiving site; list the subnets of that CIDR at all
  others at once; at the receiving site BGP VPNs and associations as above, then set the pools; then at
  all others at once: create a network; create a subnet; BGP VPNs and associations.

What the paper's instances tell each other, and the route target that comes back with the answer, costs
nothing here: its sequence is measured at its best.
"""
