"""The page, the picture and the bare calls of `bench create --south neutron`, without a Neutron."""

import asyncio
from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from itertools import count, pairwise
from typing import Any
from xml.etree import ElementTree

import pytest
from bench_results import floor, sample, some_results
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from diminet.bench import neutron_page as page
from diminet.bench import rivals
from diminet.bench.rivals import Bare, Floor, Paper
from diminet.bench.services import Draw

SITES = ("A", "B", "C")


def results(**given: Any) -> Any:
    usual = {
        "sites": (2, 6),
        "samples": (sample(seconds=0.12), sample(seconds=0.14), sample(sites=6, seconds=0.6)),
        "floor": (floor(), floor(sites=6, seconds=0.3)),
        "paper": (floor(seconds=0.2), floor(sites=6, seconds=1.5)),
    }
    return some_results(**{**usual, **given})


def test_ratios_are_of_means_and_none_of_nothing():
    assert page.ratio(results(), "diminet", "l3", "create", 2) == pytest.approx(1.3)
    assert page.ratio(results(), "paper", "l3", "create", 6) == pytest.approx(5.0)
    assert page.ratio(results(), "diminet", "l2", "create", 2) is None
    assert page.ratio(results(floor=()), "diminet", "l3", "create", 2) is None


def test_the_page_tells_means_errors_ratios_and_what_the_paper_measured():
    text = page.markdown(results(), json_name="x.json", figure_name="x.svg")
    assert "| 2 | 130 ± 10 | 100 | 200 | 1.30 | 2.00 | 3501 |" in text
    assert "| l3 create, N=6: DIMINET's mean to the floor's | at most 1.3 | 2.00 | **missed** |" in text
    lossy = page.markdown(results(failures=("l3, N=6, at A: slow",)), json_name="", figure_name="")
    assert "| at most 1.3 | 2.00 | **not told**: 1 of 1 rounds failed |" in lossy
    assert "Provisional" not in text
    assert "Provisional" in page.markdown(results(load=(5.0, 1.0)), json_name="", figure_name="")


def test_the_figure_has_a_line_for_each_of_the_three():
    root = ElementTree.fromstring(page.svg(results()))
    assert len(root.findall("{http://www.w3.org/2000/svg}polyline")) == 2 * 3
    ElementTree.fromstring(page.svg(results(samples=(), floor=(), paper=())))


@given(st.integers(2, 6))
def test_shares_are_apart_and_inside(sites):
    network = ip_network("10.4.1.0/24")
    seen: list[Any] = []
    for index in range(sites):
        pool = rivals.share(str(network), index, sites)
        first, last = ip_address(pool["start"]), ip_address(pool["end"])
        assert network[2] <= first <= last < network.broadcast_address
        seen.append((first, last))
    assert all(a[1] < b[0] for a, b in pairwise(seen))


@given(st.integers(1, 20_000), st.permutations("ABCDEF"))
def test_no_two_route_targets_are_the_same(serial, sites):
    drawn = Draw("l3", tuple(sites))
    whole = {rivals.target(serial, drawn, site) for site in sites}
    pairs = {rivals.target(serial, drawn, a, b) for a in sites for b in sites if a != b}
    after = {rivals.target(serial + 1, drawn, site) for site in sites}
    assert len(whole | pairs | after) == 6 + 30 + 6


class Recorder:
    """In a Neutron's place: what it is asked, and an id for each thing that is made."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self._ids: Iterator[int] = count()

    async def get(self, what: str, path: str, **_: Any) -> Any:
        self.calls.append(what)
        return {"network": {"project_id": "demo"}}

    async def list(self, what: str, path: str, key: str, **_: Any) -> Any:
        self.calls.append(what)
        return [{"id": "sub", "cidr": "10.4.1.0/24", "allocation_pools": [{"start": "a", "end": "b"}]}]

    async def post(self, what: str, path: str, body: Any) -> Any:
        self.calls.append(what)
        return {next(iter(body)): {"id": str(next(self._ids))}}

    async def put(self, what: str, path: str, body: Any) -> Any:
        self.calls.append(what)

    async def delete(self, what: str, path: str) -> bool:
        self.calls.append(what)
        return True


def asked(rival: type[Floor] | type[Paper], kind: Any) -> dict[str, list[str]]:
    """By site, without the preparation and the undoing; the first site receives."""

    async def work() -> dict[str, list[str]]:
        neutrons = {name: Recorder() for name in SITES}
        sites = {name: Bare(neutrons[name], n, SecretStr("t")) for n, name in enumerate(SITES)}  # type: ignore[arg-type]
        for bare in sites.values():
            await bare.prepare(kind, "net")
        for neutron in neutrons.values():
            neutron.calls.clear()
        played = rival(sites)
        await played.create(Draw(kind, SITES), 1)
        found = {name: list(neutron.calls) for name, neutron in neutrons.items()}
        await played.delete()
        for name, neutron in neutrons.items():
            undone = neutron.calls[len(found[name]) :]
            for made in ("create a BGP VPN", "create a network"):
                gone = made.replace("create", "delete")
                assert undone.count(gone) == found[name].count(made)
            assert undone.count("set pools") == found[name].count("set pools")
        return found

    return asyncio.run(work())


JOINED = ["create a BGP VPN", "associate a network"]


def test_the_floor_is_the_least_that_a_service_needs():
    assert asked(Floor, "l3") == {key: ["show a network", "list subnets", *JOINED] for key in SITES}
    made = ["create a network", "create a subnet", *JOINED]
    looked = ["show a network", "list subnets", "list ports"]
    assert asked(Floor, "l2") == {"A": [*looked, "set pools", *JOINED], "B": made, "C": made}


def test_the_papers_sequence_has_a_bgp_vpn_for_each_pair_and_site():
    assert asked(Paper, "l3") == {key: ["show a network", "show a subnet", *JOINED, *JOINED] for key in SITES}
    extended = ["list subnets", "create a network", "create a subnet", *JOINED, *JOINED]
    own = ["show a network", "show a subnet", *JOINED, *JOINED, "set pools"]
    assert asked(Paper, "l2") == {"A": own, "B": extended, "C": extended}
