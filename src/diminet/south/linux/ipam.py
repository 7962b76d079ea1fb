"""Which address a port gets: pure arithmetic on a subnet's pools. No I/O.

A pool is a pair of integers (first, last), both included. The cost of every function is that of the
pools and of the addresses in use, never that of the number of addresses of the subnet: a /64 costs
no more than a /26.
"""

import itertools
from collections.abc import Collection, Iterable, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from diminet.model import AddressRange

Pool = tuple[int, int]
Network = IPv4Network | IPv6Network


def network_of(cidr: str) -> Network:
    """The network that `cidr` names; host bits are cut off, as Neutron does. ValueError if it is none."""
    return ip_network(cidr, strict=False)


def text(cidr: str, number: int) -> str:
    """The address with that number, in its canonical text, in the IP version of `cidr`."""
    return str(type(network_of(cidr).network_address)(number))


def usable(cidr: str) -> Pool:
    """First and last address that a host may have.

    IPv4: without network and broadcast address, but all of a /31 and /32 (RFC 3021). IPv6: without
    the subnet-router anycast address (RFC 4291), but all of a /127 and /128 (RFC 6164).
    """
    network = network_of(cidr)
    first, last = int(network.network_address), int(network.broadcast_address)
    if last - first < 2:
        return first, last
    return first + 1, last - 1 if network.version == 4 else last


def default_gateway(cidr: str) -> str:
    """Neutron's default: the first address that a host may have."""
    return text(cidr, usable(cidr)[0])


def default_pools(cidr: str, gateway_ip: str | None) -> tuple[AddressRange, ...]:
    """Neutron's default: all usable addresses but the gateway."""
    first, last = usable(cidr)
    gateway = int(ip_address(gateway_ip)) if gateway_ip else None
    if gateway is None or not first <= gateway <= last:
        spans = [(first, last)]
    else:
        spans = [(first, gateway - 1), (gateway + 1, last)]
    return tuple(AddressRange(text(cidr, low), text(cidr, high)) for low, high in spans if low <= high)


def as_numbers(pools: Iterable[AddressRange]) -> list[Pool]:
    """The pools as integers, sorted. ValueError where one is no address."""
    return sorted((int(ip_address(pool.first)), int(ip_address(pool.last))) for pool in pools)


def overlapping(pools: Sequence[Pool]) -> bool:
    """Whether two of the pools share an address. pools: sorted."""
    return any(left[1] >= right[0] for left, right in itertools.pairwise(pools))


def contains(pools: Iterable[Pool], address: int) -> bool:
    return any(first <= address <= last for first, last in pools)


def next_free(
    cidr: str, pools: Iterable[AddressRange], used: Collection[str], gateway_ip: str | None
) -> str | None:
    """The lowest address of the pools that is not in use, None when the pools are dry.

    The gateway and the addresses that no host may have are never given, even where a pool holds them.
    """
    first_usable, last_usable = usable(cidr)
    taken = {int(ip_address(ip)) for ip in used}
    if gateway_ip:
        taken.add(int(ip_address(gateway_ip)))
    for first, last in as_numbers(pools):
        candidate, end = max(first, first_usable), min(last, last_usable)
        while candidate <= end and candidate in taken:  # each step uses up one of `taken`
            candidate += 1
        if candidate <= end:
            return text(cidr, candidate)
    return None


def eui64(cidr: str, mac: str) -> str:
    """The address that a host with that MAC makes itself in a SLAAC subnet (RFC 4291, appendix A)."""
    octets = [int(part, 16) for part in mac.split(":")]
    octets[0] ^= 0x02
    interface = bytes([*octets[:3], 0xFF, 0xFE, *octets[3:]])
    return text(cidr, int(network_of(cidr).network_address) | int.from_bytes(interface, "big"))
