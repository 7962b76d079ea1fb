"""Subnets of a Neutron: what they are, and giving them the shape that a service needs.

Neutron's pools are advisory and its `If-Match` is no compare-and-set (facts/openstack.md), so whatever is
written is the whole wanted state, one write after another per network; what came otherwise meanwhile is
found by the audit.
"""

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from ipaddress import ip_address, ip_network
from time import monotonic
from typing import Any

from diminet.errors import NetworkNotFound, SiteUnreachable
from diminet.model import AddressRange, SubnetFacts, SubnetShape
from diminet.south.neutron import marks
from diminet.south.neutron.neutron import Failed, Json, Neutron, Refused
from diminet.south.neutron.recent import Recent

Show = Callable[[str], Awaitable[Json]]
LATE_S = 120.0  # seconds in which a change that Neutron did not answer may still be done
SELF_MADE = {"slaac", "dhcpv6-stateless"}  # address modes in which hosts choose (RFC 4862)


def facts(subnet: Mapping[str, Any]) -> SubnetFacts:
    pools = sorted(
        (AddressRange(p["start"], p["end"]) for p in subnet["allocation_pools"]),
        key=lambda r: int(ip_address(r.first)),
    )
    return SubnetFacts(
        subnet_id=subnet["id"],
        cidr=subnet["cidr"],
        ip_version=6 if subnet["ip_version"] == 6 else 4,
        gateway_ip=subnet["gateway_ip"],
        pools=tuple(pools),
        slaac=subnet.get("ipv6_address_mode") in SELF_MADE or subnet.get("ipv6_ra_mode") in SELF_MADE,
    )


