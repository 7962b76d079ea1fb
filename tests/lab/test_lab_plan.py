"""What a lab consists of, decided before anything is made."""

from ipaddress import IPv4Network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diminet.errors import BadSurroundings, InvalidRequest, SiteUnknown
from diminet.lab import plan, provision
from diminet.lab.supervisor import parse_ping
from diminet.lab.vim import address_of

STATE = Path("/run/some-lab")
SUBNET = IPv4Network("198.18.7.0/24")


def make(sites: int, **other: object) -> plan.LabPlan:
    return plan.make(STATE, sites, SUBNET, instance_command=("true",), **other)  # type: ignore[arg-type]


@given(st.integers(1, plan.MAX_SITES))
def test_every_name_number_address_and_device_is_its_own(sites: int) -> None:
    lab = make(sites)
    for what in ("name", "number", "wan_ip", "management_ip", "north", "east_west", "south"):
        assert len({getattr(site, what) for site in lab.sites}) == sites
    addresses = {site.wan_ip for site in lab.sites} | {one.wan_ip for one in lab.reflectors}
    assert len(addresses) == sites + len(lab.reflectors)
    hosts = [*lab.sites, *lab.reflectors]
    devices = {name for host in hosts for name in (host.port, host.relay_tap)}
    assert len(devices) == 2 * len(hosts)
    assert max(map(len, [*devices, lab.host_device])) <= 14  # one letter is added to some, of 15 at most
    outside = {lab.host_ip, lab.supervisor_ip}
    assert len(outside) == 2
    assert not outside & {site.management_ip for site in lab.sites}


@given(st.integers(1, plan.MAX_SITES))
def test_one_reflector_for_three_sites_and_two_for_each_where_there_are_two(sites: int) -> None:
    lab = make(sites)
    assert len(lab.reflectors) == (sites + 2) // 3
    known = {one.wan_ip for one in lab.reflectors}
    for site in lab.sites:
        assert len(set(site.reflectors)) == len(site.reflectors) == min(2, len(known))
        assert set(site.reflectors) <= known
    assert {ip for site in lab.sites for ip in site.reflectors} == known


def test_names_are_letters_then_numbers() -> None:
    names = [site.name for site in make(28).sites]
    assert names[:3] == ["A", "B", "C"]
    assert names[25:] == ["Z", "S27", "S28"]


@pytest.mark.parametrize("sites", [0, -1, plan.MAX_SITES + 1])
def test_number_of_sites_has_bounds(sites: int) -> None:
    with pytest.raises(InvalidRequest, match="1 to 100 sites"):
        make(sites)


def test_delay_has_bounds() -> None:
    with pytest.raises(InvalidRequest, match="ms one way"):
        make(2, wan_delay_ms=1e9)
    with pytest.raises(InvalidRequest, match="ms one way"):
        make(2, wan_delay_ms=float("nan"))


@given(st.text(min_size=1, max_size=40), st.sets(st.integers(0, 511), max_size=40))
def test_management_subnet_is_free(name: str, taken: set[int]) -> None:
    networks = list(plan.MANAGEMENT_POOL.subnets(new_prefix=24))
    used = [networks[index] for index in taken]
    chosen = plan.free_management_subnet(Path("/run") / name.replace("/", "").replace("\0", ""), used)
    assert chosen.subnet_of(plan.MANAGEMENT_POOL)
    assert not any(chosen.overlaps(other) for other in used)


def test_no_management_subnet_left() -> None:
    with pytest.raises(BadSurroundings, match="end another lab"):
        plan.free_management_subnet(STATE, [plan.MANAGEMENT_POOL])


def test_unknown_site_is_named_with_those_that_are_known() -> None:
    with pytest.raises(SiteUnknown, match="'Z'; it has A, B"):
        make(2).site("Z")


def test_pairs_and_endpoints() -> None:
    assert plan.pair("B", "A") == plan.pair("A", "B")
    with pytest.raises(InvalidRequest):
        plan.pair("A", "A")
    assert plan.endpoint("A/vm1") == ("A", "vm1")
    for bad in ("A", "/vm1", "A/", "A/b/c", ""):
        with pytest.raises(InvalidRequest, match="SITE/INSTANCE"):
            plan.endpoint(bad)


def test_host_device_differs_by_state_directory() -> None:
    assert plan.host_device(STATE) != plan.host_device(Path("/run/other-lab"))


def test_provisioned_files_are_what_the_instance_reads(tmp_path: Path) -> None:
    from diminet import config
    from diminet.directory import file as directory_file
    from diminet.identity import file as identity_file

    lab = plan.make(tmp_path, 3, SUBNET, instance_command=("true",))
    tokens = provision.new_tokens()
    provision.make_authority(lab)
    settings = config.load(provision.provision(lab, lab.sites[1], tokens))
    assert (settings.site.name, settings.site.number) == ("B", 2)
    assert settings.south.vtep_ip == "100.64.0.2"
    assert settings.east_west.cert.exists()
    assert settings.east_west.key.stat().st_mode & 0o077 == 0
    sites = directory_file.load(settings.directory.path, "B", 2)
    assert [site.east_west_url for site in sites.values()] == [s.east_west_wan for s in lab.sites]
    known = {entry.sha256: entry for entry in identity_file.load(settings.identity.path).tokens}
    entry = known[identity_file.hash_token(tokens.admin_token)]
    assert (entry.role, entry.expires_at is not None) == ("admin", True)
    content = provision.write_lab_file(lab, tokens)
    assert (tmp_path / "lab.json").stat().st_mode & 0o077 == 0
    assert set(content["sites"][0]) == {
        "name", "number", "north", "east_west", "south", "token", "other_token", "admin_token",
    }  # fmt: skip


def test_ping_output() -> None:
    good = "3 packets transmitted, 2 received, 33% packet loss\nrtt min/avg/max/mdev = 0.1/0.25/0.4/0.1 ms"
    assert parse_ping(good) == {"sent": 3, "received": 2, "rtt_ms": 0.25}
    assert parse_ping("5 packets transmitted, 0 received, +5 errors") == {
        "sent": 5,
        "received": 0,
        "rtt_ms": None,
    }
    assert parse_ping("ping: connect: Network is unreachable")["received"] == 0
    with pytest.raises(BadSurroundings, match="could not be run"):
        parse_ping("nsenter: cannot open /x")


def test_ping_prefers_ipv4() -> None:
    port = {"id": "p", "fixed_ips": [{"ip_address": "fd00::5"}, {"ip_address": "10.0.0.5"}]}
    assert address_of(port, "A") == "10.0.0.5"
