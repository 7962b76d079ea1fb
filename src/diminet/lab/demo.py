"""`make demo`: three sites on this machine, joined by one request each, looked at, cut, healed, taken away.

Run as `python -m diminet.lab.demo`. Exit status 0 if every line of the table is as it should be, else 1.
"""

import argparse
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any

from rich.console import Console
from rich.text import Text

from diminet.errors import DiminetError
from diminet.lab import checks, plan
from diminet.lab.checks import every_direction
from diminet.lab.client import Lab
from diminet.lab.daemon import tail
from diminet.lab.observations import Line, Observations, Path, Phase
from diminet.lab.world import Instance, World

STATE = FilePath("/run/diminet-demo")
SITES = 3
AT_ONCE = 6  # instances booted at each site at the same time
GONE_WITHIN = 5.0  # seconds from `down` until nothing is left
WIDTH = 150  # columns of the tables where the output is no terminal
ROUTED = {"A": "10.1.0.0/24", "B": "10.2.0.0/24", "C": "10.3.0.0/24"}
CLASH = "10.1.0.0/16"  # at B; overlaps A's
WIDE = "10.8.0.0/22"  # at A; wide enough that no pool has to grow while things are compared
LATER = {"A": "10.20.0.0/24", "C": "10.22.0.0/24"}  # of the create that the cut makes impossible


@dataclass
class Story:
    """What the steps hand on. networks: of the L3 service; stretched: of the L2 service, both by site."""

    world: World
    seen: Observations
    networks: dict[str, str] = field(default_factory=dict)
    later: dict[str, str] = field(default_factory=dict)
    clash: str = ""
    stretched: dict[str, str] = field(default_factory=dict)
    ends: list[Instance] = field(default_factory=list)
    booted: list[Instance] = field(default_factory=list)
    start: dict[str, frozenset[str]] = field(default_factory=dict)
    l3: str | None = None
    l2: str | None = None

    def tell(self) -> None:
        """All of it, in order."""
        prepare(self)
        route(self)
        refuse_overlap(self)
        stretch(self)
        cut_off(self)
        heal(self)
        take_away(self)


def body(kind: str, name: str, entries: dict[str, str | None]) -> dict[str, Any]:
    """A create's service. entries: network by site; None: the site makes one."""
    resources = [
        {"site": site} | ({"resource_id": network} if network else {}) for site, network in entries.items()
    ]
    return {"type": kind, "name": name, "resources": resources}


def prepare(story: Story) -> None:
    """Each site's own networks and instances, made at that site alone."""
    world = story.world
    story.networks = {site: world.network(site, "web", cidr) for site, cidr in ROUTED.items()}
    story.later = {site: world.network(site, "later", cidr) for site, cidr in LATER.items()}
    story.clash = world.network("B", "clash", CLASH)
    story.stretched = {"A": world.network("A", "wide", WIDE)}
    story.ends = [world.boot(site, network, "web1") for site, network in story.networks.items()]
    story.booted = [world.boot("A", story.stretched["A"], "old1")]
    story.start = world.everything(world.sites)


def route(story: Story) -> None:
    """L3 over three networks, one at each site."""
    world, seen = story.world, story.seen
    request = body("l3", "routed", dict(story.networks))
    story.l3 = checks.create(world, seen, "L3 over three networks, asked at A", "A", request)
    checks.pings_all(world, seen, "L3: pings in all six directions", every_direction(story.ends))


def refuse_overlap(story: Story) -> None:
    world, seen = story.world, story.seen
    before = world.everything(world.sites)
    request = body("l3", "overlapping", {"A": story.networks["A"], "B": story.clash})
    names = (ROUTED["A"], CLASH)
    checks.refused(
        world, seen, "overlapping networks", "B", request, status=409, code="cidr-overlap", names=names
    )
    checks.nothing_changed(world, seen, "the refused overlap leaves nothing", before)


def stretch(story: Story) -> None:
    """L2 from a network of A, with an instance on it, to B and C, where nothing exists."""
    world, seen = story.world, story.seen
    request = body("l2", "stretched", {"A": story.stretched["A"], "B": None, "C": None})
    story.l2 = checks.create(world, seen, "L2 from A's network to B and C, asked at A", "A", request)
    if story.l2 is None:
        return
    story.stretched = checks.networks_appeared(
        world, seen, "L2: networks made at B and C", story.l2, world.sites
    )
    booted = checks.boot_at_once(
        world, seen, f"L2: {AT_ONCE} instances booted at each site at once", story.stretched, AT_ONCE
    )
    checks.addresses_from_own_blocks(world, seen, "L2: addresses", story.stretched, booted)
    story.booted += booted
    checks.addresses_distinct(world, seen, "L2", story.booted)
    intra, inter = within_and_across(probes(story))
    before = Phase.BEFORE
    checks.pings_all(world, seen, "L2: pings between the sites", inter, traffic=(Path.INTER, before))
    checks.pings_all(world, seen, "L2: pings within each site", intra, traffic=(Path.INTRA, before))


def probes(story: Story) -> list[Instance]:
    """Two instances of each site on the stretched network."""
    names = ("vm1", "vm2")
    return [one for one in story.booted if one.name in names]


def within_and_across(instances: Sequence[Instance]) -> tuple[checks.Directed, checks.Directed]:
    """Directions that stay at one site, and those that do not."""
    directed = every_direction(instances)
    return [d for d in directed if d[0].site == d[1].site], [d for d in directed if d[0].site != d[1].site]


