"""What must be seen: one network stretched over three sites."""

import time
from collections.abc import Sequence
from ipaddress import ip_address

import pytest
from seen import BACK, UP, Instance, Scene, eventually, every_direction, fixtures

from diminet.errors import SiteRefused, SiteUnreachable

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]
scene, clean = fixtures()


def within(ip: str, pools: Sequence[tuple[str, str]]) -> bool:
    return any(ip_address(first) <= ip_address(ip) <= ip_address(last) for first, last in pools)


def check_addresses(scene: Scene, service_id: str, instances: Sequence[Instance]) -> None:
    """Distinct, as the instances themselves have them; each from its own site's pool, none from another's."""
    inside = {site: scene.inside(site) for site in {one.site for one in instances}}
    assert {one.mac for one in instances} == {inside[one.site][one.name][0] for one in instances}
    ips = [ip for one in instances for ip in inside[one.site][one.name][1]]
    assert sorted(ips) == sorted({one.ip for one in instances}), instances
    assert len(ips) == len({one.mac for one in instances}) == len(instances)
    pools = {site: scene.pools(site, service_id) for site in inside}
    for one in instances:
        assert [site for site in pools if within(one.ip, pools[site])] == [one.site], (one, pools)


def stretched(scene: Scene, cidr: str, existing: int = 0, **fields: object) -> tuple[str, dict[str, str]]:
    """From a network of A, with instances, to B and C, where nothing exists: id, network of each site."""
    origin = scene.network("A", cidr)
    for _ in range(existing):
        scene.boot("A", origin)
    made = scene.create("l2", {"A": origin, "B": None, "C": None}, **fields)
    assert (made.status, made.service["provisioning_status"]) == (201, "ACTIVE")
    return made.service["id"], scene.networks_of(made.service)


