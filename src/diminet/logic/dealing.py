"""Dealing the blocks of one subnet out to the sites, once, when a service is created.

A block with no address free is of no use to anyone: it stays with the site whose addresses are in it.
All others are dealt out evenly, in runs, so that pools are in one piece. Blocks in which a site has
addresses in use count towards its share, the fullest first; those that its share does not hold go to
other sites with these addresses as exclusions.
"""

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from diminet.logic.addressing import Cut, text, without
from diminet.logic.addressing import size as count_of
from diminet.model import Block

Addresses = set[int] | frozenset[int]
NONE: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Deal:
    """What is dealt. giver: who deals. sites: in the order of their runs; what does not divide evenly
    goes to the last.

    used: addresses in use, by site. kept: numbers of blocks that a site was promised (its pool was
    narrowed to them). excluded: addresses that no site may give out. All as integers.
    """

    cut: Cut
    giver: str
    sites: Sequence[str]
    used: Mapping[str, Addresses] = field(default_factory=dict)
    kept: Mapping[str, Addresses] = field(default_factory=dict)
    excluded: Addresses = NONE

    def blocks(self) -> tuple[Block, ...]:
        """Version 1 of every block that has a usable address, by number."""
        users = self._users()
        free = self._free(users)
        owners = self._promised(free)
        for index in free:
            if not free[index] and index not in owners:
                owners[index] = self._claimant(users.get(index, {}))
        quotas = self._quotas([i for i in free if free[i]], owners)
        self._claims(free, users, owners, quotas)
        self._runs(free, owners, quotas)
        return tuple(self._block(i, owners[i], users.get(i, {})) for i in sorted(free))

    def _users(self) -> dict[int, dict[str, set[int]]]:
        """Block number -> site -> its addresses in use there."""
        users: dict[int, dict[str, set[int]]] = {}
        for site, addresses in self.used.items():
            for address in addresses:
                users.setdefault(self.cut.index_of(address), {}).setdefault(site, set()).add(address)
        return users

    def _free(self, users: Mapping[int, Mapping[str, Addresses]]) -> dict[int, int]:
        """Block number -> addresses that are free in it; those that nobody could ever use left out."""
        free: dict[int, int] = {}
        for index in range(self.cut.count):
            usable = without(self.cut.usable(index), self.excluded)
            if usable:
                taken = self.excluded.union(*users.get(index, {}).values())
                free[index] = count_of(without(usable, taken))
        return free

    def _promised(self, free: Mapping[int, int]) -> dict[int, str]:
        return {i: site for site in self.sites for i in self.kept.get(site, NONE) if i in free}

    def _claimant(self, users: Mapping[str, Addresses]) -> str:
        """The site with most addresses in a block; the first site where nobody has."""
        return max(self.sites, key=lambda s: (len(users.get(s, NONE)), -self.sites.index(s)))

    def _quotas(self, dealt: Sequence[int], owners: Mapping[int, str]) -> dict[str, int]:
        """How many of the blocks with room each site gets in all: even, but never less than promised."""
        quotas = dict.fromkeys(self.sites, 0)
        for index in dealt:
            if index in owners:
                quotas[owners[index]] += 1
        heap = [(quotas[site], -place, site) for place, site in enumerate(self.sites)]
        heapq.heapify(heap)
        for _ in range(len(dealt) - sum(quotas.values())):
            count, place, site = heap[0]
            quotas[site] = count + 1
            heapq.heapreplace(heap, (count + 1, place, site))
        for index in dealt:
            if index in owners:
                quotas[owners[index]] -= 1
        return quotas

    def _claims(
        self,
        free: Mapping[int, int],
        users: Mapping[int, Mapping[str, Addresses]],
        owners: dict[int, str],
        quotas: dict[str, int],
    ) -> None:
        """Blocks with addresses in use stay with their site, the fullest first, while its share lasts."""
        for index in sorted(users, key=lambda i: (free.get(i, 0), i)):
            if index in free and index not in owners:
                site = self._claimant(users[index])
                if quotas[site]:
                    owners[index] = site
                    quotas[site] -= 1

    def _runs(self, free: Mapping[int, int], owners: dict[int, str], quotas: dict[str, int]) -> None:
        rest = iter([index for index in sorted(free) if index not in owners])
        for site in self.sites:
            for _ in range(quotas[site]):
                owners[next(rest)] = site

    def _block(self, index: int, owner: str, users: Mapping[str, Addresses]) -> Block:
        first_last = self.cut.usable(index)
        others = set().union(*(addresses for site, addresses in users.items() if site != owner))
        barred = [a for a in sorted(others | self.excluded) if first_last[0][0] <= a <= first_last[0][1]]
        return Block(
            cidr=self.cut.cidr,
            index=index,
            owner=owner,
            version=1,
            giver=self.giver,
            exclusions=tuple(text(a, self.cut.version) for a in barred),
        )
