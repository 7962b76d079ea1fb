"""Decisions about subnets, gateways and fixed addresses, on the rows of one transaction.

Neutron's rules and errors, with one more: a subnet that an inter-site L2 service shares is *shaped*:
its pools are this site's part of it, and nothing outside of them is given (DESIGN invariant 1).
"""

from collections.abc import Iterable
from ipaddress import ip_address
from uuid import uuid4

from diminet.model import AddressRange
from diminet.south.linux import ipam
from diminet.south.linux.vim_errors import BadRequest, InUse, Missing
from diminet.south.linux.vim_requests import FixedIp, SubnetCreate
from diminet.south.linux.vim_store import VimTx
from diminet.south.linux.vim_tables import Address, NetworkRow, SubnetRow


class PoolsDry(Exception):
    """No address is free in any of these subnets of the network."""

    def __init__(self, cidrs: tuple[str, ...]) -> None:
        super().__init__(", ".join(cidrs))
        self.cidrs = cidrs


def shaped(tx: VimTx, subnet: SubnetRow) -> bool:
    """Whether an inter-site L2 service shares the subnet."""
    return subnet.pools_before is not None or bool(tx.links(network_id=subnet.network_id, layer="l2"))


def stretched(tx: VimTx, network_id: str) -> bool:
    """Whether an inter-site L2 service has, or is about to have, the network."""
    if tx.links(network_id=network_id, layer="l2"):
        return True
    return any(subnet.pools_before is not None for subnet in tx.subnets(network_id=network_id))


def check_pools(cidr: str, pools: tuple[AddressRange, ...]) -> None:
    """Within the CIDR, the right way round, and apart from one another."""
    network = ipam.network_of(cidr)
    low, high = int(network.network_address), int(network.broadcast_address)
    for pool in pools:
        versions = {ip_address(pool.first).version, ip_address(pool.last).version}
        first, last = int(ip_address(pool.first)), int(ip_address(pool.last))
        if versions != {network.version} or first > last:
            raise BadRequest(
                "InvalidAllocationPool", f"The allocation pool {pool.first}-{pool.last} is not valid."
            )
        if first < low or last > high:
            raise BadRequest(
                "OutOfBoundsAllocationPool",
                f"The allocation pool {pool.first}-{pool.last} spans beyond the subnet cidr {cidr}.",
            )
    if ipam.overlapping(ipam.as_numbers(pools)):
        raise InUse(
            "OverlappingAllocationPools", f"Two of the allocation pools of subnet {cidr} overlap; part them."
        )


def check_gateway(cidr: str, gateway_ip: str | None) -> None:
    """Neutron lets a gateway lie outside of the CIDR; here it is a real address, so it may not."""
    if gateway_ip is None:
        return
    gateway, network = ip_address(gateway_ip), ipam.network_of(cidr)
    first, last = ipam.usable(cidr)
    if gateway.version != network.version or not first <= int(gateway) <= last:
        raise BadRequest(
            "InvalidInput",
            f"Invalid input for operation: Gateway {gateway_ip} is no host's address in {cidr}.",
        )


def check_gateway_apart(gateway_ip: str | None, pools: tuple[AddressRange, ...]) -> None:
    if gateway_ip and ipam.contains(ipam.as_numbers(pools), int(ip_address(gateway_ip))):
        raise InUse(
            "GatewayConflictWithAllocationPools",
            f"Gateway ip {gateway_ip} conflicts with an allocation pool; leave it out of the pools.",
        )


def check_gateway_free(tx: VimTx, subnet: SubnetRow, gateway_ip: str | None) -> None:
    if gateway_ip and gateway_ip in tx.used(subnet.id):
        raise InUse(
            "GatewayIpInUse",
            f"Gateway {gateway_ip} cannot be set on subnet {subnet.id}: a port uses that address.",
        )


def check_apart(tx: VimTx, network_id: str, cidr: str) -> None:
    """No other subnet of the network may overlap (other networks are free to: they never meet)."""
    wanted = ipam.network_of(cidr)
    for other in tx.subnets(network_id=network_id):
        if other.ip_version == wanted.version and wanted.overlaps(ipam.network_of(other.cidr)):
            raise BadRequest(
                "InvalidInput",
                f"Invalid input for operation: Requested subnet with cidr: {cidr} for network: "
                f"{network_id} overlaps with another subnet ({other.cidr}).",
            )


def check_modes(request: SubnetCreate) -> None:
    """IP version, DHCPv6 and SLAAC modes that fit each other (Neutron's table, as far as it goes here)."""
    address, advert = request.ipv6_address_mode, request.ipv6_ra_mode
    if ipam.network_of(request.cidr).version != request.ip_version:
        problem = f"cidr '{request.cidr}' does not match the ip_version '{request.ip_version}'"
    elif request.ip_version == 4 and (address or advert):
        problem = "ipv6_address_mode and ipv6_ra_mode are for IPv6 subnets"
    elif address and advert and address != advert:
        problem = f"ipv6_ra_mode '{advert}' and ipv6_address_mode '{address}' differ"
    elif "dhcpv6-stateless" in (address, advert):
        problem = "this site has no 'dhcpv6-stateless'; use slaac or dhcpv6-stateful"
    elif "slaac" in (address, advert) and not request.cidr.endswith("/64"):
        problem = "a SLAAC subnet must be a /64"
    else:
        return
    raise BadRequest("InvalidInput", f"Invalid input for operation: {problem}.")


# -- which addresses a port gets -------------------------------------------------------------------