class Subnets:
    """late_s: seconds in which a change that was not answered may still come."""

    def __init__(self, neutron: Neutron, *, late_s: float = LATE_S) -> None:
        self._neutron = neutron
        self._late_s = late_s
        self._unanswered: dict[str, float] = {}  # subnet -> when a change of it had no answer
        self._recent = Recent[list[Json]]()

    async def of(self, network_id: str) -> list[Json]:
        what = f"list the subnets of network {network_id}"
        found = await self._neutron.list(what, "/subnets", "subnets", network_id=network_id)
        self._recent.note(network_id, found)
        return found

    async def recent(self, network_id: str) -> list[Json]:
        """As `of`, as they were read or written here within the last seconds."""
        found = self._recent.get(network_id)
        return await self.of(network_id) if found is None else found

    def none_yet(self, network_id: str) -> None:
        """The network has just been made here."""
        self._recent.note(network_id, [])

    def has_none_yet(self, network_id: str) -> bool:
        return self._recent.get(network_id) == []

    async def changed(self) -> dict[str, list[Json]]:
        """Tenants' subnets that carry how they were, by network."""
        found: dict[str, list[Json]] = {}
        what = "look for subnets that DIMINET changed"
        for subnet in await self._neutron.list(what, "/subnets", "subnets", tags=marks.CHANGED):
            found.setdefault(subnet["network_id"], []).append(subnet)
        for network_id in found:
            self._recent.forget(network_id)  # this is newer
        return found

    async def shape(self, network_id: str, shape: SubnetShape, show: Show, *, make: bool) -> None:
        """The caller sees to it that no two run at once for one network. show: reads it. What was just
        read need not be read again; after a write it is."""
        found = await self.recent(network_id)
        before = _with_cidr(found, shape.cidr)
        if before is None and not make:
            return
        seen_at = self._recent.take(network_id)
        try:
            if before is None:
                after = await self._make(await show(network_id), shape)
            else:
                after = await self._change(before, shape)
            if after is before:
                self._recent.put_back(network_id, found, seen_at)
            else:
                self._recent.note(network_id, [*(s for s in found if s is not before), after])
        except Refused as refusal:
            if refusal.status == 404:
                raise NetworkNotFound(
                    f"site {self._neutron.site} has no network {network_id} any more, or its subnet "
                    f"{shape.cidr} was deleted just now: {refusal.message}",
                    sites=[self._neutron.site],
                ) from refusal
            raise

    async def _make(self, network: Json, shape: SubnetShape) -> Json:
        """The subnet as it then is. Addresses of IPv6 by stateful DHCP: with any other mode Neutron's pools
        mean nothing."""
        made = marks.made_of(network["tags"])
        body = {
            "network_id": network["id"],
            "project_id": network["project_id"],
            "name": network["name"],
            "cidr": shape.cidr,
            "ip_version": shape.ip_version,
            "gateway_ip": shape.gateway_ip,
        }
        if made is not None:
            body["description"] = marks.description(made)
        if shape.pools is not None:
            body["allocation_pools"] = _pools(shape.pools)
        if shape.ip_version == 6:
            body |= {"ipv6_address_mode": "dhcpv6-stateful", "ipv6_ra_mode": "dhcpv6-stateful"}
        what = f"create subnet {shape.cidr} on network {network['id']}"
        subnet: Json = (await self._neutron.post(what, "/subnets", {"subnet": body}))["subnet"]
        return subnet

    async def _change(self, before: Json, shape: SubnetShape) -> Json:
        """The subnet as it then is. A tenant's is marked with what it was before it is changed, and unmarked
        behind."""
        now, subnet_id = facts(before), before["id"]
        tag, made = marks.was_tag(before["tags"]), marks.made_of_description(before.get("description"))
        change: Json = {}
        if shape.pools is not None and _numbers(shape.pools) != _numbers(now.pools):
            change["allocation_pools"] = _pools(shape.pools)
        if shape.gateway_ip != now.gateway_ip:
            change["gateway_ip"] = shape.gateway_ip
        if change and made is None and tag is None:
            before = await self._tag(before, [marks.CHANGED, marks.was(now.shape())])
        if change:
            before = await self._put(subnet_id, now.cidr, change)
        if (
            tag
            and _restored(marks.shape_before(tag, now.cidr), shape)
            # A change that comes late is found by its tags, and put back once no other can come.
            and monotonic() >= self._unanswered.get(subnet_id, -math.inf) + self._late_s
        ):
            for one in (marks.CHANGED, tag):  # the one by which we know goes last
                what = f"take a tag of subnet {subnet_id} off"
                await self._neutron.delete(what, f"/subnets/{subnet_id}/tags/{one}")
            before = before | {"tags": [t for t in before["tags"] if t not in (marks.CHANGED, tag)]}
        return before

    async def _put(self, subnet_id: str, cidr: str, change: Json) -> Json:
        what = f"set pools and gateway of subnet {cidr} ({subnet_id})"
        try:
            answer = await self._neutron.put(what, f"/subnets/{subnet_id}", {"subnet": change})
        except Failed:
            raise
        except SiteUnreachable:
            now = monotonic()
            over = [one for one, at in self._unanswered.items() if now >= at + self._late_s]
            for one in over:
                del self._unanswered[one]
            self._unanswered[subnet_id] = now
            raise
        subnet: Json = answer["subnet"]
        return subnet

    async def _tag(self, subnet: Json, tags: Sequence[str]) -> Json:
        """The subnet with them; those of others stay (the extension `tag-creation`, Neutron 2024.2 and
        later)."""
        path = f"/subnets/{subnet['id']}/tags"
        await self._neutron.post(f"tag subnet {subnet['id']}", path, {"tags": list(tags)})
        return subnet | {"tags": [*subnet["tags"], *tags]}


def _with_cidr(subnets: Sequence[Json], cidr: str) -> Json | None:
    wanted = ip_network(cidr)
    return next((s for s in subnets if ip_network(s["cidr"]) == wanted), None)


def _pools(ranges: Sequence[AddressRange]) -> list[Json]:
    return [{"start": r.first, "end": r.last} for r in ranges]


def _numbers(ranges: Sequence[AddressRange]) -> list[tuple[int, int]]:
    return sorted((int(ip_address(r.first)), int(ip_address(r.last))) for r in ranges)


def _restored(original: SubnetShape | None, shape: SubnetShape) -> bool:
    """Is it the tenant's again? Also without the gateway, whose address a port may have by now."""
    if original is None or shape.pools is None:
        return False
    gateway = shape.gateway_ip in (original.gateway_ip, None)
    return gateway and _numbers(original.pools or ()) == _numbers(shape.pools)
