"""What the demo looks at. Each check does something as a user would, and says what it saw.

A check never raises because of what it sees: a refusal, a missing answer or a lost ping becomes a line that
failed. So a run with a fault in it goes on to its end, and names just the lines concerned.
"""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address
from itertools import permutations
from typing import Any

from diminet.client import ApiError
from diminet.errors import DiminetError
from diminet.lab.observations import Observations, Path, Phase
from diminet.lab.world import Instance, World

PINGS = 3  # of each direction, once traffic is expected to flow
PAUSE = 0.3  # seconds between two tries
UP_WITHIN = 5.0  # seconds from a create's answer to the first reply of every ping
STOP_WITHIN = 15.0  # seconds from a cut to the last reply across it
HEAL_WITHIN = 40.0  # seconds from healing to traffic
CLEAN_WITHIN = 30.0  # seconds until nothing is left at any site
ANSWER_WITHIN = 12.0  # seconds: request_timeout (10) and the way of the answer

Directed = Sequence[tuple[Instance, Instance]]
Ranges = list[tuple[str, str]]


def every_direction(instances: Sequence[Instance]) -> Directed:
    """All ordered pairs."""
    return list(permutations(instances, 2))


def create(world: World, seen: Observations, name: str, site: str, body: dict[str, Any]) -> str | None:
    """Ask `site` for a service. Returns its id, None if it was not made."""
    began = time.monotonic()
    try:
        answer = world.north(site).create(body)
    except DiminetError as error:
        seen.see(name, expected="201, ACTIVE", seen=_said(error), ok=False)
        return None
    service = answer.service
    text = f"{answer.status}, {service['provisioning_status']} after {time.monotonic() - began:.2f} s"
    made = answer.status == 201 and service["provisioning_status"] == "ACTIVE"
    seen.see(name, expected="201, ACTIVE", seen=text, ok=made)
    return str(service["id"])


def pings_all(
    world: World,
    seen: Observations,
    name: str,
    directed: Directed,
    *,
    within: float = UP_WITHIN,
    count: int = PINGS,
    traffic: tuple[Path, Phase] | None = None,
) -> bool:
    """Every direction answers within that time; then a few pings more of each, all of which must arrive."""
    began = time.monotonic()
    open_ = list(directed)
    while open_ and time.monotonic() - began < within:
        open_ = [pair for pair, got in zip(open_, _ping_each(world, open_, 1), strict=True) if not got]
    took = time.monotonic() - began
    received = sum(_ping_each(world, directed, count))
    sent = count * len(directed)
    if traffic:
        seen.saw_traffic(*traffic, sent=sent, received=received)
    up = len(directed) - len(open_)
    text = f"{up} of {len(directed)} after {took:.1f} s; then {received} of {sent} pings"
    expected = f"all {len(directed)} directions within {within:.0f} s; then {sent} of {sent} pings"
    return seen.see(name, expected=expected, seen=text, ok=not open_ and received == sent)


def no_ping(
    world: World,
    seen: Observations,
    name: str,
    directed: Directed,
    *,
    within: float = STOP_WITHIN,
    count: int = PINGS,
    traffic: tuple[Path, Phase] | None = None,
) -> bool:
    """Within that time nothing is answered any more."""
    began = time.monotonic()
    answered = len(directed)
    while answered and time.monotonic() - began < within:
        answered = sum(got > 0 for got in _ping_each(world, directed, 1))
    took = time.monotonic() - began
    received = sum(_ping_each(world, directed, count))
    sent = count * len(directed)
    if traffic:
        seen.saw_traffic(*traffic, sent=sent, received=received)
    text = f"{received} of {sent} pings, after {took:.1f} s"
    return seen.see(name, expected=f"none of {sent} pings", seen=text, ok=received == 0)


def _ping_each(world: World, directed: Directed, count: int) -> list[int]:
    """Replies of each direction, all asked at once."""
    with ThreadPoolExecutor(max_workers=max(1, len(directed))) as pool:
        replies = list(pool.map(lambda pair: world.ping(*pair, count=count), directed))
    if not all(replies):
        time.sleep(PAUSE)
    return replies


