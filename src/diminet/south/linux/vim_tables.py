"""Tables of the linux site's networking service, and their rows."""

from typing import Literal

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Integer,
    MetaData,
    String,
    Table,
    UniqueConstraint,
)

from diminet.model import AddressRange, Model

SCHEMA_VERSION = 1
State = Literal["BUILD", "ACTIVE", "DELETING"]

metadata = MetaData()

schema = Table("vim_schema", metadata, Column("version", Integer, primary_key=True))

marks = Table(
    "marks", metadata, Column("name", String(255), primary_key=True), Column("value", String, nullable=False)
)

networks = Table(
    "networks",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("project_id", String(255), nullable=False, index=True),
    Column("name", String(255), nullable=False),
    Column("state", String(16), nullable=False),
    Column("mtu", Integer, nullable=False),
    Column("shared", Boolean, nullable=False),
    Column("admin_state_up", Boolean, nullable=False),
    Column("port_security_enabled", Boolean, nullable=False),
    Column("ours", String(36)),
    Column("key", String(255)),
    Column("description", String(255), nullable=False),
    Column("tags", JSON, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("updated_at", Float, nullable=False),
    Column("revision", Integer, nullable=False),
    UniqueConstraint("ours", "key"),
)

subnets = Table(
    "subnets",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("network_id", ForeignKey("networks.id"), nullable=False, index=True),
    Column("project_id", String(255), nullable=False, index=True),
    Column("name", String(255), nullable=False),
    Column("cidr", String(64), nullable=False),
    Column("ip_version", Integer, nullable=False),
    Column("gateway_ip", String(64)),
    Column("pools", JSON, nullable=False),
    Column("pools_before", JSON),
    Column("enable_dhcp", Boolean, nullable=False),
    Column("ipv6_address_mode", String(32)),
    Column("ipv6_ra_mode", String(32)),
    Column("dns_nameservers", JSON, nullable=False),
    Column("host_routes", JSON, nullable=False),
    Column("description", String(255), nullable=False),
    Column("tags", JSON, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("updated_at", Float, nullable=False),
    Column("revision", Integer, nullable=False),
)

ports = Table(
    "ports",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("network_id", ForeignKey("networks.id"), nullable=False, index=True),
    Column("project_id", String(255), nullable=False, index=True),
    Column("name", String(255), nullable=False),
    Column("state", String(16), nullable=False),
    Column("mac", String(17), nullable=False),
    Column("instance", String(64), index=True),
    Column("device_id", String(255), nullable=False),
    Column("device_owner", String(255), nullable=False),
    Column("admin_state_up", Boolean, nullable=False),
    Column("port_security_enabled", Boolean, nullable=False),
    Column("description", String(255), nullable=False),
    Column("tags", JSON, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("updated_at", Float, nullable=False),
    Column("revision", Integer, nullable=False),
    UniqueConstraint("network_id", "mac"),
)

addresses = Table(
    "addresses",
    metadata,
    Column("subnet_id", ForeignKey("subnets.id"), primary_key=True),
    Column("ip", String(64), primary_key=True),
    Column("port_id", ForeignKey("ports.id"), nullable=False, index=True),
)

links = Table(
    "links",
    metadata,
    Column("service_id", String(36), primary_key=True),
    Column("network_id", String(36), primary_key=True, index=True),
    Column("layer", String(8), nullable=False),
    Column("anycast", Boolean, nullable=False),
)


class NetworkRow(Model):
    """ours, key: the service that DIMINET made it for and what it is to that service."""

    id: str
    project_id: str
    name: str = ""
    state: State = "BUILD"
    mtu: int
    shared: bool = False
    admin_state_up: bool = True
    port_security_enabled: bool = True
    ours: str | None = None
    key: str | None = None
    description: str = ""
    tags: tuple[str, ...] = ()
    created_at: float
    updated_at: float
    revision: int = 0


class SubnetRow(Model):
    """pools_before: the pools of before DIMINET shaped it, () if it made it; None: it is not shaped.

    While it is shaped, no address outside the pools is given, not even one that is asked for.
    """

    id: str
    network_id: str
    project_id: str
    name: str = ""
    cidr: str
    ip_version: Literal[4, 6]
    gateway_ip: str | None = None
    pools: tuple[AddressRange, ...]
    pools_before: tuple[AddressRange, ...] | None = None
    enable_dhcp: bool = True
    ipv6_address_mode: str | None = None
    ipv6_ra_mode: str | None = None
    dns_nameservers: tuple[str, ...] = ()
    host_routes: tuple[dict[str, str], ...] = ()
    description: str = ""
    tags: tuple[str, ...] = ()
    created_at: float
    updated_at: float
    revision: int = 0

    @property
    def slaac(self) -> bool:
        """Whether the hosts make their addresses themselves (RFC 4862)."""
        return self.ipv6_address_mode == "slaac"

    @property
    def prefix_length(self) -> int:
        return int(self.cidr.rpartition("/")[2])


class Address(Model):
    subnet_id: str
    ip: str


class PortRow(Model):
    """instance: name of the network namespace that is plugged in, None for a port without one."""

    id: str
    network_id: str
    project_id: str
    name: str = ""
    state: State = "BUILD"
    mac: str
    instance: str | None = None
    device_id: str = ""
    device_owner: str = ""
    admin_state_up: bool = True
    port_security_enabled: bool = True
    description: str = ""
    tags: tuple[str, ...] = ()
    created_at: float
    updated_at: float
    revision: int = 0
    fixed_ips: tuple[Address, ...] = ()


class LinkRow(Model):
    """A service's data plane is, or will be, on that network. layer: `l2` or `l3`, as in Target.

    anycast: the gateway has the MAC that it has at the service's other sites too.
    """

    service_id: str
    network_id: str
    layer: str
    anycast: bool = False
