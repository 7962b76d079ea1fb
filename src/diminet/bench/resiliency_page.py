"""The Markdown page and the picture of `diminet bench resiliency`, made from what it found alone."""

from html import escape

from diminet.bench.outages import PHASES, Outage, Outages, Phase, Pings
from diminet.bench.page import NONE, table

SECOND, ROW, LEFT, TOP, GAP = 7, 16, 110, 34, 44  # pixels
GREEN, AMBER, RED, EMPTY = "#5b8c5a", "#d8a03d", "#c8553d", "#eeeeee"

_PLANES = {
    "control": "Control plane cut (BGP and DIMINET, TCP 179 and 9791)",
    "data": "Data plane cut (VXLAN, UDP 4789)",
    "all": "Everything cut",
}
_HEADINGS = {"before": "before failure", "during": "during failure", "after": "after failure"}


def markdown(found: Outages, *, json_name: str, figure_name: str) -> str:
    return "\n".join(
        (
            _head(found, json_name),
            _table_iv(found),
            f"![Share of pings answered in each second]({figure_name})\n",
            _times(found),
            _method(found),
        )
    )


def _head(found: Outages, json_name: str) -> str:
    return (
        "# A site is cut off: what goes on, what stops, when it is back\n\n"
        f"Made by `{found.command}` at {found.taken_at}, DIMINET {found.version}, {len(found.sites)} sites, "
        f"{found.delay_ms:g} ms WAN delay one way.\nMachine: {found.machine}. All values are in "
        f"[{json_name}]({json_name}).\n"
    )


def _table_iv(found: Outages) -> str:
    rows = []
    for outage in found.outages:
        for pings in outage.pings:
            rows.append([outage.plane, pings.path, *(_cell(outage, pings, phase) for phase in PHASES)])
    columns = ("cut", "pings", *(_HEADINGS[phase] for phase in PHASES))
    legend = "✓: every ping was answered, ×: none, else how many. After failure: until the end."
    return f"## The paper's Table IV\n\n{legend}\n\n" + table(columns, rows)


def _cell(outage: Outage, pings: Pings, phase: Phase) -> str:
    sent, answered = pings.between(*outage.phase(phase))
    if sent == 0:
        return NONE
    return {sent: "✓", 0: "×"}.get(answered, f"{answered} of {sent}")


def _times(found: Outages) -> str:
    rows = []
    for outage in found.outages:
        for pings in outage.pings:
            sent, answered = pings.between(*outage.phase("during"))
            if answered < sent:
                stopped = pings.last_answer(*outage.phase("during"))
                back = pings.lasting_answers(outage.healed)
                rows.append([outage.plane, pings.path, _s(stopped), _s(back, outage.healed)])
        wrong = outage.status_since("DEGRADED", 0.0)
        right = outage.status_since("ONLINE", max(wrong or 0.0, outage.healed))
        rows.append([outage.plane, "service DEGRADED, then ONLINE", _s(wrong), _s(right, outage.healed)])
    legend = (
        "Seconds from the cut until the last answer (or until the service's `operating_status`, at a site "
        "that was not cut, is DEGRADED), and from healing until every ping is answered again (or ONLINE)."
    )
    return f"## How soon\n\n{legend}\n\n" + table(("cut", "what", "stops", "back"), rows)


def _s(when: float | None, since: float = 0.0) -> str:
    return NONE if when is None else f"{when - since:.1f}"


def _method(found: Outages) -> str:
    return (
        "## What is done\n\nOne network is stretched over all sites, with two instances at each. Pings run "
        "every 0.2 s within each site and between the sites, through all three phases. Site "
        f"{found.cut} is isolated by dropping frames in the WAN's bridge: those of BGP (to the route "
        "reflectors) and of the instances, or those of VXLAN, or all.\n\n"
        "The hold time of BGP is 9 s here; FRR 8.4 keeps forwarding until it has run out. The data plane is "
        "probed by each site, since BGP does not notice that VXLAN alone is cut.\n"
    )


def svg(found: Outages) -> str:
    longest = max((int(o.ended) + 1 - int(min(p.began for p in o.pings)) for o in found.outages), default=1)
    height = TOP + sum(len(outage.pings) * ROW + GAP for outage in found.outages)
    width = LEFT + longest * SECOND + 20
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
        'font-size="11" role="img">',
        "<title>Share of pings answered in each second</title>",
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    top = TOP
    for outage in found.outages:
        parts += _strip(outage, top)
        top += len(outage.pings) * ROW + GAP
    return "\n".join([*parts, "</svg>"]) + "\n"


def _strip(outage: Outage, top: int) -> list[str]:
    """One outage: a row for each path, a column for each second, lines at the cut and its end."""
    first = int(min(pings.began for pings in outage.pings)) - 1
    parts = [f'<text x="10" y="{top - 12}" font-weight="bold">{escape(_PLANES[outage.plane])}</text>']
    for index, pings in enumerate(outage.pings):
        y = top + index * ROW
        parts.append(f'<text x="{LEFT - 6}" y="{y + 11}" text-anchor="end">{escape(pings.path)}</text>')
        for second in range(first, int(outage.ended) + 1):
            x = LEFT + (second - first) * SECOND
            colour = _colour(*pings.between(second, second + 1))
            parts.append(f'<rect x="{x}" y="{y}" width="{SECOND - 1}" height="{ROW - 3}" fill="{colour}"/>')
    bottom = top + len(outage.pings) * ROW
    for when, name in ((0.0, "cut"), (outage.healed, "healed")):
        at = LEFT + (when - first) * SECOND
        parts.append(f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{top - 4}" y2="{bottom}" stroke="black"/>')
        parts.append(f'<text x="{at + 3:.1f}" y="{bottom + 11}">{name}</text>')
    return parts


def _colour(sent: int, answered: int) -> str:
    if sent == 0:
        return EMPTY
    return {sent: GREEN, 0: RED}.get(answered, AMBER)