def refused(
    world: World,
    seen: Observations,
    name: str,
    site: str,
    body: dict[str, Any],
    *,
    status: int,
    code: str,
    names: Sequence[str],
    within: float = ANSWER_WITHIN,
) -> bool:
    """The create is refused with that code, in time, by a sentence that has all these words."""
    expected = f"{status} {code} within {within:.0f} s, naming {', '.join(names)}"
    began = time.monotonic()
    try:
        answer = world.north(site).create(body)
    except ApiError as error:
        took = time.monotonic() - began
        ok = (error.status, error.word) == (status, code) and took <= within
        ok = ok and all(word in error.message for word in names)
        return seen.see(name, expected=expected, seen=f"{_said(error)} ({took:.1f} s)", ok=ok)
    except DiminetError as error:
        return seen.see(name, expected=expected, seen=_said(error), ok=False)
    return seen.see(name, expected=expected, seen=f"{answer.status}: it was made", ok=False)


def nothing_changed(
    world: World,
    seen: Observations,
    name: str,
    before: dict[str, frozenset[str]],
    *,
    within: float = CLEAN_WITHIN,
) -> bool:
    """Services, networks, subnets with their pools, ports and devices of these sites are as before."""
    return _until_same(world, seen, name, before, within)


def _until_same(
    world: World, seen: Observations, name: str, before: dict[str, frozenset[str]], within: float
) -> bool:
    end = time.monotonic() + within
    differences = _differences(before, world.everything(tuple(before)))
    while differences and time.monotonic() < end:
        time.sleep(PAUSE)
        differences = _differences(before, world.everything(tuple(before)))
    kinds = f"{sum(map(len, before.values()))} objects at {', '.join(before)}"
    text = "; ".join(differences[:5]) + (f" and {len(differences) - 5} more" if len(differences) > 5 else "")
    return seen.see(name, expected=f"{kinds}: as before", seen=text or "as before", ok=not differences)


def _differences(before: dict[str, frozenset[str]], after: dict[str, frozenset[str]]) -> list[str]:
    found = []
    for site, things in before.items():
        found += [f"{site}: {thing} is left" for thing in sorted(after[site] - things)]
        found += [f"{site}: {thing} is missing" for thing in sorted(things - after[site])]
    return found


def networks_appeared(
    world: World, seen: Observations, name: str, service_id: str, sites: Sequence[str]
) -> dict[str, str]:
    """At each of these sites the service has a network that the site's own API knows. Returns their ids."""
    service = world.north(sites[0]).show(service_id).service
    ids = {entry["site"]: str(entry["resource_id"]) for entry in service["resources"]}
    there = {site: ids[site] for site in sites if site in ids and world.has_network(site, ids[site])}
    text = ", ".join(sorted(there)) or "nowhere"
    expected = f"a network at {', '.join(sites)}"
    seen.see(name, expected=expected, seen=f"a network at {text}", ok=len(there) == len(sites))
    return ids


def boot_at_once(
    world: World, seen: Observations, name: str, networks: dict[str, str], count: int
) -> list[Instance]:
    """Boot that many instances on each site's network, all at the same time."""
    wanted = [(site, network, f"vm{n}") for site, network in networks.items() for n in range(1, count + 1)]
    with ThreadPoolExecutor(max_workers=len(wanted)) as pool:
        booted = list(pool.map(lambda want: _boot(world, *want), wanted))
    instances = [one for one in booted if isinstance(one, Instance)]
    errors = [_said(one) for one in booted if isinstance(one, DiminetError)]
    text = f"{len(instances)} booted" + (f"; {errors[0]}" if errors else "")
    seen.see(name, expected=f"{len(wanted)} booted", seen=text, ok=not errors)
    return instances


def _boot(world: World, site: str, network: str, name: str) -> Instance | DiminetError:
    try:
        return world.boot(site, network, name)
    except DiminetError as error:
        return error


