"""What instances say to each other (DESIGN section 4) and what the north side hands to the engine.

Every east-west message is one of the requests below plus a Context, which travels in headers.
"""

from typing import Any, Literal

from pydantic import ConfigDict, Field, SecretStr

from diminet.model import (
    Block,
    Capabilities,
    Document,
    Entry,
    Epoch,
    Initiator,
    Model,
    NetworkFacts,
    OnUnreachable,
    OperatingStatus,
    Pair,
    PortFacts,
    ProvisioningStatus,
    Resource,
    SubnetShape,
    Ticket,
    Wire,
)

PROTOCOL_MAJOR = 1
PROTOCOL_MINOR = 0


class Context(Model):
    """The envelope. sender: the peer's name from its certificate (None: this instance itself).

    token: the user's, handed on once to the site asked and never stored. service_token: the instance's
    beside it, where the sites ask one Keystone. deadline: epoch seconds.
    """

    request_id: str
    initiator: Initiator
    sender: str | None = None
    incarnation: str | None = None
    token: SecretStr | None = None
    service_token: SecretStr | None = None
    deadline: float | None = None


# -- reserve ---------------------------------------------------------------------------------------


class ReserveRequest(Wire):
    """Are your networks fit for this service? entries: those of the asked site.

    wanted: type-specific wishes (e.g. L2: the CIDRs that the network must have or will get).
    lifetime: seconds the promise is asked for. members: all sites of the request.
    """

    service_id: str
    type: str
    project_id: str
    ticket: Ticket
    lifetime: float
    entries: tuple[Entry, ...]
    members: tuple[str, ...]
    name: str = ""
    params: dict[str, Any] = {}
    wanted: dict[str, Any] = {}


class ResourceFacts(Wire):
    """One reserved network. reaches: CIDRs that it already reaches through other services.

    narrowed: what its pools were set to for the reservation (`ServiceType.narrow`). Ports that appear
    after `ports` was read have addresses in these, so the decision leaves them to this site.
    """

    network: NetworkFacts
    made: bool = False
    ports: tuple[PortFacts, ...] = ()
    narrowed: tuple[SubnetShape, ...] = ()
    reaches: tuple["Reach", ...] = ()


class Reach(Wire):
    cidr: str
    network_id: str
    site: str


class Reservation(Wire):
    """The promise: its id (minted by the asked site), and the facts to decide from."""

    rid: str
    service_id: str
    site: str
    number: int
    expires_at: float
    capabilities: Capabilities
    resources: tuple[ResourceFacts, ...]
    left: int = 0  # the join number with which this site has last left the service


# -- documents -------------------------------------------------------------------------------------


class DocumentPut(Wire):
    """Here is the document; make it so. blocks: those that the sender wrote or owns."""

    document: Document
    blocks: tuple[Block, ...] = ()


class MemberState(Wire):
    """A member's own part: what pair it holds, what it has realised, what is wrong.

    left: the join number with which it has left. also: of a former master, sites that it had taken in and
    that the present document does not know.
    """

    site: str
    pair: Pair | None
    applied: Pair | None
    provisioning_status: ProvisioningStatus
    operating_status: OperatingStatus
    warnings: tuple[str, ...] = ()
    fault: str | None = None
    blocks: tuple[Block, ...] = ()  # on leaving: those it gives back
    left: int | None = None
    also: tuple[str, ...] = ()


class Tombstone(Wire):
    """The last document of a deleted service (None: it was never committed). settled: every site has
    acknowledged it; told to the creator, whose identifier is free again."""

    service_id: str
    document: Document | None = None
    settled: bool = False


class Acknowledgement(Wire):
    """clean: nothing of the service is left at this site. also: sites that only the receiver knew of."""

    site: str
    clean: bool
    warnings: tuple[str, ...] = ()
    also: tuple[str, ...] = ()


class Snapshot(Wire):
    """All that a site has of a service; document None if it knows nothing of it. ports: address -> MAC of
    its own ports on a stretched network, as its audit saw them last. promised: as in `SyncEntry`. asked:
    per CIDR, the number of its last request for blocks to the asker. fenced: its own database was restored,
    so that it may have known more."""

    document: Document | None
    state: MemberState | None
    blocks: tuple[Block, ...] = ()
    confirmed: bool = False
    ports: dict[str, str] = {}
    promised: Epoch | None = None
    asked: dict[str, int] = {}
    fenced: bool = False


# -- takeover --------------------------------------------------------------------------------------


class VoteRequest(Wire):
    """Make me the master. epoch: the one that is claimed, with the asker's own number. pair: of the document
    that the asker holds and would go on from."""

    epoch: Epoch
    pair: Pair


class Vote(Wire):
    """granted: this site has durably promised that epoch. pair: of its own document. promised: the highest
    epoch that it has promised to anybody."""

    site: str
    granted: bool
    pair: Pair
    promised: Epoch | None = None


# -- blocks ----------------------------------------------------------------------------------------


