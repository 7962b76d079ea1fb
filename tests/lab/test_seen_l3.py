"""What must be seen: networks of three sites, routed."""

import time

import pytest
from seen import BACK, UP, Scene, every_direction, fixtures

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]
scene, clean = fixtures()


def test_three_networks_then_one_site_is_removed(scene: Scene) -> None:
    networks = {site: scene.network(site, f"10.{n}.0.0/24") for n, site in enumerate("ABC", 1)}
    a, b, c = ends = scene.boot_each(networks)
    assert len(scene.silent(every_direction(ends), within=0)) == 6
    made = scene.create("l3", networks)
    assert (made.status, made.service["provisioning_status"]) == (201, "ACTIVE")
    assert scene.silent(every_direction(ends), within=UP) == []
    with scene.pinging(a, b) as one, scene.pinging(b, a) as other:
        time.sleep(1)
        assert scene.north("B").remove(made.service["id"], "C").status == 200
        assert scene.heard([(a, c), (b, c), (c, a), (c, b)], within=UP) == []
        time.sleep(1)
    assert one.sent > 40
    assert (one.lost, other.lost) == ([], [])
    assert scene.show("C", made.service["id"]) is None
    assert scene.delete(made.service["id"], at="A") == 204
    assert scene.heard([(a, b), (b, a)], within=UP) == []


def test_a_site_joins_what_runs_without_a_lost_packet(scene: Scene) -> None:
    networks = {site: scene.network(site, f"10.{n}.0.0/24") for n, site in enumerate("ABC", 11)}
    a, b, c = scene.boot_each(networks)
    service = scene.create("l3", {site: networks[site] for site in "AB"}).service
    assert scene.silent([(a, b), (b, a)], within=UP) == []
    with scene.pinging(a, b) as one, scene.pinging(b, a) as other:
        time.sleep(1)
        added = scene.north("C").add(
            service["id"], {"site": "C", "resource_id": networks["C"]}, via="B"
        )  # asked at the joining site
        assert (added.status, len(added.service["resources"])) == (200, 3)
        assert scene.silent(every_direction([a, b, c]), within=UP) == []
        time.sleep(1)
    assert (one.lost, other.lost) == ([], [])


def test_two_networks_of_one_site(scene: Scene) -> None:
    a1, a2 = scene.network("A", "10.21.0.0/24"), scene.network("A", "10.22.0.0/24")
    b = scene.network("B", "10.23.0.0/24")
    ends = [scene.boot("A", a1), scene.boot("A", a2), scene.boot("B", b)]
    assert scene.create("l3", [("A", a1), ("A", a2), ("B", b)]).status == 201
    assert scene.silent(every_direction(ends), within=UP) == []


@pytest.mark.parametrize("version", [4, 6])
def test_one_network_in_two_services_keeps_its_partners_apart(scene: Scene, version: int) -> None:
    cidrs = [f"10.3{n}.0.0/24" if version == 4 else f"fd00:3{n}::/64" for n in range(3)]
    networks = {site: scene.network(site, cidr) for site, cidr in zip("ABC", cidrs, strict=True)}
    a, b, c = scene.boot_each(networks)
    assert all((":" in one.ip) == (version == 6) for one in (a, b, c))
    first = scene.create("l3", {site: networks[site] for site in "BA"}, at="B")
    second = scene.create("l3", {site: networks[site] for site in "BC"}, at="C")
    assert (first.status, second.status) == (201, 201)
    assert scene.silent([(a, b), (b, a), (b, c), (c, b)], within=UP) == []
    assert len(scene.silent([(a, c), (c, a)], within=3)) == 2
    with scene.pinging(b, c) as going_on:
        time.sleep(0.5)
        assert scene.delete(first.service["id"], at="A") == 204
        assert scene.heard([(a, b), (b, a)], within=UP) == []
        time.sleep(0.5)
    assert going_on.lost == []


def test_two_services_join_the_same_networks(scene: Scene) -> None:
    """Either of them alone is enough, whichever is deleted first."""
    networks = {site: scene.network(site, f"10.6{n}.0.0/24") for n, site in enumerate("ABC")}
    a, b, c = scene.boot_each(networks)
    wide = scene.made("l3", networks)
    narrow = scene.made("l3", {site: networks[site] for site in "BA"}, at="B")
    assert scene.silent(every_direction([a, b, c]), within=UP) == []
    assert scene.delete(narrow["id"], at="A") == 204
    assert scene.silent(every_direction([a, b, c]), within=UP) == []
    narrow = scene.made("l3", {site: networks[site] for site in "BA"}, at="B")
    assert scene.delete(wide["id"], at="C") == 204
    assert scene.silent([(a, b), (b, a)], within=UP) == []
    assert scene.heard([(a, c), (c, a), (b, c), (c, b)], within=UP) == []


def test_one_network_with_both_versions(scene: Scene) -> None:
    networks = {
        site: scene.network(site, f"10.4{n}.0.0/24", f"fd00:4{n}::/64") for n, site in enumerate("ABC")
    }
    ends = scene.boot_each(networks)
    assert scene.create("l3", networks).status == 201
    assert scene.silent(every_direction(ends), within=UP) == []
    addresses = {one.site: scene.inside(one.site)[one.name][1] for one in ends}
    for one in ends:
        for other in ends:
            six = next(ip for ip in addresses[other.site] if ":" in ip)
            if one is not other:
                assert scene.reaches(one, six, within=UP), f"{one.path} -> {six}"


def test_two_projects_with_one_cidr_at_one_site_never_meet(scene: Scene) -> None:
    """The same addresses, even; each project's service reaches only its own."""
    ends = {}
    for who, far in (("token", "10.51.0.0/24"), ("other_token", "10.52.0.0/24")):
        near = {
            site: scene.network(site, cidr, who=who) for site, cidr in (("A", "10.50.0.0/24"), ("B", far))
        }
        ends[who] = [scene.boot(site, network, who) for site, network in near.items()]
        assert scene.create("l3", near, who=who).status == 201
    mine, others = ends["token"], ends["other_token"]
    assert mine[0].ip == others[0].ip
    assert scene.silent([*every_direction(mine), *every_direction(others)], within=UP) == []
    assert len(scene.silent([(mine[1], others[1]), (others[1], mine[1])], within=3)) == 2
    # what B's two instances ping at A is each its own: the other project's is switched off
    scene.vim("A").delete("ports", scene.vim("A").port(mine[0].name)["id"])
    assert scene.silent([(others[1], others[0])], within=BACK) == []
    assert not scene.reaches(mine[1], mine[0].ip, within=0)
