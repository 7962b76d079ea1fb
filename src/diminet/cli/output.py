"""What the command line prints: tables for people (rich), or with `--json` one document and nothing else.

Results go to stdout, remarks and errors to stderr; with `--json` errors are `{"error": …}` on stdout.
"""

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from diminet.client import ApiError
from diminet.errors import DiminetError

PIPE_WIDTH = 240  # columns when stdout is no terminal: ids must not be folded
WHOLE = ("id", "network")  # columns of ids, for copying: others are folded first

STATUS_STYLE = {
    "ACTIVE": "green",
    "ONLINE": "green",
    "ok": "green",
    "reachable": "green",
    "ERROR": "bold red",
    "REVOKED": "bold red",
    "OFFLINE": "bold red",
    "FAILED": "bold red",
    "unreachable": "bold red",
    "DEGRADED": "yellow",
    "UNKNOWN": "dim",
}


def console(*, stderr: bool = False) -> Console:
    """A console that folds nothing when its output goes into a pipe or file."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else PIPE_WIDTH
    return Console(file=stream, width=width, highlight=False)


def print_json(document: Any) -> None:
    """One JSON document on stdout."""
    sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def note(sentence: str) -> None:
    """A remark for people; never on stdout."""
    console(stderr=True).print(Text(sentence), soft_wrap=True)


def cell(value: Any) -> Text:
    """A table cell; statuses are coloured, nothing is markup."""
    text = "-" if value is None or value == "" else str(value)
    return Text(text, style=STATUS_STYLE.get(text, "yellow" if text.startswith("PENDING") else ""))


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, title: str | None = None) -> Table:
    """A table that any console prints; cells are shown by `cell`."""
    made = Table(title=title, title_justify="left", header_style="bold")
    for column in columns:
        made.add_column(column, overflow="fold", no_wrap=column in WHOLE)
    for row in rows:
        made.add_row(*(cell(value) for value in row))
    return made


def error_document(error: DiminetError) -> dict[str, Any]:
    """The API's own document where it came from there, else one of the same form."""
    if isinstance(error, ApiError):
        return {"error": error.document}
    return {"error": {"code": error.code, "message": error.message, "sites": list(error.sites)}}


def report(error: DiminetError, *, as_json: bool) -> None:
    """Say what went wrong: one sentence on stderr, or the error document on stdout."""
    if as_json:
        print_json(error_document(error))
    else:
        note(f"diminet: {error.message}")
