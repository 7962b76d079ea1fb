"""What the engine asks of a type of service: a small object of pure decisions.

The engine knows no type by name. For each service it asks the type, in this order: `check` what the
tenant sent; what is `wanted` of each site; whether a network `fit`s (at the asked site); what to
`decide` from the answers; whether a committed document may stand (`recheck`, at every member); and
what this site then has to have (`shapes`, `target`).

All methods are pure. They refuse by raising from `diminet.errors`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from diminet.messages import Reservation, ReserveRequest, ResourceFacts
from diminet.model import (
    Block,
    Document,
    Entry,
    Member,
    Model,
    NetworkFacts,
    PortFacts,
    Resource,
    SubnetShape,
    Target,
)


class Draft(Model):
    """A create or a change that is being decided.

    members: all of them as they are to be, slots and joins given. entries: the whole wanted list.
    reservations: of the sites that were asked, by site. before: the committed document (None: create)
    with its blocks. spare: those of the master's own blocks that are in no pool, read in the
    transaction that writes the decision, so that none of them is pooled meanwhile.
    """

    service_id: str
    master: str
    members: tuple[Member, ...]
    entries: tuple[Entry, ...]
    params: dict[str, Any]
    reservations: dict[str, Reservation]
    before: Document | None = None
    blocks: tuple[Block, ...] = ()
    spare: tuple[Block, ...] = ()


class Decision(Model):
    """What is written: resources in the order of the entries, params, and (create) the first blocks.

    gives: blocks whose next version the master writes because of this change (a joining site's share
    out of the master's own spare).
    """

    resources: tuple[Resource, ...]
    params: dict[str, Any]
    blocks: tuple[Block, ...] = ()
    gives: tuple[Block, ...] = ()


class ServiceType(Protocol):
    name: str
    makes_networks: bool  # an entry may leave resource_id out
    uses_blocks: bool  # blocks are dealt, given and grown

    def check(self, entries: Sequence[Entry], params: Mapping[str, Any], receiver: str) -> dict[str, Any]:
        """The params, complete and normalised. Raises InvalidRequest."""

    def check_change(self, entries: Sequence[Entry]) -> None:
        """The whole list as a change wants it, before any site is asked. Raises InvalidRequest."""

    def wanted(
        self,
        own: Sequence[NetworkFacts],
        params: Mapping[str, Any],
        before: Document | None,
    ) -> dict[str, Any]:
        """What every asked site is told of the networks that it is asked for (ReserveRequest.wanted),
        from the receiver's own networks (at creation read only where `uses_blocks`: every site reads its
        own when it reserves), or from the committed document."""

    def narrow(
        self, network: NetworkFacts, ports: Sequence[PortFacts], request: ReserveRequest, site: str
    ) -> tuple[SubnetShape, ...]:
        """Pools to set while reserved, before the ports are read: the share that this network would
        keep (DESIGN section 5). Empty: nothing is narrowed."""

    def fit(
        self,
        facts: ResourceFacts,
        request: ReserveRequest,
        site: str,
        committed: Sequence[Document],
    ) -> None:
        """At the asked site: may that network be joined? `committed`: live documents here that name
        the network, the service itself left out. Raises Conflict errors."""

    def decide(self, draft: Draft) -> Decision:
        """Raises Conflict errors that name sites and networks."""

    def recheck(self, document: Document, site: str, committed: Sequence[Document]) -> None:
        """At a member, in the transaction that stores the document: does it conflict with a committed
        one (live documents here that share a local network, itself left out)?"""

    def shapes(
        self, document: Document, resource: Resource, pooled: Sequence[Block]
    ) -> tuple[SubnetShape, ...]:
        """The subnets that this resource of this site has to have, given the blocks that are in the
        site's pool. Empty: the VIM's subnets stay as they are."""

    def target(self, document: Document, site: str, committed: Sequence[Document]) -> Target | None:
        """What this site's data plane has to have; None: nothing (no live resource here)."""

    def block_size(self, document: Document, cidr: str) -> int:
        """Addresses a block; 0 where this type has no blocks."""

    def appeared(
        self,
        document: Document,
        site: str,
        networks: Sequence[NetworkFacts],
        committed: Sequence[Document],
    ) -> tuple[str, ...]:
        """In the background: sentences on subnets of this site's networks that the document does not
        know and that stand against it. `networks`: the service's local ones as the VIM has them now;
        `committed`: other live documents here that share one. Empty: all is well."""
