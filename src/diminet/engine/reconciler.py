"""Drives what is to what should be: the same code for the first run, a repair, a crash and a deletion.

For each service the store says what this site has to have; `realise` compares nothing in memory, it
asks the South for it again. A service that is buried or left is taken down: the data plane first,
then the networks and pools as they were, then our rows.
"""

from collections.abc import Sequence, Set
from contextlib import suppress

import structlog

from diminet.engine.drift import Drift, neighbours
from diminet.engine.instance import Instance
from diminet.engine.pools import Pools
from diminet.engine.ports import SITE, Meta, ServiceRow, Tx
from diminet.engine.turns import Turn
from diminet.errors import DiminetError, NetworkNotFound, SiteRefused
from diminet.model import (
    Connection,
    Document,
    ProvisioningStatus,
    Remains,
    SubnetShape,
)

log = structlog.get_logger()

MARK = "database"  # of the VIM: which database it was last used with, and how often that was written
TAKEN_DOWN = {ProvisioningStatus.PENDING_DELETE, ProvisioningStatus.REVOKED}


def known_networks(tx: Tx, service_id: str) -> set[str]:
    """Networks that were promised to that service or joined by it; "" is promised to be made."""
    promised = {row.network_id for row in tx.reservations_of_service(service_id)}
    joined = {connection.resource_id for connection in tx.connections(service_id)}
    row = tx.service(service_id)
    if row is not None and not row.document.tombstone and row.left is None:
        joined |= {resource.resource_id for resource in row.document.resources}
    return promised | joined


def as_mark(meta: Meta) -> str:
    return f"{meta.database_id}/{meta.writes}"


def database_of(mark: str) -> str:
    return mark.partition("/")[0]


def writes_of(mark: str) -> int:
    """0: of an instance that did not tell it yet."""
    return int(mark.partition("/")[2] or 0)