def cut_off(story: Story) -> None:
    """C is parted from all: what goes on, what stops, what can be asked."""
    world, seen = story.world, story.seen
    intra, inter = within_and_across(probes(story))
    crossing = [d for d in inter if "C" in (d[0].site, d[1].site)]
    others = [d for d in inter if d not in crossing]
    world.lab.isolate("C")
    checks.no_ping(
        world, seen, "C cut off: no ping across the cut", crossing, traffic=(Path.INTER, Phase.DURING)
    )
    checks.pings_all(
        world, seen, "C cut off: pings within each site go on", intra, traffic=(Path.INTRA, Phase.DURING)
    )
    checks.pings_all(world, seen, "C cut off: pings between A and B go on", others)
    if "C" in story.stretched:
        new = checks.boots(world, seen, "C cut off: a new instance at C", "C", story.stretched["C"], "new1")
        story.booted += [new] if new else []
    before = world.everything(world.sites)
    request = body("l3", "with C", dict(story.later))
    checks.refused(
        world,
        seen,
        "C cut off: a create that names C, asked at A",
        "A",
        request,
        status=503,
        code="site-unreachable",
        names=("C",),
    )
    checks.nothing_changed(world, seen, "the create that named C leaves nothing", before)


def heal(story: Story) -> None:
    world, seen = story.world, story.seen
    intra, inter = within_and_across(probes(story))
    world.lab.heal()
    limit = checks.HEAL_WITHIN
    checks.pings_all(
        world, seen, "healed: L2 traffic is back", inter, within=limit, traffic=(Path.INTER, Phase.AFTER)
    )
    checks.pings_all(world, seen, "healed: pings within each site", intra, traffic=(Path.INTRA, Phase.AFTER))
    checks.pings_all(world, seen, "healed: L3 traffic is back", every_direction(story.ends), within=limit)
    checks.addresses_distinct(world, seen, "L2, after healing", story.booted)


def take_away(story: Story) -> None:
    """Delete each service at a site that is not its master; then all is as it was before."""
    world, seen = story.world, story.seen
    if story.l3 is not None:
        checks.deleted(world, seen, "L3 deleted, asked at B", "B", story.l3, world.sites)
        checks.no_ping(world, seen, "L3 deleted: no ping between the sites", every_direction(story.ends))
    for instance in story.booted:
        if instance.name != "old1":
            world.remove(instance)
    if story.l2 is not None:
        checks.deleted(world, seen, "L2 deleted, asked at C", "C", story.l2, world.sites)
    checks.nothing_changed(world, seen, "all sites are as before the first service", story.start)


def pid_namespace(lab: Lab) -> str:
    """Of the lab: every process of it is in there."""
    zebra = lab.status()["sites"][0]["pids"]["zebra"]
    return os.readlink(f"/proc/{zebra}/ns/pid")


def nothing_left(seen: Observations, state: FilePath, namespace: str, *, within: float = GONE_WITHIN) -> bool:
    """Of the lab, on the host: no device, process, mount or file."""
    end = time.monotonic() + within
    left = _left(state, namespace)
    while left and time.monotonic() < end:  # the kernel may still be burying the last processes
        time.sleep(0.1)
        left = _left(state, namespace)
    text = "; ".join(left) or "nothing"
    return seen.see("the lab is down", expected="nothing left on this host", seen=text, ok=not left)


def _left(state: FilePath, namespace: str) -> list[str]:
    device = plan.host_device(state)
    left = [f"device {device}"] * FilePath("/sys/class/net", device).exists()
    left += [f"directory {state}"] * state.exists()
    mounts = FilePath("/proc/self/mountinfo").read_text().splitlines()
    left += [f"mount {line.split()[4]}" for line in mounts if str(state) in line]
    left += [f"process {each.name}" for each in FilePath("/proc").glob("[0-9]*") if _in(each, namespace)]
    return left


def _in(process: FilePath, namespace: str) -> bool:
    try:
        return os.readlink(process / "ns/pid") == namespace
    except OSError:
        return False  # it has just ended


def print_logs(console: Console, state: FilePath) -> None:
    """The end of each instance's log: it goes with the lab, and would be missed."""
    for log in sorted(state.glob("*/instance.log")):
        console.print(Text(f"{log}:\n{tail(log)}"), soft_wrap=True)


def run(state: FilePath, console: Console) -> Observations:
    """Bring a lab up, tell the story, and bring the lab down whatever happens."""
    began = time.monotonic()

    def tell(line: Line) -> None:
        mark = Text("ok    ", style="green") if line.ok else Text("FAILED", style="bold red")
        console.print(
            Text.assemble(f"{time.monotonic() - began:6.1f} s  ", mark, f"  {line.name}: {line.seen}")
        )

    seen = Observations(tell)
    lab = Lab(state)
    lab.down()  # of a run that was killed
    console.print(Text(f"starting a lab of {SITES} sites in {state} …"))
    try:
        lab.up(SITES)
        namespace = pid_namespace(lab)
        try:
            Story(World(lab), seen).tell()
        except DiminetError as error:
            seen.see("the run goes on to its end", expected="no error", seen=error.message, ok=False)
        if seen.failed:
            print_logs(console, state)
    finally:
        lab.down()
    nothing_left(seen, state, namespace)
    return seen


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="demo", description="Join three sites and show what happened.")
    parser.add_argument("--state", type=FilePath, default=STATE, help=f"state directory of its lab ({STATE})")
    state = parser.parse_args(arguments).state
    console = Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the lab comes down
    try:
        seen = run(state.absolute(), console)
    except DiminetError as error:
        console.print(Text(f"demo: {error.message}", style="bold red"))
        return 1
    except KeyboardInterrupt:
        console.print(Text("demo: interrupted; the lab is down", style="bold red"))
        return 1
    seen.print(console)
    return 1 if seen.failed else 0


if __name__ == "__main__":
    sys.exit(main())
