"""Which CIDRs overlap: sorted by their first address and swept once, so n of them cost n log n.

Two CIDRs are either disjoint or one holds the other, so the overlap is the smaller one.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from typing import NamedTuple

from diminet.errors import CidrOverlap
from diminet.logic.addressing import network, span_of


class Part(NamedTuple):
    """A CIDR of a network of a site."""

    cidr: str
    site: str
    network_id: str
    name: str = ""

    def told(self) -> str:
        named = f" ({self.name})" if self.name else ""
        return f"network {self.network_id}{named} of site {self.site} with {self.cidr}"


class Overlap(NamedTuple):
    one: Part
    other: Part

    @property
    def cidr(self) -> str:
        return max(self.one.cidr, self.other.cidr, key=lambda cidr: network(cidr).prefixlen)

    def refusal(self, *networks: str) -> CidrOverlap:
        """networks: of the site that refuses, those that reach both."""
        return CidrOverlap(
            f"{self.one.told()} and {self.other.told()} overlap in {self.cidr}: networks that reach each "
            "other need distinct addresses, so leave one of them out or give it another CIDR",
            sites=sorted({self.one.site, self.other.site}),
            networks=networks,
        )


class _Placed(NamedTuple):
    version: int
    first: int
    last: int
    part: Part


def _start(placed: _Placed) -> tuple[int, int]:
    return placed.version, placed.first


def _placed(parts: Iterable[Part]) -> list[_Placed]:
    return sorted(_Placed(network(p.cidr).version, *span_of(p.cidr), p) for p in parts)


def overlap_within(parts: Iterable[Part]) -> Overlap | None:
    """Any two of the parts that overlap. The same CIDR of the same network, twice, is one."""
    reached: _Placed | None = None
    for placed in _placed(set(parts)):
        if reached and placed.version == reached.version and placed.first <= reached.last:
            return Overlap(reached.part, placed.part)
        reached = placed
    return None


class Disjoint:
    """Parts that are known to be pairwise disjoint, to look others up in."""

    def __init__(self, parts: Iterable[Part]) -> None:
        self._placed = _placed(set(parts))
        self._ends = [(p.version, p.last) for p in self._placed]

    def overlap(self, part: Part) -> Overlap | None:
        """With a part of another network than `part` itself."""
        first, last = span_of(part.cidr)
        version: int = network(part.cidr).version
        low = bisect_left(self._ends, (version, first))
        high = bisect_right(self._placed, (version, last), key=_start)
        for placed in self._placed[low:high]:
            if (placed.part.site, placed.part.network_id) != (part.site, part.network_id):
                return Overlap(part, placed.part)
        return None
