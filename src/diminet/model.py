"""The nouns (DESIGN section 1), immutable. The same objects are stored, sent and reasoned about.

Times are UTC epoch seconds (float); ids are UUID strings; CIDRs and addresses are their usual text.
`Wire` models keep fields that a newer minor version added: they are handed on, never interpreted.
"""

from enum import StrEnum
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, model_validator

SITE_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"
SiteName = Annotated[str, Field(pattern=SITE_NAME)]
SiteNumber = Annotated[int, Field(ge=1, le=4095)]
MAX_MEMBERS = 250
MAX_BLOCKS = 1024


class Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Wire(BaseModel):
    model_config = ConfigDict(frozen=True, extra="allow")


class Epoch(NamedTuple):
    """(n, number of the site that claimed it): never a tie."""

    n: int
    site: int


class Pair(NamedTuple):
    """Orders documents of one service: the higher pair wins."""

    epoch: Epoch
    revision: int

    def etag(self) -> str:
        """The same at all members, e.g. `"1.3-7"`."""
        return f'"{self.epoch.n}.{self.epoch.site}-{self.revision}"'


class Ticket(NamedTuple):
    """Total order of requests: older first; made once with the request, kept over its retries."""

    millis: int
    site: int
    serial: int

    def word(self) -> str:
        """For a promise whose RID was lost with the answer: the request that it was made for."""
        return f"{self.millis}.{self.site}.{self.serial}"


class ProvisioningStatus(StrEnum):
    PENDING_CREATE = "PENDING_CREATE"
    PENDING_UPDATE = "PENDING_UPDATE"
    PENDING_DELETE = "PENDING_DELETE"
    ACTIVE = "ACTIVE"
    ERROR = "ERROR"
    REVOKED = "REVOKED"


class OperatingStatus(StrEnum):
    ONLINE = "ONLINE"
    OFFLINE = "OFFLINE"
    UNKNOWN = "UNKNOWN"
    DEGRADED = "DEGRADED"


OnUnreachable = Literal["revoke", "defer"]


class Site(Model):
    """An entry of the directory: who another site is and where its instance listens."""

    name: SiteName
    number: SiteNumber
    north_url: str
    east_west_url: str


class Initiator(Wire):
    """Who asked, at which site: carried in every message, recorded in every event."""

    user_id: str
    project_id: str
    site: str


class Entry(Model):
    """What a tenant names: a network of a site. Without resource_id the site makes one (L2 only)."""

    site: SiteName
    resource_id: str | None = Field(default=None, min_length=1, max_length=255)
    resource_type: Literal["network"] = "network"

    @property
    def key(self) -> tuple[str, str]:
        return (self.site, self.resource_id or "")


class AddressRange(NamedTuple):
    """First and last address, both included, as text."""

    first: str
    last: str


class Subnet(Wire):
    """A subnet of a resource as the document states it.

    block_prefix: prefix length of one block of it, the same at all members (/24 in blocks of four
    addresses: 30); None where the service deals no blocks. A length, since a count of IPv6 addresses
    may be beyond what JSON numbers hold.
    """

    cidr: str
    ip_version: Literal[4, 6]
    gateway_ip: str | None = None
    block_prefix: int | None = Field(default=None, ge=0, le=128)


class Resource(Wire):
    """A network of one member that the service joins. `made`: DIMINET made it, and may delete it."""

    site: str
    resource_id: str
    resource_type: str = "network"
    made: bool = False
    mtu: int | None = None
    subnets: tuple[Subnet, ...] = ()


class Member(Wire):
    """A site of the service. slot: 1..250, gives its route target. join: raised each time it joins.

    rid: the reservation on which it was taken in. deferred: in the document, but not made yet.
    """

    site: str
    number: int
    slot: int
    join: int = 1
    rid: str | None = None
    vtep: str | None = None
    deferred: bool = False
    wanted: tuple[Entry, ...] = ()  # of a deferred member: what is to be joined when it is back


class Identifiers(Wire):
    """VNI of the service and the ASN of its route targets (`ASN:(VNI x 256 + slot)`)."""

    vni: int
    asn: int

    def target(self, slot: int) -> str:
        return f"{self.asn}:{self.vni * 256 + slot}"


class Document(Wire):
    """The service as all members must see it; written only by its master (DESIGN section 1)."""

    service_id: str
    epoch: Epoch
    revision: int
    type: str
    project_id: str
    name: str = ""
    description: str = ""
    tags: tuple[str, ...] = ()
    on_unreachable: OnUnreachable = "revoke"
    members: tuple[Member, ...]
    resources: tuple[Resource, ...]
    params: dict[str, Any] = {}
    identifiers: Identifiers
    initiator: Initiator
    departed: dict[str, int] = {}  # site -> its last join number, of sites that left
    former: dict[str, Pair] = {}  # masters before, in their order -> the pair at which each was taken over
    created_at: float
    updated_at: float
    tombstone: bool = False

    @model_validator(mode="after")
    def _has_its_master(self) -> "Document":
        """Peers send documents: one without its master, or with a site twice, is none."""
        if all(m.number != self.epoch.site for m in self.members):
            raise ValueError("no member has the number of the epoch: a document names its master")
        if len({m.site for m in self.members}) < len(self.members):
            raise ValueError("a site is a member once")
        return self

    @property
    def pair(self) -> Pair:
        return Pair(self.epoch, self.revision)

    @property
    def master(self) -> str:
        """Name of the master: the member whose number is in the epoch."""
        return next(m.site for m in self.members if m.number == self.epoch.site)

    def member(self, site: str) -> Member | None:
        return next((m for m in self.members if m.site == site), None)

    def resources_of(self, site: str) -> tuple[Resource, ...]:
        return tuple(r for r in self.resources if r.site == site)

    def beats(self, other: "Document") -> bool:
        """Whether this one replaces the other: a tombstone beats every document, else the pair."""
        if self.tombstone != other.tombstone:
            return self.tombstone
        return not self.tombstone and self.pair > other.pair


