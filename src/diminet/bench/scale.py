"""`diminet bench scale`: many at once, one service over ever more sites, and an instance with many services.

many at once     creates on a real lab, of sites that overlap or not, of masters spread or all on one
real sites       one service over ever more sites of a real lab
simulated sites  the production engine and store over a simulated network, in virtual time
services         the production instance on a database with few services and with many, its VIM simulated
"""

import os
import tempfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from diminet.bench import machines, many_services, many_sites, real_sites
from diminet.bench.scale_results import Burst, Crowd, Scale, Simulated


class Wish(NamedTuple):
    """creates: at once; timeout: of these, in seconds. sites: of one service. runs: of each number of real
    sites. delay_ms: of the simulated WAN, one way. Of an empty list nothing is measured."""

    creates: tuple[int, ...]
    sites: tuple[int, ...]
    simulated: tuple[int, ...]
    services: tuple[int, ...]
    runs: int
    timeout: float
    delay_ms: float
    seed: int


def run(state: Path, wish: Wish, command: str, note: Callable[[str], None]) -> Scale:
    """One lab after another; they are gone at the end. Raises DiminetError."""
    load, failures = os.getloadavg()[0], list[str]()
    bursts = _bursts(state, wish, note, failures) if wish.creates else []
    wide = real_sites.wide(state, wish.sites, wish.runs, note, failures) if wish.sites else []
    simulated = _simulated(wish, note)
    crowds = _crowds(wish.services, note)
    return Scale(
        command=command,
        taken_at=datetime.now(UTC).isoformat(timespec="seconds"),
        version=version("diminet"),
        machine=machines.this_machine(),
        load=(load, os.getloadavg()[0]),
        delay_ms=wish.delay_ms,
        timeout=wish.timeout,
        bursts=tuple(bursts),
        wide=tuple(wide),
        simulated=tuple(simulated),
        crowds=tuple(crowds),
        failures=tuple(failures),
    )


def _bursts(state: Path, wish: Wish, note: Callable[[str], None], failures: list[str]) -> list[Burst]:
    return real_sites.bursts(state, wish.creates, wish.timeout, wish.seed, note, failures)


def _simulated(wish: Wish, note: Callable[[str], None]) -> list[Simulated]:
    found = list[Simulated]()
    for count in wish.simulated:
        note(f"one service over {count} simulated sites")
        found += many_sites.measure(count, wish.delay_ms)
    return found


def _crowds(services: Sequence[int], note: Callable[[str], None]) -> list[Crowd]:
    with tempfile.TemporaryDirectory(prefix="diminet-scale-") as directory:
        return [many_services.measure(count, Path(directory), note) for count in services]
