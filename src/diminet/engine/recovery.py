"""After the loss of the database: what the VIM remembers, taken in again by an operator's word.

An instance that starts on another database than the one its VIM was last used with sweeps nothing
(`Reconciler.trusts_vim`). `adopt` writes, for every network of a service that the database does not know,
a promise that does not run out, which stands for the authorisation that was once given, so that the
service's master, when it tells the document, finds it (of our own services: `homecoming`): what we made
is then ours to delete again, and what we changed is put back at the end. `discard` lets such a
promise run out: the instance undoes it as any other.
"""

from diminet.engine.ports import FOR_EVER, NOBODY, Clock, ReservationRow, South, Store, Tx
from diminet.engine.reconciler import MARK, as_mark, known_networks
from diminet.errors import ServiceNotFound
from diminet.model import Remains, Ticket


class Recovery:
    def __init__(self, store: Store, south: South, clock: Clock) -> None:
        self.store = store
        self.south = south
        self.clock = clock

    async def lost(self) -> tuple[Remains, ...]:
        """What the VIM remembers and the database does not."""
        found = await self.south.remains()
        return await self.store.read(
            lambda tx: tuple(r for r in found if r.network_id not in known_networks(tx, r.service_id))
        )

    async def adopt(self) -> tuple[Remains, ...]:
        """Take in all that is lost and says for which service it is; from now on the VIM is used with
        this database, which is fenced until the other sites have told what they share with it."""
        lost = await self.take_in()
        await self.store.write(lambda tx: tx.fence(self.clock.uuid()))
        meta = await self.store.read(lambda tx: tx.meta())
        await self.south.set_mark(MARK, as_mark(meta))
        return lost

    async def take_in(self) -> tuple[Remains, ...]:
        lost = await self.lost()

        def decide(tx: Tx) -> None:
            for remains in lost:
                if remains.service_id:
                    self._adopt(tx, remains)

        await self.store.write(decide)
        return lost

    def _adopt(self, tx: Tx, remains: Remains) -> None:
        tx.add_reservation(
            ReservationRow(
                rid=self.clock.uuid(),
                service_id=remains.service_id,
                network_id=remains.network_id,
                project_id=remains.project_id,
                sender=NOBODY,
                ticket=Ticket(0, 0, 0),
                expires_at=FOR_EVER,
                made=remains.made,
                original=remains.shapes,
            )
        )

    async def discard(self, service_id: str) -> None:
        """Of a service that nobody has any more: when the instance runs it takes down what was adopted.
        Raises ServiceNotFound."""

        def decide(tx: Tx) -> None:
            rows = [r for r in tx.reservations_of_service(service_id) if r.sender == NOBODY]
            if not rows:
                raise ServiceNotFound(f"nothing was adopted for service {service_id}: see `diminet recover`")
            for row in rows:
                tx.add_reservation(row.model_copy(update={"expires_at": 0.0}))

        await self.store.write(decide)
