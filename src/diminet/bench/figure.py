"""SVG of times over numbers of sites, a panel for L2 and one for L3; that of `bench create`: a create's
median beside its floor, for each delay."""

from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import NamedTuple

from diminet.bench.samples import Results, summarise

PANEL_WIDTH, PANEL_HEIGHT, LEFT, TOP, GAP, BOTTOM = 360, 240, 60, 40, 70, 90  # pixels
COLOURS = ("#1f6f8b", "#c8553d", "#5b8c5a", "#7d5ba6")
FLOOR_DASH = "5 4"
TICKS = 4


class Point(NamedTuple):
    """low, high: a standard error below and above, drawn as a bar. Seconds."""

    sites: int
    value: float
    low: float
    high: float


class Line(NamedTuple):
    label: str
    colour: str
    dashed: bool
    points: tuple[Point, ...]


Panels = Sequence[tuple[str, list[Line]]]


def svg(results: Results) -> str:
    panels = [(kind, _lines(results, kind)) for kind in ("l2", "l3")]
    return drawn("Median time of a create over the number of sites", results.sites, panels)


def drawn(title: str, sites: Sequence[int], panels: Panels) -> str:
    """panels: kind of service, and its lines; two."""
    highest = max((p.high for _, lines in panels for line in lines for p in line.points), default=1.0)
    width = LEFT + 2 * PANEL_WIDTH + GAP + 20
    height = TOP + PANEL_HEIGHT + BOTTOM
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
        'font-size="12" role="img">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for index, (kind, lines) in enumerate(panels):
        parts += _panel(sites, kind, lines, LEFT + index * (PANEL_WIDTH + GAP), highest)
    parts += _legend(panels[0][1], TOP + PANEL_HEIGHT + 50)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _lines(results: Results, kind: str) -> list[Line]:
    lines = []
    for delay, colour in zip(results.delays_ms, COLOURS, strict=False):
        create = {n: [s.seconds for s in results.of(kind, "create", n, delay)] for n in results.sites}
        floor = {n: [f.seconds for f in results.floor_of(kind, "create", n, delay)] for n in results.sites}
        lines.append(Line(f"create, {delay:g} ms", colour, False, _points(create)))
        lines.append(Line(f"its floor, {delay:g} ms", colour, True, _points(floor)))
    return lines


def _points(values: Mapping[int, list[float]]) -> tuple[Point, ...]:
    found = []
    for count, seconds in values.items():
        summary = summarise(seconds)
        if summary is not None:
            error = summary.stderr or 0.0
            middle = summary.median
            found.append(Point(count, middle, max(0.0, middle - error), middle + error))
    return tuple(found)


def _panel(sites: Sequence[int], kind: str, lines: list[Line], left: float, highest: float) -> list[str]:
    few, many = min(sites), max(sites)
    bottom = TOP + PANEL_HEIGHT

    def x(count: int) -> float:
        return left + 20 + (PANEL_WIDTH - 40) * (count - few) / max(1, many - few)

    def y(seconds: float) -> float:
        return bottom - PANEL_HEIGHT * seconds / (highest * 1.05)

    parts = [
        f'<text x="{left}" y="{TOP - 14}" font-weight="bold">{kind.upper()}: milliseconds until 201</text>'
    ]
    for tick in range(TICKS + 1):
        value = highest * tick / TICKS
        at = f"{y(value):.1f}"
        parts.append(f'<line x1="{left}" x2="{left + PANEL_WIDTH}" y1="{at}" y2="{at}" stroke="#ddd"/>')
        parts.append(
            f'<text x="{left - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{value * 1000:.0f}</text>'
        )
    for count in sites:
        parts.append(f'<text x="{x(count):.1f}" y="{bottom + 18}" text-anchor="middle">{count}</text>')
    middle = left + PANEL_WIDTH / 2
    parts.append(f'<text x="{middle}" y="{bottom + 34}" text-anchor="middle">sites of the service</text>')
    for line in lines:
        parts += _line(line, x, y)
    return parts


def _line(line: Line, x: Callable[[int], float], y: Callable[[float], float]) -> list[str]:
    path = " ".join(f"{x(p.sites):.1f},{y(p.value):.1f}" for p in line.points)
    dash = f' stroke-dasharray="{FLOOR_DASH}"' if line.dashed else ""
    parts = [f'<polyline points="{path}" fill="none" stroke="{line.colour}" stroke-width="2"{dash}/>']
    for p in line.points:
        at = f"{x(p.sites):.1f}"
        parts.append(
            f'<line x1="{at}" x2="{at}" y1="{y(p.low):.1f}" y2="{y(p.high):.1f}" stroke="{line.colour}"/>'
        )
        parts.append(f'<circle cx="{at}" cy="{y(p.value):.1f}" r="3" fill="{line.colour}"/>')
    return parts


def _legend(lines: list[Line], top: float) -> list[str]:
    parts = []
    for index, line in enumerate(lines):
        left = LEFT + index * 180
        dash = f' stroke-dasharray="{FLOOR_DASH}"' if line.dashed else ""
        parts.append(
            f'<line x1="{left}" x2="{left + 30}" y1="{top}" y2="{top}" stroke="{line.colour}" '
            f'stroke-width="2"{dash}/>'
        )
        parts.append(f'<text x="{left + 38}" y="{top + 4}">{escape(line.label)}</text>')
    return parts
