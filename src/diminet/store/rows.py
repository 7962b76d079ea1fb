"""What the parts of a transaction share: its connection, and writing a row whether it is there or not."""

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa


class Rows:
    """A part of a transaction. `db` is inside the transaction, and in the thread that owns it."""

    def __init__(self, db: sa.Connection) -> None:
        self._db = db

    def _put(self, table: sa.Table, key: Mapping[str, Any], values: Mapping[str, Any]) -> None:
        """Update the row of that primary key, else insert it. Portable where upserts are not; safe, as
        every writing transaction holds the writers' lock from its start."""
        change = table.update().where(*(table.c[name] == value for name, value in key.items()))
        if self._db.execute(change.values(**values)).rowcount == 0:
            self._db.execute(table.insert().values(**key, **values))

    def _drop(self, table: sa.Table, **key: Any) -> None:
        """Delete all rows that have these values."""
        self._db.execute(table.delete().where(*(table.c[name] == value for name, value in key.items())))

    def _bodies(self, statement: "sa.Select[tuple[str]]") -> list[str]:
        return [body for (body,) in self._db.execute(statement)]
