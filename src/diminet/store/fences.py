"""What a restored database may not do yet (docs/adr/0020): one row for the site, one for each service."""

import sqlalchemy as sa

from diminet.engine.ports import FOR_EVER, NOBODY, SITE
from diminet.store.promises import Promises
from diminet.store.services import Stage
from diminet.store.tables import fences, intents, meta, services


class Fences(Promises):
    def fence(self, incarnation: str) -> None:
        self._db.execute(meta.update().values(incarnation=incarnation))
        self._db.execute(intents.delete())
        for row in self.all_reservations():
            self.add_reservation(row.model_copy(update={"sender": NOBODY, "expires_at": FOR_EVER}))
        free = services.c.id.not_in(sa.select(fences.c.service_id))
        standing = sa.select(services.c.id).where(services.c.stage == Stage.LIVE, free)
        self._db.execute(fences.insert().from_select(["service_id"], standing))
        self.raise_fence(SITE)

    def fences(self) -> list[str]:
        return list(self._db.execute(_ALL).scalars())

    def fenced(self, service_id: str) -> bool:
        return self._db.execute(_ONE, {"service_id": service_id}).first() is not None

    def raise_fence(self, service_id: str) -> None:
        if not self.fenced(service_id):
            self._db.execute(fences.insert(), {"service_id": service_id})

    def lift_fence(self, service_id: str) -> None:
        self._drop(fences, service_id=service_id)


_ALL = sa.select(fences.c.service_id).order_by(fences.c.service_id)
_ONE = sa.select(fences.c.service_id).where(fences.c.service_id == sa.bindparam("service_id"))
