"""Deciding a new L2 service: CIDRs from the lead, addresses dealt out, a gateway for every site."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from diminet.errors import IncompatibleSites, PoolExhausted, ResourceNotClean, SiteUnreachable
from diminet.logic import addressing
from diminet.logic import blocks as block_logic
from diminet.logic.addressing import Cut
from diminet.logic.dealing import Deal
from diminet.logic.entries import check_sites, facts_of, named
from diminet.logic.service_type import Decision, Draft
from diminet.messages import Reservation, ResourceFacts
from diminet.model import Block, Resource, Subnet, SubnetFacts


@dataclass(frozen=True)
class Plan:
    """One subnet as decided. gateways: by site."""

    cut: Cut
    prefix: int
    blocks: tuple[Block, ...]
    gateways: Mapping[str, str | None]

    def subnet(self, site: str) -> Subnet:
        return Subnet(
            cidr=self.cut.cidr,
            ip_version=self.cut.version,
            gateway_ip=self.gateways[site],
            block_prefix=self.prefix,
        )


def decide(draft: Draft) -> Decision:
    facts = live_facts(draft)
    lead = _lead(draft, facts)
    subnets = facts[lead].network.subnets
    asked = {site: draft.reservations[site] for site in facts}
    check_sites(asked, {s.ip_version: s.cidr for s in subnets})
    require_gateway_kind(draft, asked)
    require_same_cidrs(facts, {addressing.normal(s.cidr) for s in subnets})
    plans = [_plan(draft, facts, lead, subnet) for subnet in subnets]
    mtu = smallest_mtu(facts, asked)
    resources = tuple(
        Resource(
            site=site,
            resource_id=known.network.network_id,
            made=known.made,
            mtu=mtu,
            subnets=tuple(plan.subnet(site) for plan in plans),
        )
        for site, known in facts.items()
    )
    return Decision(
        resources=resources, params=draft.params, blocks=tuple(b for plan in plans for b in plan.blocks)
    )


# -- what joining asks for too -----------------------------------------------------------------------


def live_facts(draft: Draft) -> dict[str, ResourceFacts]:
    """What the sites that are not deferred said, in the order of the entries."""
    live = {member.site for member in draft.members if not member.deferred}
    return {
        entry.site: facts_of(draft.reservations.get(entry.site), entry)
        for entry in draft.entries
        if entry.site in live
    }


def require_gateway_kind(draft: Draft, asked: Mapping[str, Reservation]) -> None:
    without = sorted(site for site, r in asked.items() if not r.capabilities.shared_gateway)
    if draft.params.get("gateway") == "shared" and without:
        raise IncompatibleSites(
            f"{named(without)} cannot have a shared gateway: use params.gateway local or none, or leave "
            "these sites out",
            sites=without,
        )


def require_same_cidrs(facts: Mapping[str, ResourceFacts], cidrs: set[str]) -> None:
    for site, known in facts.items():
        own = [addressing.normal(s.cidr) for s in known.network.subnets]
        if not known.made and sorted(own) != sorted(cidrs):
            raise ResourceNotClean(
                f"network {known.network.network_id} of site {site} has {named(own) or 'no subnet'}, but the "
                f"service needs exactly {named(cidrs)}: change its subnets, or leave resource_id out",
                sites=[site],
            )


def smallest_mtu(facts: Mapping[str, ResourceFacts], asked: Mapping[str, Reservation]) -> int:
    """Of the path between the sites, and of the networks that exist already."""
    existing = [known.network.mtu for known in facts.values() if not known.made]
    return min([*existing, *(reservation.capabilities.mtu for reservation in asked.values())])


def own_addresses(
    facts: ResourceFacts, reservation: Reservation, cidr: str, *, keep_gateway: bool
) -> frozenset[int]:
    """Addresses of the CIDR in use at a site, its gateway included if that is to stay what it is."""
    gateways = {s.gateway_ip for s in facts.network.subnets if s.gateway_ip}
    moves = reservation.capabilities.movable_gateway and not keep_gateway
    ports = (p.ip for p in facts.ports if not (moves and p.infrastructure and p.ip in gateways))
    return addressing.numbers_in(cidr, [*ports, *(gateways if keep_gateway else ())])


def fixed_gateway(facts: ResourceFacts, reservation: Reservation, cidr: str) -> str | None:
    """The gateway of an existing network that a router's port has and that cannot be moved (Neutron)."""
    held = {port.ip for port in facts.ports if port.infrastructure}
    gateways = (s.gateway_ip for s in facts.network.subnets if addressing.normal(s.cidr) == cidr)
    fixed = (gateway for gateway in gateways if gateway in held)
    return None if reservation.capabilities.movable_gateway else next(fixed, None)


def first_free(owned: Iterable[Block], size: int, used: Iterable[int]) -> int | None:
    taken = set(used)
    for block in sorted(owned, key=block_logic.key):
        for span in addressing.without(block_logic.addresses(block, size), taken):
            return span[0]
    return None


# -- the parts ---------------------------------------------------------------------------------------


