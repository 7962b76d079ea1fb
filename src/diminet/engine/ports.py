"""The few Protocols through which the engine reaches everything else; production and simulator fill them.

Errors: every method raises from `diminet.errors` only. Peers: SiteUnreachable when no answer came,
otherwise what the peer answered. South: SiteRefused (the VIM said no), SiteUnreachable (the VIM is
away), NetworkNotFound. Store: StorageUnavailable.
"""

import math
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Literal, Protocol, TypeVar

from pydantic import SecretStr

from diminet.messages import (
    Acknowledgement,
    BlockGrant,
    BlockRequest,
    Caller,
    Change,
    ChangeAnswer,
    Context,
    Count,
    DocumentPut,
    Hello,
    MemberState,
    Reservation,
    ReserveRequest,
    Snapshot,
    SyncReport,
    Tombstone,
    Vote,
    VoteRequest,
)
from diminet.model import (
    Block,
    Capabilities,
    Connection,
    Document,
    Epoch,
    Event,
    Health,
    Ingress,
    Initiator,
    Model,
    NetworkFacts,
    Pair,
    PortFacts,
    ProvisioningStatus,
    Remains,
    Site,
    SubnetShape,
    Target,
    Ticket,
)

T = TypeVar("T")


class Clock(Protocol):
    """Time and chance; the simulator decides both."""

    def now(self) -> float:
        """UTC, epoch seconds."""

    async def sleep(self, seconds: float) -> None: ...

    def timeout(self, seconds: float) -> AbstractAsyncContextManager[Any]:
        """Like asyncio.timeout: raises TimeoutError inside the block after that many seconds."""

    def uuid(self) -> str: ...

    def random(self) -> float:
        """In [0, 1)."""


class Directory(Protocol):
    """Who the other sites are."""

    async def site(self, name: str) -> Site:
        """Raises SiteUnknown, naming the sites that are known."""

    async def sites(self) -> tuple[Site, ...]: ...


class Identity(Protocol):
    """Who is asking."""

    async def authenticate(self, token: str) -> Caller:
        """Raises NotAuthenticated."""

    async def authorise(self, ctx: Context, project_id: str) -> SecretStr | None:
        """May the peer `ctx.sender`, asking for `ctx.initiator`, act here for that project? By this
        site's own rules (DESIGN section 4). Raises NotAuthorised with what the operator may do.

        Returns the user's token where this site's VIM knows it, so that the VIM itself decides what
        that user sees; None: a peer's word was taken, or the VIM knows no users."""


class Horizontal(Protocol):
    """What this instance answers to the others; `ctx.sender` is the peer's proven name."""

    async def hello(self, ctx: Context) -> Hello: ...
    async def reserve(self, ctx: Context, request: ReserveRequest) -> Reservation: ...
    async def put(self, ctx: Context, service_id: str, put: DocumentPut) -> MemberState: ...
    async def bury(self, ctx: Context, service_id: str, tombstone: Tombstone) -> Acknowledgement: ...
    async def abort(self, ctx: Context, service_id: str, rid: str) -> None:
        """rid: or the word of a request's ticket, where the answer with the RID was lost."""

    async def snapshot(self, ctx: Context, service_id: str) -> Snapshot: ...
    async def give(self, ctx: Context, service_id: str, request: BlockRequest) -> BlockGrant: ...
    async def hand_in(self, ctx: Context, service_id: str, change: Change) -> ChangeAnswer: ...
    async def vote(self, ctx: Context, service_id: str, request: VoteRequest) -> Vote: ...
    async def sync(self, ctx: Context, mine: SyncReport | None = None) -> SyncReport:
        """mine: the asker's own part, so that one exchange serves both."""


class Peers(Protocol):
    """The way to the others: `peers.at(site)` speaks to that site's Horizontal. The only seam between
    instances; a call ends by `ctx.deadline` or the setting `request_timeout`."""

    def at(self, site: str) -> Horizontal: ...


