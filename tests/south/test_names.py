"""Names and MACs of a linux site."""

import re
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from diminet.south.linux import names

ids = st.uuids().map(str)
numbers = st.integers(1, 4095)
vnis = st.integers(1, 2**24 - 1)


@given(ids, vnis)
def test_device_names_fit_the_kernel(identifier: str, vni: int) -> None:
    made = [
        names.bridge(identifier),
        names.port(identifier),
        names.port_inside(identifier),
        names.gateway_port(identifier),
        names.service_port(identifier),
        names.network_port(identifier),
        names.vxlan(vni),
        names.vrf_bridge(vni),
    ]
    assert all(0 < len(name) <= 15 for name in made)
    assert len(set(made)) == len(made)
    assert len(names.vrf(identifier)) <= 35


@given(ids)
def test_namespaces_give_their_ids_back(identifier: str) -> None:
    assert names.service_of_vrf(names.vrf(identifier)) == identifier
    assert names.network_of_gateway(names.gateway_namespace(identifier)) == identifier


def test_other_namespaces_are_not_ours() -> None:
    assert names.service_of_vrf("vm1") is None
    assert names.service_of_vrf("v" + "z" * 32) is None
    assert names.network_of_gateway("gw-x") is None


@given(ids, st.sampled_from(["", "anycast", "02:00:00:00:00:01"]))
def test_aliases_are_read_back(identifier: str, detail: str) -> None:
    alias = names.Alias("port", identifier, detail)
    assert names.parse_alias(alias.text()) == alias
    assert len(alias.text()) < 256


def test_foreign_aliases_are_not_ours() -> None:
    assert names.parse_alias(None) is None
    assert names.parse_alias("uplink to the other building") is None


@given(numbers, numbers, ids, ids)
def test_macs_of_two_sites_differ(one: int, two: int, left: str, right: str) -> None:
    if one != two:
        assert names.port_mac(one, left) != names.port_mac(two, right)
        assert names.router_mac(one, 77) != names.router_mac(two, 77)


@given(numbers, ids, vnis)
def test_macs_are_local_unicast_and_carry_the_site(number: int, identifier: str, vni: int) -> None:
    for mac in (
        names.port_mac(number, identifier),
        names.gateway_mac(number, identifier),
        names.router_mac(number, vni),
    ):
        assert re.fullmatch(r"([0-9a-f]{2}:){5}[0-9a-f]{2}", mac)
        assert int(mac[:2], 16) & 3 == 2
        assert int(mac.replace(":", "")[2:5], 16) == number


def test_another_attempt_gives_another_mac() -> None:
    identifier = str(UUID(int=7))
    assert len({names.port_mac(3, identifier, attempt) for attempt in range(20)}) == 20
