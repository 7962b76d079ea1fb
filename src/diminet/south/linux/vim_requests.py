"""What a client may send to the networking service: Neutron's bodies, checked field by field.

A field that Neutron knows and this site has no use for is taken at its neutral value only (NEUTRAL);
any other value, and an unknown field, is refused, so that nobody believes to have what is not there.
"""

import re
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from diminet.model import AddressRange
from diminet.south.linux.vim_errors import BadRequest

MTU_MIN, MTU_MAX = 68, 65535  # bytes; RFC 791's smallest
IPV6_MTU_MIN = 1280  # bytes, RFC 8200
MAX_POOLS = 2048  # per subnet; more than blocks of a stretched one
MAX_FIXED_IPS = 16  # per port
MAX_LIST = 64  # tags, name servers, routes

NEUTRAL: dict[str, tuple[Any, ...]] = {
    "router:external": (False,),
    "is_default": (False,),
    "vlan_transparent": (None, False),
    "vlan_qinq": (None, False),
    "qos_policy_id": (None,),
    "availability_zone_hints": ([],),
    "dns_domain": ("", None),
    "dns_name": ("", None),
    "subnetpool_id": (None,),
    "segment_id": (None,),
    "service_types": ([],),
    "dns_publish_fixed_ip": (False,),
    "security_groups": ([],),
    "allowed_address_pairs": ([],),
    "extra_dhcp_opts": ([], None),
    "binding:vnic_type": ("normal",),
    "binding:profile": ({},),
    "propagate_uplink_status": (True, False),
    "hints": (None, {}),
}

_MAC = re.compile(r"^[0-9a-f]{2}(:[0-9a-f]{2}){5}$")


def _ip(value: str) -> str:
    address: IPv4Address | IPv6Address = ip_address(value)
    if isinstance(address, IPv6Address) and address.scope_id:
        raise ValueError("an address here has no zone")
    return str(address)


def _cidr(value: str) -> str:
    if "/" not in value:
        raise ValueError("a CIDR is an address, a slash and a prefix length")
    network = ip_network(value, strict=False)
    if network.is_multicast or network.is_loopback or network.is_link_local or network.prefixlen == 0:
        raise ValueError("that range cannot be a subnet of instances")
    return str(network)


def _mac(value: str) -> str:
    mac = value.lower().replace("-", ":")
    if not _MAC.match(mac) or int(mac[:2], 16) & 1 or mac == "00:00:00:00:00:00":
        raise ValueError("not a unicast MAC address")
    return mac


def _pool(value: Any) -> AddressRange:
    if not isinstance(value, Mapping) or set(value) != {"start", "end"}:
        raise ValueError("an allocation pool is {'start': address, 'end': address}")
    return AddressRange(_ip(str(value["start"])), _ip(str(value["end"])))


Ip = Annotated[str, AfterValidator(_ip)]
Cidr = Annotated[str, AfterValidator(_cidr)]
Mac = Annotated[str, AfterValidator(_mac)]
Text = Annotated[str, Field(max_length=255)]
Tag = Annotated[str, Field(min_length=1, max_length=60)]
Tags = Annotated[tuple[Tag, ...], Field(max_length=MAX_LIST)]
Mtu = Annotated[int, Field(ge=MTU_MIN, le=MTU_MAX)]
Pools = Annotated[tuple[Annotated[AddressRange, BeforeValidator(_pool)], ...], Field(max_length=MAX_POOLS)]
Ipv6Mode = Literal["slaac", "dhcpv6-stateful", "dhcpv6-stateless"]


class Body(BaseModel):
    """model_fields_set tells what the client sent; a field left out is not changed."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class _Owned(Body):
    project_id: Text | None = None
    tenant_id: Text | None = None

    @model_validator(mode="after")
    def _one_project(self) -> Self:
        if self.project_id and self.tenant_id and self.project_id != self.tenant_id:
            raise ValueError("'project_id' and 'tenant_id' differ; give one of them")
        return self

    @property
    def project(self) -> str | None:
        return self.project_id or self.tenant_id


class NetworkUpdate(Body):
    name: Text = ""
    description: Text = ""
    admin_state_up: bool = True
    shared: bool = False
    mtu: Mtu | None = None
    port_security_enabled: bool = True


class NetworkCreate(NetworkUpdate, _Owned):
    tags: Tags = ()


class HostRoute(Body):
    destination: Cidr
    nexthop: Ip


class SubnetUpdate(Body):
    name: Text = ""
    description: Text = ""
    gateway_ip: Ip | None = None
    allocation_pools: Pools | None = None
    enable_dhcp: bool = True
    dns_nameservers: Annotated[tuple[Ip, ...], Field(max_length=MAX_LIST)] = ()
    host_routes: Annotated[tuple[HostRoute, ...], Field(max_length=MAX_LIST)] = ()


class SubnetCreate(SubnetUpdate, _Owned):
    network_id: Text
    cidr: Cidr
    ip_version: Literal[4, 6] = 4
    ipv6_address_mode: Ipv6Mode | None = None
    ipv6_ra_mode: Ipv6Mode | None = None
    tags: Tags = ()


class FixedIp(Body):
    subnet_id: Text | None = None
    ip_address: Ip | None = None

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not self.subnet_id and not self.ip_address:
            raise ValueError("a fixed IP names a subnet_id, an ip_address, or both")
        return self


FixedIps = Annotated[tuple[FixedIp, ...], Field(max_length=MAX_FIXED_IPS)]


class PortUpdate(Body):
    name: Text = ""
    description: Text = ""
    admin_state_up: bool = True
    device_id: Text = ""
    device_owner: Text = ""
    port_security_enabled: bool = True
    fixed_ips: FixedIps | None = None
    host_id: Text = Field(default="", alias="binding:host_id")


class PortCreate(PortUpdate, _Owned):
    network_id: Text
    mac_address: Mac | None = None
    tags: Tags = ()


B = TypeVar("B", bound=Body)


def parse(kind: type[B], noun: str, body: Any) -> B:
    """The body `{noun: {…}}` as `kind`. Raises BadRequest that names the field."""
    if not isinstance(body, Mapping) or set(body) != {noun} or not isinstance(body[noun], Mapping):
        raise BadRequest("HTTPBadRequest", f'The body must be one JSON object: {{"{noun}": {{…}}}}.')
    fields = {}
    for name, value in body[noun].items():
        if name not in NEUTRAL:
            fields[name] = value
        elif value not in NEUTRAL[name]:
            raise BadRequest(
                "InvalidInput",
                f"Invalid input for operation: this site has no '{name}'; leave it out.",
            )
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or noun
        if first["type"] == "extra_forbidden":
            raise BadRequest("HTTPBadRequest", f"Unrecognized attribute(s) '{where}'.") from error
        reason = first["msg"].removeprefix("Value error, ")
        raise BadRequest("HTTPBadRequest", f"Invalid input for '{where}'. Reason: {reason}.") from error


class _TagList(Body):
    tags: Tags


def parse_tags(body: Any) -> tuple[str, ...]:
    """The tags of `{"tags": […]}`, each once. Raises BadRequest."""
    return tuple(dict.fromkeys(parse(_TagList, "tags", {"tags": body}).tags))