class South(Protocol):
    """The VIM and data plane of this site. Every method may be repeated with the same effect.

    Objects that DIMINET makes are recognisable in the VIM by the service id (invariant 9).
    """

    kind: str
    asks_for_room: bool
    """It asks the PoolKeeper when a pool has run dry; one that does not is never to run dry."""

    async def capabilities(self) -> Capabilities: ...

    async def network(self, network_id: str) -> NetworkFacts:
        """As it is now. Raises NetworkNotFound."""

    async def owner(self, network_id: str, *, as_user: SecretStr | None = None) -> str:
        """The project whose network that is, which `network` tells too. as_user: a token that
        `Identity.authorise` returned: as that user sees it. Raises NetworkNotFound."""

    async def ports(self, network_id: str) -> tuple[PortFacts, ...]:
        """All addresses in use, gateways and DHCP included."""

    async def make_network(
        self, service_id: str, project_id: str, name: str, key: str, *, first: bool = False
    ) -> str:
        """A network without subnets, marked as ours; the same (service_id, key) gives the same id. first:
        nobody has asked for it before, so that it need not be looked for."""

    async def shape_subnet(self, network_id: str, shape: SubnetShape, *, make: bool = True) -> None:
        """The subnet with that CIDR exists with that gateway and those pools. One that is missing is
        made, or (make False: to put back what was) left missing: its owner has deleted it. Pools are
        exclusive: the VIM gives out no address outside them from when this returns."""

    async def settled(self, network_id: str) -> bool:
        """Is nobody just being given an address out of pools as they were before the last `shape_subnet`,
        so that `ports` shows all that has been? False: it cannot be told; then time must tell."""

    async def drop_network(self, network_id: str) -> bool:
        """Delete a network that we made; False if a tenant's port is on it: then it loses our mark
        and stays. True if it is gone, or was already."""

    async def connect(self, target: Target) -> None:
        """Make the data plane of that service as the target says, and nothing else."""

    async def disconnect(self, service_id: str) -> None:
        """Take the service's data plane off. Networks, pools and gateways are left alone."""

    async def realised(self) -> Mapping[str, Health]:
        """Service id -> how it is in the data plane, for every service found there."""

    async def problems(self) -> tuple[str, ...]:
        """Which dependency fails (FRR, kernel, Neutron); empty when ready."""

    async def ingress(self, network_id: str) -> tuple[Ingress, ...]:
        """What the filters of tenants' ports let in; ports that let everything in are left out."""

    async def remains(self) -> tuple[Remains, ...]:
        """All that DIMINET made or changed in this VIM, as the VIM itself remembers it."""

    async def mark(self, name: str) -> str | None:
        """A word that an instance has left in the VIM, e.g. which database it ran on."""

    async def set_mark(self, name: str, value: str) -> None: ...


class PoolKeeper(Protocol):
    """How a South with its own IPAM asks for more room (the linux one does)."""

    async def more_room(self, network_id: str, cidr: str) -> bool:
        """The pool has run dry: pool spare or ask others now. True if there is more room now."""

    def port_made(self, network_id: str) -> None:
        """An address was given: look at the watermark soon. Never blocks."""


# -- rows of the store -----------------------------------------------------------------------------


class Refusal(Model):
    """Of a deferred site that answers and says no: what it said last, how often, when it is asked again."""

    message: str
    attempts: int
    next_at: float


class ServiceRow(Model):
    """A service at this site. document None: only intended or reserved so far is not a row; a row
    always has a document, a tombstone's included.

    applied: pair that this site has realised. confirmed: pair of which the master said that every
    member is active. left: join number with which this site left, durably. promised: the highest epoch
    that this site has voted for; nothing of a lower one is written any more. settled: a tombstone whose
    local clean-up is done. refusals: at the master, of deferred sites; until the document changes.
    """

    document: Document
    status: ProvisioningStatus
    applied: Pair | None = None
    confirmed: Pair | None = None
    left: int | None = None
    promised: Epoch | None = None
    settled: bool = False
    fault: dict[str, Any] | None = None
    refusals: dict[str, Refusal] = {}
    warnings: tuple[str, ...] = ()
    created_at: float
    updated_at: float
    synced_at: float | None = None


