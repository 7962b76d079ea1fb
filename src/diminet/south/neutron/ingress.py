"""Which senders the security groups of ports let in, by their address."""

from collections.abc import Iterable, Sequence

from diminet.model import Ingress
from diminet.south.neutron.neutron import Json, Neutron

ANY = {"IPv4": "0.0.0.0/0", "IPv6": "::/0"}
GROUPS_AT_ONCE = 50  # ids in one query: an URL must not become too long


async def ingress_of(neutron: Neutron, ports: Sequence[Json]) -> tuple[Ingress, ...]:
    """Of tenants' ports; one without port security lets everything in and is left out. A rule that
    names a group instead of addresses lets nobody of another site in, whose ports are in no group here."""
    filtered = [
        port
        for port in ports
        if not port["device_owner"].startswith("network:") and port.get("port_security_enabled", True)
    ]
    allowed = await _allowed(neutron, {group for port in filtered for group in port["security_groups"]})
    return tuple(
        Ingress(
            ip=address["ip_address"],
            allowed=tuple(sorted({c for group in port["security_groups"] for c in allowed[group]})),
        )
        for port in filtered
        for address in port["fixed_ips"]
    )


async def _allowed(neutron: Neutron, groups: Iterable[str]) -> dict[str, set[str]]:
    """Group -> CIDRs that it lets in."""
    ordered = sorted(groups)
    allowed: dict[str, set[str]] = {group: set() for group in ordered}
    for start in range(0, len(ordered), GROUPS_AT_ONCE):
        rules = await neutron.list(
            "list rules of security groups",
            "/security-group-rules",
            "security_group_rules",
            direction="ingress",
            security_group_id=ordered[start : start + GROUPS_AT_ONCE],
        )
        for rule in rules:
            if not (rule["remote_group_id"] or rule.get("remote_address_group_id")):
                cidr = rule["remote_ip_prefix"] or ANY[rule["ethertype"]]
                allowed[rule["security_group_id"]].add(cidr)
    return allowed
