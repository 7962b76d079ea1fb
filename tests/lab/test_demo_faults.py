"""The demo's checks on a real lab with real faults in it: the lines concerned fail, and no others."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from diminet.lab import checks, demo
from diminet.lab.client import Lab
from diminet.lab.observations import Observations
from diminet.lab.world import World

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]

DROP = """
add table inet fault
add chain inet fault in { type filter hook input priority 0; }
add rule inet fault in udp dport 4789 drop
"""


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[demo.Story]:
    """A lab with the demo's networks and instances, and its L3 service."""
    lab = Lab(tmp_path_factory.mktemp("faults") / "lab")
    lab.up(demo.SITES)
    try:
        story = demo.Story(World(lab), Observations())
        demo.prepare(story)
        demo.route(story)
        yield story
    finally:
        lab.down()


@pytest.fixture(autouse=True)
def _own_observations(request: pytest.FixtureRequest) -> None:
    if "story" in request.fixturenames:
        request.getfixturevalue("story").seen = Observations()


def test_udp_4789_dropped_at_one_site(story: demo.Story, tmp_path: Path) -> None:
    world, seen = story.world, story.seen
    directed = checks.every_direction(story.ends)
    between_others = [d for d in directed if "B" not in (d[0].site, d[1].site)]
    rules = tmp_path / "fault.nft"
    rules.write_text(DROP)
    world.on_site("B", "nft", "-f", str(rules))
    try:
        checks.pings_all(world, seen, "all", directed)
        checks.pings_all(world, seen, "without B", between_others)
    finally:
        world.on_site("B", "nft", "delete", "table", "inet", "fault")
    assert [line.name for line in seen.failed] == ["all"]
    assert "2 of 6 after" in seen.failed[0].seen
    assert checks.pings_all(world, seen, "again", directed)


def test_a_tombstone_that_one_site_never_got(story: demo.Story) -> None:
    world, seen = story.world, story.seen
    assert story.l3
    world.lab.isolate("C")
    try:
        checks.deleted(world, seen, "deleted", "A", story.l3, world.sites, within=3.0)
        checks.nothing_changed(world, seen, "clean", story.start, within=3.0)
    finally:
        world.lab.heal()
    assert [line.name for line in seen.failed] == ["deleted", "clean"]
    assert "C" in seen.failed[0].seen.split("known at")[1].split("after")[0]
    assert f"C: service {story.l3} is left" in seen.failed[1].seen
    assert f"A: service {story.l3} is left" in seen.failed[1].seen  # it waits for C, and says so
    assert "B: " not in seen.failed[1].seen
    assert checks.nothing_changed(world, seen, "healed", story.start)


def test_a_doubled_address(story: demo.Story) -> None:
    demo.stretch(story)
    world, seen = story.world, story.seen
    assert seen.failed == []
    one, other = (
        next(i for i in story.booted if i.site == "A"),
        next(i for i in story.booted if i.site == "C"),
    )
    links = json.loads(world.inside_instance(other, "ip", "-j", "link"))
    device = next(link["ifname"] for link in links if link["ifname"] != "lo")
    doubled = ("dev", device, "local", f"{one.ip}/22")
    world.inside_instance(other, "ip", "addr", "add", *doubled)
    checks.addresses_distinct(world, seen, "doubled", story.booted)
    world.inside_instance(other, "ip", "addr", "del", *doubled)
    checks.addresses_distinct(world, seen, "as before", story.booted)
    assert [line.name for line in seen.failed] == ["doubled: IP addresses"]
    assert one.ip in seen.failed[0].seen


def test_the_demo_itself(tmp_path: Path) -> None:
    """As `make demo` runs it: exit status 0, and nothing is left."""
    state = tmp_path / "lab"
    done = subprocess.run(
        [sys.executable, "-m", "diminet.lab.demo", "--state", str(state)],
        check=False,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "FAILED" not in done.stdout
    assert not state.exists()
