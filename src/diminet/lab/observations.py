"""What was seen in a run of the demo, and the tables that are made of it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

from rich.console import Console
from rich.table import Table
from rich.text import Text


class Phase(StrEnum):
    """Columns of the paper's Table IV."""

    BEFORE = "before failure"
    DURING = "during failure"
    AFTER = "after failure"


class Path(StrEnum):
    """Rows of the paper's Table IV."""

    INTRA = "intra-site"
    INTER = "inter-site"


@dataclass(frozen=True)
class Line:
    """One thing that was looked at: what should be, what was, and whether that is so."""

    name: str
    expected: str
    seen: str
    ok: bool


@dataclass
class Observations:
    """Collects what is seen. tell: is called with each line as it comes."""

    tell: Callable[[Line], None] = lambda line: None
    lines: list[Line] = field(default_factory=list)
    traffic: dict[tuple[Path, Phase], tuple[int, int]] = field(default_factory=dict)

    def see(self, name: str, *, expected: str, seen: str, ok: bool) -> bool:
        """Add a line; returns ok."""
        line = Line(name, expected, seen, ok)
        self.lines.append(line)
        self.tell(line)
        return ok

    def saw_traffic(self, path: Path, phase: Phase, *, sent: int, received: int) -> None:
        """Add pings to a cell of Table IV."""
        before = self.traffic.get((path, phase), (0, 0))
        self.traffic[path, phase] = (before[0] + sent, before[1] + received)

    @property
    def failed(self) -> list[Line]:
        return [line for line in self.lines if not line.ok]

    def table_iv(self) -> Table:
        """The paper's Table IV from this run's pings: ✓ all answered, × none, else how many."""
        table = Table(
            title="Traffic being forwarded in different scenarios (the paper's Table IV)",
            title_justify="left",
        )
        for heading in ("", *Phase):
            table.add_column(str(heading))
        for path in Path:
            table.add_row(str(path), *(self._cell(path, phase) for phase in Phase))
        return table

    def _cell(self, path: Path, phase: Phase) -> str:
        sent, received = self.traffic.get((path, phase), (0, 0))
        if sent == 0:
            return "not looked at"
        mark = {sent: "✓", 0: "×"}.get(received, "partly")
        return f"{mark} ({received} of {sent} pings)"

    def table(self) -> Table:
        """Every line, in the order in which it was seen."""
        table = Table(title="What this run showed", title_justify="left", show_lines=True)
        for heading in ("", "what", "expected", "seen"):
            table.add_column(heading, overflow="fold")
        for line in self.lines:
            mark = Text("ok", style="green") if line.ok else Text("FAILED", style="bold red")
            table.add_row(mark, Text(line.name), Text(line.expected), Text(line.seen))
        return table

    def print(self, console: Console) -> None:
        console.print()
        console.print(self.table_iv())
        console.print()
        console.print(self.table())
        bad = len(self.failed)
        verdict = f"{bad} of {len(self.lines)} lines FAILED" if bad else f"all {len(self.lines)} lines ok"
        console.print(Text(verdict, style="bold red" if bad else "bold green"))
