"""What an instance costs while nobody asks anything: memory and processor, from /proc."""

import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from diminet.bench.machines import Machine
from diminet.bench.samples import Idle

_TICKS = os.sysconf("SC_CLK_TCK")


class Spent(NamedTuple):
    """Processor seconds since the start. children: of programs that it has started and that ended."""

    own: float
    children: float


def parse_stat(text: str) -> Spent:
    """/proc/PID/stat; proc(5): utime, stime, cutime and cstime are fields 14 to 17."""
    fields = text.rpartition(")")[2].split()
    user, system, children_user, children_system = (int(field) / _TICKS for field in fields[11:15])
    return Spent(user + system, children_user + children_system)


def parse_memory(text: str) -> tuple[int, int]:
    """(RSS, PSS) in bytes, from /proc/PID/smaps_rollup."""
    sizes = {line.split(":")[0]: line.split()[1] for line in text.splitlines() if line.endswith(" kB")}
    return int(sizes["Rss"]) * 1024, int(sizes["Pss"]) * 1024


def look(
    these: Iterable[Machine], seconds: float, sleep: Callable[[float], None] = time.sleep
) -> tuple[Idle, ...]:
    """Blocking, for that long."""
    before = [(m, spent(m.pid)) for m in these]
    began = time.monotonic()
    sleep(seconds)
    passed = time.monotonic() - began
    return tuple(_idle(machine.name, machine.pid, was, passed) for machine, was in before)


def memory(pid: int) -> int:
    """RSS in bytes."""
    return parse_memory(Path(f"/proc/{pid}/smaps_rollup").read_text())[0]


def watch(pid: int, seconds: float) -> Idle:
    """One process, blocking, for that long."""
    before, began = spent(pid), time.monotonic()
    time.sleep(seconds)
    return _idle("", pid, before, time.monotonic() - began)


def spent(pid: int) -> Spent:
    """So far, of that process."""
    return parse_stat(Path(f"/proc/{pid}/stat").read_text())


def _idle(site: str, pid: int, before: Spent, passed: float) -> Idle:
    now = spent(pid)
    rss, pss = parse_memory(Path(f"/proc/{pid}/smaps_rollup").read_text())
    own = (now.own - before.own) / passed
    children = (now.children - before.children) / passed
    return Idle(site=site, seconds=passed, rss=rss, pss=pss, cpu=own + children, own_cpu=own)