def give(
    tx: VimTx,
    network: NetworkRow,
    wanted: tuple[FixedIp, ...] | None,
    mac: str,
    own: Iterable[Address] = (),
) -> tuple[Address, ...]:
    """The addresses of a port. wanted None: as Neutron does, one of each IP version and all SLAAC ones.

    own: what the port has already, and may keep. Raises PoolsDry, BadRequest, InUse.
    """
    subnets = tx.subnets(network_id=network.id)
    if wanted is None:
        return _automatic(tx, subnets, mac)
    given: list[Address] = []
    for fixed in wanted:
        mine = {address.ip for address in own}
        given.append(_asked_for(tx, network, subnets, fixed, mac, mine, {a.ip for a in given}))
    return tuple(given)


def _automatic(tx: VimTx, subnets: list[SubnetRow], mac: str) -> tuple[Address, ...]:
    given = []
    for version in (4, 6):
        stateful = [s for s in subnets if s.ip_version == version and not s.slaac]
        if stateful:
            given.append(_first_free(tx, stateful))
    given += [_slaac(tx, subnet, mac) for subnet in subnets if subnet.slaac]
    return tuple(given)


def _first_free(tx: VimTx, subnets: list[SubnetRow], but: Iterable[str] = ()) -> Address:
    for subnet in subnets:
        used = tx.used(subnet.id) | set(but)
        ip = ipam.next_free(subnet.cidr, subnet.pools, used, subnet.gateway_ip)
        if ip is not None:
            return Address(subnet_id=subnet.id, ip=ip)
    raise PoolsDry(tuple(subnet.cidr for subnet in subnets))


def _slaac(tx: VimTx, subnet: SubnetRow, mac: str) -> Address:
    ip = ipam.eui64(subnet.cidr, mac)
    if ip in tx.used(subnet.id):
        raise _taken(subnet.network_id, ip)
    return Address(subnet_id=subnet.id, ip=ip)


def _asked_for(
    tx: VimTx,
    network: NetworkRow,
    subnets: list[SubnetRow],
    fixed: FixedIp,
    mac: str,
    mine: set[str],
    given: set[str],
) -> Address:
    subnet = _subnet_for(network, subnets, fixed)
    if fixed.ip_address is None:
        if subnet.slaac:
            return Address(subnet_id=subnet.id, ip=ipam.eui64(subnet.cidr, mac))
        return _first_free(tx, [subnet], given)
    ip = fixed.ip_address
    _check_host_address(subnet, ip, mac)
    if ip in given or (ip not in mine and ip in tx.used(subnet.id)) or ip == subnet.gateway_ip:
        raise _taken(network.id, ip)
    inside = ipam.contains(ipam.as_numbers(subnet.pools), int(ip_address(ip)))
    if ip not in mine and not inside and shaped(tx, subnet):
        pools = ", ".join(f"{first}-{last}" for first, last in subnet.pools) or "none"
        raise InUse(
            "InvalidIpForSubnet",
            f"IP address {ip} is not this site's to give: subnet {subnet.cidr} is shared with other "
            f"sites. Take one from its allocation pools here ({pools}), or none to be given one.",
        )
    return Address(subnet_id=subnet.id, ip=ip)


def _subnet_for(network: NetworkRow, subnets: list[SubnetRow], fixed: FixedIp) -> SubnetRow:
    if fixed.subnet_id:
        found = next((s for s in subnets if s.id == fixed.subnet_id), None)
        if found is None:
            raise Missing("SubnetNotFound", f"Subnet {fixed.subnet_id} is not on network {network.id}.")
        return found
    wanted = ip_address(str(fixed.ip_address))
    for subnet in subnets:
        if wanted in ipam.network_of(subnet.cidr):
            return subnet
    raise BadRequest(
        "InvalidIpForNetwork",
        f"IP address {wanted} is not a valid IP for any of the subnets on network {network.id}.",
    )


def _check_host_address(subnet: SubnetRow, ip: str, mac: str) -> None:
    address, (first, last) = ip_address(ip), ipam.usable(subnet.cidr)
    if address.version != subnet.ip_version or not first <= int(address) <= last:
        raise BadRequest(
            "InvalidIpForSubnet", f"IP address {ip} is not a valid IP for the subnet {subnet.cidr}."
        )
    if subnet.slaac and ip != ipam.eui64(subnet.cidr, mac):
        raise BadRequest(
            "AllocationOnAutoAddressSubnet",
            f"IPv6 address {ip} cannot be chosen in {subnet.cidr}: instances make their own there (SLAAC).",
        )


def _taken(network_id: str, ip: str) -> InUse:
    return InUse("IpAddressAlreadyAllocated", f"IP address {ip} is already in use on network {network_id}.")


def mtu_too_small(mtu: int) -> BadRequest:
    return BadRequest(
        "InvalidInput", f"Invalid input for operation: MTU {mtu} is too small for IPv6, which needs 1280."
    )


def new_subnet(request: SubnetCreate, now: float) -> SubnetRow:
    """As it was asked for, of no project yet. now: UTC, epoch seconds."""
    gateway = request.gateway_ip
    if "gateway_ip" not in request.model_fields_set:
        gateway = ipam.default_gateway(request.cidr)
    check_gateway(request.cidr, gateway)
    pools = request.allocation_pools
    if pools is None:
        pools = ipam.default_pools(request.cidr, gateway)
    check_pools(request.cidr, pools)
    check_gateway_apart(gateway, pools)
    left_out = {"project_id", "tenant_id", "gateway_ip", "allocation_pools"}
    fields = request.model_dump(exclude=left_out)
    fields["ipv6_address_mode"] = request.ipv6_address_mode or request.ipv6_ra_mode
    return SubnetRow(
        id=str(uuid4()),
        project_id="",
        gateway_ip=gateway,
        pools=pools,
        created_at=now,
        updated_at=now,
        **fields,
    )
