"""The directory of sites from Keystone's catalog.

A region is a site once two endpoints are registered for it:

    openstack endpoint create --region paris intersite             public https://paris.example:9790
    openstack endpoint create --region paris intersite-horizontal  public 'https://paris.example:9791/?number=1'

`number` is the site's: 1..4095, never reused, also not for a region that is gone. An entry that is wrong
is left out and told in the log, so that a slip in one region does not stop the others.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

import structlog
from pydantic import ValidationError

from diminet.cloud import Cloud, get
from diminet.directory import file
from diminet.directory.file import MAX_NAMES_TOLD, is_base_url
from diminet.errors import BadSurroundings, DiminetError, SiteUnknown
from diminet.model import Site

NORTH, EAST_WEST = "intersite", "intersite-horizontal"
CATALOG = "/auth/catalog"
ASK_AGAIN_S = 1.0  # seconds at least between two looks for a site that is not known

log = structlog.get_logger(__name__)

Catalog = Iterable[Mapping[str, Any]]


class Reading(NamedTuple):
    """What a catalog says: sites by name, and what is wrong in it."""

    sites: dict[str, Site]
    complaints: tuple[str, ...]


def read(catalog: Catalog, interface: str, known: Mapping[str, Site]) -> Reading:
    """interface: public, internal or admin. known: what was in use: where two entries contradict each
    other, the one that was there before stays. Pure."""
    urls: dict[str, dict[str, str]] = {}
    for service in catalog:
        for endpoint in service.get("endpoints", ()):
            if service.get("type") in (NORTH, EAST_WEST) and endpoint.get("interface") == interface:
                urls.setdefault(str(endpoint.get("region_id")), {})[service["type"]] = str(endpoint["url"])
    sites: list[Site] = []
    complaints: list[str] = []
    for region, given in sorted(urls.items()):
        try:
            sites.append(_site(region, given))
        except BadSurroundings as wrong:
            complaints.append(wrong.message)
    return _distinct(sites, complaints, known)


def _site(region: str, given: Mapping[str, str]) -> Site:
    """Raises BadSurroundings."""
    for kind in (NORTH, EAST_WEST):
        if kind not in given:
            raise BadSurroundings(
                f"region {region!r} has no {kind} endpoint; register one or remove the other"
            )
    north, east_west = given[NORTH], given[EAST_WEST]
    address, _, query = east_west.partition("?")
    number = dict(parse_qsl(query)).get("number", "")
    if not is_base_url(north, ("http", "https")):
        raise BadSurroundings(
            f"the {NORTH} endpoint of region {region!r} is {north!r}, not https://host:port"
        )
    if not is_base_url(address, ("https",)) or not number.isdecimal():
        raise BadSurroundings(
            f"the {EAST_WEST} endpoint of region {region!r} is {east_west!r}, not "
            "https://host:port/?number=N with the site's number"
        )
    try:
        return Site(name=region, number=int(number), north_url=north, east_west_url=address.rstrip("/"))
    except ValidationError as error:
        why = "; ".join(str(one["msg"]) for one in error.errors(include_url=False, include_input=False))
        raise BadSurroundings(f"region {region!r} is no site: {why}") from None


def _distinct(sites: list[Site], complaints: list[str], known: Mapping[str, Site]) -> Reading:
    """Numbers and addresses are one site's each."""
    kept: dict[str, Site] = {}
    taken: dict[object, str] = {}
    for site in sorted(sites, key=lambda site: known.get(site.name) != site):
        other = taken.get(site.number) or taken.get(site.east_west_url)
        if other is not None:
            complaints.append(
                f"regions {other!r} and {site.name!r} have one number or one {EAST_WEST} address; "
                f"{site.name!r} is left out until that is corrected"
            )
            continue
        kept[site.name] = site
        taken[site.number] = taken[site.east_west_url] = site.name
    return Reading({name: kept[name] for name in sorted(kept)}, tuple(complaints))


