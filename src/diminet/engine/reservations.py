"""A site's promises before a commit: made, kept for a while, taken back (DESIGN sections 1 and 5).

What stops half-way: the row is written before the VIM is touched and deleted only after the VIM is as
it was, so whatever is between is found by `release_expired` and undone.
"""

import asyncio
from collections.abc import Sequence

import structlog
from pydantic import SecretStr

from diminet.engine import fence
from diminet.engine.instance import Instance
from diminet.engine.ports import NOBODY, ReservationRow, Tx
from diminet.errors import (
    DiminetError,
    InvalidRequest,
    NetworkNotFound,
    NotAuthorised,
    ResourceBusy,
    ServiceNotFound,
)
from diminet.logic.service_type import ServiceType
from diminet.messages import Context, Reach, Reservation, ReserveRequest, ResourceFacts
from diminet.model import Document, Entry, NetworkFacts, SubnetShape, Ticket

log = structlog.get_logger()


def as_shapes(network: NetworkFacts) -> tuple[SubnetShape, ...]:
    """How the network's subnets are now, to be put back later."""
    return tuple(subnet.shape() for subnet in network.subnets)


def reaches(network_id: str, committed: Sequence[Document]) -> tuple[Reach, ...]:
    """CIDRs of all other networks in the services that the network is in."""
    return tuple(
        Reach(cidr=subnet.cidr, network_id=r.resource_id, site=r.site)
        for document in committed
        for r in document.resources
        if r.resource_id != network_id
        for subnet in r.subnets
    )


