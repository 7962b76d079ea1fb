"""What a run over many seeds has shown, in words."""

from collections import Counter
from collections.abc import Iterable

from simulator.run import Outcome

# Of a member's copy of a service (diminet.logic.lifecycle): the moves that the protocol knows.
TRANSITIONS = (
    "unknown to held",
    "held to held",
    "held to applied",
    "held to confirmed",
    "applied to held",
    "applied to confirmed",
    "confirmed to held",
    "held to leaving",
    "applied to leaving",
    "confirmed to leaving",
    "leaving to left",
    "left to held",
    "left to buried",
    "held to buried",
    "applied to buried",
    "confirmed to buried",
    "leaving to buried",
    "buried to settled",
    "settled to unknown",
    "left to unknown",
)


def report(outcomes: Iterable[Outcome], seconds: float) -> list[str]:
    """seconds: of processor time, all processes together."""
    counts: Counter[tuple[str, str]] = Counter()
    steps = virtual = 0.0
    for outcome in outcomes:
        counts += outcome.counts
        steps += outcome.steps
        virtual += outcome.seconds
    seen = {which for what, which in counts if what == "transition"}
    covered = [name for name in TRANSITIONS if name in seen]
    lines = [
        f"{steps:,.0f} steps in {virtual / 3600:.1f} hours of virtual time and {seconds:.0f} s of processor "
        f"time: {steps / max(seconds, 0.001):,.0f} steps a second",
        _line("steps", counts, "step"),
        _line("faults", counts, "fault"),
        _line("operations", counts, "operation"),
        _line("answers", counts, "answer"),
        f"transitions of a member's copy: {len(covered)} of {len(TRANSITIONS)} covered",
    ]
    missing = [name for name in TRANSITIONS if name not in seen]
    unknown = sorted(seen - set(TRANSITIONS))
    if missing:
        lines.append(f"  not seen: {', '.join(missing)}")
    if unknown:
        lines.append(f"  beyond the list: {', '.join(unknown)}")
    return lines


def _line(title: str, counts: Counter[tuple[str, str]], what: str) -> str:
    of = Counter({which: n for (kind, which), n in counts.items() if kind == what})
    return f"{title} ({sum(of.values()):,}): " + ", ".join(f"{name} {n:,}" for name, n in of.most_common())
