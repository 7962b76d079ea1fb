"""L2: one subnet stretched over several sites, each site giving out its own part of the addresses.

The *lead* is the network that sets the CIDRs: the receiving site's existing one (the *origin*, which
may hold instances already), else the first that another site was given. All others are made, or were
clean. `dealing` shares the addresses out, `blocks` lives with them afterwards.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

from pydantic import ValidationError

from diminet.errors import InvalidRequest, ResourceBusy, ResourceNotClean
from diminet.logic import addressing, l2_create, l2_join
from diminet.logic import blocks as block_logic
from diminet.logic.dealing import Deal
from diminet.logic.entries import check_entries, named
from diminet.logic.service_type import Decision, Draft
from diminet.messages import ReserveRequest, ResourceFacts
from diminet.model import (
    Block,
    Document,
    Entry,
    NetworkFacts,
    PortFacts,
    Resource,
    Subnet,
    SubnetShape,
    Target,
    Wire,
)

Gateway = Literal["local", "shared", "none"]


class Wanted(Wire):
    """`ReserveRequest.wanted` of L2. subnets: the CIDRs that the networks must have or will get (empty:
    whoever is asked for an existing network reports its own). origin: id of the receiving site's
    existing network."""

    subnets: tuple[Subnet, ...] = ()
    origin: str | None = None

    @classmethod
    def of(cls, request: ReserveRequest) -> "Wanted":
        try:
            return cls.model_validate(request.wanted)
        except ValidationError as error:
            raise InvalidRequest(f"`wanted` of an l2 request is not understood: {error}") from error

    def cidrs(self) -> set[str]:
        return {addressing.normal(s.cidr) for s in self.subnets}


class L2:
    name = "l2"
    makes_networks = True
    uses_blocks = True

    # -- what the tenant sent ----------------------------------------------------------------------

    def check(self, entries: Sequence[Entry], params: Mapping[str, Any], receiver: str) -> dict[str, Any]:
        check_entries(entries, receiver)
        self.check_change(entries)
        if not any(entry.resource_id for entry in entries):
            raise InvalidRequest(
                f"one entry must name an existing network, whose CIDR is then used at all sites: give the "
                f"resource_id of one of site {receiver}"
            )
        return _checked_params(params)

    def check_change(self, entries: Sequence[Entry]) -> None:
        sites = [entry.site for entry in entries]
        twice = {site for site in sites if sites.count(site) > 1}
        if twice:
            raise InvalidRequest(
                f"an l2 service has one network of a site, but {named(twice)} is named more than once"
            )

    # -- what the sites are asked --------------------------------------------------------------------

    def wanted(
        self, own: Sequence[NetworkFacts], params: Mapping[str, Any], before: Document | None
    ) -> dict[str, Any]:
        if before is not None:
            subnets = [_plain(s.cidr, s.ip_version) for s in before.resources[0].subnets]
            return Wanted(subnets=tuple(subnets)).model_dump(mode="json")
        if not own:
            return Wanted().model_dump(mode="json")
        subnets = [_plain(s.cidr, s.ip_version) for s in own[0].subnets]
        return Wanted(subnets=tuple(subnets), origin=own[0].network_id).model_dump(mode="json")

    def narrow(
        self, network: NetworkFacts, ports: Sequence[PortFacts], request: ReserveRequest, site: str
    ) -> tuple[SubnetShape, ...]:
        """The origin keeps what it would be dealt if the ports stayed as they are; any other existing
        network is to stay clean, so its pools become empty."""
        origin = Wanted.of(request).origin == network.network_id
        shapes = []
        for subnet in network.subnets:
            if subnet.slaac:
                continue  # its hosts make their own addresses: `fit` refuses it
            spans: list[addressing.Span] = []
            if origin:
                gateways = [subnet.gateway_ip] if subnet.gateway_ip else []
                spans = _origin_share(subnet.cidr, [*gateways, *(p.ip for p in ports)], request, site)
                spans = addressing.without(spans, addressing.numbers_in(subnet.cidr, gateways))
            shapes.append(
                SubnetShape(
                    cidr=subnet.cidr,
                    ip_version=subnet.ip_version,
                    gateway_ip=subnet.gateway_ip,
                    pools=addressing.pools(spans, subnet.ip_version),
                )
            )
        return tuple(shapes)

    def fit(
        self, facts: ResourceFacts, request: ReserveRequest, site: str, committed: Sequence[Document]
    ) -> None:
        network = facts.network
        if committed:
            raise _busy(network.network_id, site, committed[0])
        if facts.made:
            return
        wanted = Wanted.of(request)
        if not network.subnets:
            raise ResourceNotClean(
                f"network {network.network_id} of site {site} has no subnet: create one, or leave "
                "resource_id out and the site makes a network",
                sites=[site],
            )
        for subnet in network.subnets:
            if subnet.slaac:
                raise ResourceNotClean(
                    f"subnet {subnet.cidr} of network {network.network_id} of site {site} uses SLAAC, where "
                    "hosts choose their addresses: use stateful DHCPv6 (dhcpv6-stateful) to stretch it",
                    sites=[site],
                )
        if network.network_id != wanted.origin:
            _require_clean(facts, wanted, site)

    # -- deciding ------------------------------------------------------------------------------------

    def decide(self, draft: Draft) -> Decision:
        self.check_change(draft.entries)
        return l2_create.decide(draft) if draft.before is None else l2_join.decide(draft, draft.before)

    def recheck(self, document: Document, site: str, committed: Sequence[Document]) -> None:
        for resource in document.resources_of(site):
            for other in committed:
                if any(r.resource_id == resource.resource_id for r in other.resources_of(site)):
                    raise _busy(resource.resource_id, site, other)
        _require_sane(document, site)

    # -- what this site then has to have -------------------------------------------------------------

    def shapes(
        self, document: Document, resource: Resource, pooled: Sequence[Block]
    ) -> tuple[SubnetShape, ...]:
        return tuple(
            _shape(document, resource, subnet, pooled, self.block_size(document, subnet.cidr))
            for subnet in resource.subnets
        )

    def target(self, document: Document, site: str, committed: Sequence[Document]) -> Target | None:
        me, own = document.member(site), document.resources_of(site)
        if me is None or me.deferred or not own:
            return None
        there = {r.site for r in document.resources}
        others = [m for m in document.members if m.site != site and m.site in there and not m.deferred]
        identifiers = document.identifiers
        return Target(
            service_id=document.service_id,
            project_id=document.project_id,
            layer=self.name,
            vni=identifiers.vni,
            export_target=identifiers.target(me.slot),
            import_targets=tuple(identifiers.target(m.slot) for m in others),
            networks=(own[0].resource_id,),
            local_cidrs=tuple(s.cidr for s in own[0].subnets),
            mtu=own[0].mtu,
            anycast_gateway=document.params.get("gateway") == "shared",
            peers=tuple(m.number for m in others),
            vteps={m.number: m.vtep for m in others if m.vtep},
        )

    def block_size(self, document: Document, cidr: str) -> int:
        for resource in document.resources:
            for subnet in resource.subnets:
                if subnet.cidr == cidr and subnet.block_prefix is not None:
                    return addressing.cut(cidr, subnet.block_prefix).size
        return 0

    def appeared(
        self, document: Document, site: str, networks: Sequence[NetworkFacts], committed: Sequence[Document]
    ) -> tuple[str, ...]:
        known = {addressing.normal(s.cidr) for r in document.resources for s in r.subnets}
        return tuple(
            f"subnet {subnet.cidr} of network {network.network_id} of site {site} is not part of the "
            "service: its addresses may be given out at another site too; delete it"
            for network in networks
            for subnet in network.subnets
            if addressing.normal(subnet.cidr) not in known
        )


def _plain(cidr: str, ip_version: Literal[4, 6]) -> Subnet:
    return Subnet(cidr=addressing.normal(cidr), ip_version=ip_version)


def _checked_params(params: Mapping[str, Any]) -> dict[str, Any]:
    unknown = set(params) - {"gateway", "block_size"}
    if unknown:
        raise InvalidRequest(f"an l2 service has no params {named(unknown)}, only gateway and block_size")
    gateway = params.get("gateway", "local")
    if gateway not in get_args(Gateway):
        raise InvalidRequest("params.gateway must be one of local, shared, none")
    checked: dict[str, Any] = {"gateway": gateway}
    if params.get("block_size") is not None:
        size = params["block_size"]
        if not isinstance(size, int) or isinstance(size, bool) or size < 1 or size & (size - 1):
            raise InvalidRequest("params.block_size must be a power of two: 1, 2, 4, 8, … addresses")
        checked["block_size"] = size
    return checked


def _busy(network_id: str, site: str, other: Document) -> ResourceBusy:
    return ResourceBusy(
        f"network {network_id} of site {site} is in {other.type} service {other.service_id} already, and a "
        "network in an l2 service can be in no other: remove it there first",
        sites=[site],
        networks=[network_id],
    )


def _origin_share(
    cidr: str, used: Sequence[str], request: ReserveRequest, site: str
) -> list[addressing.Span]:
    """What `l2_create` would deal to the origin if all sites took part and no port were added."""
    prefix = addressing.block_prefix(cidr, len(request.members), request.params.get("block_size"))
    whole = addressing.cut(cidr, prefix)
    deal = Deal(
        cut=whole,
        giver=site,
        sites=[site, *(member for member in request.members if member != site)],
        used={site: addressing.numbers_in(cidr, used)},
    )
    own = (b for b in deal.blocks() if b.owner == site)
    return addressing.coalesce(span for b in own for span in block_logic.addresses(b, whole.size))


def _require_clean(facts: ResourceFacts, wanted: Wanted, site: str) -> None:
    """A network that is not the origin: the wanted CIDRs and no others, no tenant's port."""
    network = facts.network
    cidrs = [addressing.normal(s.cidr) for s in network.subnets]
    if wanted.subnets and sorted(cidrs) != sorted(wanted.cidrs()):
        raise ResourceNotClean(
            f"network {network.network_id} of site {site} has {named(cidrs)}, but the service needs exactly "
            f"{named(wanted.cidrs())}: change its subnets, or leave resource_id out and the site makes a "
            "network",
            sites=[site],
        )
    tenants = [port.ip for port in facts.ports if not port.infrastructure]
    if tenants:
        raise ResourceNotClean(
            f"network {network.network_id} of site {site} has {len(tenants)} port(s) in use, e.g. "
            f"{tenants[0]}: delete them first, or send the request to site {site}, where its own network "
            "may be in use",
            sites=[site],
        )


