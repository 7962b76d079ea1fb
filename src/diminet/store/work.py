"""What is under way: intents, and the outbox of what must still reach someone."""

import sqlalchemy as sa

from diminet.engine.ports import IntentRow, OutboxRow
from diminet.store.rows import Rows
from diminet.store.tables import intents, outbox


class Work(Rows):
    def intent(self, service_id: str) -> IntentRow | None:
        found = sa.select(intents.c.body).where(intents.c.service_id == service_id)
        body = self._db.execute(found).scalar()
        return None if body is None else IntentRow.model_validate_json(body)

    def intents(self) -> list[IntentRow]:
        rows = sa.select(intents.c.body).order_by(intents.c.service_id)
        return [IntentRow.model_validate_json(body) for body in self._bodies(rows)]

    def add_intent(self, row: IntentRow) -> bool:
        if self.intent(row.service_id) is not None:
            return False
        values = {"service_id": row.service_id, "body": row.model_dump_json()}
        self._db.execute(intents.insert(), values)
        return True

    def save_intent(self, row: IntentRow) -> None:
        self._put(intents, {"service_id": row.service_id}, {"body": row.model_dump_json()})

    def delete_intent(self, service_id: str) -> None:
        self._drop(intents, service_id=service_id)

    # -- outbox --

    def outbox(
        self,
        *,
        due: float | None = None,
        peer: str | None = None,
        service_id: str | None = None,
        refusals: int | None = None,
    ) -> list[OutboxRow]:
        """The longest due first."""
        rows = sa.select(outbox.c.body)
        if refusals is None:  # few of them; their index is to be entered, not that of the order
            rows = rows.order_by(outbox.c.next_at, outbox.c.created_at)
        if due is not None:
            rows = rows.where(outbox.c.next_at <= due)
        if peer is not None:
            rows = rows.where(outbox.c.peer == peer)
        if service_id is not None:
            rows = rows.where(outbox.c.service_id == service_id)
        if refusals is not None:
            rows = rows.where(outbox.c.refusals >= refusals)
        return [OutboxRow.model_validate_json(body) for body in self._bodies(rows)]

    def post(self, row: OutboxRow) -> None:
        key = {"peer": row.peer, "service_id": row.service_id, "kind": row.kind, "rid": row.rid}
        held = sa.select(outbox.c.created_at).where(*(outbox.c[name] == value for name, value in key.items()))
        created_at = self._db.execute(held).scalar()
        if created_at is not None:
            row = row.model_copy(update={"created_at": created_at})
        body = row.model_dump_json()
        columns = {"created_at": row.created_at, "next_at": row.next_at, "refusals": row.refusals}
        self._put(outbox, key, {**columns, "body": body})

    def unpost(self, row: OutboxRow) -> None:
        self._drop(outbox, peer=row.peer, service_id=row.service_id, kind=row.kind, rid=row.rid)