class Reconciler:
    def __init__(self, here: Instance, pools: Pools, drift: Drift) -> None:
        self.here = here
        self.pools = pools
        self.drift = drift
        self.stranger = False  # the VIM says that it was last used with another database
        self.adopted = False  # all that the VIM remembers and a restored database did not is promised
        self.sweeping = Turn()  # through networks that we made

    async def realise(self, service_id: str) -> None:
        """Make this site's part of the service as its row says. Raises what the VIM said; the
        connections then are ERROR and it is tried again at the next interval."""
        async with self.here.locks[f"service {service_id}"]:
            row, fenced = await self.here.store.read(
                lambda tx: (tx.service(service_id), tx.fenced(service_id))
            )
            if row is None or (row.settled and row.applied == row.document.pair):
                return
            if row.document.tombstone or row.left is not None:
                await self._take_down(row)
            elif not fenced:  # else what exists goes on as it is
                await self._make(row)

    # -- making ------------------------------------------------------------------------------------

    async def _make(self, row: ServiceRow) -> None:
        here, document = self.here, row.document
        try:
            committed, unconnected = await here.store.read(
                lambda tx: (neighbours(tx, document, here.name), self._unconnected(tx, document))
            )
            for network_id in unconnected:
                await self._connect_again(document.service_id, network_id)
            target = here.type_of(document.type).target(document, here.name, committed)
            for resource in document.resources_of(here.name):
                await self.pools.shape(document, resource)
            if target is not None:
                await here.south.connect(target)
            else:
                await here.south.disconnect(document.service_id)
            warnings = await self._drop_removed(document)
        except DiminetError as error:
            await self._note_error(row, error)
            raise
        await here.store.write(lambda tx: self._made(tx, row, warnings))
        self.drift.made(document.service_id)

    def _unconnected(self, tx: Tx, document: Document) -> list[str]:
        """Networks of ours whose connections are lost."""
        known = {connection.resource_id for connection in tx.connections(document.service_id)}
        named = {resource.resource_id for resource in document.resources_of(self.here.name)}
        return sorted(named - known)

    async def _connect_again(self, service_id: str, network_id: str) -> None:
        """A lost connection as the VIM remembers it: whether we made the network, how it was before us."""
        network = await self.here.south.network(network_id)
        made = network.ours == service_id
        remains = () if made else await self.here.south.remains()
        was = next((r.shapes for r in remains if r.network_id == network_id and r.shapes), None)
        original = () if made else was or tuple(subnet.shape() for subnet in network.subnets)
        connection = Connection(service_id=service_id, resource_id=network_id, made=made, original=original)
        await self.here.store.write(lambda tx: tx.save_connection(connection))

    async def _drop_removed(self, document: Document) -> list[str]:
        connections = await self.here.store.read(lambda tx: tx.connections(document.service_id))
        return await self._restore([c for c in connections if c.state == "REMOVING"])

    async def _note_error(self, row: ServiceRow, error: DiminetError) -> None:
        def decide(tx: Tx) -> None:
            for connection in tx.connections(row.document.service_id):
                if connection.state in ("PENDING", "ACTIVE"):
                    tx.save_connection(
                        connection.model_copy(update={"state": "ERROR", "error": error.message})
                    )

        await self.here.store.write(decide)

    def _made(self, tx: Tx, row: ServiceRow, warnings: Sequence[str]) -> None:
        service_id = row.document.service_id
        current = tx.service(service_id)
        if current is None or current.document.pair != row.document.pair or current.document.tombstone:
            return  # it moved on meanwhile: the next run makes that so
        me = row.document.member(self.here.name)
        if me is not None and me.deferred:
            self.pools.give_back(tx, row.document)
        for connection in tx.connections(service_id):
            if connection.state != "REMOVING":
                tx.save_connection(connection.model_copy(update={"state": "ACTIVE", "error": None}))
        update: dict[str, object] = {
            "applied": row.document.pair,
            "warnings": tuple(dict.fromkeys([*current.warnings, *warnings])),
        }
        if (
            self._alone(row.document) and tx.intent(service_id) is None
        ):  # nobody else will say that it is done
            update |= {"confirmed": row.document.pair, "status": ProvisioningStatus.ACTIVE}
        tx.save_service(current.model_copy(update=update), expect=row.document.pair)

    def _alone(self, document: Document) -> bool:
        """Are we the master, and the only member that has a part in it?"""
        return document.master == self.here.name and all(
            m.site == self.here.name or m.deferred for m in document.members
        )

    # -- taking down -------------------------------------------------------------------------------

    async def _take_down(self, row: ServiceRow) -> None:
        service_id = row.document.service_id
        await self.here.south.disconnect(service_id)
        connections = await self.here.store.read(lambda tx: tx.connections(service_id))
        warnings = await self._restore(connections)
        await self.here.store.write(lambda tx: self._taken_down(tx, row, warnings))
        self.drift.taken_down(service_id)

    async def _restore(self, connections: Sequence[Connection]) -> list[str]:
        """Networks that we made go, unless a tenant uses them; pools of the others come back."""
        here, warnings = self.here, list[str]()
        for connection in connections:
            async with here.locks[f"shape {connection.resource_id}"]:
                warnings += await self._put_back(connection)
            await self._forget(connection)
        return warnings

    async def _put_back(self, connection: Connection) -> list[str]:
        here, network_id = self.here, connection.resource_id
        self.pools.shaped.discard(network_id)
        try:
            if connection.made and not await here.south.drop_network(network_id):
                return [
                    f"network {network_id} of site {here.name} has ports on it and stays; it is yours now"
                ]
            return [
                warning
                for shape in connection.original
                for warning in await self._shape_back(network_id, shape)
            ]
        except NetworkNotFound:
            return []  # its owner has deleted it: nothing to put back

    async def _shape_back(self, network_id: str, shape: SubnetShape) -> list[str]:
        """Without the gateway if the site refuses it twice: a tenant's port has its address by now. A
        refusal of the moment does not cost a gateway."""
        last: SiteRefused | None = None
        for _ in range(2):
            try:
                await self.here.south.shape_subnet(network_id, shape, make=False)
                return []
            except SiteRefused as refusal:
                if shape.gateway_ip is None:
                    raise
                last = refusal
        without = shape.model_copy(update={"gateway_ip": None})
        await self.here.south.shape_subnet(network_id, without, make=False)
        return [
            f"gateway {shape.gateway_ip} of network {network_id} of site {self.here.name} could not be put "
            f"back, set one yourself: {last.message if last else ''}"
        ]

    async def _forget(self, connection: Connection) -> None:
        service_id, network_id = connection.service_id, connection.resource_id
        await self.here.store.write(lambda tx: tx.delete_connection(service_id, network_id))

    def _taken_down(self, tx: Tx, row: ServiceRow, warnings: Sequence[str]) -> None:
        service_id = row.document.service_id
        current = tx.service(service_id)
        if current is None or current.document.pair != row.document.pair:
            return
        if current.left is not None and not tx.fenced(service_id):
            self.pools.give_back(tx, current.document)
        others = [m for m in tx.members(service_id) if m.site != self.here.name and not m.clean]
        master = current.document.epoch.site == self.here.number
        if not master:
            for member in others:  # the master's to wait for; a row of ours waits for nobody
                tx.save_member(member.model_copy(update={"clean": True}))
        tx.save_service(
            current.model_copy(
                update={
                    "applied": current.document.pair,
                    "settled": not master,  # the master's is settled with its identifier (`outbox.settle`)
                    "warnings": tuple(dict.fromkeys([*current.warnings, *warnings])),
                    "updated_at": self.here.clock.now(),
                }
            ),
            expect=current.document.pair,
        )

    # -- repairing ---------------------------------------------------------------------------------

    async def repair(self) -> list[DiminetError]:
        """One round over everything that is not as it should be; returns what was refused."""
        await self.drift.look()
        ours, wrong = await self.here.store.read(
            lambda tx: (tx.services_at_work(), [*tx.services_to_realise()])
        )
        strangers = self.drift.health.keys() - ours
        wrong += sorted(await self.drift.to_make_again(ours - set(wrong)))
        locks = self.here.locks
        wrong = [i for i in wrong if not locks[f"service {i}"].locked()]  # else somebody is just at it
        refused: list[DiminetError] = []
        for service_id in wrong:
            try:
                await self.realise(service_id)
            except DiminetError as error:
                refused.append(error)
        if strangers and await self.trusts_vim():
            refused += await self._sweep(strangers)
        if wrong or strangers:  # what an idle instance costs is mostly looking
            await self.drift.look()
        return refused

    async def trusts_vim(self) -> bool:
        """May what this database does not know of be taken for left over? Not if the VIM was last used
        with another database, or this one is an older copy: then it may be all that is left of live
        services (`diminet recover`, docs/adr/0020)."""
        meta, fenced = await self.here.store.read(lambda tx: (tx.meta(), tx.fenced(SITE)))
        mark = await self.here.south.mark(MARK)
        if mark is None:
            await self.here.south.set_mark(MARK, as_mark(meta))
        stranger = mark is not None and database_of(mark) != meta.database_id
        if stranger and not self.stranger:
            log.warning("recover", mark=mark, database=meta.database_id, what="run `diminet recover`")
        self.stranger = stranger
        return not stranger and (self.adopted or not fenced)

    async def sweep_networks(self) -> None:
        """Networks that we made, and tenants' subnets that we changed, and nothing here knows of: a VIM
        that did not answer in time may have made or changed them all the same."""
        if not await self.trusts_vim():
            return
        remains = await self.here.south.remains()
        fenced = await self.here.store.read(lambda tx: tx.fenced(SITE))
        # Which service a subnet was changed for the VIM does not say: maybe for one that is to come back.
        swept = (r for r in remains if r.made or not (r.service_id or fenced))
        known = {f"{r.service_id} {r.network_id}": r for r in swept}
        most = self.here.limits.round_batch
        names = sorted(name for name in known if name > self.sweeping.after)[:most]
        self.sweeping.took(names, most)
        for one in (known[name] for name in names):
            if one.made:
                await self._drop_unknown(one)
            else:
                await self._undo_late(one)

    async def _drop_unknown(self, remains: Remains) -> None:
        async with self.here.locks[f"promise {remains.service_id}"]:
            if not await self._is_wanted(remains):
                await self.here.south.drop_network(remains.network_id)

    async def _is_wanted(self, remains: Remains) -> bool:
        ours = await self.here.store.read(lambda tx: known_networks(tx, remains.service_id))
        return "" in ours or remains.network_id in ours

    async def _undo_late(self, remains: Remains) -> None:
        network_id = remains.network_id

        def in_use(tx: Tx) -> bool:
            promised = bool(tx.reservations_of_network(network_id)) or tx.being_put_back(network_id)
            return promised or bool(tx.services_of_network(self.here.name, network_id))

        async with self.here.locks[f"shape {network_id}"]:
            if await self.here.store.read(in_use):
                return
            with suppress(NetworkNotFound):  # deleted meanwhile: nothing to put back
                for shape in remains.shapes:
                    await self.here.south.shape_subnet(network_id, shape, make=False)

    async def _sweep(self, strangers: Set[str]) -> list[DiminetError]:
        """A data plane of ours without a live service: left over by a crash."""
        refused: list[DiminetError] = []
        for service_id in sorted(strangers):
            try:
                await self._sweep_one(service_id)
            except DiminetError as error:
                refused.append(error)
        return refused

    async def _sweep_one(self, service_id: str) -> None:
        def left_over(tx: Tx) -> bool:
            row = tx.service(service_id)
            return not tx.reservations_of_service(service_id) and (row is None or row.settled)

        if await self.here.store.read(left_over):
            await self.here.south.disconnect(service_id)
