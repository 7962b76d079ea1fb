"""Comparing what a VIM has with what a service states. Pure.

A VIM whose pools are advisory (Neutron) lets a tenant fix an address, or a MAC, by hand; this finds what
then stands against the service: addresses in blocks of another site, the same address or MAC at two
sites, subnets that are gone or were changed, filters that shut other sites out.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import ip_address, ip_network
from typing import Literal, NamedTuple

from diminet.logic.addressing import Cut, normal, numbers_in, spans_of
from diminet.model import Block, Document, Ingress, NetworkFacts, PortFacts, SubnetShape

Kind = Literal["address", "mac", "subnet", "filter", "block"]


class Finding(NamedTuple):
    """text: a sentence for people. hard: the service is degraded by it; else it is a warning."""

    kind: Kind
    text: str
    hard: bool = True


class Stray(NamedTuple):
    """An address in use here that is in a block which is not in this site's pool. owner: of the block."""

    ip: str
    block: Block


# -- addresses ---------------------------------------------------------------------------------------


def strays(
    site: str, size: int, pooled: Iterable[Block], blocks: Iterable[Block], used: Iterable[str]
) -> tuple[Stray, ...]:
    """blocks: all of one CIDR, whoever owns them. used: addresses of ports here. Addresses that a block
    excludes were in use before it was dealt: they are nobody's mistake."""
    by_index = {block.index: block for block in blocks}
    if not by_index:
        return ()
    inside = {block.index for block in pooled}
    cut = Cut(next(iter(by_index.values())).cidr, size)
    found = []
    for address in used:
        for number in numbers_in(cut.cidr, [address]):
            block = by_index.get(cut.index_of(number))
            if block is None or number in numbers_in(cut.cidr, block.exclusions):
                continue
            if block.owner != site or block.index not in inside:
                found.append(Stray(address, block))
    return tuple(found)


def of_strays(site: str, document: Document, found: Iterable[Stray]) -> list[Finding]:
    """Those in blocks of others. One in a spare block of our own is for us to pool, not to report."""
    members = {member.site for member in document.members}
    findings = []
    for stray in found:
        owner = stray.block.owner
        if owner == site:
            continue
        whose = f"site {owner}" if owner in members else f"site {owner}, which has left the service"
        findings.append(
            Finding(
                "address",
                f"address {stray.ip} is in use at site {site}, but belongs to {whose}, which may give it to "
                f"another instance: give the port at site {site} an address of its subnet's pool",
            )
        )
    return findings


def of_others(site: str, other: str, mine: Mapping[str, str], theirs: Mapping[str, str]) -> list[Finding]:
    """What is at two sites at once. mine, theirs: `sightings` of the two."""
    fix = "delete one of the two ports and make it anew"
    findings = [
        Finding("address", f"address {ip} is in use at both site {site} and site {other}: {fix}")
        for ip in sorted(mine.keys() & theirs.keys())
    ]
    there = {mac: ip for ip, mac in theirs.items()}
    for mac, ip in sorted({mac: ip for ip, mac in mine.items() if mac in there}.items()):
        told = f"MAC {mac} is at both site {site} ({ip}) and site {other} ({there[mac]}): {fix}"
        findings.append(Finding("mac", told))
    return findings


def sightings(ports: Iterable[PortFacts], cidrs: Iterable[str], gateways: Iterable[str]) -> dict[str, str]:
    """Address -> MAC of this site's ports in the service's CIDRs. gateways: of this site, which are left
    out where the site itself has them: the document tells of them."""
    own = {ip_address(address) for address in gateways}
    networks = [ip_network(cidr) for cidr in cidrs]
    found = {}
    for port in ports:
        address = ip_address(port.ip)
        ours = port.infrastructure and address in own
        if not ours and any(address in network for network in networks):
            found[str(address)] = port.mac.lower()
    return found


def of_gateways(site: str, document: Document, used: Iterable[str]) -> list[Finding]:
    """used: addresses of ports here other than gateways. One that is the gateway of a site, this one too,
    takes what the instances there send elsewhere."""
    whose: dict[str, set[str]] = {}
    for resource in document.resources:
        for subnet in resource.subnets:
            if subnet.gateway_ip:
                whose.setdefault(str(ip_address(subnet.gateway_ip)), set()).add(resource.site)
    return [
        Finding(
            "address",
            f"address {address} is in use by a port of site {site}, but is the gateway of "
            f"{', '.join(f'site {other}' for other in sorted(whose[address]))}: give the port another",
        )
        for address in sorted(set(used) & whose.keys())
    ]


