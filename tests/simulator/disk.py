"""A site's disk: its database, which outlives a crash, and what each transaction has changed.

The real SqlStore on SQLite in memory. Opening one costs more than a whole run, so stores are used again:
each run begins with the image of an empty database.
"""

import sqlite3
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from diminet.engine.ports import NOBODY, HeldBlock, IntentRow, ServiceRow, Tx
from diminet.model import Pair
from diminet.store.store import SqlStore

T = TypeVar("T")
PATIENCE_S = 3600.0  # real seconds: a stalled machine must not decide anything
_unused: list[SqlStore] = []
_empty: list[bytes] = []


class Disk:
    """ids: makes the UUIDs of the database."""

    def __init__(self, ids: Callable[[], str]) -> None:
        if _unused:
            self.store = _unused.pop()
        else:
            self.store = SqlStore("sqlite://", threaded=False, storage_timeout_s=PATIENCE_S)
        if not _empty:
            _empty.append(self.copy())
        self.bring_back(_empty[0], ids(), fence=False)
        self.raw().execute("UPDATE meta SET database_id = ?", (ids(),))

    def raw(self) -> sqlite3.Connection:
        held = self.store._held
        assert held is not None
        raw = held.connection.dbapi_connection
        assert isinstance(raw, sqlite3.Connection)
        return raw

    def look(self, look: Callable[[Tx], T]) -> T:
        """Read without being a step of the run."""
        return self._at_once(self.store.read(look))

    def _write(self, decide: Callable[[Tx], None]) -> None:
        self._at_once(self.store.write(decide))

    @staticmethod
    def _at_once(work: Coroutine[Any, Any, T]) -> T:
        try:
            work.send(None)
        except StopIteration as done:
            result: T = done.value
            return result
        raise AssertionError("a store without a thread answers at once")

    def copy(self) -> bytes:
        return self.raw().serialize()

    def bring_back(self, image: bytes, incarnation: str, *, fence: bool = True) -> None:
        """As `diminet db restore` does: an older copy, with a new incarnation, fenced."""
        raw = self.raw()
        raw.deserialize(image)
        raw.execute("PRAGMA query_only=OFF")
        held = self.store._held
        assert held is not None
        held.info.clear()  # what was said to the connection is said again
        if fence:
            self._write(lambda tx: tx.fence(incarnation))
        else:
            raw.execute("UPDATE meta SET incarnation = ?", (incarnation,))

    def close(self) -> None:
        _unused.append(self.store)


class Recorder:
    """A transaction that notes what of services, blocks and intents it has changed, for the checkers.

    fresh: networks of the site that a row to be stored has and the one before had not. lent: those of them
    that the site has neither promised nor authorised (`no right`), or only authorised (`no promise`)."""

    def __init__(self, tx: Tx, fresh: Callable[[ServiceRow], set[str]], now: float) -> None:
        self._tx, self._fresh, self._now = tx, fresh, now
        self.lent: list[tuple[ServiceRow, str, str]] = []
        self.rows: list[ServiceRow | str] = []  # a string: the id of one that was forgotten
        self.block_services: dict[str, None] = {}
        self.intents: list[IntentRow | str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tx, name)

    def save_service(self, row: ServiceRow, *, expect: Pair | None) -> bool:
        if fresh := self._fresh(row):
            self._by_right(row, fresh)
        done = self._tx.save_service(row, expect=expect)
        if done:
            self.rows.append(row)
        return done

    def _by_right(self, row: ServiceRow, fresh: set[str]) -> None:
        document = row.document
        rids = {m.rid for m in document.members}
        promises = [
            promise
            for promise in self._tx.reservations_of_service(document.service_id)
            if promise.expires_at > self._now
        ]
        promised = {promise.network_id for promise in promises if promise.rid in rids}
        adopted = {promise.network_id for promise in promises if promise.sender == NOBODY}
        for network_id in sorted(fresh - promised):
            known = self._tx.authorised(document.service_id, network_id, document.project_id)
            known = known or network_id in adopted
            self.lent.append((row, network_id, "no promise" if known else "no right"))

    def delete_service(self, service_id: str) -> None:
        self._tx.delete_service(service_id)
        self.rows.append(service_id)

    def put_blocks(self, service_id: str, blocks: Any) -> None:
        some = list(blocks)
        self._tx.put_blocks(service_id, some)
        if some:
            self.block_services[service_id] = None

    def add_intent(self, row: IntentRow) -> bool:
        done = self._tx.add_intent(row)
        if done:
            self.intents.append(row)
        return done

    def delete_intent(self, service_id: str) -> None:
        self._tx.delete_intent(service_id)
        self.intents.append(service_id)

    def prune(self, **bounds: Any) -> None:
        self._tx.prune(**bounds)
        self.pruned = True

    pruned = False

    def blocks_now(self) -> dict[str, list[HeldBlock]]:
        """As they stand at the end of the transaction."""
        return {service_id: self._tx.blocks(service_id) for service_id in self.block_services}