class Block(Model):
    """An aligned range of an L2 subnet's addresses and its owner.

    Only the owner writes the next version. giver: who wrote this one. index counts from the start of
    the CIDR in blocks of the subnet's block size. exclusions: addresses in it that stay another's
    (those that the origin network already had in use).
    """

    cidr: str
    index: int = Field(ge=0, lt=MAX_BLOCKS)
    owner: str
    version: int = Field(ge=1)
    giver: str
    exclusions: tuple[str, ...] = ()


class Connection(Model):
    """What this site made in its own VIM and data plane for a resource. Local, never sent.

    original: per CIDR, what was there before us and is put back at the end.
    """

    service_id: str
    resource_id: str
    made: bool
    original: tuple["SubnetShape", ...] = ()
    state: Literal["PENDING", "ACTIVE", "ERROR", "REMOVING"] = "PENDING"
    error: str | None = None


class SubnetShape(Model):
    """A subnet as the VIM is to have it. pools: None leaves them as the VIM has them."""

    cidr: str
    ip_version: Literal[4, 6]
    gateway_ip: str | None = None
    pools: tuple[AddressRange, ...] | None = None


class PortFacts(Model):
    """An address in use on a network. infrastructure: DHCP, router or gateway, not a tenant's port."""

    ip: str
    mac: str
    infrastructure: bool


class SubnetFacts(Model):
    """A subnet as the VIM has it. slaac: addresses are made by the hosts themselves (RFC 4862)."""

    subnet_id: str
    cidr: str
    ip_version: Literal[4, 6]
    gateway_ip: str | None
    pools: tuple[AddressRange, ...]
    slaac: bool = False

    def shape(self) -> "SubnetShape":
        """As it is now, to be put back later."""
        return SubnetShape(
            cidr=self.cidr, ip_version=self.ip_version, gateway_ip=self.gateway_ip, pools=self.pools
        )


class NetworkFacts(Model):
    """A network as the VIM has it."""

    network_id: str
    name: str
    project_id: str
    mtu: int
    subnets: tuple[SubnetFacts, ...]
    ours: str | None = None  # service id, if DIMINET made it


class Capabilities(Wire):
    """What a kind of site can do; part of a reservation's facts.

    movable_gateway: the port that holds a subnet's gateway address, if there is one, follows when the
    gateway is changed (on Neutron a router's port does not).
    """

    kind: str
    encapsulations: tuple[str, ...] = ("vxlan",)
    ip_versions: tuple[int, ...] = (4, 6)
    mtu: int = 1450
    shared_gateway: bool = False
    movable_gateway: bool = True
    data_plane: bool = True
    vtep: str | None = None  # address that ends this site's tunnels


class Target(Model):
    """What one site has to have in its data plane for one service; `South.connect` makes it so.

    networks: local networks that take part. l2: exactly one, stretched under `vni`. l3: routed
    between each other and to remote_cidrs. peers: numbers of the other members' sites. gateways: per
    local network, the gateway addresses on this site. anycast: gateways are the shared anycast one.
    """

    service_id: str
    project_id: str
    layer: str
    vni: int
    export_target: str
    import_targets: tuple[str, ...]
    networks: tuple[str, ...]
    local_cidrs: tuple[str, ...] = ()
    remote_cidrs: tuple[str, ...] = ()
    mtu: int | None = None
    anycast_gateway: bool = False
    peers: tuple[int, ...] = ()
    vteps: dict[int, str] = {}  # number of a peer -> its tunnel address, as far as known


class Health(Model):
    """How a realised service is at this site. problems: sentences, empty when all is as it should be.
    compared: False: what it should be is not known (any more) where it is looked at; it is to be told again.
    silent: sentences on other sites that cannot be reached through it; nothing here would mend that."""

    service_id: str
    problems: tuple[str, ...] = ()
    compared: bool = True
    silent: tuple[str, ...] = ()


class Remains(Model):
    """What the VIM says of itself that DIMINET made or changed there (invariant 9): one network of one
    service. made: the network is ours, as that key. shapes: how its subnets were before us, where the
    VIM keeps that. joined: it is in the data plane of the service. service_id "": a subnet was changed,
    and nothing says for which service.
    """

    service_id: str
    project_id: str
    network_id: str
    made: bool = False
    key: str = ""
    joined: bool = False
    shapes: tuple[SubnetShape, ...] = ()


class Ingress(Model):
    """What the filters of one port (its security groups) let in. allowed: CIDRs of the senders, any
    protocol; empty: none by its address."""

    ip: str
    allowed: tuple[str, ...]


class Event(Model):
    """A line of the history: who asked what and what became of it. seq is set by the store."""

    seq: int = 0
    at: float
    kind: str
    service_id: str | None
    project_id: str | None
    request_id: str | None
    user_id: str | None = None
    site: str | None = None
    detail: dict[str, Any] = {}
