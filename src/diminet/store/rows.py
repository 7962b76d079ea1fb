"""What the parts of a transaction share: its connection, and writing a row whether it is there or not."""

from collections.abc import Mapping
from functools import cache
from typing import Any

import sqlalchemy as sa

FAR = 1e15  # seconds; later than any time: infinity is no number in SQL


class Rows:
    """A part of a transaction. `db` is inside the transaction, and in the thread that owns it."""

    def __init__(self, db: sa.Connection) -> None:
        self._db = db

    def _put(self, table: sa.Table, key: Mapping[str, Any], values: Mapping[str, Any]) -> None:
        """Update the row of that primary key, else insert it. Portable where upserts are not; safe, as
        every writing transaction holds the writers' lock from its start."""
        named = {f"key_{name}": value for name, value in key.items()}
        change = _update(table, tuple(key), tuple(values))
        if self._db.execute(change, {**named, **values}).rowcount == 0:
            self._db.execute(_insert(table), {**key, **values})

    def _drop(self, table: sa.Table, **key: Any) -> None:
        """Delete all rows that have these values."""
        self._db.execute(_delete(table, tuple(key)), {f"key_{name}": value for name, value in key.items()})

    def _bodies(self, statement: "sa.Select[str] | sa.CompoundSelect[str]", **values: Any) -> list[str]:
        """The one column that is selected."""
        return list(self._db.execute(statement, values).scalars())


# Building a statement takes longer than running it: each is built once.


@cache
def _update(table: sa.Table, key: tuple[str, ...], values: tuple[str, ...]) -> sa.Update:
    return table.update().where(*_these(table, key)).values({name: sa.bindparam(name) for name in values})


@cache
def _insert(table: sa.Table) -> sa.Insert:
    return table.insert().inline()


@cache
def _delete(table: sa.Table, key: tuple[str, ...]) -> sa.Delete:
    return table.delete().where(*_these(table, key))


def _these(table: sa.Table, key: tuple[str, ...]) -> list[sa.ColumnElement[bool]]:
    return [table.c[name] == sa.bindparam(f"key_{name}") for name in key]
