"""Names and MAC addresses of everything a linux site makes, worked out from ids alone. Pure.

Device names have at most 15 characters (IFNAMSIZ), so they carry the first 12 hexadecimal digits of an
id; the whole id stands in the device's alias (`…_alias`), which is what is read back after a restart.
"""

import hashlib
from typing import NamedTuple
from uuid import UUID

ANYCAST_MAC = "00:00:5e:00:01:01"
LAN = "lan"  # the gateway's own device on the network, inside its namespace
_ALIAS = "diminet"


def _short(identifier: str) -> str:
    return UUID(identifier).hex[:12]


def bridge(network_id: str) -> str:
    return f"br-{_short(network_id)}"


def port(port_id: str) -> str:
    """The bridge's end of a port."""
    return f"p-{_short(port_id)}"


def port_inside(port_id: str) -> str:
    """The instance's end of a port."""
    return f"e-{_short(port_id)}"


def gateway_port(network_id: str) -> str:
    """The bridge's end of the gateway's veth."""
    return f"g-{_short(network_id)}"


def gateway_namespace(network_id: str) -> str:
    return f"gw-{UUID(network_id)}"


def network_of_gateway(namespace: str) -> str | None:
    """Inverse of `gateway_namespace`; None for any other name."""
    return namespace[3:] if namespace.startswith("gw-") and _is_uuid(namespace[3:]) else None


def service_port(service_id: str) -> str:
    """Inside a gateway's namespace: the veth to the VRF of a service."""
    return f"s-{_short(service_id)}"


def network_port(network_id: str) -> str:
    """Inside the VRF's namespace of a service: the veth to a network's gateway."""
    return f"n-{_short(network_id)}"


def vrf(service_id: str) -> str:
    """Name of the service's namespace under /run/netns and of FRR's VRF (at most 35 characters)."""
    return f"v{UUID(service_id).hex}"


def service_of_vrf(name: str) -> str | None:
    """Inverse of `vrf`; None for any other name."""
    return str(UUID(hex=name[1:])) if len(name) == 33 and name[0] == "v" and _is_uuid(name[1:]) else None


def vxlan(vni: int) -> str:
    return f"vx{vni}"


def vrf_bridge(vni: int) -> str:
    """The bridge that carries the router MAC of an L3 VNI."""
    return f"br{vni}"


def _is_uuid(text: str) -> bool:
    try:
        UUID(text)
    except ValueError:
        return False
    return True


class Alias(NamedTuple):
    """What a device's alias says: what it is, of which id, and one word more."""

    kind: str
    identifier: str
    detail: str = ""

    def text(self) -> str:
        return " ".join(part for part in (_ALIAS, *self) if part)


def parse_alias(text: str | None) -> Alias | None:
    """The alias of a device of ours; None for a device that is not."""
    words = (text or "").split()
    if len(words) not in (3, 4) or words[0] != _ALIAS:
        return None
    return Alias(*words[1:])


def _mac(first: int, site_number: int, low: int) -> str:
    """first octet, 12 bits of site number, 28 bits of `low`."""
    value = first << 40 | (site_number & 0xFFF) << 28 | low & 0xFFFFFFF
    return ":".join(f"{value >> shift & 0xFF:02x}" for shift in range(40, -8, -8))


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")


def port_mac(site_number: int, port_id: str, attempt: int = 0) -> str:
    """`02:SS:Sx:xx:xx:xx`, S the site's number: never the same at two sites.

    28 bits tell the ports of a site apart; if the network has the MAC already, ask with attempt + 1.
    """
    return _mac(0x02, site_number, _digest(f"{UUID(port_id)} {attempt}"))


def gateway_mac(site_number: int, network_id: str) -> str:
    """`06:SS:Sx:xx:xx:xx`: of the network's own gateway at this site."""
    return _mac(0x06, site_number, _digest(str(UUID(network_id))))


def bridge_mac(network_id: str) -> str:
    """`0e:…`: fixed, or the bridge takes the lowest of its ports' and forgets its neighbours each time."""
    digest = hashlib.sha256(str(UUID(network_id)).encode()).digest()[:5]
    return ":".join(f"{octet:02x}" for octet in (0x0E, *digest))


def router_mac(site_number: int, vni: int) -> str:
    """`0a:SS:S0:…`: of the site's router in an L3 VNI."""
    return _mac(0x0A, site_number, vni)
