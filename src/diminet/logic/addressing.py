"""Arithmetic on CIDRs, ranges and blocks, with integers only: nothing here counts addresses one by one.

A *span* is (first, last), both included, as integers. A *cut* is a CIDR cut into aligned blocks of one
size, numbered from its start. Usable are all addresses that a host may have: of IPv4 not the network
and the broadcast address (RFC 3021: a /31 or /32 has neither), of IPv6 not the subnet-router anycast
address (RFC 4291 2.6.1; a /127 or /128 has none, RFC 6164).
"""

import ipaddress
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from diminet.errors import InvalidRequest
from diminet.model import MAX_BLOCKS, AddressRange

Span = tuple[int, int]
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

USUAL_BLOCKS = 64  # blocks that a CIDR is cut into, where its members are few
BLOCKS_A_MEMBER = 8  # at least so many, where the CIDR has that many addresses


@lru_cache(maxsize=4096)
def network(cidr: str) -> Network:
    """Raises InvalidRequest if it is not a CIDR or has host bits set."""
    try:
        return ipaddress.ip_network(cidr)
    except ValueError as error:
        raise InvalidRequest(f"{cidr!r} is not a CIDR: {error}") from error


def normal(cidr: str) -> str:
    """The one spelling by which CIDRs are compared, e.g. `2001:DB8:0::/64` -> `2001:db8::/64`."""
    return str(network(cidr))


def number(address: str) -> int:
    """Raises InvalidRequest if it is not an address."""
    try:
        return int(ipaddress.ip_address(address))
    except ValueError as error:
        raise InvalidRequest(f"{address!r} is not an IP address") from error


def text(value: int, version: int) -> str:
    return str(ipaddress.IPv4Address(value) if version == 4 else ipaddress.IPv6Address(value))


def span_of(cidr: str) -> Span:
    """All addresses of the CIDR, usable or not."""
    net = network(cidr)
    return int(net.network_address), int(net.broadcast_address)


def usable_span(cidr: str) -> Span:
    net = network(cidr)
    first, last = span_of(cidr)
    if net.max_prefixlen - net.prefixlen < 2:
        return first, last
    return first + 1, last - (1 if net.version == 4 else 0)


def numbers_in(cidr: str, addresses: Iterable[str]) -> frozenset[int]:
    """Those of the addresses, of either version, that lie in the CIDR, as integers. Raises
    InvalidRequest if one is no address."""
    net = network(cidr)
    try:
        found = [ipaddress.ip_address(a) for a in addresses]
    except ValueError as error:
        raise InvalidRequest(str(error)) from error
    return frozenset(int(a) for a in found if a.version == net.version and a in net)


# -- spans -----------------------------------------------------------------------------------------


def coalesce(spans: Iterable[Span]) -> list[Span]:
    """Sorted, adjoining and overlapping ones made one."""
    out: list[Span] = []
    for first, last in sorted(spans):
        if out and first <= out[-1][1] + 1:
            out[-1] = (out[-1][0], max(out[-1][1], last))
        else:
            out.append((first, last))
    return out


def without(spans: Sequence[Span], addresses: Iterable[int]) -> list[Span]:
    """The (coalesced) spans less single addresses."""
    out = list(spans)
    for address in sorted(set(addresses), reverse=True):
        at = bisect_right(out, address, key=lambda span: span[0]) - 1
        if at < 0 or out[at][1] < address:
            continue
        first, last = out[at]
        parts = [(first, address - 1), (address + 1, last)]
        out[at : at + 1] = [part for part in parts if part[0] <= part[1]]
    return out


def size(spans: Iterable[Span]) -> int:
    return sum(last - first + 1 for first, last in spans)


def pools(spans: Iterable[Span], version: int) -> tuple[AddressRange, ...]:
    return tuple(AddressRange(text(a, version), text(b, version)) for a, b in coalesce(spans))


def spans_of(ranges: Iterable[AddressRange]) -> list[Span]:
    return coalesce((number(r.first), number(r.last)) for r in ranges)


# -- blocks ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cut:
    """A CIDR cut into blocks. size: addresses a block, a power of two."""

    cidr: str
    size: int

    @property
    def version(self) -> Literal[4, 6]:
        return 4 if network(self.cidr).version == 4 else 6

    @property
    def count(self) -> int:
        return network(self.cidr).num_addresses // self.size

    def index_of(self, address: int) -> int:
        """Number of the block that the address, one of the CIDR, is in."""
        return (address - span_of(self.cidr)[0]) // self.size

    def usable(self, index: int) -> list[Span]:
        """The block's usable addresses: one span, or none."""
        start = span_of(self.cidr)[0] + index * self.size
        low, high = usable_span(self.cidr)
        first, last = max(start, low), min(start + self.size - 1, high)
        return [(first, last)] if first <= last else []

    def indices(self, spans: Iterable[Span]) -> frozenset[int]:
        """Numbers of the blocks that the spans touch."""
        low, high = span_of(self.cidr)
        return frozenset(
            index
            for first, last in spans
            if first <= high and last >= low
            for index in range(self.index_of(max(first, low)), self.index_of(min(last, high)) + 1)
        )


def block_prefix(cidr: str, members: int, block_size: int | None = None) -> int:
    """Prefix length of a block: the tenant's wish, or about 64 blocks, at least 8 a member, where the
    CIDR is large enough; never more than 1,024 blocks (so a wish may come out larger) nor less than one
    address a block.

    Why so: a /24 with 2 to 8 members has blocks of 4 addresses, with 14 blocks of 2; a /26 with 3 has
    blocks of one address, so of its 62 usable ones each site gets 20 or 21: 15 instances and a gateway
    of its own with 4 to spare. Blocks of 2 would do there too, but blocks of one leave nothing unused
    between a gateway or an existing instance and the next address.
    """
    net = network(cidr)
    host_bits = net.max_prefixlen - net.prefixlen
    if block_size is not None:
        wish = host_bits - (block_size.bit_length() - 1)
    else:
        wish = (max(USUAL_BLOCKS, BLOCKS_A_MEMBER * members) - 1).bit_length()
    bits = min(max(wish, 0), host_bits, MAX_BLOCKS.bit_length() - 1)
    return net.prefixlen + bits


def cut(cidr: str, prefix: int) -> Cut:
    """Raises InvalidRequest if blocks of that prefix length are no 1 to 1,024 parts of the CIDR."""
    net = network(cidr)
    if not 0 <= prefix - net.prefixlen < MAX_BLOCKS.bit_length() or prefix > net.max_prefixlen:
        raise InvalidRequest(f"{cidr} cannot be cut into blocks of prefix length {prefix}")
    return Cut(cidr, 1 << (net.max_prefixlen - prefix))