@pytest.mark.parametrize(("cidr", "count"), [("10.1.0.0/24", 20), ("10.2.0.0/26", 15)])
def test_instances_at_once_at_three_sites(scene: Scene, cidr: str, count: int) -> None:
    origin = scene.network("A", cidr)
    before = scene.boot_each({"A": origin}, 3)
    service_id, networks = None, {}
    with scene.pinging(before[0], before[1]) as inside:
        made = scene.create("l2", {"A": origin, "B": None, "C": None})
        assert (made.status, made.service["provisioning_status"]) == (201, "ACTIVE")
        service_id, networks = made.service["id"], scene.networks_of(made.service)
    assert inside.lost == []
    for site in "BC":
        (subnet,) = scene.vim(site).found("subnets", network_id=networks[site])
        assert subnet["cidr"] == cidr
    booted = scene.boot_each(networks, count)
    assert len(booted) == 3 * count
    check_addresses(scene, service_id, booted)
    ends = [one for site in scene.sites for one in booted if one.site == site][:: count // 3]
    assert {one.site for one in ends} == set(scene.sites)
    assert scene.silent(every_direction([before[0], *ends]), within=2 * UP) == []


def test_a_share_that_is_empty_grows_by_itself(scene: Scene) -> None:
    """B boots more than its whole share of a /26."""
    service_id, networks = stretched(scene, "10.3.0.0/26")
    booted = [scene.boot("B", networks["B"]) for _ in range(35)]
    check_addresses(scene, service_id, booted)
    assert eventually(lambda: scene.silent([(booted[-1], booted[0])], within=UP) == [], UP)


def test_a_share_grows_while_the_master_is_away(scene: Scene) -> None:
    service_id, networks = stretched(scene, "10.4.0.0/26")
    far = scene.boot("A", networks["A"])
    scene.lab.crash("A")
    try:
        booted = [scene.boot("B", networks["B"]) for _ in range(30)]
        assert scene.reaches(booted[-1], far.ip, within=UP)  # the data plane stays
    finally:
        scene.lab.restart("A")
    check_addresses(scene, service_id, [far, *booted])
    end = scene.boot("A", networks["A"])
    check_addresses(scene, service_id, [far, end, *booted])


def boot_until_refused(scene: Scene, site: str, networks: dict[str, str]) -> list[Instance]:
    booted: list[Instance] = []
    try:
        while len(booted) < 20:
            booted.append(scene.boot(site, networks[site]))
    except SiteRefused as error:
        if "address" in error.message.lower():
            return booted
        raise
    raise AssertionError("a /28 cannot have so many addresses")


def test_the_last_address_and_no_other(scene: Scene) -> None:
    """A /28 until nothing is left anywhere: as many instances as there are addresses, then a clear refusal;
    what is given up at one site serves another."""
    service_id, networks = stretched(scene, "10.5.0.0/28", params={"gateway": "none"})
    booted = boot_until_refused(scene, "C", networks)
    assert len(booted) >= 8
    check_addresses(scene, service_id, booted)
    others = [one for site in "AB" for one in boot_until_refused(scene, site, networks)]
    check_addresses(scene, service_id, [*booted, *others])
    for one in booted:
        scene.vim("C").delete("ports", scene.vim("C").port(one.name)["id"])
    again = [scene.boot("B", networks["B"]) for _ in range(4)]
    check_addresses(scene, service_id, [*others, *again])


def test_more_room_on_request(scene: Scene) -> None:
    service_id, _ = stretched(scene, "10.6.0.0/24")

    def room() -> int:
        pools = scene.pools("B", service_id)
        return sum(int(ip_address(last)) - int(ip_address(first)) + 1 for first, last in pools)

    before = room()
    answer = scene.north("B").request("POST", f"/intersite-vertical/{service_id}/pools", {"pool": {}})
    assert answer.status == 200
    assert room() > before


@pytest.mark.parametrize("gateway", ["local", "shared", "none"])
def test_gateways(scene: Scene, gateway: str) -> None:
    service_id, networks = stretched(scene, "10.7.0.0/24", params={"gateway": gateway})
    ends = scene.boot_each(networks)
    assert scene.silent(every_direction(ends), within=UP) == []
    gateways = {
        site: scene.vim(site).found("subnets", network_id=network)[0]["gateway_ip"]
        for site, network in networks.items()
    }
    different = {"local": 3, "shared": 1, "none": 1}[gateway]
    assert len(set(gateways.values())) == different
    assert (None in gateways.values()) == (gateway == "none")
    for one in ends:
        address = gateways[one.site]
        if address is None:
            continue
        assert scene.reaches(one, address, within=UP)
        neighbour = scene.on_site(
            one.site, "nsenter", f"--net={scene.namespace(one)}", "ip", "neigh", "show", address
        )
        assert ("00:00:5e:00:01:01" in neighbour) == (gateway == "shared"), neighbour
    check_addresses(scene, service_id, ends)


def test_two_services_of_two_projects_with_one_cidr(scene: Scene) -> None:
    ends = {}
    for who in ("token", "other_token"):
        origin = scene.network("A", "10.8.0.0/24", who=who)
        service = scene.create("l2", {"A": origin, "B": None}, who=who).service
        networks = scene.networks_of(service)
        ends[who] = [scene.boot(site, networks[site], who) for site in "AB"]
    assert [one.ip for one in ends["token"]] == [one.ip for one in ends["other_token"]]
    for pair in ends.values():
        assert scene.silent(every_direction(pair), within=UP) == []
    # with the first project's instance at B gone, its address is silent for that project alone
    gone = ends["token"][1]
    scene.vim("B").delete("ports", scene.vim("B").port(gone.name)["id"])
    assert scene.reaches(ends["other_token"][0], gone.ip, within=UP)
    assert not scene.reaches(ends["token"][0], gone.ip, within=0)


def test_a_site_joins_and_another_leaves(scene: Scene) -> None:
    origin = scene.network("A", "10.9.0.0/24")
    service = scene.create("l2", {"A": origin, "B": None}).service
    networks = scene.networks_of(service)
    a, b = scene.boot_each(networks)
    assert scene.silent([(a, b), (b, a)], within=UP) == []
    with scene.pinging(a, b) as going_on:
        joined = scene.north("A").add(service["id"], {"site": "C"})
        assert joined.status == 200
        networks = scene.networks_of(joined.service)
        c = scene.boot("C", networks["C"])
        assert scene.silent(every_direction([a, b, c]), within=UP) == []
        check_addresses(scene, service["id"], [a, b, c])
    assert going_on.lost == []
    with scene.pinging(a, c) as going_on:
        assert scene.north("C").remove(service["id"], "B").status == 200
        assert scene.heard([(a, b), (b, a), (c, b)], within=UP) == []
        time.sleep(0.5)
    assert going_on.lost == []
    more = [scene.boot("C", networks["C"]) for _ in range(3)]
    addresses = [one.ip for one in (a, c, *more)]
    assert len(set(addresses)) == len(addresses)


def test_an_existing_network_that_is_clean_is_taken(scene: Scene) -> None:
    a, b = scene.network("A", "10.10.0.0/24"), scene.network("B", "10.10.0.0/24")
    service = scene.create("l2", {"A": a, "B": b}).service
    assert scene.networks_of(service) == {"A": a, "B": b}
    ends = scene.boot_each({"A": a, "B": b}, 2)
    check_addresses(scene, service["id"], ends)
    assert scene.silent(every_direction(ends), within=UP) == []


def test_ipv6_with_stateful_addresses(scene: Scene) -> None:
    service_id, networks = stretched(scene, "fd00:9::/64", existing=1)
    ends = scene.boot_each(networks, 3)
    check_addresses(scene, service_id, ends)
    assert scene.silent(every_direction(ends), within=UP) == []


def test_a_network_that_got_instances_stays_with_its_tenant(scene: Scene) -> None:
    """What DIMINET made and a tenant uses is not deleted, and a warning names it."""
    service_id, networks = stretched(scene, "10.11.0.0/24")
    left = scene.boot("B", networks["B"])
    assert scene.delete(service_id, at="C") == 204
    assert scene.vim("B").found("networks", id=networks["B"]) != []
    assert scene.vim("C").found("networks", id=networks["C"]) == []
    other = scene.boot("B", networks["B"])  # it is an ordinary network now
    assert scene.silent([(left, other)], within=BACK) == []


def test_the_vim_of_a_crashed_instance_is_away_and_no_more(scene: Scene) -> None:
    _, networks = stretched(scene, "10.12.0.0/24")
    ends = scene.boot_each(networks)
    assert scene.silent(every_direction(ends), within=UP) == []
    scene.lab.crash("B")
    try:
        with pytest.raises(SiteUnreachable):
            scene.vim("B").found("ports")
        assert scene.lab.status()["sites"][1]["instance"] == "crashed"
        a, c = ends[0], ends[2]
        assert scene.silent([(a, c), (c, a)], within=UP) == []
        assert scene.reaches(a, ends[1].ip, within=UP)
    finally:
        scene.lab.restart("B")
    assert scene.silent(every_direction(ends), within=BACK) == []
