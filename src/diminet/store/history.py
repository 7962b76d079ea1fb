"""What has happened (events, idempotency keys), and how old things go."""

import sqlalchemy as sa

from diminet.model import Event, ProvisioningStatus
from diminet.store.rows import Rows
from diminet.store.services import OVER, Services, Stage
from diminet.store.tables import (
    authorisations,
    events,
    idempotency,
    identifiers,
    member_states,
    outbox,
    services,
)

IDEMPOTENCY_KEPT_S = 24 * 3600.0


class History(Rows):
    def add_event(self, event: Event) -> None:
        values = {
            "at": event.at,
            "service_id": event.service_id,
            "project_id": event.project_id,
            "body": event.model_dump_json(exclude={"seq"}),
        }
        self._db.execute(_ADD_EVENT, values)

    def events(
        self, *, service_id: str | None, project_id: str | None, after: int, limit: int
    ) -> list[Event]:
        """Oldest first, with `seq` greater than `after`."""
        rows = sa.select(events.c.seq, events.c.body).where(events.c.seq > after)
        if service_id is not None:
            rows = rows.where(events.c.service_id == service_id)
        if project_id is not None:
            rows = rows.where(events.c.project_id == project_id)
        found = self._db.execute(rows.order_by(events.c.seq).limit(limit))
        return [Event.model_validate_json(body).model_copy(update={"seq": seq}) for seq, body in found]

    # -- idempotency --

    def idempotent(self, project_id: str, key: str, now: float) -> tuple[str, str] | None:
        table = idempotency
        row = self._db.execute(
            sa.select(table.c.body_hash, table.c.service_id)
            .where(table.c.project_id == project_id, table.c.token == key)
            .where(table.c.at > now - IDEMPOTENCY_KEPT_S)
        ).first()
        return None if row is None else (row.body_hash, row.service_id)

    def remember(self, project_id: str, key: str, body_hash: str, service_id: str, now: float) -> None:
        values = {"body_hash": body_hash, "service_id": service_id, "at": now}
        self._put(idempotency, {"project_id": project_id, "token": key}, values)

    def forget(self, project_id: str, key: str) -> None:
        self._drop(idempotency, project_id=project_id, token=key)


_ADD_EVENT = events.insert().inline()


class Pruning(Services):
    def prune(self, *, events_before: float, events_most: int, settled_before: float, now: float) -> None:
        """A tombstone or revoked service stays while a member has not acknowledged it, or something of
        it waits in the outbox.
        """
        self._prune_events(events_before, events_most)
        self._db.execute(_OLD_KEYS, {"before": now - IDEMPOTENCY_KEPT_S})
        for service_id in self._over_and_done(settled_before):
            self.delete_service(service_id)

    def forget_authorisations(self, *, before: float, after: str, limit: int) -> list[str]:
        looked_at = self._bodies(_AUTHORISED, after=after, most=limit)
        if looked_at:
            stretch = {"after": after, "last": looked_at[-1]}
            self._db.execute(_OLD_AUTHORISATIONS, {"before": before, **stretch})
        return looked_at

    def _prune_events(self, before: float, most: int) -> None:
        self._db.execute(_OLD_EVENTS, {"before": before})
        newest = self._db.execute(_NEWEST_EVENT).scalar()
        if newest is not None:
            self._db.execute(_FIRST_EVENTS, {"last": newest - most})

    def _over_and_done(self, before: float) -> list[str]:
        # Two statements, as each has its index; together they would be looked for among all services.
        return [*self._bodies(_OVER, before=before), *self._bodies(_REVOKED, before=before)]


_OLD_KEYS = idempotency.delete().where(idempotency.c.at <= sa.bindparam("before"))
_AUTHORISED = (
    sa.select(authorisations.c.service_id)
    .distinct()
    .where(authorisations.c.service_id > sa.bindparam("after"))
    .order_by(authorisations.c.service_id)
    .limit(sa.bindparam("most"))
)
_OLD_AUTHORISATIONS = (
    authorisations.delete()
    .where(authorisations.c.service_id > sa.bindparam("after"))
    .where(authorisations.c.service_id <= sa.bindparam("last"))
    .where(authorisations.c.at < sa.bindparam("before"))
    .where(~sa.exists().where(services.c.id == authorisations.c.service_id).correlate(authorisations))
)
_OLD_EVENTS = events.delete().where(events.c.at < sa.bindparam("before"))
_NEWEST_EVENT = sa.select(sa.func.max(events.c.seq))
_FIRST_EVENTS = events.delete().where(events.c.seq <= sa.bindparam("last"))
_WAITED_FOR = (
    sa.exists()
    .where(member_states.c.service_id == services.c.id, member_states.c.clean.is_(False))
    .correlate(services)
)
_OWED = sa.exists().where(outbox.c.service_id == services.c.id).correlate(services)
# Of a service that another site has taken over: the master there says when it is free again.
_NUMBERED = sa.exists().where(identifiers.c.service_id == services.c.id).correlate(services)
_OLD = sa.select(services.c.id).where(
    services.c.changed_at < sa.bindparam("before"), ~_WAITED_FOR, ~_OWED, ~_NUMBERED
)
_OVER = _OLD.where(services.c.stage.in_(OVER))
_REVOKED = _OLD.where(services.c.status == ProvisioningStatus.REVOKED, services.c.stage != Stage.BURIED)