class Reservations:
    def __init__(self, here: Instance) -> None:
        self.here = here

    async def reserve(self, ctx: Context, request: ReserveRequest, asker: str) -> Reservation:
        """Promise the entries' networks to the site `asker` (the master, maybe ourselves) for
        `request.lifetime`; the same request gets the same RID.

        Raises NotAuthorised, NetworkNotFound, ResourceBusy (with the holder's ticket), and whatever
        the type finds unfit; nothing stays changed then."""
        here = self.here
        self._check(request)
        as_user = None
        if not await here.store.read(lambda tx: self._authorised(tx, request, asker)):
            as_user = await here.identity.authorise(ctx, request.project_id)
        kind = here.type_of(request.type)
        if ctx.sender is not None:
            # Only our own user may say which of our networks need not be clean.
            wanted = {key: value for key, value in request.wanted.items() if key != "origin"}
            request = request.model_copy(update={"wanted": wanted})
        for entry in request.entries:
            if entry.resource_id:
                await self._require_theirs(entry.resource_id, request.project_id, as_user)
        rid = here.clock.uuid()
        # What is being made for a promise is not undone meanwhile: `release` waits for this lock.
        async with here.locks[f"promise {request.service_id}"]:
            rows, first = await here.store.write(lambda tx: self._promise(tx, ctx, asker, request, rid))
            try:
                facts = [await self._prepare(kind, request, row, first=first) for row in rows]
                return Reservation(
                    rid=rows[0].rid,
                    service_id=request.service_id,
                    site=here.name,
                    number=here.number,
                    expires_at=rows[0].expires_at,
                    capabilities=await here.south.capabilities(),
                    resources=tuple(facts),
                    left=await here.store.read(lambda tx: self._left(tx, request.service_id)),
                )
            except DiminetError:
                await self._take_back(rows[0].rid)
                raise

    def _authorised(self, tx: Tx, request: ReserveRequest, asker: str) -> bool:
        """Whether its master asks about networks that are in the service already: these were authorised
        once, and no token outlives that (DESIGN section 4)."""
        held = tx.service(request.service_id)
        if held is None or held.left is not None or held.document.master != asker:
            return False
        named = {r.resource_id for r in held.document.resources_of(self.here.name)}
        return all(
            entry.resource_id in named
            and tx.authorised(request.service_id, entry.resource_id, request.project_id)
            for entry in request.entries
        )

    @staticmethod
    def _left(tx: Tx, service_id: str) -> int:
        row = tx.service(service_id)
        return row.left or 0 if row is not None else 0

    def _check(self, request: ReserveRequest) -> None:
        """Raises InvalidRequest unless it names networks of this site, each once."""
        keys = [entry.key for entry in request.entries]
        if not keys or len(set(keys)) < len(keys) or {site for site, _ in keys} != {self.here.name}:
            raise InvalidRequest(f"name networks of site {self.here.name}, each once", sites=[self.here.name])

    async def theirs(self, network_id: str, project_id: str) -> NetworkFacts:
        """The answer does not tell one of another project from one that is not there."""
        try:
            network = await self.here.south.network(network_id)
        except NetworkNotFound:
            network = None
        if network is None or network.project_id != project_id:
            raise self._not_theirs(network_id)
        return network

    async def _require_theirs(self, network_id: str, project_id: str, as_user: SecretStr | None) -> None:
        try:
            owner = await self.here.south.owner(network_id, as_user=as_user)
        except NetworkNotFound:
            owner = None
        if owner != project_id:
            raise self._not_theirs(network_id)

    def _not_theirs(self, network_id: str) -> NetworkNotFound:
        return NetworkNotFound(
            f"site {self.here.name} has no network {network_id} that this project may use; "
            "check the id with `openstack network list` at that site",
            sites=[self.here.name],
        )

    def _promise(
        self, tx: Tx, ctx: Context, asker: str, request: ReserveRequest, rid: str
    ) -> tuple[list[ReservationRow], bool]:
        """The promises, and whether they are the first ones for that service here."""
        held = tx.service(request.service_id)
        fence.refuse(self.here, tx, request.service_id)
        known = {r.resource_id for r in held.document.resources_of(self.here.name)} if held else set[str]()
        if any(entry.resource_id not in known for entry in request.entries):
            fence.refuse_new(self.here, tx)
        if held is not None and held.document.tombstone:
            raise ServiceNotFound(f"service {request.service_id} is deleted", sites=[self.here.name])
        if held is not None and held.left is None and asker != held.document.master:
            raise NotAuthorised(
                f"site {asker} is not the master of service {request.service_id}", sites=[self.here.name]
            )
        if held is not None and held.left is not None and not held.settled:
            raise self._still_ending(f"service {request.service_id}")
        mine = tx.reservations_of_service(request.service_id)
        if any(row.sender != asker for row in mine):
            raise NotAuthorised(
                f"service {request.service_id} was not asked for by site {asker}", sites=[self.here.name]
            )
        rows = [self._row(tx, asker, request, entry, mine, rid) for entry in request.entries]
        renewed = {(row.rid, row.network_id) for row in rows}
        others = [row for row in mine if (row.rid, row.network_id) not in renewed]
        if others or len({row.rid for row in rows}) > 1:
            # Not the same request again: what it no longer names stays under its own RID, to be undone.
            rows = [row.model_copy(update={"rid": rid}) for row in rows]
        for old in {row.rid for row in mine}:
            tx.delete_reservations(old)
        for row in (*others, *rows):
            tx.add_reservation(row)
        networks = [entry.resource_id for entry in request.entries]
        tx.add_event(
            self.here.event("reserved", ctx, request.service_id, request.project_id, networks=networks)
        )
        return rows, held is None and not mine

    def _row(
        self,
        tx: Tx,
        asker: str,
        request: ReserveRequest,
        entry: Entry,
        mine: Sequence[ReservationRow],
        rid: str,
    ) -> ReservationRow:
        """The promise for one entry; one that this service has already is renewed under its RID."""
        expires = self.here.clock.now() + min(request.lifetime, self.here.limits.reservation_lifetime)
        for row in mine:
            if row.network_id == entry.resource_id or (row.made and not entry.resource_id):
                return row.model_copy(update={"ticket": request.ticket, "expires_at": expires})
        if entry.resource_id:
            for other in tx.reservations_of_network(entry.resource_id):
                if other.service_id != request.service_id:
                    raise ResourceBusy(
                        f"network {entry.resource_id} of site {self.here.name} is being joined by "
                        "another request; try again in a moment",
                        sites=[self.here.name],
                        ticket=other.ticket,
                        retry_after=1.0,
                    )
            if tx.being_put_back(entry.resource_id):
                raise self._still_ending(f"network {entry.resource_id}")
        return ReservationRow(
            rid=rid,
            service_id=request.service_id,
            network_id=entry.resource_id or "",
            project_id=request.project_id,
            sender=asker,
            ticket=request.ticket,
            expires_at=expires,
            made=entry.resource_id is None,
        )

    def _still_ending(self, what: str) -> ResourceBusy:
        """As a network is until it is put back is not what is to be put back later. The lowest of all
        tickets, so that whoever asks waits."""
        return ResourceBusy(
            f"{what} of site {self.here.name} is just being put back as it was; try again in a moment",
            sites=[self.here.name],
            ticket=Ticket(0, self.here.number, 0),
            retry_after=1.0,
        )

    async def _prepare(
        self, kind: ServiceType, request: ReserveRequest, row: ReservationRow, *, first: bool
    ) -> ResourceFacts:
        here = self.here
        if row.made:
            row = await self._make(request, row, first=first)
        held, committed = await here.store.read(lambda tx: self._committed(tx, row))
        network = await here.south.network(row.network_id)
        # Without a subnet there are no addresses.
        ports = await here.south.ports(row.network_id) if kind.uses_blocks and network.subnets else ()
        joined = held is not None and any(
            r.resource_id == row.network_id for r in held.resources_of(here.name)
        )
        facts = ResourceFacts(
            network=network, made=row.made, ports=ports, reaches=reaches(row.network_id, committed)
        )
        if joined:
            return facts
        kind.fit(facts, request, here.name, committed)
        shapes = kind.narrow(network, ports, request, here.name)
        if shapes:
            await self._narrow(row, network, shapes)
            ports = await here.south.ports(row.network_id)
            facts = facts.model_copy(update={"ports": ports, "narrowed": tuple(shapes)})
            kind.fit(facts, request, here.name, committed)
        return facts

    def _committed(self, tx: Tx, row: ReservationRow) -> tuple[Document | None, list[Document]]:
        """Our copy of the service itself, and every other live document that names the network. Raises
        ResourceBusy if one that did has ended since it was promised, and it is not as it was yet."""
        held = tx.service(row.service_id)
        if tx.being_put_back(row.network_id):
            raise self._still_ending(f"network {row.network_id}")
        rows = tx.services_of_network(self.here.name, row.network_id)
        others = [r.document for r in rows if r.document.service_id != row.service_id]
        return (held.document if held else None), others

    async def _make(self, request: ReserveRequest, row: ReservationRow, *, first: bool) -> ReservationRow:
        made_id = await self.here.south.make_network(
            request.service_id, request.project_id, request.name, self.here.name, first=first
        )
        named = row.model_copy(update={"network_id": made_id})
        await self._replace(row, named)
        return named

    async def _narrow(
        self, row: ReservationRow, network: NetworkFacts, shapes: Sequence[SubnetShape]
    ) -> None:
        if not row.original:
            await self._replace(row, row.model_copy(update={"original": as_shapes(network)}))
        async with self.here.locks[f"shape {row.network_id}"]:
            for shape in shapes:
                await self.here.south.shape_subnet(row.network_id, shape)
        # A VIM may still be giving out an address of the pools as they were (Neutron; on linux 0).
        interval = self.here.limits.settle_interval
        if interval and not await self.here.south.settled(row.network_id):
            await self.here.clock.sleep(interval)

    async def _replace(self, old: ReservationRow, new: ReservationRow) -> None:
        def decide(tx: Tx) -> None:
            rows = tx.reservation(old.rid)
            tx.delete_reservations(old.rid)
            for row in rows:
                tx.add_reservation(new if row.network_id == old.network_id else row)

        await self.here.store.write(decide)

    async def abort(self, service_id: str, word: str, asker: str) -> None:
        """Give up what was promised to that site: under that RID, or for the request of that ticket.
        Raises NotAuthorised for what was promised to another."""
        rows = await self.here.store.read(lambda tx: tx.reservations_of_service(service_id))
        meant = [row for row in rows if word in (row.rid, row.ticket.word())]
        if any(row.sender not in (asker, NOBODY) for row in meant):
            raise NotAuthorised(
                f"service {service_id} was not asked for by site {asker}", sites=[self.here.name]
            )
        for rid in sorted({row.rid for row in meant if row.sender == asker}):
            await self.release(rid)

    async def release(self, rid: str) -> None:
        """Undo and forget a promise; nothing to do if it is gone or was taken up by a document."""
        rows = await self.here.store.read(lambda tx: tx.reservation(rid))
        if not rows:
            return
        async with self.here.locks[f"promise {rows[0].service_id}"]:
            await self._take_back(rid)

    async def _take_back(self, rid: str) -> None:
        """First no document can take it up any more, then the VIM is put back, then it is forgotten."""
        for row in await self.here.store.write(lambda tx: self._expire(tx, rid)):
            await self._undo(row)
        await self.here.store.write(lambda tx: tx.delete_reservations(rid))

    @staticmethod
    def _expire(tx: Tx, rid: str) -> list[ReservationRow]:
        rows = [row.model_copy(update={"expires_at": 0.0}) for row in tx.reservation(rid)]
        for row in rows:
            tx.add_reservation(row)
        return rows

    async def _undo(self, row: ReservationRow) -> None:
        here = self.here
        network_id = row.network_id
        try:
            if row.made and not network_id:
                network_id = await here.south.make_network(row.service_id, row.project_id, "", here.name)
            async with here.locks[f"shape {network_id}"]:
                if await here.store.read(lambda tx: self._is_joined(tx, row.service_id, network_id)):
                    return  # a live part of a service: it is put back when it leaves
                if row.made:
                    await here.south.drop_network(network_id)
                for shape in row.original:
                    await here.south.shape_subnet(network_id, shape, make=False)
        except NetworkNotFound:
            return  # the tenant has deleted it meanwhile: nothing to put back

    def _is_joined(self, tx: Tx, service_id: str, network_id: str) -> bool:
        """By that service, or, where the promise is of an older copy of the database, by another since."""
        mine = any(c.resource_id == network_id for c in tx.connections(service_id))
        return mine or bool(tx.services_of_network(self.here.name, network_id))

    async def release_expired(self) -> None:
        now = self.here.clock.now()
        # Twice, since one that is made while this waits for the database lasts longer, seen from `now`.
        most = 2 * self.here.limits.reservation_lifetime
        rows = await self.here.store.read(lambda tx: tx.expired_reservations(now, most=most))
        # One that was adopted after a loss (`recovery`) is meant to last: its master may be away for long.
        rows = [row for row in rows if row.sender != NOBODY or row.expires_at <= now]
        await asyncio.gather(*(self.try_release(rid) for rid in sorted({row.rid for row in rows})))

    async def try_release(self, rid: str) -> None:
        """What the VIM refuses is tried again at the next turn, and keeps no other from being released."""
        try:
            await self.release(rid)
        except DiminetError as error:
            log.warning("release", rid=rid, code=error.code, message=error.message)