class BlockRequest(Wire):
    """Give me `count` blocks of that subnet. number: the requester's own counter; a repeated number
    is answered the same. free: addresses that the requester still has; who has less is not asked to
    give, so that two sites that are both short do not pass a block to and fro. index: that very block
    and no other, because an address in it is in use at the requester."""

    cidr: str
    number: int = Field(ge=1)
    count: int = Field(ge=1, le=1024)
    free: int = Field(default=0, ge=0)
    index: int | None = Field(default=None, ge=0, lt=1024)


class BlockGrant(Wire):
    """blocks: written with the requester as owner; may be fewer than asked, or none. spare: left."""

    blocks: tuple[Block, ...]
    spare: int = 0


# -- handed-in requests ----------------------------------------------------------------------------


class Change(Wire):
    """A user's modify, join, leave or delete. Absent (None) fields stay as they are."""

    operation: Literal["modify", "join", "leave", "delete"]
    if_match: str | None = None
    name: str | None = None
    description: str | None = None
    tags: tuple[str, ...] | None = None
    on_unreachable: OnUnreachable | None = None
    resources: tuple[Entry, ...] | None = None  # modify: the whole new list
    entry: Entry | None = None  # join, leave (leave without resource_id: all of the site's)
    via: str | None = None  # join asked at a site that is not yet a member: a site that is


class ChangeAnswer(Wire):
    """document: as it stands after the change (None: gone). waiting: sites not reached yet. confirmed:
    the master's word that every member is active at that pair."""

    document: Document | None
    confirmed: bool = False
    waiting: tuple[str, ...] = ()


# -- anti-entropy ----------------------------------------------------------------------------------


class SyncEntry(Wire):
    """One shared service in the periodic exchange. digest: of all block versions known. ports: digest of
    the addresses and MACs of the answering site (`Snapshot.ports`); empty: it has none.

    promised: the highest epoch that the answering site has voted for, where that is not the document's.
    spare: per CIDR, how many blocks the answering site could give. confirmed, fault: the master's word
    that every member is active at that pair, and on what went wrong with the service.
    """

    service_id: str
    pair: Pair
    tombstone: bool = False
    confirmed: bool = False
    fault: dict[str, Any] | None = None
    provisioning_status: ProvisioningStatus
    operating_status: OperatingStatus
    digest: str = ""
    ports: str = ""
    promised: Epoch | None = None
    spare: dict[str, int] = {}


class Count(Wire):
    """How often a site's database was written. proof: its own word for that number, which nobody else can
    make (`logic.restored.proof`)."""

    writes: int = Field(default=0, ge=0, lt=2**62)
    proof: str = Field(default="", max_length=64)


class SyncReport(Wire):
    """count: of the sender. seen: the highest one that it has been told by the receiver: whose database is
    behind it has an older copy. fenced: the sender has one, and asks for all that the receiver knows; its
    own part means nothing. minted: in the answer to that, service -> VNI of the asker's number, for all
    that are not over."""

    site: str
    number: int
    incarnation: str
    services: tuple[SyncEntry, ...]
    count: Count = Count()
    seen: Count = Count()
    fenced: bool = False
    minted: dict[str, int] = {}


class Hello(Wire):
    """`GET /` between instances."""

    name: str
    number: int
    protocol: str
    capabilities: tuple[str, ...] = ()
    incarnation: str


# -- from and to the north side --------------------------------------------------------------------


class Caller(Model):
    """Who is asking at the north API. roles: `admin`, `member`, `reader`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    user_id: str
    project_id: str
    roles: frozenset[str]
    token: SecretStr

    @property
    def admin(self) -> bool:
        return "admin" in self.roles


class CreateRequest(Model):
    type: str
    name: str = ""
    description: str = ""
    tags: tuple[str, ...] = ()
    on_unreachable: OnUnreachable = "revoke"
    resources: tuple[Entry, ...]
    params: dict[str, Any] = {}


class SiteView(Model):
    """Another site, as a user may see it. reachable, last_seen: None where no service is shared."""

    name: str
    number: int
    reachable: bool | None
    last_seen: float | None
    protocol: str | None = None
    north_url: str
    east_west_url: str


class PoolView(Model):
    """A subnet of a local resource with its use; only the answering site's own are filled in."""

    cidr: str
    gateway_ip: str | None
    allocation_pools: tuple[tuple[str, str], ...] | None = None
    used: int | None = None
    blocks: dict[str, int] = {}  # pooled, spare, by this site


class ResourceView(Model):
    resource: Resource
    provisioning_status: ProvisioningStatus
    operating_status: OperatingStatus
    seen_at: float | None  # when the statuses were last heard, epoch seconds
    fault: str | None = None
    subnets: tuple[PoolView, ...] = ()


class ServiceView(Model):
    """A service as this site knows it. waiting: sites not reached yet (delete, defer)."""

    document: Document
    provisioning_status: ProvisioningStatus
    operating_status: OperatingStatus
    synced_at: float | None
    warnings: tuple[str, ...] = ()
    fault: dict[str, Any] | None = None  # {"code", "message", "sites"}
    waiting: tuple[str, ...] = ()
    resources: tuple[ResourceView, ...] = ()
    connections: tuple[dict[str, Any], ...] = ()