def boots(
    world: World, seen: Observations, name: str, site: str, network: str, instance: str
) -> Instance | None:
    """One more instance at that site, from the addresses that the site owns."""
    booted = _boot(world, site, network, instance)
    if isinstance(booted, DiminetError):
        seen.see(name, expected="boots from the site's own blocks", seen=_said(booted), ok=False)
        return None
    ranges = world.pools(site, network)
    text = f"{booted.ip}; pool of {site}: {_shown(ranges)}"
    seen.see(name, expected="boots from the site's own blocks", seen=text, ok=_within(booted.ip, ranges))
    return booted


def addresses_distinct(world: World, seen: Observations, name: str, instances: Sequence[Instance]) -> bool:
    """No IP and no MAC address twice, as the instances themselves have them."""
    actual = world.addresses(instances)
    ok = True
    for what, values in (
        ("IP addresses", [ip for one in actual for ip in one.ips]),
        ("MACs", [one.mac for one in actual]),
    ):
        twice = sorted({value for value in values if values.count(value) > 1})
        text = f"{len(set(values))} distinct" + (f"; twice: {', '.join(twice)}" if twice else "")
        enough = len(set(values)) >= len(instances)
        ok &= seen.see(
            f"{name}: {what}",
            expected=f"{len(instances)} distinct",
            seen=text,
            ok=enough and not twice and bool(instances),
        )
    return ok


def addresses_from_own_blocks(
    world: World, seen: Observations, name: str, networks: dict[str, str], instances: Sequence[Instance]
) -> bool:
    """Each instance's address is in its own site's pool, and no two sites' pools meet."""
    pools = {site: world.pools(site, network) for site, network in networks.items()}
    outside = [f"{one.site}/{one.name} {one.ip}" for one in instances if not _within(one.ip, pools[one.site])]
    meet = [f"{a} and {b}" for a, b in _pairs(sorted(pools)) if _overlap(pools[a], pools[b])]
    text = "; ".join(f"{site}: {_shown(ranges)}" for site, ranges in pools.items())
    text += f"; outside: {', '.join(outside)}" if outside else ""
    text += f"; pools meet: {', '.join(meet)}" if meet else ""
    expected = "each from its own site's pool; pools disjoint"
    return seen.see(name, expected=expected, seen=text, ok=not outside and not meet and bool(instances))


def deleted(
    world: World,
    seen: Observations,
    name: str,
    site: str,
    service_id: str,
    everywhere: Sequence[str],
    *,
    within: float = CLEAN_WITHIN,
) -> bool:
    """After 204 it is 404 at every one of these sites; after 202 (a site was slow) it becomes so in time."""
    expected = f"204 and 404 everywhere, or 202 and so within {within:.0f} s"
    began = time.monotonic()
    try:
        status = world.north(site).delete(service_id).status
    except DiminetError as error:
        return seen.see(name, expected=expected, seen=_said(error), ok=False)
    still = [other for other in everywhere if _known(world, other, service_id)]
    while still and status == 202 and time.monotonic() - began < within:
        time.sleep(PAUSE)
        still = [other for other in everywhere if _known(world, other, service_id)]
    left = f"still known at {', '.join(still)}" if still else "404 everywhere"
    text = f"{status}; {left} after {time.monotonic() - began:.1f} s"
    return seen.see(name, expected=expected, seen=text, ok=status in (202, 204) and not still)


def _known(world: World, site: str, service_id: str) -> bool:
    try:
        world.north(site).show(service_id)
    except ApiError as error:
        return error.status != 404
    return True


def _said(error: DiminetError) -> str:
    if isinstance(error, ApiError):
        return f"{error.status} {error.word}: {error.message}"
    return f"{error.code}: {error.message}"


def _pairs(names: Sequence[str]) -> list[tuple[str, str]]:
    return [(a, b) for a in names for b in names if a < b]


def _within(ip: str, ranges: Ranges) -> bool:
    address = int(ip_address(ip))
    return any(int(ip_address(first)) <= address <= int(ip_address(last)) for first, last in ranges)


def _overlap(one: Ranges, other: Ranges) -> bool:
    return any(_within(first, other) or _within(last, other) for first, last in one) or any(
        _within(first, one) for first, _ in other
    )


def _shown(ranges: Ranges) -> str:
    return ", ".join(f"{first}-{last}" for first, last in ranges) or "empty"