NOBODY = ""
FOR_EVER = 1e11  # epoch seconds: of a promise that is meant to last
SITE = ""  # names the fence of the site as a whole, beside those of its services


class ReservationRow(Model):
    """A promise of this site. sender: to whom; NOBODY: adopted after the loss of the database.
    network_id: reserved network. made: made for it. original: to restore."""

    rid: str
    service_id: str
    network_id: str
    project_id: str
    sender: str
    ticket: Ticket
    expires_at: float
    made: bool = False
    original: tuple[SubnetShape, ...] = ()


class IntentRow(Model):
    """The one running operation of a service at its master, with every site that it asks.

    before: the document to go back to (None: a create). operation: create, modify, join, ….
    holder: the process that runs it; another one resumes it only behind its deadline.
    """

    service_id: str
    operation: str
    sites: tuple[str, ...]
    ticket: Ticket
    deadline: float
    initiator: Initiator
    request_id: str
    on_unreachable: str = "revoke"
    before: Document | None = None
    idempotency_key: str | None = None
    holder: str = ""


class MemberRow(Model):
    """What the master knows of a member, or of a site that was ever asked.

    clean: it has acknowledged a tombstone, or its leaving.
    """

    service_id: str
    site: str
    pair: Pair | None = None
    status: ProvisioningStatus = ProvisioningStatus.PENDING_CREATE
    operating: str = "UNKNOWN"
    fault: str | None = None
    seen_at: float | None = None
    clean: bool = False


class HeldBlock(Model):
    """A block as this site knows it; pooled is this site's own matter and only for blocks it owns."""

    block: Block
    pooled: bool = False


class OutboxRow(Model):
    """Something that must still reach a site. One row per (peer, service_id, kind, rid).

    kind: `document` (the current one), `tombstone`, `abort` (of `rid`, a ticket's word), `delete` (a wish, to
    the master). refusals: how often the peer has said no; refused, code: what it said last; networks:
    of its own, that cannot be in the service.
    """

    peer: str
    service_id: str
    kind: Literal["document", "tombstone", "abort", "delete"]
    rid: str = ""
    created_at: float
    attempts: int = 0
    refusals: int = 0
    refused: str = ""
    code: str = ""
    networks: tuple[str, ...] = ()
    next_at: float
    request_id: str
    initiator: Initiator


class PeerRow(Model):
    """count: the highest one of its database that the site has told."""

    site: str
    number: int | None = None
    incarnation: str | None = None
    count: Count = Count()
    seen_at: float | None = None


class Meta(Model):
    """Of this database. incarnation: new after restore or re-install. writes: raised by every transaction;
    a site that has shown a higher one before has an older copy of its database. key: proves that (never
    told)."""

    database_id: str
    incarnation: str
    writes: int
    key: str


class Figures(Model):
    """How much there is. services: by type and status. blocks: by owner and whether pooled. outbox: its
    rows; oldest: created_at of the oldest."""

    services: dict[tuple[str, str], int]
    blocks: dict[tuple[str, bool], int]
    outbox: int
    oldest: float | None


class ServiceFilter(Model):
    """For lists. marker: id of the last service of the page before. Deleted and revoked services are
    shown only where `status` asks for them."""

    project_id: str | None = None
    type: str | None = None
    name: str | None = None
    status: str | None = None
    site: str | None = None
    tags: tuple[str, ...] = ()
    sort_key: str = "created_at"
    sort_dir: Literal["asc", "desc"] = "asc"
    limit: int = 100
    marker: str | None = None