def _require_sane(document: Document, site: str) -> None:
    """A document that another site wrote: is it one that can be applied? Raises InvalidRequest."""
    me = document.member(site)
    if me is not None and not me.deferred and len(document.resources_of(site)) != 1:
        raise InvalidRequest(f"the document has no network, or several, of site {site}", sites=[site])
    cuts = {_cuts(resource) for resource in document.resources}
    if len(cuts) > 1:
        raise InvalidRequest("the networks of the document differ in CIDRs or blocks")
    shared = document.params.get("gateway") == "shared"
    for cidr, _ in next(iter(cuts), ()):
        gateways = [
            s.gateway_ip
            for r in document.resources
            for s in r.subnets
            if addressing.normal(s.cidr) == cidr and s.gateway_ip
        ]
        if len(addressing.numbers_in(cidr, gateways)) != (min(1, len(gateways)) if shared else len(gateways)):
            raise InvalidRequest(f"gateways {named(gateways)} do not fit {cidr} or are not distinct")


def _cuts(resource: Resource) -> tuple[tuple[str, int], ...]:
    found = []
    for subnet in resource.subnets:
        if subnet.block_prefix is None:
            raise InvalidRequest(f"subnet {subnet.cidr} of the document has no block_prefix")
        addressing.cut(subnet.cidr, subnet.block_prefix)
        found.append((addressing.normal(subnet.cidr), subnet.block_prefix))
    return tuple(sorted(found))


def _shape(
    document: Document, resource: Resource, subnet: Subnet, pooled: Sequence[Block], size: int
) -> SubnetShape:
    """Pools: the usable addresses of this site's pooled blocks, less exclusions and all gateways."""
    own = [b for b in pooled if b.cidr == subnet.cidr and b.owner == resource.site]
    spans = addressing.coalesce(span for b in own for span in block_logic.addresses(b, size))
    gateways = {
        s.gateway_ip for r in document.resources for s in r.subnets if s.cidr == subnet.cidr and s.gateway_ip
    }
    spans = addressing.without(spans, addressing.numbers_in(subnet.cidr, gateways))
    return SubnetShape(
        cidr=subnet.cidr,
        ip_version=subnet.ip_version,
        gateway_ip=subnet.gateway_ip,
        pools=addressing.pools(spans, subnet.ip_version),
    )
