"""What must be seen: a site is cut off from all others, goes on alone, and finds its way back."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from seen import ANSWERED, BACK, UP, Instance, Scene, eventually, every_direction, fixtures

from diminet.client import ApiError
from diminet.lab.plan import Plane

pytestmark = [pytest.mark.lab, pytest.mark.timeout(400)]
scene, clean = fixtures()
STOPPED = 15.0  # seconds from a cut until nothing crosses it


@contextmanager
def isolated(scene: Scene, site: str, plane: Plane = "all") -> Iterator[None]:
    scene.lab.isolate(site, plane)
    try:
        yield
    finally:
        scene.lab.heal()


def stretched(scene: Scene, cidr: str) -> tuple[str, dict[str, str], list[Instance]]:
    """An L2 service over all, with two instances at each site: its id, networks, instances."""
    service = scene.made("l2", {"A": scene.network("A", cidr), "B": None, "C": None})
    networks = scene.networks_of(service)
    ends = scene.boot_each(networks, 2)
    assert scene.silent(every_direction(ends), within=UP) == []
    return service["id"], networks, ends


def test_inside_and_elsewhere_all_goes_on(scene: Scene) -> None:
    service_id, networks, ends = stretched(scene, "10.1.0.0/24")
    routed = {site: scene.network(site, f"10.2{n}.0.0/24") for n, site in enumerate("ABC")}
    scene.made("l3", routed, at="C")
    hosts = scene.boot_each(routed)
    assert scene.silent(every_direction(hosts), within=UP) == []
    by_site = {site: [one for one in ends if one.site == site] for site in scene.sites}
    crossing = [pair for pair in every_direction(ends) if {one.site for one in pair} & {"C"}]
    crossing = [(one, other) for one, other in crossing if one.site != other.site]
    a, c = by_site["A"], by_site["C"]
    with isolated(scene, "C"):
        with (
            scene.pinging(c[0], c[1]) as inside,
            scene.pinging(a[0], by_site["B"][0]) as elsewhere,
            scene.pinging(hosts[0], hosts[1]) as routed_elsewhere,
        ):
            assert scene.heard(crossing, within=STOPPED) == []
            new = [scene.boot("C", networks["C"]) for _ in range(3)]
            assert scene.silent(every_direction([*c, *new]), within=UP) == []
            time.sleep(12)  # longer than BGP's hold time, and than an interval of exchanges
        assert (inside.lost, elsewhere.lost, routed_elsewhere.lost) == ([], [], [])
        assert scene.show("C", service_id) is not None  # reads are served
    others = [scene.boot(site, networks[site]) for site in "AB"]
    everyone = [*ends, *new, *others]
    assert len({one.ip for one in everyone}) == len({one.mac for one in everyone}) == len(everyone)
    assert scene.silent([(one, other) for one in (*a, *c) for other in new if one is not other], BACK) == []
    assert scene.silent([*crossing, *every_direction(hosts)], within=BACK) == []
    assert eventually(lambda: all(scene.active(site, service_id) for site in scene.sites), BACK)


def test_a_cut_of_the_data_plane_alone_is_told(scene: Scene) -> None:
    """BGP and the instances speak with one another all the while."""
    service_id, _, ends = stretched(scene, "10.1.0.0/24")
    by_site = {one.site: one for one in ends}

    def told(at: str) -> tuple[str, list[str]]:
        service = scene.show(at, service_id)
        assert service is not None
        return service["operating_status"], [said for said in service["warnings"] if "UDP 4789" in said]

    assert eventually(lambda: told("A") == ("ONLINE", []), BACK)
    with isolated(scene, "C", "data"):
        assert scene.heard([(by_site["A"], by_site["C"])], within=STOPPED) == []
        assert eventually(lambda: told("A")[0] == told("C")[0] == "DEGRADED", BACK)
        assert len(told("A")[1]) == 1
        assert len(told("C")[1]) == 2
        assert scene.silent([(by_site["A"], by_site["B"])], within=UP) == []
    assert scene.silent([(by_site["A"], by_site["C"])], within=BACK) == []
    assert eventually(lambda: told("A") == ("ONLINE", []), BACK)


@pytest.mark.parametrize("kind", ["l2", "l3"])
def test_a_create_that_names_it_is_undone(scene: Scene, kind: str) -> None:
    entries = {site: scene.network(site, f"10.{n}.0.0/24") for n, site in enumerate("ABC", 1)}
    wanted = entries if kind == "l3" else {"A": entries["A"], "B": None, "C": None}
    before = scene.state()
    with isolated(scene, "C"):
        began = time.monotonic()
        error = scene.refusal(kind, wanted, at="A")
        assert time.monotonic() - began <= ANSWERED
        assert (error.status, error.word) == (503, "site-unreachable")
        assert error.document["sites"] == ["C"]
        assert "C" in error.message
        assert error.retry_after
        assert scene.differences({site: before[site] for site in "AB"}, within=UP) == []
    assert scene.differences(before) == []
    assert scene.create(kind, wanted, at="A").status == 201


@pytest.mark.parametrize("kind", ["l2", "l3"])
def test_a_deferred_create_completes_by_itself(scene: Scene, kind: str) -> None:
    networks = {site: scene.network(site, f"10.{n}.0.0/24") for n, site in enumerate("ABC", 1)}
    wanted = networks if kind == "l3" else {"A": networks["A"], "B": None, "C": None}
    with isolated(scene, "C"):
        answer = scene.create(kind, wanted, at="A", on_unreachable="defer")
        assert answer.status == 202
        service_id = answer.service["id"]
        assert answer.headers["location"].endswith(f"/intersite-vertical/{service_id}")
        told = scene.show("A", service_id)
        assert told is not None
        assert (told["provisioning_status"], told["operating_status"]) == ("ACTIVE", "DEGRADED")
        missing = next(entry for entry in told["resources"] if entry["site"] == "C")
        assert missing["provisioning_status"] == "PENDING_CREATE"
        if kind == "l2":
            networks = {entry["site"]: entry["resource_id"] for entry in told["resources"]}
        a, b = ends = [scene.boot(site, networks[site]) for site in "AB"]
        assert scene.silent([(a, b), (b, a)], within=UP) == []
        going_on = scene.pinging(a, b)
        with going_on as pings:
            scene.lab.heal()
            assert eventually(lambda: all(scene.active(site, service_id) for site in scene.sites), BACK)
    assert pings.lost == []
    told = scene.show("C", service_id)
    assert told is not None
    networks = {entry["site"]: entry["resource_id"] for entry in told["resources"]}
    ends.append(scene.boot("C", networks["C"]))
    assert scene.silent(every_direction(ends), within=BACK) == []
    assert len({one.ip for one in ends}) == 3
    assert eventually(lambda: scene.show("A", service_id)["operating_status"] == "ONLINE", BACK)  # type: ignore[index]


@pytest.mark.parametrize("asked", ["A", "B"])
@pytest.mark.parametrize("kind", ["l2", "l3"])
def test_a_delete_during_the_cut_is_carried_out_after_it(scene: Scene, kind: str, asked: str) -> None:
    networks = {site: scene.network(site, f"10.{n}.0.0/24") for n, site in enumerate("ABC", 1)}
    before = scene.state()
    wanted = networks if kind == "l3" else {"A": networks["A"], "B": None, "C": None}
    service_id = scene.made(kind, wanted, at="A")["id"]
    with isolated(scene, "C"):
        assert scene.delete(service_id, at=asked) == 202
        told = scene.show("A", service_id)
        assert told is not None
        assert (told["provisioning_status"], told["waiting"]) == ("PENDING_DELETE", ["C"])
        assert scene.delete(service_id, at="A") == 202  # repeating it is harmless
    assert scene.differences(before) == []
    assert all(scene.show(site, service_id) is None for site in scene.sites)


@pytest.mark.parametrize("kind", ["l2", "l3"])
def test_a_delete_asked_at_the_site_that_is_cut_off(scene: Scene, kind: str) -> None:
    """Its master is away: the delete is queued there and carried out after the cut."""
    networks = {site: scene.network(site, f"10.{n}.0.0/24") for n, site in enumerate("ABC", 1)}
    before = scene.state()
    wanted = networks if kind == "l3" else {"A": networks["A"], "B": None, "C": None}
    service_id = scene.made(kind, wanted, at="A")["id"]
    with isolated(scene, "C"):
        assert scene.delete(service_id, at="C") == 202
        told = scene.show("C", service_id)
        assert told is not None
        assert told["provisioning_status"] == "PENDING_DELETE"
    assert scene.differences(before) == []


@pytest.mark.parametrize("kind", ["l2", "l3"])
def test_the_site_that_is_cut_off_is_removed(scene: Scene, kind: str) -> None:
    """At once as far as the others are concerned; itself when it hears of it."""
    networks = {site: scene.network(site, f"10.{n}.0.0/24") for n, site in enumerate("ABC", 1)}
    wanted = networks if kind == "l3" else {"A": networks["A"], "B": None, "C": None}
    service = scene.made(kind, wanted, at="A")
    networks = scene.networks_of(service) if kind == "l2" else networks
    a, b, c = scene.boot_each(networks)
    assert scene.silent(every_direction([a, b, c]), within=UP) == []
    with isolated(scene, "C"):
        assert scene.north("B").remove(service["id"], "C").status in (200, 202)
        assert scene.silent([(a, b), (b, a)], within=UP) == []
        scene.boot("A", networks["A"])
    time.sleep(UP)
    assert scene.heard([(a, c), (c, a), (b, c), (c, b)], within=BACK) == []
    assert scene.silent([(a, b), (b, a)], within=UP) == []
    assert eventually(lambda: scene.show("C", service["id"]) is None, BACK)


def test_changes_during_the_cut(scene: Scene) -> None:
    """What needs no word from C is done, what does is refused and changes nothing; all agree afterwards."""
    networks = {site: scene.network(site, f"10.{n}.0.0/24") for n, site in enumerate("ABC", 1)}
    more = scene.network("B", "10.9.0.0/24")
    service_id = scene.made("l3", networks)["id"]
    with isolated(scene, "C"):
        with pytest.raises(ApiError) as refusal:
            scene.north("A").add(service_id, {"site": "B", "resource_id": more})
        assert refusal.value.word == "site-unreachable"
        told = scene.show("A", service_id)
        assert told is not None
        assert (told["provisioning_status"], len(told["resources"])) == ("ACTIVE", 3)
    assert eventually(lambda: all(scene.active(site, service_id) for site in scene.sites), BACK)
    assert scene.north("A").add(service_id, {"site": "B", "resource_id": more}).status == 200
    pairs = [scene.show(site, service_id)["revision"] for site in scene.sites]  # type: ignore[index]
    assert len(set(pairs)) == 1


def test_a_share_grows_while_the_master_cannot_be_reached(scene: Scene) -> None:
    """B asks C for blocks; A keeps its own and goes on with them."""
    service = scene.made("l2", {"A": scene.network("A", "10.1.0.0/26"), "B": None, "C": None})
    networks = scene.networks_of(service)
    with isolated(scene, "A"):
        booted = [scene.boot("B", networks["B"]) for _ in range(26)]
        booted += [scene.boot("A", networks["A"]) for _ in range(8)]
    booted += [scene.boot("C", networks["C"]) for _ in range(2)]
    assert len({one.ip for one in booted}) == len({one.mac for one in booted}) == len(booted)
    assert scene.silent([(booted[0], booted[26]), (booted[26], booted[-1])], within=BACK) == []


def test_a_cut_between_two_only(scene: Scene) -> None:
    """B and C do not see each other; both go on with A."""
    service_id, networks, ends = stretched(scene, "10.1.0.0/24")
    a, b, c = ends[::2]
    scene.lab.cut("B", "C")
    try:
        assert scene.heard([(b, c), (c, b)], within=STOPPED) == []
        assert scene.silent([(a, b), (b, a), (a, c), (c, a)], within=UP) == []
        new = [scene.boot(site, networks[site]) for site in "BC"]
    finally:
        scene.lab.heal("B", "C")
    everyone = [*ends, *new]
    assert len({one.ip for one in everyone}) == len(everyone)
    assert scene.silent([(b, c), (c, b), *every_direction(new)], within=BACK) == []
    assert eventually(lambda: all(scene.active(site, service_id) for site in scene.sites), BACK)