class Tx(Protocol):
    """One transaction, all of it or none. Synchronous: it runs in the store's own worker thread."""

    # services
    def service(self, service_id: str) -> ServiceRow | None: ...

    def save_service(self, row: ServiceRow, *, expect: Pair | None) -> bool:
        """Insert (expect None: there must be none) or replace the row whose pair is `expect` and,
        unless `row` itself is one, that is no tombstone. False, and no change, if it is not so."""

    def delete_service(self, service_id: str) -> None:
        """With everything that hangs on it, but events and authorisations."""

    def services(self, where: ServiceFilter) -> list[ServiceRow]: ...

    def services_at_work(self) -> set[str]:
        """Ids of all of which something is here, or should (not) be."""

    def services_to_realise(self) -> list[str]:
        """Ids of those whose pair is not applied here."""

    def services_realised(self, site: str) -> set[str]:
        """Ids of those that stand, are applied here and have a network of that site."""

    def services_unconnected(self, site: str) -> list[str]:
        """Ids of those that stand and have a network of that site, for which there is no connection."""

    def services_waiting(self) -> list[ServiceRow]:
        """Those that stand and have a deferred member."""

    def services_buried(self) -> list[str]:
        """Ids of tombstones that are not settled."""

    def services_of_type(self, kind: str, after: str, limit: int) -> list[ServiceRow]:
        """Those of that type that stand, by id, behind that id."""

    def services_page(self, after: str, limit: int) -> list[ServiceRow]:
        """Any, also what is over, by id, behind that id."""

    def services_to_reclaim(self) -> list[str]:
        """Ids of those that stand and of which a site that is clean owns blocks."""

    def figures(self) -> Figures: ...

    def services_of_network(self, site: str, network_id: str) -> list[ServiceRow]:
        """Live documents with that network of that site among their resources."""

    def being_put_back(self, network_id: str) -> bool:
        """Is that network of ours still connected to a service that is deleted, or that we have left?"""

    def services_shared_with(self, site: str) -> list[ServiceRow]:
        """Live or tombstone, of which that site is a member or was asked."""

    def sharing_sites(self, project_id: str | None = None) -> set[str]:
        """The members, this site included, of the services that stand here: of a project, or of all."""

    def count_services(self, project_id: str) -> int:
        """Those that stand, of which this site is a member."""

    def count_blocks(self, project_id: str) -> int:
        """Address blocks of the services that `count_services` counts."""

    # members, as the master knows them
    def members(self, service_id: str) -> list[MemberRow]: ...
    def save_member(self, row: MemberRow) -> None: ...

    # connections
    def connections(self, service_id: str) -> list[Connection]: ...
    def save_connection(self, row: Connection) -> None: ...
    def delete_connection(self, service_id: str, resource_id: str) -> None: ...

    # reservations and authorisations
    def reservations_of_network(self, network_id: str) -> list[ReservationRow]: ...
    def reservations_of_service(self, service_id: str) -> list[ReservationRow]: ...
    def reservation(self, rid: str) -> list[ReservationRow]:
        """One RID may promise several networks: one row for each."""

    def expired_reservations(self, now: float, *, most: float = math.inf) -> list[ReservationRow]:
        """Also those that would last for more than `most` seconds: the clock was set back since."""

    def all_reservations(self) -> list[ReservationRow]: ...
    def add_reservation(self, row: ReservationRow) -> None: ...
    def delete_reservations(self, rid: str) -> None: ...
    def authorise(self, service_id: str, network_id: str, initiator: Initiator, at: float) -> None: ...
    def authorised(self, service_id: str, network_id: str, project_id: str) -> bool: ...

    # blocks
    def blocks(self, service_id: str) -> list[HeldBlock]: ...
    def put_blocks(self, service_id: str, blocks: Iterable[HeldBlock]) -> None:
        """Write each where its version is higher than, or equal to, the stored one."""

    def network_blocks(
        self, site: str, network_id: str, cidr: str
    ) -> tuple[ServiceRow, list[HeldBlock]] | None:
        """The L2 service whose subnet that is here, with its blocks."""

    def grant(self, service_id: str, requester: str, cidr: str, number: int) -> tuple[Block, ...] | None:
        """The answer that was given to that numbered request."""

    def add_grant(
        self, service_id: str, requester: str, cidr: str, number: int, blocks: Sequence[Block]
    ) -> None: ...

    def pending_block_request(self, service_id: str, peer: str, cidr: str) -> BlockRequest | None:
        """Our own request to that peer that is not answered yet: it is repeated, not renumbered."""

    def start_block_request(self, service_id: str, peer: str, cidr: str, count: int) -> BlockRequest: ...
    def block_requests(self, service_id: str, peer: str) -> dict[str, int]:
        """Per CIDR, the highest number that we have used towards that peer."""

    def end_block_request(self, service_id: str, peer: str, cidr: str) -> None: ...

    # intents
    def intent(self, service_id: str) -> IntentRow | None: ...
    def intents(self) -> list[IntentRow]: ...

    def add_intent(self, row: IntentRow) -> bool:
        """False if the service has one already: one operation per service at a time."""

    def save_intent(self, row: IntentRow) -> None: ...
    def delete_intent(self, service_id: str) -> None: ...

    # outbox
    def outbox(
        self,
        *,
        due: float | None = None,
        most: float = math.inf,
        peer: str | None = None,
        service_id: str | None = None,
        refusals: int | None = None,
    ) -> list[OutboxRow]:
        """due: only what is to be sent by then, or not before `most` seconds behind it, which can only be
        since the clock was set back. refusals: that have met with at least so many."""

    def post(self, row: OutboxRow) -> None:
        """Insert; an equal (peer, service_id, kind, rid) keeps its created_at."""

    def unpost(self, row: OutboxRow) -> None: ...

    # events, idempotency, identifiers, peers, leases
    def add_event(self, event: Event) -> None: ...
    def events(
        self, *, service_id: str | None, project_id: str | None, after: int, limit: int
    ) -> list[Event]: ...

    def idempotent(self, project_id: str, key: str, now: float) -> tuple[str, str] | None:
        """(hash of the body, service id) of a request with that key, not older than 24 h."""

    def remember(self, project_id: str, key: str, body_hash: str, service_id: str, now: float) -> None: ...
    def forget(self, project_id: str, key: str) -> None: ...

    def take_identifier(self, service_id: str, low: int, high: int) -> int | None:
        """A free k in low..high for that service; None when all are taken."""

    def identifier_holder(self, number: int) -> str | None:
        """The service that it was taken for; None: it is free."""

    def release_identifier(self, service_id: str) -> None: ...

    def peer(self, site: str) -> PeerRow | None: ...
    def peers(self) -> list[PeerRow]: ...
    def save_peer(self, row: PeerRow) -> None: ...

    def lease(self, name: str, holder: str, now: float, seconds: float) -> bool:
        """Take or renew; False while another holds it."""

    def meta(self) -> Meta: ...

    def outbid_writes(self, seen: int) -> None:
        """The count of writes goes on behind `seen`."""

    # a restored database (docs/adr/0020)
    def fence(self, incarnation: str) -> None:
        """This is an older copy: SITE and every live service are fenced; what was under way then is not
        carried on (no intents), what was promised then is kept as nobody's until it is known what became
        of it."""

    def fences(self) -> list[str]: ...
    def fenced(self, service_id: str) -> bool:
        """That service, or SITE."""

    def raise_fence(self, service_id: str) -> None: ...
    def lift_fence(self, service_id: str) -> None: ...

    def prune(self, *, events_before: float, events_most: int, settled_before: float, now: float) -> None:
        """Bounded growth: old events, settled tombstones and revoked services, idempotency keys."""

    def forget_authorisations(self, *, before: float, after: str, limit: int) -> list[str]:
        """Older ones whose service is no more, of the next so many services by id, behind that id: those."""


class Store(Protocol):
    async def write(self, decide: Callable[[Tx], T]) -> T:
        """Run `decide` in one immediate transaction; committed and on disk when this returns, rolled
        back if it raises. Raises StorageUnavailable when locked beyond `storage_timeout`, full or
        read-only."""

    async def read(self, look: Callable[[Tx], T]) -> T:
        """The same for reading only."""


Spawn = Callable[[Awaitable[None]], None]
