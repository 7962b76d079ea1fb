"""The Markdown page and the picture of `diminet bench scale`, made from what it found alone."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from html import escape

from diminet.bench.page import NONE, PROVISIONAL_LOAD, table
from diminet.bench.real_sites import PATTERNS
from diminet.bench.scale_results import Burst, Cost, Crowd, Scale
from diminet.logic.identifiers import KS_A_SITE

MB = 1_000_000
WIDTH, HEIGHT, LEFT, TOP, GAP, BAR = 330, 210, 56, 40, 76, 15  # pixels
COLOURS = ("#1f6f8b", "#c8553d", "#5b8c5a")
TICKS = 4
NAMES = 250  # pixels for an operation's name

Points = Sequence[tuple[int, float]]


def markdown(found: Scale, *, json_name: str, figure_name: str) -> str:
    parts = (
        _head(found, json_name),
        f"![Throughput, creation time, and many services against few]({figure_name})\n",
        _bursts(found),
        _wide(found),
        _simulated(found),
        _crowds(found),
        _failures(found),
    )
    return "\n".join(part for part in parts if part)


def _head(found: Scale, json_name: str) -> str:
    before, after = found.load
    remark = (
        f"**Provisional**: other programs were at work (load {before:.1f} before, {after:.1f} after)."
        if before > PROVISIONAL_LOAD
        else f"Load {before:.1f} before, {after:.1f} after, the benchmark itself included."
    )
    return (
        "# Scale: many at once, many sites, many services\n\n"
        f"Made by `{found.command}` at {found.taken_at}, DIMINET {found.version}.\n"
        f"Machine: {found.machine}. All values are in [{json_name}]({json_name}).\n\n{remark}\n"
    )


# -- the tables ------------------------------------------------------------------------------------


def _bursts(found: Scale) -> str:
    if not found.bursts:
        return ""
    rows = [
        [
            burst.pattern,
            str(burst.creates),
            f"{granted(burst) / burst.seconds:.1f}",
            _ms(burst.p50),
            _ms(burst.p99),
            ", ".join(f"{code}: {n}" for code, n in burst.refused.items()) or "0",
            str(burst.reserves - burst.needed),
        ]
        for burst in found.bursts
    ]
    patterns = "".join(f"- *{name}*: {what}\n" for name, what in PATTERNS.items())
    refused = sum(sum(burst.refused.values()) for burst in found.bursts)
    legend = (
        "L3 services on a lab of six linux sites, all asked for at the same moment. Each has networks of its "
        "own, so any order of them would let all succeed: a refusal would be spurious. `request_timeout` is "
        f"{found.timeout:g} s here (10 s otherwise), for all sites share this machine's processors: what is "
        "refused is refused by the protocol, not for want of them. "
        f"Of {sum(burst.creates for burst in found.bursts)} creates {refused} were refused. "
        "Retries: reserve messages beyond one for each other site."
    )
    columns = ("pattern", "K", "services/s", "p50 (ms)", "p99 (ms)", "refused", "retries")
    return f"## Many creates at once\n\n{legend}\n\n{patterns}\n" + table(columns, rows)


def granted(burst: Burst) -> int:
    return burst.creates - sum(burst.refused.values())


def _wide(found: Scale) -> str:
    if not found.wide:
        return ""
    rows = [
        [
            one.kind,
            str(one.sites),
            _ms(statistics.median(one.seconds)),
            _counted(one.messages),
            f"{one.vim_calls:.0f}",
            f"{one.vim_calls / one.sites:.1f}",
            f"{one.rss / MB:.0f}",
        ]
        for one in found.wide
    ]
    legend = (
        "One service over N sites of a linux lab without WAN delay; median of a create, what it sent "
        "and asked of VIMs, and the memory of the master's instance afterwards. All sites share this "
        "machine's processors, so the time grows with their number here although they work at once."
    )
    columns = ("kind", "N", "create (ms)", "messages", "VIM calls", "a site", "RSS (MB)")
    return f"## One service over real sites\n\n{legend}\n\n" + table(columns, rows)


def _simulated(found: Scale) -> str:
    if not found.simulated:
        return ""
    rows = [
        [
            one.kind,
            str(one.sites),
            f"{one.round_trips:.2f}",
            _counted(one.messages),
            f"{one.sent / 1000:.0f}",
            str(one.master_statements),
            str(one.member_statements),
            f"{one.cpu:.1f}",
        ]
        for one in found.simulated
    ]
    legend = (
        "**Simulated**: the production engine, logic, store (SQLite in memory) and messages of all sites in "
        f"one process; the network, with {found.delay_ms:g} ms one way, the VIMs and time are simulated. "
        "Round trips of the WAN until the user has the answer; kilobytes of all bodies, of which each put "
        "carries the whole document; SQL statements at the master and at the member with most; processor "
        "seconds of all sites together."
    )
    columns = ("kind", "N", "round trips", "messages", "kB", "SQL, master", "SQL, member", "processor (s)")
    return f"## One service over simulated sites\n\n{legend}\n\n" + table(columns, rows)


def _crowds(found: Scale) -> str:
    if not found.crowds:
        return ""
    few, many = found.crowds[0], found.crowds[-1]
    rows = [_figures(name, of, few, many) for name, of in _WHOLE.items()]
    rows += [_compared(name, few.costs[name], many.costs[name]) for name in few.costs]
    legend = (
        "The production instance (north API over HTTP, loops, engine, SQLite file) on a database that the "
        "production store has written: half of the services routed, half stretched with 16 blocks each, "
        f"fifty to a project, shared with fifty sites; 25 of them with the one that answers. It masters "
        f"at most {KS_A_SITE - 1}, all that its VNIs allow. **Simulated** are its VIM and the other site. "
        f"Ratio: {many.services:,} services to {few.services:,}. SQL statements and messages are of one "
        "operation; a round takes at most `round_batch` services (200), the next round the next ones; "
        "`repair round` compares all that is in the data plane with all ids in the database."
    )
    columns = (
        "what",
        f"{few.services:,} services",
        f"{many.services:,} services",
        "ratio",
        "SQL",
        "messages",
    )
    return f"## Many services in one instance\n\n{legend}\n\n" + table(columns, rows)


_WHOLE: Mapping[str, tuple[str, Callable[[Crowd], float]]] = {
    "start until it answers (s)": ("{:.2f}", lambda crowd: crowd.start),
    "memory, RSS (MB)": ("{:.0f}", lambda crowd: crowd.rss / MB),
    "processor, idle (% of a core)": ("{:.1f}", lambda crowd: crowd.cpu * 100),
    "database (MB)": ("{:.1f}", lambda crowd: crowd.database / MB),
}


def _figures(name: str, of: tuple[str, Callable[[Crowd], float]], few: Crowd, many: Crowd) -> list[str]:
    form, value = of
    ratio = value(many) / value(few) if value(few) else 0.0
    return [name, form.format(value(few)), form.format(value(many)), f"{ratio:.2f}", NONE, NONE]


def _compared(name: str, few: Cost, many: Cost) -> list[str]:
    return [
        f"{name} (ms)",
        f"{few.seconds * 1000:.1f}",
        f"{many.seconds * 1000:.1f}",
        f"{many.seconds / few.seconds:.2f}" if few.seconds else NONE,
        _change(few.statements, many.statements),
        _change(few.messages, many.messages),
    ]


def _change(few: int, many: int) -> str:
    return str(few) if few == many else f"{few} → {many}"


def _failures(found: Scale) -> str:
    if not found.failures:
        return ""
    return "## What failed\n\n" + "".join(f"- {sentence}\n" for sentence in found.failures)


def _counted(messages: Mapping[str, float]) -> str:
    return ", ".join(f"{number:g} {kind}" for kind, number in sorted(messages.items())) or "0"


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.0f}"


# -- the picture -----------------------------------------------------------------------------------


def svg(found: Scale) -> str:
    few, many = (found.crowds[0], found.crowds[-1]) if found.crowds else (None, None)
    bars = _ratios(few, many) if few and many else []
    height = TOP + HEIGHT + 70 + (len(bars) * BAR + 50 if bars else 0)
    width = LEFT + 2 * WIDTH + GAP + 20
    throughput: dict[str, Points] = {
        pattern: [(b.creates, granted(b) / b.seconds) for b in found.bursts if b.pattern == pattern]
        for pattern in dict.fromkeys(b.pattern for b in found.bursts)
    }
    times: dict[str, Points] = {
        kind: [(one.sites, statistics.median(one.seconds) * 1000) for one in found.wide if one.kind == kind]
        for kind in dict.fromkeys(one.kind for one in found.wide)
    }
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
        'font-size="11" role="img">',
        "<title>Throughput, creation time, and many services against few</title>",
        f'<rect width="{width}" height="{height}" fill="white"/>',
        *_panel("Services made per second", "creates at once", throughput, LEFT),
        *_panel("Milliseconds of a create", "real sites of the service", times, LEFT + WIDTH + GAP),
    ]
    if few and many:
        title = f"{many.services:,} services to {few.services:,}: ratio of times"
        parts += _bars(bars, TOP + HEIGHT + 90, title)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel(title: str, axis: str, lines: Mapping[str, Points], left: int) -> list[str]:
    """Numbers on the horizontal axis at equal distances."""
    counts = sorted({count for points in lines.values() for count, _ in points})
    highest = max((value for points in lines.values() for _, value in points), default=1.0) * 1.05
    bottom = TOP + HEIGHT

    def x(count: int) -> float:
        return left + 20 + (WIDTH - 40) * counts.index(count) / max(1, len(counts) - 1)

    def y(value: float) -> float:
        return bottom - HEIGHT * value / highest

    parts = [f'<text x="{left}" y="{TOP - 14}" font-weight="bold">{escape(title)}</text>']
    for tick in range(TICKS + 1):
        value = highest * tick / TICKS
        at = f"{y(value):.1f}"
        parts.append(f'<line x1="{left}" x2="{left + WIDTH}" y1="{at}" y2="{at}" stroke="#ddd"/>')
        shown = f"{value:.0f}" if highest > TICKS * 2 else f"{value:.1f}"
        parts.append(f'<text x="{left - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{shown}</text>')
    for count in counts:
        parts.append(f'<text x="{x(count):.1f}" y="{bottom + 16}" text-anchor="middle">{count}</text>')
    parts.append(f'<text x="{left + WIDTH / 2}" y="{bottom + 32}" text-anchor="middle">{escape(axis)}</text>')
    for index, ((name, points), colour) in enumerate(zip(lines.items(), COLOURS, strict=False)):
        path = " ".join(f"{x(count):.1f},{y(value):.1f}" for count, value in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [
            f'<circle cx="{x(count):.1f}" cy="{y(value):.1f}" r="3" fill="{colour}"/>'
            for count, value in points
        ]
        key = left + index * 110
        parts.append(
            f'<line x1="{key}" x2="{key + 18}" y1="{bottom + 48}" y2="{bottom + 48}" stroke="{colour}" '
            'stroke-width="2"/>'
        )
        parts.append(f'<text x="{key + 23}" y="{bottom + 52}">{escape(name)}</text>')
    return parts


def _ratios(few: Crowd, many: Crowd) -> list[tuple[str, float]]:
    pairs = [(name, few.costs[name].seconds, many.costs[name].seconds) for name in few.costs]
    return [(name, after / before) for name, before, after in pairs if before]


def _bars(ratios: Sequence[tuple[str, float]], top: int, title: str) -> list[str]:
    """A line where both take the same time."""
    most = max([2.0, *(ratio for _, ratio in ratios)])
    left, room = NAMES, LEFT + 2 * WIDTH + GAP - NAMES - 50
    parts = [f'<text x="{LEFT}" y="{top - 12}" font-weight="bold">{escape(title)}</text>']
    for index, (name, ratio) in enumerate(ratios):
        y = top + index * BAR
        parts.append(f'<text x="{left - 6}" y="{y + 10}" text-anchor="end">{escape(name)}</text>')
        wide = room * ratio / most
        parts.append(f'<rect x="{left}" y="{y}" width="{wide:.1f}" height="{BAR - 4}" fill="{COLOURS[0]}"/>')
        parts.append(f'<text x="{left + wide + 4:.1f}" y="{y + 10}">{ratio:.2f}</text>')
    same = left + room / most
    bottom = top + len(ratios) * BAR
    parts.append(f'<line x1="{same:.1f}" x2="{same:.1f}" y1="{top - 4}" y2="{bottom}" stroke="black"/>')
    return parts