class KeystoneDirectory:
    """engine.ports.Directory; `open` it. Read again every refresh_s seconds of use, in the background;
    the last good copy is kept in `copy` for a start while Keystone is away."""

    def __init__(
        self,
        cloud: Cloud,
        own_name: str,
        own_number: int,
        *,
        copy: Path,
        interface: str,
        refresh_s: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cloud = cloud
        self._own = (own_name, own_number)
        self._copy = copy
        self._interface = interface
        self._refresh_s = refresh_s
        self._monotonic = monotonic
        self._sites: dict[str, Site] = {}
        self._complaints: tuple[str, ...] = ()
        self._asked = -refresh_s
        self._asking: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Raises BadSurroundings if Keystone answers and this site is not in its catalog as it is
        configured. While Keystone is away, the copy does, or nothing but the wish to know."""
        try:
            reading = await self._ask()
        except BadSurroundings:
            raise
        except DiminetError as error:
            self._sites = self._copied()
            log.warning("the catalog cannot be read", reason=error.message, known=len(self._sites))
            return
        check_own(reading, *self._own, self._interface)
        self._take(reading)

    async def close(self) -> None:
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)

    async def site(self, name: str) -> Site:
        """Raises SiteUnknown, naming the sites that are known. A region may have come a moment ago, so
        the catalog is read again for a name that is not there."""
        self._refresh(self._refresh_s)
        if name not in self._sites:
            self._refresh(ASK_AGAIN_S)
            if self._asking is not None:
                await asyncio.wait({self._asking})
        if name not in self._sites:
            names = ", ".join(list(self._sites)[:MAX_NAMES_TOLD]) or "none yet: Keystone has not answered"
            raise SiteUnknown(
                f"there is no site {name[:80]!r}; the directory has: {names}", sites=[name[:80]]
            )
        return self._sites[name]

    async def sites(self) -> tuple[Site, ...]:
        self._refresh(self._refresh_s)
        return tuple(self._sites.values())

    def _refresh(self, age: float) -> None:
        """In the background, if the last look is older than `age` seconds and none is under way."""
        running = self._asking is not None and not self._asking.done()
        if not running and self._monotonic() - self._asked >= age:
            self._asking = asyncio.create_task(self._look_again())

    async def _look_again(self) -> None:
        try:
            reading = await self._ask()
            check_own(reading, *self._own, self._interface)
        except DiminetError as error:
            log.warning("the last good copy of the catalog stays", reason=error.message)
            return
        self._take(reading)

    async def _ask(self) -> Reading:
        self._asked = self._monotonic()
        body = await self._cloud.ask(lambda session: get(session, CATALOG))
        return read(body["catalog"], self._interface, self._sites)

    def _take(self, reading: Reading) -> None:
        if reading.complaints != self._complaints:
            for complaint in reading.complaints:
                log.warning("wrong entry of the catalog", why=complaint)
            self._complaints = reading.complaints
        if reading.sites != self._sites:
            self._sites = reading.sites
            file.write(self._copy, list(reading.sites.values()))

    def _copied(self) -> dict[str, Site]:
        return file.load(self._copy, *self._own) if self._copy.exists() else {}


def check_own(reading: Reading, name: str, number: int, interface: str) -> None:
    """Raises BadSurroundings with the command that puts it right."""
    own = reading.sites.get(name)
    if own is None:
        wrong = next((complaint for complaint in reading.complaints if repr(name) in complaint), None)
        raise BadSurroundings(
            wrong
            or f"Keystone's catalog has no {interface} endpoints of this site: register them with `openstack "
            f"endpoint create --region {name} {NORTH} {interface} https://HOST:9790` and `openstack endpoint "
            f"create --region {name} {EAST_WEST} {interface} 'https://HOST:9791/?number={number}'`"
        )
    if own.number != number:
        raise BadSurroundings(
            f"the {EAST_WEST} endpoint of this site, {name!r}, has ?number={own.number}, but its "
            f"configuration says {number}; make both the same"
        )
