"""What an instance on a restored database does not do yet (docs/adr/0020): asked in the transaction that
would do it."""

from diminet.engine.instance import Instance
from diminet.engine.ports import SITE, ServiceRow, Tx
from diminet.errors import Fenced


def refuse(here: Instance, tx: Tx, service_id: str) -> None:
    """Raises Fenced while it is not known what became of that service since the copy was made."""
    if tx.fenced(service_id):
        raise Fenced(
            f"the database of site {here.name} was restored, and not all members of service {service_id} "
            "have told yet what became of it since; try again when they can be reached",
            sites=[here.name],
            retry_after=here.limits.sync_interval,
        )


def refuse_new(here: Instance, tx: Tx) -> None:
    """Raises Fenced while it is not known which networks and identifiers of this site are in use."""
    if tx.fenced(SITE):
        raise Fenced(
            f"the database of site {here.name} was restored, and not all sites have told yet what they share "
            "with it: nothing new is joined there until they have, and what it does not know may exist",
            sites=[here.name],
            retry_after=here.limits.sync_interval,
        )


def known(here: Instance, tx: Tx, service_id: str) -> ServiceRow | None:
    """What is known here of that service; None: it has never been here, or is over. Raises Fenced while a
    restored database may have forgotten it."""
    row = tx.service(service_id)
    if row is None:
        refuse_new(here, tx)
    return row
