"""Deciding a change of an L2 service: what exists stays, a joining site gets a share, who leaves goes.

The joiner's first share comes out of the master's own spare blocks, since the master writes the document
and no other site may write what is the master's; more it asks from the others, as it grows.
"""

from collections.abc import Mapping, Sequence

from diminet.errors import InvalidRequest, PoolExhausted, ResourceNotClean
from diminet.logic import addressing
from diminet.logic import blocks as block_logic
from diminet.logic.addressing import Cut
from diminet.logic.entries import check_sites, facts_of
from diminet.logic.l2_create import (
    first_free,
    fixed_gateway,
    own_addresses,
    require_gateway_kind,
    require_same_cidrs,
    smallest_mtu,
)
from diminet.logic.service_type import Decision, Draft
from diminet.messages import ResourceFacts
from diminet.model import Block, Document, Entry, Resource, Subnet


def decide(draft: Draft, before: Document) -> Decision:
    kept = {resource.site: resource for resource in before.resources}
    entries = _live_entries(draft)
    for entry in entries:
        _require_same_network(entry, kept.get(entry.site))
    joining = {e.site: facts_of(draft.reservations.get(e.site), e) for e in entries if e.site not in kept}
    lead = before.resources[0]
    asked = {site: draft.reservations[site] for site in joining}
    check_sites(draft.reservations, {s.ip_version: s.cidr for s in lead.subnets})
    require_gateway_kind(draft.model_copy(update={"params": before.params}), asked)
    require_same_cidrs(joining, {addressing.normal(s.cidr) for s in lead.subnets})
    subnets: dict[str, list[Subnet]] = {site: [] for site in joining}
    gives: list[Block] = []
    for subnet in lead.subnets:
        spare = _spare(draft, before, subnet)
        most = len(spare) // (2 * max(1, len(joining)))
        for site, facts in joining.items():
            joiner = _Joiner(draft, before, subnet, site, facts)
            given = joiner.share(spare, most)
            spare = [b for b in spare if b not in given]
            gives += [block_logic.next_version(b, site, draft.master) for b in given]
            subnets[site].append(joiner.subnet(given))
    mtu = _mtu(lead, joining, draft)
    made = {
        site: Resource(
            site=site,
            resource_id=facts.network.network_id,
            made=facts.made,
            subnets=tuple(subnets[site]),
        )
        for site, facts in joining.items()
    }
    resources = tuple((kept.get(e.site) or made[e.site]).model_copy(update={"mtu": mtu}) for e in entries)
    return Decision(resources=resources, params=before.params, gives=tuple(gives))


def _spare(draft: Draft, before: Document, subnet: Subnet) -> list[Block]:
    """The master's blocks that it can part with. None with an address in use is ever spare; they are
    looked for all the same, since a mistake here would double an address."""
    assert subnet.block_prefix is not None  # `recheck` lets no other document in
    size = addressing.cut(subnet.cidr, subnet.block_prefix).size
    own = draft.reservations.get(draft.master)
    used = [port.ip for facts in (own.resources if own else ()) for port in facts.ports]
    used += [s.gateway_ip for r in before.resources_of(draft.master) for s in r.subnets if s.gateway_ip]
    return [
        block
        for block in draft.spare
        if block.cidr == subnet.cidr
        and block.owner == draft.master
        and not block_logic.in_use(block, size, used)
    ]


def _live_entries(draft: Draft) -> list[Entry]:
    live = {member.site for member in draft.members if not member.deferred}
    return [entry for entry in draft.entries if entry.site in live]


def _require_same_network(entry: Entry, kept: Resource | None) -> None:
    if kept is not None and entry.resource_id not in (None, kept.resource_id):
        raise InvalidRequest(
            f"site {entry.site} takes part with network {kept.resource_id} already: remove that one first, "
            "then add the other",
            sites=[entry.site],
        )


def _mtu(lead: Resource, joining: Mapping[str, ResourceFacts], draft: Draft) -> int | None:
    if not joining:
        return lead.mtu
    theirs = smallest_mtu(joining, {site: draft.reservations[site] for site in joining})
    return theirs if lead.mtu is None else min(lead.mtu, theirs)


class _Joiner:
    """A joining site's part of one subnet."""

    def __init__(
        self, draft: Draft, before: Document, subnet: Subnet, site: str, facts: ResourceFacts
    ) -> None:
        assert subnet.block_prefix is not None  # `recheck` lets no other document in
        self.cut: Cut = addressing.cut(subnet.cidr, subnet.block_prefix)
        self.template = subnet
        self.site = site
        self.master = draft.master
        self.kind = before.params.get("gateway", "local")
        every = [b for b in draft.blocks if b.cidr == subnet.cidr]
        live = sum(1 for member in draft.members if not member.deferred)
        owned = sum(1 for b in every if b.owner == site)  # from an earlier time, if it left unseen
        self.lacking = block_logic.fair_share(every, live) - owned
        self.used = own_addresses(facts, draft.reservations[site], subnet.cidr, keep_gateway=False)
        self.fixed = fixed_gateway(facts, draft.reservations[site], self.cut.cidr)

    def share(self, spare: Sequence[Block], most: int) -> tuple[Block, ...]:
        """Of the master's spare blocks: what it lacks of a fair share, but no more than `most`, unless
        less is of no use. Its gateway and what is in use there have to lie in these: a block that it
        is thought to own from an earlier time may have been given away without the master's hearing
        of it yet. Raises PoolExhausted, ResourceNotClean."""
        given = [b for b in spare if b.index in self._indices_in_use()]
        self._require_own(given)
        rest = [b for b in spare if b not in given]
        rest.sort(key=lambda b: (len(b.exclusions), -b.index))
        for block in rest:
            if len(given) >= min(self.lacking, most) and self._room(given) >= self._need():
                break
            given.append(block)
        if self._room(given) < self._need():
            raise PoolExhausted(
                f"site {self.master} has no spare addresses of {self.cut.cidr} left for site {self.site}: "
                "delete instances there, or remove a site",
                sites=[self.master],
            )
        return tuple(given)

    def subnet(self, given: Sequence[Block]) -> Subnet:
        gateway = self.template.gateway_ip if self.kind == "shared" else None
        if self.kind == "local" and self.fixed:
            gateway = self.fixed
        elif self.kind == "local":
            address = first_free(given, self.cut.size, self.used)
            gateway = None if address is None else addressing.text(address, self.cut.version)
        return self.template.model_copy(update={"gateway_ip": gateway})

    def _need(self) -> int:
        return 2 if self.kind == "local" else 1  # an instance, and the site's own gateway

    def _room(self, given: Sequence[Block]) -> int:
        used = [addressing.text(a, self.cut.version) for a in self.used]
        return block_logic.room(given, self.cut.size, used)

    def _indices_in_use(self) -> set[int]:
        return {self.cut.index_of(address) for address in self.used}

    def _require_own(self, given: Sequence[Block]) -> None:
        """What is in use at the joiner (DHCP, a router) must lie in what it is given."""
        own = {b.index for b in given}
        foreign = sorted(a for a in self.used if self.cut.index_of(a) not in own)
        if foreign and self.kind == "shared" and self.template.gateway_ip:
            foreign = [a for a in foreign if a != addressing.number(self.template.gateway_ip)]
        if foreign:
            raise ResourceNotClean(
                f"address {addressing.text(foreign[0], self.cut.version)} is in use at site {self.site} but "
                "belongs to another site's share: remove that port, or leave resource_id out",
                sites=[self.site],
            )
