"""What must be seen: an instance is killed at any moment and started again; FRR is killed.

The moments are drawn at random from a seed that is the test's own; tests/engine/test_crash.py has them all.
"""

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from ipaddress import ip_address
from itertools import pairwise

import pytest
from seen import BACK, UP, Instance, Scene, eventually, every_direction, fixtures

from diminet.errors import DiminetError

pytestmark = [pytest.mark.lab, pytest.mark.timeout(400)]
scene, clean = fixtures()
LASTS = {"l2": 1.0, "l3": 2.5}  # seconds that an operation takes here, about
GIFTS = 4.0  # seconds that the boots of a test take, about
FRR_AWAY = 25.0  # seconds: more than an interval of looking at the data plane


@contextmanager
def killed(scene: Scene, site: str, after: float) -> Iterator[None]:
    """kill -9 of the site's instance so many seconds from now, and a new start at the end."""
    killer = threading.Timer(after, scene.lab.crash, (site,))
    killer.start()
    try:
        yield
    finally:
        killer.join()
        scene.lab.restart(site)


def complete_or_gone(scene: Scene) -> bool:
    """Every service that any site knows is active at all its members, and at no other site."""
    seen = {site: {one["id"]: one for one in scene.services(site)} for site in scene.sites}
    for service_id in {service_id for known in seen.values() for service_id in known}:
        holders = {site for site in scene.sites if service_id in seen[site]}
        members = {entry["site"] for site in holders for entry in seen[site][service_id]["resources"]}
        if holders != members or not all(scene.active(site, service_id) for site in members):
            return False
    return True


def check_orphans(scene: Scene) -> None:
    """As many instances as ports, at every site."""
    for site in scene.sites:
        ports = scene.vim(site).found("ports")
        paths = {port["binding:vif_details"].get("namespace") for port in ports} - {None}
        there = scene.on_site(site, "find", "/run/diminet/south/ns", "-type", "f", "!", "-name", "gw-*")
        assert set(there.split()) == paths


def check_traffic(scene: Scene) -> None:
    """Through the services that there are: new instances at all members get distinct addresses and ping."""
    (service,) = {one["id"]: one for site in scene.sites for one in scene.services(site)}.values()
    ends = [scene.boot(entry["site"], entry["resource_id"]) for entry in service["resources"]]
    assert len({one.ip for one in ends}) == len({one.mac for one in ends}) == len(ends)
    assert scene.silent(every_direction(ends), within=BACK) == []
    if service["type"] == "l2":
        check_pools(scene, service["id"], [entry["site"] for entry in service["resources"]])


def check_pools(scene: Scene, service_id: str, sites: list[str]) -> None:
    """No address may be given out at two sites."""
    spans = sorted(
        (int(ip_address(first)), int(ip_address(last)))
        for site in sites
        for first, last in scene.pools(site, service_id)
    )
    assert all(one[1] < other[0] for one, other in pairwise(spans)), spans


def settle(scene: Scene) -> int:
    """How many services there are in the end."""
    assert eventually(lambda: complete_or_gone(scene), BACK), [scene.told(site) for site in scene.sites]
    check_orphans(scene)
    return len({one["id"] for site in scene.sites for one in scene.services(site)})


def entries(scene: Scene, kind: str, sites: str = "ABC") -> dict[str, str | None]:
    return {
        site: scene.network(site, f"10.{n}.0.0/24") if kind == "l3" or n == 1 else None
        for n, site in enumerate(sites, 1)
    }


def attempt(work: Callable[[], object]) -> None:
    """The answer may be anything, or none."""
    with suppress(DiminetError):
        work()


@pytest.mark.parametrize("turn", range(2))
@pytest.mark.parametrize("victim", ["A", "B"])
@pytest.mark.parametrize("kind", ["l2", "l3"])
def test_during_a_create(scene: Scene, kind: str, victim: str, turn: int) -> None:
    moment = random.Random(f"create {kind} {victim} {turn}").uniform(0, LASTS[kind])
    wanted = entries(scene, kind)
    before = scene.state()
    with killed(scene, victim, moment):
        attempt(lambda: scene.create(kind, wanted))
    if settle(scene):
        check_traffic(scene)
    else:
        assert scene.differences(before) == []
        assert scene.create(kind, wanted).status == 201


@pytest.mark.parametrize("turn", range(1))
@pytest.mark.parametrize("victim", ["A", "B", "C"])
@pytest.mark.parametrize("kind", ["l2", "l3"])
def test_during_a_join(scene: Scene, kind: str, victim: str, turn: int) -> None:
    moment = random.Random(f"join {kind} {victim} {turn}").uniform(0, LASTS[kind])
    wanted = entries(scene, kind, "AB")
    third = scene.network("C", "10.3.0.0/24") if kind == "l3" else None
    service = scene.made(kind, wanted)
    joining = {"site": "C"} | ({"resource_id": third} if third else {})
    with killed(scene, victim, moment):
        attempt(lambda: scene.north("B" if victim == "A" else "A").add(service["id"], joining))
    assert settle(scene) == 1
    told = scene.show("A", service["id"])
    assert told is not None
    assert len(told["resources"]) in (2, 3)
    check_traffic(scene)


