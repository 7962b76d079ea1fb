"""After the loss of the database: what the VIM remembers, taken in again by an operator's word.

An instance that starts on another database than the one its VIM was last used with sweeps nothing
(`Reconciler.trusts_vim`). `adopt` writes, for every network of a service that the database does not know,
a promise that does not run out and the authorisation that was once given, so that the service's master,
when it tells the document, finds them (of our own services: `homecoming`): what we made is then ours to
delete again, and what we changed is put back at the end. `discard` lets such a promise run out: the
instance undoes it as any other.
"""

from diminet.engine.ports import FOR_EVER, NOBODY, Clock, ReservationRow, South, Store, Tx
from diminet.engine.reconciler import MARK, as_mark, known_networks
from diminet.errors import ServiceNotFound
from diminet.model import Initiator, Remains, Ticket


class Recovery:
    """site: our name. The instance must not be running."""

    def __init__(self, store: Store, south: South, clock: Clock, site: str) -> None:
        self.store = store
        self.south = south
        self.clock = clock
        self.site = site

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
        now = self.clock.now()

        def decide(tx: Tx) -> None:
            for remains in lost:
                if remains.service_id:
                    self._adopt(tx, remains, now)

        await self.store.write(decide)
        return lost

    def _adopt(self, tx: Tx, remains: Remains, now: float) -> None:
        service_id, network_id, project = remains.service_id, remains.network_id, remains.project_id
        tx.add_reservation(
            ReservationRow(
                rid=self.clock.uuid(),
                service_id=service_id,
                network_id=network_id,
                project_id=project,
                sender=NOBODY,
                ticket=Ticket(0, 0, 0),
                expires_at=FOR_EVER,
                made=remains.made,
                original=remains.shapes,
            )
        )
        initiator = Initiator(user_id="diminet recover", project_id=project, site=self.site)
        tx.authorise(service_id, network_id, initiator, now)

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
