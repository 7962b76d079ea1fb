"""Files that an operator may change while DIMINET runs: taken up without a restart.

`Watched` reads at start, where a bad file is BadSurroundings and nothing starts. Afterwards a changed
file is read again at its next use; if it has become bad, the last good copy stays and the log says why.
A file system's change notices are not used: a `stat` per second costs less than their corner cases.
"""

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

import structlog

from diminet.errors import BadSurroundings

T = TypeVar("T")
DEFAULT_RECHECK_S = 1.0

log = structlog.get_logger(__name__)

_Mark = tuple[int, int, int] | None


def read_bytes(path: Path, what: str) -> bytes:
    """The file's content. what: names it in the BadSurroundings that says why it cannot be read."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise BadSurroundings(f"the {what} {path} does not exist; create it or correct its path") from None
    except PermissionError:
        raise BadSurroundings(
            f"the {what} {path} cannot be read by this user (uid {os.getuid()}); "
            "make it and every directory above it readable for that user"
        ) from None
    except OSError as exc:
        raise BadSurroundings(f"the {what} {path} cannot be read: {exc.strerror}") from exc


class Watched(Generic[T]):
    """A value made from files. get() is the newest good one.

    what: names it in the log. load: reads the files; raises BadSurroundings (its first call is made
    here, and what it raises passes through). recheck_s: seconds between two looks at the files.
    """

    def __init__(
        self,
        what: str,
        paths: Sequence[Path],
        load: Callable[[], T],
        *,
        recheck_s: float = DEFAULT_RECHECK_S,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._what = what
        self._paths = tuple(paths)
        self._load = load
        self._recheck_s = recheck_s
        self._monotonic = monotonic
        self._marks = self._look()
        self._value = load()
        self._next_look = monotonic() + recheck_s
        self._complaint: str | None = None

    def get(self) -> T:
        now = self._monotonic()
        if now >= self._next_look:
            self._next_look = now + self._recheck_s
            self._refresh()
        return self._value

    def _refresh(self) -> None:
        marks = self._look()  # before reading: a change made meanwhile is seen next time
        if marks == self._marks and self._complaint is None:
            return
        self._marks = marks
        try:
            self._value = self._load()
        except BadSurroundings as exc:
            # Tried again at every look, since the clock or a directory's rights may have been the reason.
            if exc.message != self._complaint:
                log.warning(
                    "changed file refused, the last good copy stays", what=self._what, why=exc.message
                )
            self._complaint = exc.message
        else:
            self._complaint = None
            log.info("changed file taken up", what=self._what)

    def _look(self) -> tuple[_Mark, ...]:
        return tuple(_mark(path) for path in self._paths)


def _mark(path: Path) -> _Mark:
    try:
        stat = path.stat()
    except OSError:
        return None
    return (stat.st_mtime_ns, stat.st_size, stat.st_ino)
