"""What must be seen: how many messages a create costs, and who hears of it; creates that meet."""

import re
import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
from seen import ANSWERED, UP, Entries, Scene, every_direction, fixtures

from diminet.client import ApiError

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]
scene, clean = fixtures()
ROUNDS = 3  # of each conflict
SYNC = 12.0  # seconds: more than one interval of exchanges between sites
CONFLICT = {"resource-busy", "cidr-overlap"}

_COUNT = """
table inet seen {
  chain in {
    type filter hook input priority -300
    iifname wan0 tcp dport 9791 counter comment "in"
  }
  chain out {
    type filter hook output priority -300
    oifname wan0 tcp dport 9791 counter comment "out"
  }
}
"""


class Traffic:
    """Packets on the WAN from and to port 9791, at the site itself."""

    def __init__(self, scene: Scene, site: str) -> None:
        self._scene, self._site = scene, site

    def packets(self) -> dict[str, int]:
        text = self._scene.on_site(self._site, "nft", "list", "table", "inet", "seen")
        return {name: int(count) for count, name in re.findall(r'packets (\d+) .*comment "(\w+)"', text)}


@contextmanager
def counted(scene: Scene, *sites: str) -> Iterator[dict[str, Traffic]]:
    try:
        for site in sites:
            scene.on_site(site, "sh", "-c", f"nft -f - <<'END'\n{_COUNT}\nEND")
        yield {site: Traffic(scene, site) for site in sites}
    finally:
        for site in sites:
            scene.on_site(site, "sh", "-c", "nft delete table inet seen 2>/dev/null; true")


@pytest.mark.parametrize("kind", ["l2", "l3"])
@pytest.mark.parametrize("sites", ["AB", "BCA"])
def test_a_create_costs_two_requests_for_each_other_site(scene: Scene, kind: str, sites: str) -> None:
    networks: dict[str, str | None] = {
        site: scene.network(site, f"10.{n}.0.0/24") if kind == "l3" or n == 1 else None
        for n, site in enumerate(sites, 1)
    }
    request_id = f"req-{uuid.uuid4()}"
    with counted(scene, *scene.sites) as traffic:
        assert scene.create(kind, networks, request_id=request_id).status == 201
        received = {site: scene.messages(site, request_id) for site in scene.sites}
        if set(sites) != set(scene.sites):
            time.sleep(SYNC)
        for site in scene.sites:
            packets = traffic[site].packets()
            if site in sites:
                assert sum(packets.values()) > 0, f"{site}: {packets}"
            else:
                assert packets == {"in": 0, "out": 0}, f"{site} is not concerned: {packets}"
    others = sites[1:]
    assert sum(sum(kinds.values()) for kinds in received.values()) == 2 * len(others), received
    assert all(received[site] == {"reserve": 1, "put": 1} for site in others), received
    assert received == {site: scene.messages(site, request_id) for site in scene.sites}


@dataclass(frozen=True)
class Result:
    status: int
    word: str
    message: str
    seconds: float
    service_id: str | None


def at_once(scene: Scene, requests: Sequence[tuple[str, str, Entries]]) -> list[Result]:
    """Each (site asked, type, entries), all at the same moment."""

    def ask(request: tuple[str, str, Entries]) -> Result:
        site, kind, entries = request
        began = time.monotonic()
        try:
            answer = scene.create(kind, entries, at=site)
        except ApiError as error:
            return Result(error.status, error.word, error.message, time.monotonic() - began, None)
        return Result(answer.status, "", "", time.monotonic() - began, answer.service["id"])

    with ThreadPoolExecutor(max_workers=len(requests)) as pool:
        return list(pool.map(ask, requests))


def check(scene: Scene, results: Sequence[Result], most: int) -> None:
    """At least one, at most `most` succeed; the others are refused in time, and are nowhere."""
    made = [one.service_id for one in results if one.status == 201]
    assert 1 <= len(made) <= most, list(map(str, results))
    assert all(one.word in CONFLICT for one in results if one.status != 201), [str(one) for one in results]
    assert all(one.seconds <= ANSWERED for one in results), results
    for site in scene.sites:
        active = {s["id"] for s in scene.services(site) if s["provisioning_status"] != "PENDING_DELETE"}
        assert active <= set(made), (site, results)


@pytest.mark.parametrize("turn", range(ROUNDS))
def test_two_creates_that_conflict(scene: Scene, turn: int) -> None:
    """B's network would reach two that overlap."""
    b = scene.network("B", "10.2.0.0/24")
    a, c = scene.network("A", "10.1.0.0/24"), scene.network("C", "10.1.0.0/16")
    with_a, with_c = {"A": a, "B": b}, {"C": c, "B": b}
    second = "B" if turn % 2 else "C"
    check(scene, at_once(scene, [("A", "l3", with_a), (second, "l3", with_c)]), most=1)


@pytest.mark.parametrize("turn", range(ROUNDS))
@pytest.mark.parametrize("kind", ["l2", "l3"])
def test_three_creates_in_a_circle(scene: Scene, kind: str, turn: int) -> None:
    """A with B asked at A, B with C at B, C with A at C: each two of them conflict."""
    entries: list[tuple[str, str, Entries]] = []
    if kind == "l2":
        ring = {site: scene.network(site, "10.1.0.0/24") for site in "ABC"}
        entries = [(one, "l2", {one: ring[one], other: ring[other]}) for one, other in ("AB", "BC", "CA")]
    else:
        ring = {site: scene.network(site, f"10.{n}.0.0/24") for n, site in enumerate("ABC", 1)}
        # The same CIDR in each of the three: no network may reach two of them.
        extra = {site: scene.network(site, "10.9.0.0/24") for site in "ABC"}
        entries = [
            (one, "l3", [(one, ring[one]), (other, ring[other]), (one, extra[one])])
            for one, other in ("AB", "BC", "CA")
        ]
    check(scene, at_once(scene, entries), most=1)


@pytest.mark.parametrize("turn", range(ROUNDS))
def test_three_creates_that_share_a_network_without_a_conflict(scene: Scene, turn: int) -> None:
    """They wait for one another and all succeed, or are told that the network is busy."""
    b = scene.network("B", "10.2.0.0/24")
    far = {site: scene.network(site, f"10.{n}.0.0/24") for n, site in ((11, "A"), (13, "C"))}
    near = scene.network("B", "10.12.0.0/24")
    requests: list[tuple[str, str, Entries]] = [
        ("A", "l3", [("A", far["A"]), ("B", b)]),
        ("B", "l3", [("B", b), ("B", near), ("A", far["A"])]),
        ("C", "l3", [("C", far["C"]), ("B", b)]),
    ]
    check(scene, at_once(scene, requests), most=3)


def test_the_winner_of_a_conflict_carries_traffic(scene: Scene) -> None:
    ring = {site: scene.network(site, "10.1.0.0/24") for site in "ABC"}
    pairs = [("A", "B"), ("B", "C"), ("C", "A")]
    results = at_once(scene, [(one, "l2", {one: ring[one], other: ring[other]}) for one, other in pairs])
    assert [one.status for one in results].count(201) == 1, results
    won = next(pair for pair, one in zip(pairs, results, strict=True) if one.status == 201)
    ends = scene.boot_each({site: ring[site] for site in won})
    assert scene.silent(every_direction(ends), within=UP) == []