def _lead(draft: Draft, facts: Mapping[str, ResourceFacts]) -> str:
    """The site whose network sets the CIDRs: the master's own if it exists, else the first that does."""
    existing = [site for site, known in facts.items() if not known.made]
    if draft.master in existing:
        return draft.master
    if existing:
        return existing[0]
    away = sorted(e.site for e in draft.entries if e.resource_id and e.site not in facts)
    raise SiteUnreachable(
        f"the only network that exists already, whose CIDR the others are to have, is at {named(away)}, "
        "which cannot be reached: try again when it can",
        sites=away,
    )


def _plan(draft: Draft, facts: Mapping[str, ResourceFacts], lead: str, subnet: SubnetFacts) -> Plan:
    cidr = addressing.normal(subnet.cidr)
    prefix = addressing.block_prefix(cidr, len(draft.members), draft.params.get("block_size"))
    cut = addressing.cut(cidr, prefix)
    used = {
        site: own_addresses(known, draft.reservations[site], cidr, keep_gateway=site == lead)
        for site, known in facts.items()
    }
    kind, shared = draft.params.get("gateway", "local"), None
    excluded = _former_gateways(facts, cidr)
    if kind == "shared":
        shared = _shared_gateway(cut, subnet.gateway_ip, used)
        excluded |= {shared}
    elif kind == "local":
        excluded -= frozenset().union(*used.values())
    used = {site: addresses - excluded for site, addresses in used.items()}
    _require_distinct(used, cut.version)
    deal = Deal(
        cut=cut,
        giver=draft.master,
        sites=[lead, *(site for site in facts if site != lead)],
        used=used,
        kept={site: _kept(known, cut) for site, known in facts.items()},
        excluded=excluded,
    )
    dealt = deal.blocks()
    gateways = _gateways(draft, facts, lead, subnet, cut, dealt, used, shared)
    return Plan(cut=cut, prefix=prefix, blocks=dealt, gateways=gateways)


def _former_gateways(facts: Mapping[str, ResourceFacts], cidr: str) -> frozenset[int]:
    """Of the networks that exist already. No instance may get one, for at the end they are put back."""
    gateways = (s.gateway_ip for known in facts.values() if not known.made for s in known.network.subnets)
    return addressing.numbers_in(cidr, [g for g in gateways if g])


def _kept(facts: ResourceFacts, cut: Cut) -> frozenset[int]:
    """Blocks that the site's pool was narrowed to: a port may have appeared in any of them since."""
    return frozenset(
        index
        for shape in facts.narrowed
        if addressing.normal(shape.cidr) == cut.cidr and shape.pools
        for index in cut.indices(addressing.spans_of(shape.pools))
    )


def _shared_gateway(cut: Cut, existing: str | None, used: Mapping[str, frozenset[int]]) -> int:
    """The lead's gateway, else the first address that is free everywhere."""
    if existing:
        return addressing.number(existing)
    free = addressing.without([addressing.usable_span(cut.cidr)], frozenset().union(*used.values()))
    if not free:
        raise PoolExhausted(f"{cut.cidr} has no free address for the shared gateway: free one, or use none")
    return free[0][0]


def _require_distinct(used: Mapping[str, frozenset[int]], version: int) -> None:
    """The same address of DHCP or a router at two sites would be doubled on the stretched network."""
    holder: dict[int, str] = {}
    for site, addresses in used.items():
        for address in sorted(addresses):
            if address in holder:
                raise ResourceNotClean(
                    f"address {addressing.text(address, version)} is in use at both {holder[address]} and "
                    f"{site}: remove that port at one of them, or leave resource_id out at one of them",
                    sites=[holder[address], site],
                )
            holder[address] = site


def _gateways(
    draft: Draft,
    facts: Mapping[str, ResourceFacts],
    lead: str,
    subnet: SubnetFacts,
    cut: Cut,
    dealt: Sequence[Block],
    used: Mapping[str, frozenset[int]],
    shared: int | None,
) -> dict[str, str | None]:
    """By site; makes sure that every site also has an address left for an instance."""
    kind = draft.params.get("gateway", "local")
    found: dict[str, str | None] = dict.fromkeys(facts)
    for site, known in facts.items():
        owned = [b for b in dealt if b.owner == site]
        taken = set(used[site])
        if shared is not None:
            found[site] = addressing.text(shared, cut.version)
        elif kind == "local" and site == lead and subnet.gateway_ip:
            found[site] = subnet.gateway_ip
        elif kind == "local" and (fixed := fixed_gateway(known, draft.reservations[site], cut.cidr)):
            found[site] = fixed
        elif kind == "local":
            address = first_free(owned, cut.size, taken)
            found[site] = None if address is None else addressing.text(address, cut.version)
            taken |= set() if address is None else {address}
        instances = any(not port.infrastructure for port in known.ports)
        lacking = kind == "local" and found[site] is None
        if lacking or (not instances and first_free(owned, cut.size, taken) is None):
            raise PoolExhausted(
                f"{cut.cidr} has too few free addresses for site {site} to have a gateway and an instance "
                f"beside {len(facts) - 1} other site(s): use a larger subnet, fewer sites, or a smaller "
                "params.block_size",
                sites=[site],
            )
    return found
