"""What is under way: intents, and the outbox of what must still reach someone."""

import math
from functools import cache
from typing import Any

import sqlalchemy as sa

from diminet.engine.ports import IntentRow, OutboxRow
from diminet.store.rows import FAR, Rows
from diminet.store.tables import intents, outbox


class Work(Rows):
    def intent(self, service_id: str) -> IntentRow | None:
        body = self._db.execute(_INTENT, {"service_id": service_id}).scalar()
        return None if body is None else IntentRow.model_validate_json(body)

    def intents(self) -> list[IntentRow]:
        return [IntentRow.model_validate_json(body) for body in self._bodies(_INTENTS)]

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
        most: float = math.inf,
        peer: str | None = None,
        service_id: str | None = None,
        refusals: int | None = None,
    ) -> list[OutboxRow]:
        """The longest due first; in any order if `refusals` is given."""
        wanted: dict[str, Any] = {"peer": peer, "service_id": service_id, "refusals": refusals}
        if due is not None:
            wanted |= {"due": due, "beyond": min(due + most, FAR)}
        wanted = {name: value for name, value in wanted.items() if value is not None}
        found = self._bodies(_outbox(tuple(wanted)), **wanted)
        rows = [OutboxRow.model_validate_json(body) for body in found]
        return sorted(rows, key=lambda row: (row.next_at, row.created_at)) if due is not None else rows

    def post(self, row: OutboxRow) -> None:
        key = {"peer": row.peer, "service_id": row.service_id, "kind": row.kind, "rid": row.rid}
        created_at = self._db.execute(_POSTED_AT, key).scalar()
        if created_at is not None:
            row = row.model_copy(update={"created_at": created_at})
        body = row.model_dump_json()
        columns = {"created_at": row.created_at, "next_at": row.next_at, "refusals": row.refusals}
        self._put(outbox, key, {**columns, "body": body})

    def unpost(self, row: OutboxRow) -> None:
        self._drop(outbox, peer=row.peer, service_id=row.service_id, kind=row.kind, rid=row.rid)


_INTENT = sa.select(intents.c.body).where(intents.c.service_id == sa.bindparam("service_id"))
_INTENTS = sa.select(intents.c.body).order_by(intents.c.service_id)
_POSTED_AT = sa.select(outbox.c.created_at).where(
    *(outbox.c[name] == sa.bindparam(name) for name in ("peer", "service_id", "kind", "rid"))
)


@cache
def _outbox(names: tuple[str, ...]) -> "sa.Select[str] | sa.CompoundSelect[str]":
    """Those that fit what is named: peer, service_id, refusals, due (with beyond)."""
    equal = sorted({"peer", "service_id"}.intersection(names))
    rows = sa.select(outbox.c.body).where(*(outbox.c[name] == sa.bindparam(name) for name in equal))
    if "refusals" in names:  # few of them; their index is to be entered, not that of the order
        rows = rows.where(outbox.c.refusals >= sa.bindparam("refusals"))
    if "due" not in names:
        return rows if "refusals" in names else rows.order_by(outbox.c.next_at, outbox.c.created_at)
    # Two selects, as each enters the index at its own place; an OR would walk all of it.
    due = rows.where(outbox.c.next_at <= sa.bindparam("due"))
    return sa.union_all(due, rows.where(outbox.c.next_at > sa.bindparam("beyond")))
