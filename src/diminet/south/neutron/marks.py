"""How what DIMINET makes and changes in a Neutron is recognised (invariant 9). Pure.

Networks and subnets that we make say so in their description, and the networks carry tags, by which all
of them are found at once. Tags cannot be given with the POST: what a crash leaves between the two calls is
found by the description. BGP VPNs have neither: they are ours by their name. A subnet of a tenant whose
pools we have changed carries tags that say how it was, since nothing else in the VIM does.
"""

from collections.abc import Iterable
from ipaddress import ip_address
from typing import NamedTuple

from diminet.model import AddressRange, SubnetShape

OURS = "diminet"
CHANGED = "diminet-changed"
_SERVICE = "diminet-service="
_KEY = "diminet-key="
_WAS = "diminet-was="
_SERVICE_VPN = "diminet-service-"
_MARK_VPN = "diminet-mark-"
_DESCRIPTION = "made by DIMINET for service "
_UNKNOWN = "unknown"
MOST_TAG = 255  # characters that Neutron takes


class Made(NamedTuple):
    """What we made: for that service, as that key."""

    service_id: str
    key: str


# -- networks and subnets of ours ------------------------------------------------------------------


def tags(made: Made) -> list[str]:
    return [OURS, f"{_SERVICE}{made.service_id}", f"{_KEY}{made.key}"]


def made_of(found: Iterable[str]) -> Made | None:
    """What the tags say; None: not ours."""
    said = list(found)
    service = _after(_SERVICE, said)
    return Made(service, _after(_KEY, said) or "") if OURS in said and service else None


def without_ours(found: Iterable[str]) -> list[str]:
    return [tag for tag in found if tag != OURS and not tag.startswith(f"{OURS}-")]


def description(made: Made) -> str:
    return f"{_DESCRIPTION}{made.service_id} at {made.key}"


def made_of_description(text: str | None) -> Made | None:
    """What `description` wrote; None: it is another's."""
    said = text or ""
    service_id, at, key = said.removeprefix(_DESCRIPTION).partition(" at ")
    return Made(service_id, key) if said.startswith(_DESCRIPTION) and at else None


def _after(prefix: str, found: Iterable[str]) -> str | None:
    return next((tag.removeprefix(prefix) for tag in found if tag.startswith(prefix)), None)


# -- a tenant's subnet before us -------------------------------------------------------------------


def was(shape: SubnetShape) -> str:
    """Gateway and pools in hexadecimal: `diminet-was=GATEWAY_FIRST-LAST_FIRST-LAST…`. Where they do not
    fit, only that it was otherwise."""
    gateway = _hexadecimal(shape.gateway_ip) if shape.gateway_ip else ""
    pools = [f"{_hexadecimal(r.first)}-{_hexadecimal(r.last)}" for r in shape.pools or ()]
    tag = _WAS + "_".join([gateway, *pools])
    return tag if len(tag) <= MOST_TAG else _WAS + _UNKNOWN


def was_tag(found: Iterable[str]) -> str | None:
    return next((tag for tag in found if tag.startswith(_WAS)), None)


def shape_before(tag: str, cidr: str) -> SubnetShape | None:
    """The shape that `was` wrote down; None: it did not fit, or somebody has changed the tag."""
    gateway, *pools = tag.removeprefix(_WAS).split("_")
    version = 6 if ":" in cidr else 4
    try:
        ranges = [pool.split("-", 1) for pool in pools]
        return SubnetShape(
            cidr=cidr,
            ip_version=6 if version == 6 else 4,
            gateway_ip=_address(gateway, version) if gateway else None,
            pools=tuple(AddressRange(_address(a, version), _address(b, version)) for a, b in ranges),
        )
    except ValueError:
        return None


def _hexadecimal(address: str) -> str:
    return f"{int(ip_address(address)):x}"


def _address(digits: str, version: int) -> str:
    """Raises ValueError if they are no address of that version."""
    size = 4 if version == 4 else 16
    try:
        return str(ip_address(int(digits, 16).to_bytes(size, "big")))
    except OverflowError as error:
        raise ValueError(f"{digits} is no address of version {version}") from error


# -- BGP VPNs --------------------------------------------------------------------------------------


def vpn_name(service_id: str) -> str:
    return f"{_SERVICE_VPN}{service_id}"


def service_of(vpn: str | None) -> str | None:
    """The service whose BGP VPN has that name; None: it is not ours."""
    name = vpn or ""
    return name.removeprefix(_SERVICE_VPN) if name.startswith(_SERVICE_VPN) else None


def mark_name(name: str, value: str) -> str:
    return f"{_MARK_VPN}{name}={value}"


def mark_of(vpn: str | None, name: str) -> str | None:
    """The value of that mark, if this is the name of the BGP VPN that carries it."""
    prefix = f"{_MARK_VPN}{name}="
    return vpn.removeprefix(prefix) if vpn and vpn.startswith(prefix) else None


def is_ours(vpn: str | None) -> bool:
    return (vpn or "").startswith((_SERVICE_VPN, _MARK_VPN))
