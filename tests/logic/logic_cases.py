"""Sites, networks and reservations for the tests of the logic: small, explicit, no behaviour."""

from typing import Any

from diminet.logic import blocks as block_logic
from diminet.logic.addressing import number, spans_of
from diminet.logic.l2 import L2
from diminet.logic.service_type import Decision, Draft
from diminet.messages import Reach, Reservation, ReserveRequest, ResourceFacts
from diminet.model import (
    AddressRange,
    Block,
    Capabilities,
    Document,
    Entry,
    Epoch,
    Identifiers,
    Initiator,
    Member,
    NetworkFacts,
    PortFacts,
    SubnetFacts,
    SubnetShape,
    Ticket,
)


def subnet(cidr: str, gateway: str | None = None, *, slaac: bool = False) -> SubnetFacts:
    version = 6 if ":" in cidr else 4
    return SubnetFacts(
        subnet_id=f"subnet-{cidr}", cidr=cidr, ip_version=version, gateway_ip=gateway, pools=(), slaac=slaac
    )


def network(network_id: str, *subnets: SubnetFacts, mtu: int = 1450) -> NetworkFacts:
    return NetworkFacts(
        network_id=network_id, name=f"name-{network_id}", project_id="p", mtu=mtu, subnets=subnets
    )


def port(ip: str, *, infrastructure: bool = False) -> PortFacts:
    return PortFacts(ip=ip, mac="02:00:00:00:00:01", infrastructure=infrastructure)


def given(
    net: NetworkFacts,
    *ports: PortFacts,
    narrowed: tuple[SubnetShape, ...] = (),
    reaches: tuple[Reach, ...] = (),
) -> ResourceFacts:
    return ResourceFacts(network=net, ports=ports, narrowed=narrowed, reaches=reaches)


def made(network_id: str) -> ResourceFacts:
    return ResourceFacts(network=network(network_id), made=True)


def reservation(site: str, place: int, *facts: ResourceFacts, **capabilities: Any) -> Reservation:
    return Reservation(
        rid=f"rid-{site}",
        service_id="s",
        site=site,
        number=place,
        expires_at=1e9,
        capabilities=Capabilities(kind="linux", **capabilities),
        resources=facts,
    )


def members(*sites: str, deferred: tuple[str, ...] = ()) -> tuple[Member, ...]:
    return tuple(
        Member(site=site, number=place, slot=place, deferred=site in deferred)
        for place, site in enumerate(sites, start=1)
    )


def entries(facts: dict[str, ResourceFacts]) -> tuple[Entry, ...]:
    return tuple(
        Entry(site=site, resource_id=None if known.made else known.network.network_id)
        for site, known in facts.items()
    )


def draft(
    facts: dict[str, ResourceFacts],
    *,
    params: dict[str, Any] | None = None,
    capabilities: dict[str, dict[str, Any]] | None = None,
) -> Draft:
    """A create by the first of the sites."""
    sites = list(facts)
    return Draft(
        service_id="s",
        master=sites[0],
        members=members(*sites),
        entries=entries(facts),
        params={"gateway": "local"} if params is None else params,
        reservations={
            site: reservation(site, place, facts[site], **(capabilities or {}).get(site, {}))
            for place, site in enumerate(sites, start=1)
        },
    )


def request(
    site: str,
    sites: tuple[str, ...],
    wanted: dict[str, Any],
    resource_id: str | None = None,
    params: dict[str, Any] | None = None,
) -> ReserveRequest:
    return ReserveRequest(
        service_id="s",
        type="l2",
        project_id="p",
        ticket=Ticket(1, 1, 1),
        lifetime=30,
        entries=(Entry(site=site, resource_id=resource_id),),
        members=sites,
        params={"gateway": "local"} if params is None else params,
        wanted=wanted,
    )


def document(
    type_name: str,
    decision: Decision,
    the_members: tuple[Member, ...],
    *,
    service_id: str = "s",
) -> Document:
    return Document(
        service_id=service_id,
        epoch=Epoch(1, the_members[0].number),
        revision=1,
        type=type_name,
        project_id="p",
        members=the_members,
        resources=decision.resources,
        params=decision.params,
        identifiers=Identifiers(vni=4097, asn=64999),
        initiator=Initiator(user_id="u", project_id="p", site=the_members[0].site),
        created_at=0,
        updated_at=0,
    )


def addresses_in(pools: tuple[AddressRange, ...] | None) -> set[int]:
    return {n for first, last in spans_of(pools or ()) for n in range(first, last + 1)}


def owned_addresses(blocks: tuple[Block, ...], size: int, site: str) -> set[int]:
    return {
        n
        for block in blocks
        if block.owner == site
        for first, last in block_logic.addresses(block, size)
        for n in range(first, last + 1)
    }


def pools_of(doc: Document, blocks: tuple[Block, ...], site: str) -> set[int]:
    """All addresses that the site would have in its pool if it pooled every block that it owns."""
    resource = doc.resources_of(site)[0]
    own = [b for b in blocks if b.owner == site]
    return {n for shape in L2().shapes(doc, resource, own) for n in addresses_in(shape.pools)}


def gateway_of(doc: Document, site: str) -> int | None:
    gateway = doc.resources_of(site)[0].subnets[0].gateway_ip
    return number(gateway) if gateway else None
