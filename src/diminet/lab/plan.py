"""What a lab consists of: names, numbers, addresses and devices, decided before anything is made. Pure.

Addresses inside the lab (WAN) are the same in every lab, for they never meet; only the management subnet
touches the host and is chosen free there.
"""

import hashlib
import re
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Network
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import Field

from diminet.errors import BadSurroundings, InvalidRequest, SiteUnknown
from diminet.model import Model

MAX_SITES = 100
MAX_WAN_DELAY_MS = 2000.0  # one way
SITES_PER_REFLECTOR = 3  # as in the paper's testbed
REFLECTORS_PER_SITE = 2
WAN = IPv4Network("100.64.0.0/24")
MANAGEMENT_POOL = IPv4Network("198.18.0.0/15")  # RFC 2544: for labs, routed nowhere
MANAGEMENT_PREFIX = 24
FIRST_REFLECTOR = 200  # host part on the WAN; sites have their number
HOST_PART_HOST = 254  # on the management subnet: the host's own end
HOST_PART_SUPERVISOR = 253
ASN = 64512
NORTH_PORT, EAST_WEST_PORT, SOUTH_PORT = 9790, 9791, 9696
KEYSTONE_PORT = 5000

Kind = Literal["linux", "neutron"]
Database = Literal["sqlite", "mariadb"]


class Reflector(Model):
    number: int

    @property
    def name(self) -> str:
        return f"reflector-{self.number}"

    @property
    def wan_ip(self) -> str:
        return str(WAN[FIRST_REFLECTOR + self.number])

    @property
    def port(self) -> str:
        """Its device in the WAN namespace."""
        return f"r{self.number}"

    @property
    def relay_tap(self) -> str:
        return f"x{self.number}"


class SitePlan(Model):
    """management_ip: of mgmt0. reflectors: WAN addresses of those that it peers with."""

    name: str
    number: int
    management_ip: str
    reflectors: tuple[str, ...]

    @property
    def wan_ip(self) -> str:
        return str(WAN[self.number])

    @property
    def port(self) -> str:
        return f"w{self.number}"

    @property
    def relay_tap(self) -> str:
        return f"t{self.number}"

    @property
    def management_port(self) -> str:
        return f"m{self.number}"

    @property
    def north(self) -> str:
        return f"http://{self.management_ip}:{NORTH_PORT}"

    @property
    def east_west(self) -> str:
        """As the host reaches it; the other sites use `east_west_wan`."""
        return f"https://{self.management_ip}:{EAST_WEST_PORT}"

    @property
    def east_west_wan(self) -> str:
        return f"https://{self.wan_ip}:{EAST_WEST_PORT}"

    @property
    def south(self) -> str:
        return f"http://{self.management_ip}:{SOUTH_PORT}"


class LabPlan(Model):
    """instance_command: starts a site's instance; `{config}` in it becomes its configuration file.
    ready_path: path under `north` that answers 200 when an instance is ready; None: do not ask.
    made_directory: the state directory was not there before, so it goes with the lab. south: kind of all
    its sites; those of kind neutron need no FRR, and so no reflectors. database: of the Neutrons."""

    state_dir: Path
    south: Kind = "linux"
    database: Database = "sqlite"
    management: str
    host_device: str
    wan_delay_ms: float = Field(default=0.0, ge=0, le=MAX_WAN_DELAY_MS)
    instance_command: tuple[str, ...]
    ready_path: str | None = "/readyz"
    made_directory: bool = True
    sites: tuple[SitePlan, ...]
    reflectors: tuple[Reflector, ...]

    @property
    def host_ip(self) -> str:
        return str(IPv4Network(self.management)[HOST_PART_HOST])

    @property
    def supervisor_ip(self) -> str:
        return str(IPv4Network(self.management)[HOST_PART_SUPERVISOR])

    @property
    def prefix(self) -> int:
        return IPv4Network(self.management).prefixlen

    def site(self, name: str) -> SitePlan:
        """Raises SiteUnknown."""
        check_known(name, [site.name for site in self.sites])
        return next(site for site in self.sites if site.name == name)

    def directory(self, name: str) -> Path:
        """Of that site's or reflector's own files."""
        return self.state_dir / name


def check_known(name: str, known: Sequence[str]) -> None:
    """Raises SiteUnknown."""
    if name not in known:
        raise SiteUnknown(f"this lab has no site {name[:80]!r}; it has {', '.join(known)}", sites=[name[:80]])


