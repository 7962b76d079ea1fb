"""What this site has promised and allowed: reservations and authorisations."""

import math

import sqlalchemy as sa

from diminet.engine.ports import ReservationRow
from diminet.model import Initiator
from diminet.store.rows import FAR, Rows
from diminet.store.tables import authorisations, reservations


class Promises(Rows):
    def reservations_of_network(self, network_id: str) -> list[ReservationRow]:
        return self._reservations(_OF_NETWORK, network_id=network_id)

    def reservations_of_service(self, service_id: str) -> list[ReservationRow]:
        return self._reservations(_OF_SERVICE, service_id=service_id)

    def reservation(self, rid: str) -> list[ReservationRow]:
        return self._reservations(_OF_RID, rid=rid)

    def expired_reservations(self, now: float, *, most: float = math.inf) -> list[ReservationRow]:
        return self._reservations(_EXPIRED, now=now, beyond=min(now + most, FAR))

    def all_reservations(self) -> list[ReservationRow]:
        return self._reservations(_ALL)

    def _reservations(
        self, which: "sa.Select[str] | sa.CompoundSelect[str]", **values: object
    ) -> list[ReservationRow]:
        found = [ReservationRow.model_validate_json(body) for body in self._bodies(which, **values)]
        return sorted(found, key=lambda row: (row.rid, row.network_id))  # few; not an index walked in order

    def add_reservation(self, row: ReservationRow) -> None:
        """One of the same RID and network is replaced."""
        key = {"rid": row.rid, "network_id": row.network_id}
        values = {
            "service_id": row.service_id,
            "expires_at": row.expires_at,
            "body": row.model_dump_json(),
        }
        self._put(reservations, key, values)

    def delete_reservations(self, rid: str) -> None:
        self._drop(reservations, rid=rid)

    def authorise(self, service_id: str, network_id: str, initiator: Initiator, at: float) -> None:
        key = {"service_id": service_id, "network_id": network_id, "project_id": initiator.project_id}
        self._put(authorisations, key, {"initiator": initiator.model_dump_json(), "at": at})

    def authorised(self, service_id: str, network_id: str, project_id: str) -> bool:
        this = {"service_id": service_id, "network_id": network_id, "project_id": project_id}
        return self._db.execute(_AUTHORISED, this).first() is not None


_AUTHORISED = sa.select(authorisations.c.at).where(
    *(authorisations.c[name] == sa.bindparam(name) for name in ("service_id", "network_id", "project_id"))
)
_ALL = sa.select(reservations.c.body)
_OF_NETWORK = _ALL.where(reservations.c.network_id == sa.bindparam("network_id"))
_OF_SERVICE = _ALL.where(reservations.c.service_id == sa.bindparam("service_id"))
_OF_RID = _ALL.where(reservations.c.rid == sa.bindparam("rid"))
# Two selects, as each enters the index at its own place; an OR would walk all of it.
_EXPIRED = sa.union_all(
    _ALL.where(reservations.c.expires_at <= sa.bindparam("now")),
    _ALL.where(reservations.c.expires_at > sa.bindparam("beyond")),
)