@pytest.mark.parametrize("turn", range(1))
@pytest.mark.parametrize("victim", ["A", "C"])
@pytest.mark.parametrize("kind", ["l2", "l3"])
def test_during_a_leave(scene: Scene, kind: str, victim: str, turn: int) -> None:
    moment = random.Random(f"leave {kind} {victim} {turn}").uniform(0, LASTS[kind])
    service = scene.made(kind, entries(scene, kind))
    with killed(scene, victim, moment):
        attempt(lambda: scene.north("B").remove(service["id"], "C"))
    assert settle(scene) == 1
    check_traffic(scene)


@pytest.mark.parametrize("turn", range(1))
@pytest.mark.parametrize("victim", ["A", "B"])
@pytest.mark.parametrize("kind", ["l2", "l3"])
def test_during_a_delete(scene: Scene, kind: str, victim: str, turn: int) -> None:
    moment = random.Random(f"delete {kind} {victim} {turn}").uniform(0, LASTS[kind] / 2)
    wanted = entries(scene, kind)
    before = scene.state()
    service = scene.made(kind, wanted)
    with killed(scene, victim, moment):
        attempt(lambda: scene.delete(service["id"], at="B" if victim == "A" else "A"))
    if settle(scene):
        check_traffic(scene)
    else:
        assert scene.differences(before) == []


@pytest.mark.parametrize("turn", range(2))
@pytest.mark.parametrize("victim", ["A", "B"])
def test_during_a_gift_of_blocks(scene: Scene, victim: str, turn: int) -> None:
    """B boots far more than its share, so that A gives it blocks again and again."""
    moment = random.Random(f"gift {victim} {turn}").uniform(0, GIFTS)
    service = scene.made("l2", {"A": scene.network("A", "10.1.0.0/26"), "B": None})
    networks = scene.networks_of(service)
    booted: list[Instance] = []

    def boot_many() -> None:
        end = time.monotonic() + 2 * BACK
        while len(booted) < 42 and time.monotonic() < end:
            try:
                booted.append(scene.boot("B", networks["B"]))
            except DiminetError:
                time.sleep(0.5)  # the instance is away, or who could give is

    boots = threading.Thread(target=boot_many)
    boots.start()
    with killed(scene, victim, moment):
        time.sleep(moment)
    boots.join()
    assert len(booted) == 42
    booted += [scene.boot("A", networks["A"]) for _ in range(3)]
    assert settle(scene) == 1
    inside = {site: scene.inside(site) for site in "AB"}
    ips = [ip for one in inside.values() for _, addresses in one.values() for ip in addresses]
    assert len(ips) == len(set(ips)) >= len(booted)
    assert {one.ip for one in booted} <= set(ips)
    check_pools(scene, service["id"], ["A", "B"])
    assert scene.silent([(booted[0], booted[-1]), (booted[-2], booted[-4])], within=UP) == []


# -- FRR -------------------------------------------------------------------------------------------


@contextmanager
def frr_killed(scene: Scene, site: str, daemons: tuple[str, ...]) -> Iterator[None]:
    """kill -9 of these as often as they come back, until the end of the block."""
    over = threading.Event()

    def keep_killing() -> None:
        while not over.is_set():
            (status,) = [one for one in scene.lab.status()["sites"] if one["name"] == site]
            for daemon in daemons:
                with suppress(KeyError, ProcessLookupError):
                    os.kill(status["pids"][daemon], signal.SIGKILL)
            time.sleep(0.2)

    killer = threading.Thread(target=keep_killing)
    killer.start()
    try:
        yield
    finally:
        over.set()
        killer.join()


@pytest.mark.parametrize("daemons", [("bgpd",), ("zebra",), ("bgpd", "zebra")])
def test_frr_killed(scene: Scene, daemons: tuple[str, ...]) -> None:
    routed, stretched = entries(scene, "l3"), scene.network("A", "10.9.0.0/24")
    l3 = scene.made("l3", routed)
    l2 = scene.made("l2", {"A": stretched, "B": None, "C": None})
    hosts = scene.boot_each({site: str(network) for site, network in routed.items()})
    ends = scene.boot_each(scene.networks_of(l2))
    everything = [*every_direction(hosts), *every_direction(ends)]
    assert scene.silent(everything, within=UP) == []

    def degraded() -> bool:
        services = [scene.show("B", one["id"]) for one in (l2, l3)]
        return all(one is not None and one["operating_status"] == "DEGRADED" for one in services)

    with frr_killed(scene, "B", daemons):
        assert eventually(lambda: scene.raw("B", "GET", "/readyz")[0] == 503, FRR_AWAY)
        assert eventually(degraded, FRR_AWAY), [scene.told(site) for site in scene.sites]
        between_others = [(one, other) for one, other in everything if "B" not in (one.site, other.site)]
        assert scene.silent(between_others, within=UP) == []
        new = scene.boot("B", scene.networks_of(l2)["B"])
        assert scene.silent([(new, ends[1]), (ends[1], new)], within=UP) == []
    assert eventually(lambda: scene.raw("B", "GET", "/readyz")[0] == 200, BACK)
    assert scene.silent([*everything, (new, ends[0]), (ends[2], new)], within=BACK) == []

    def online() -> bool:
        told = [scene.show(site, one["id"]) for site in scene.sites for one in (l2, l3)]
        return all(one is not None and one["operating_status"] == "ONLINE" for one in told)

    assert eventually(online, BACK), [scene.told(site) for site in scene.sites]