# -- blocks ------------------------------------------------------------------------------------------


def of_blocks(site: str, other: str, mine: Iterable[Block], theirs: Iterable[Block]) -> list[Finding]:
    """What two sites know of a service's blocks when each has told the other. Where one knows a later
    version that is still on its way; what one does not know at all, or otherwise in the same version, was
    lost or changed in a database."""
    known = {(block.cidr, block.index): block for block in mine}
    lost, differ = Counter[str](), Counter[str]()
    for block in theirs:
        held = known.get((block.cidr, block.index))
        lost[block.cidr] += held is None
        differ[block.cidr] += held is not None and held.version == block.version and held != block
    fix = "restore that database from a backup (docs/protocol.md, Drift)"
    findings = [
        Finding(
            "block",
            f"{number} address blocks of {cidr} that site {other} knows are not in the database of site "
            f"{site}: {fix}",
        )
        for cidr, number in sorted(lost.items())
        if number
    ]
    findings += [
        Finding(
            "block",
            f"site {site} and site {other} know different owners, or givers, of {number} address blocks of "
            f"{cidr}: one of the databases was changed: {fix}",
        )
        for cidr, number in sorted(differ.items())
        if number
    ]
    return findings


# -- subnets -----------------------------------------------------------------------------------------


def of_subnets(
    site: str, network: NetworkFacts, wanted: Iterable[str], shapes: Iterable[SubnetShape], *, made: bool
) -> tuple[list[Finding], bool]:
    """wanted: the document's CIDRs of that network; shapes: how the service wants them, if it cares. made:
    by us for the service, so that a subnet that is gone is ours to make again. True if some are to be
    shaped again."""
    there = {normal(subnet.cidr): subnet for subnet in network.subnets}
    gone = sorted({normal(cidr) for cidr in wanted} - there.keys())
    what = " and is made again" if made else ": take the network out of the service, or create it again"
    findings = [
        Finding(
            "subnet",
            f"subnet {cidr} of network {network.network_id} of site {site} was deleted{what}",
            hard=not made,
        )
        for cidr in gone
    ]
    changed = made and bool(gone)
    for shape in shapes:
        subnet = there.get(normal(shape.cidr))
        if subnet is None:
            continue
        moved = subnet.gateway_ip != shape.gateway_ip
        pools = shape.pools is not None and spans_of(subnet.pools) != spans_of(shape.pools)
        changed = changed or moved or pools
        if moved or pools:
            findings.append(
                Finding(
                    "subnet",
                    f"{'gateway' if moved else 'allocation pools'} of subnet {shape.cidr} of network "
                    f"{network.network_id} of site {site} were changed by somebody else and are put back",
                    hard=False,
                )
            )
    return findings, changed


# -- filters -----------------------------------------------------------------------------------------


def of_filters(site: str, document: Document, network_id: str, ingress: Sequence[Ingress]) -> list[Finding]:
    """Networks of other sites that no filter of a port here lets in, though the service joins them."""
    findings = []
    remote = {(r.site, s.cidr) for r in document.resources if r.site != site for s in r.subnets}
    for other, cidr in sorted(remote):
        shut = [one.ip for one in ingress if _shuts_out(one, cidr)]
        if shut:
            more = f" and {len(shut) - 1} other ports" if len(shut) > 1 else ""
            findings.append(
                Finding(
                    "filter",
                    f"security groups of port {shut[0]}{more} of network {network_id} of site {site} let "
                    f"nothing of {cidr} of site {other} in: add an ingress rule with that remote IP prefix",
                    hard=False,
                )
            )
    return findings


def _shuts_out(one: Ingress, cidr: str) -> bool:
    remote = ip_network(cidr)
    if ip_address(one.ip).version != remote.version:
        return False
    allowed = (ip_network(prefix) for prefix in one.allowed)
    return not any(prefix.version == remote.version and prefix.overlaps(remote) for prefix in allowed)