def site_name(number: int) -> str:
    """A … Z, then S27, S28, …"""
    return chr(ord("A") + number - 1) if number <= 26 else f"S{number}"


def host_device(state_dir: Path) -> str:
    """The lab's one device on the host: at most 15 characters, another for every state directory."""
    return "dlab" + hashlib.sha256(str(state_dir).encode()).hexdigest()[:10]


def free_management_subnet(state_dir: Path, taken: Iterable[IPv4Network]) -> IPv4Network:
    """A /24 that overlaps nothing in `taken`; where the search begins depends on the state directory.

    Raises BadSurroundings when there is none.
    """
    taken = list(taken)
    count = 2 ** (MANAGEMENT_PREFIX - MANAGEMENT_POOL.prefixlen)
    start = int.from_bytes(hashlib.sha256(str(state_dir).encode()).digest()[:4], "big") % count
    size = 2 ** (32 - MANAGEMENT_PREFIX)
    for step in range(count):
        base = MANAGEMENT_POOL[(start + step) % count * size]
        subnet = IPv4Network((base, MANAGEMENT_PREFIX))
        if not any(subnet.overlaps(other) for other in taken):
            return subnet
    raise BadSurroundings(
        f"the host uses every /{MANAGEMENT_PREFIX} of {MANAGEMENT_POOL} already: end another lab first"
    )


def make(
    state_dir: Path,
    sites: int,
    management: IPv4Network,
    *,
    instance_command: Sequence[str],
    wan_delay_ms: float = 0.0,
    ready_path: str | None = "/readyz",
    made_directory: bool = True,
    south: Kind = "linux",
    database: Database = "sqlite",
) -> LabPlan:
    """Raises InvalidRequest for a number of sites or a delay out of bounds."""
    check_size(sites, wan_delay_ms)
    count = -(-sites // SITES_PER_REFLECTOR) if south == "linux" else 0
    reflectors = tuple(Reflector(number=n + 1) for n in range(count))
    return LabPlan(
        state_dir=state_dir,
        south=south,
        database=database,
        management=str(management),
        host_device=host_device(state_dir),
        wan_delay_ms=wan_delay_ms,
        instance_command=tuple(instance_command),
        ready_path=ready_path,
        made_directory=made_directory,
        sites=tuple(
            SitePlan(
                name=site_name(number),
                number=number,
                management_ip=str(management[number]),
                reflectors=_reflectors_of(number, reflectors),
            )
            for number in range(1, sites + 1)
        ),
        reflectors=reflectors,
    )


def check_size(sites: int, wan_delay_ms: float) -> None:
    """Raises InvalidRequest."""
    if not 1 <= sites <= MAX_SITES:
        raise InvalidRequest(f"a lab has 1 to {MAX_SITES} sites, not {sites}")
    if not 0 <= wan_delay_ms <= MAX_WAN_DELAY_MS:
        raise InvalidRequest(f"the WAN delay is 0 to {MAX_WAN_DELAY_MS:.0f} ms one way, not {wan_delay_ms}")


def _reflectors_of(number: int, reflectors: Sequence[Reflector]) -> tuple[str, ...]:
    """The one of its three sites, and the next one."""
    if not reflectors:
        return ()
    home = (number - 1) // SITES_PER_REFLECTOR
    chosen = {(home + step) % len(reflectors) for step in range(REFLECTORS_PER_SITE)}
    return tuple(reflectors[index].wan_ip for index in sorted(chosen))


Plane = Literal["all", "control", "data"]  # what an isolated site is parted from


class Pair(NamedTuple):
    """Two sites, in the order of their names."""

    one: str
    other: str


def pair(one: str, other: str) -> Pair:
    """Raises InvalidRequest if it is one site."""
    if one == other:
        raise InvalidRequest(f"a cut is between two different sites, not {one} and {other}")
    return Pair(*sorted((one, other)))


class Endpoint(NamedTuple):
    """`A/vm1`: an instance at a site."""

    site: str
    instance: str


def endpoint(text: str) -> Endpoint:
    """Raises InvalidRequest."""
    found = re.fullmatch(r"([^/]+)/([^/]+)", text)
    if found is None:
        raise InvalidRequest(f"{text[:80]!r} is not SITE/INSTANCE, for example A/vm1")
    return Endpoint(found[1], found[2])
