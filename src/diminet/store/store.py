"""SqlStore: the one way into the database. Every transaction runs in a thread of its own, in turn."""

import asyncio
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

import sqlalchemy as sa

from diminet.engine.ports import Meta, Tx
from diminet.errors import BadSurroundings, StorageUnavailable
from diminet.store import schema
from diminet.store.blocks import Blocks
from diminet.store.database import (
    RETRY_AFTER_S,
    file_of,
    is_memory,
    make_engine,
    needs_reopening,
    set_patience,
    storage_errors,
    take_file_lock,
    transaction,
)
from diminet.store.fences import Fences
from diminet.store.history import History, Pruning
from diminet.store.lists import Lists
from diminet.store.site import COUNT_WRITE, SiteWide
from diminet.store.work import Work

T = TypeVar("T")

STORAGE_TIMEOUT_S = 5.0
OURS = "this site's database"


class SqlTx(Lists, Pruning, Blocks, Fences, Work, History, SiteWide):
    """`engine.ports.Tx` on one SQLAlchemy connection, inside its transaction."""


class SqlStore:
    """Fills `engine.ports.Store`; several of them, in several processes, may share one database.

    url: as SQLAlchemy reads it, e.g. `sqlite:////var/lib/diminet/diminet.db`; `sqlite://` is a new
    database in memory. storage_timeout_s: how long a transaction may wait for its turn and the
    database's lock together. on_commit: called after each commit with `Meta` as committed, in the
    event loop's thread; it must not block. threaded False runs everything in the caller's thread
    (the simulator).

    Raises BadSurroundings when the database is missing, not at the newest schema or being changed as a
    whole; StorageUnavailable when it cannot be opened.
    """

    def __init__(
        self,
        url: str,
        *,
        storage_timeout_s: float = STORAGE_TIMEOUT_S,
        on_commit: Callable[[Meta], None] | None = None,
        threaded: bool = True,
    ) -> None:
        self._timeout_s = storage_timeout_s
        self._on_commit = on_commit
        self._memory = is_memory(url)
        self._engine = make_engine(url, storage_timeout_s=storage_timeout_s)
        self._held: sa.Connection | None = None
        self._lock: int | None = None
        self._take_file(url)
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="store") if threaded else None
        try:
            self._open(f"the database {file_of(url) or ''}".rstrip())
        except BaseException:
            self.close()
            raise

    def _take_file(self, url: str) -> None:
        path = file_of(url)
        if path is None:
            return
        if not path.exists():
            raise BadSurroundings(f"there is no database {path} yet; run `diminet db upgrade`")
        self._lock = take_file_lock(path, exclusive=False)

    def _open(self, where: str) -> None:
        with storage_errors(where):
            reading = not self._memory
            with transaction(self._ready(self._timeout_s, reading=reading), reading=reading) as db:
                if self._memory:
                    schema.create_all(db)
                else:
                    schema.check(db, where)

    def close(self) -> None:
        """Ends what is under way, then lets the database go."""
        if self._executor is not None:
            self._executor.shutdown(wait=True)
        self._let_go()
        self._engine.dispose()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    async def write(self, decide: Callable[[Tx], T]) -> T:
        """If the caller is cancelled meanwhile, a transaction that has begun still ends as it would."""
        return await self._turn(partial(self._write, decide))

    async def read(self, look: Callable[[Tx], T]) -> T:
        """Writing in `look` is a StorageUnavailable: the connection is made read-only."""
        return await self._turn(partial(self._read, look))

    async def _turn(self, work: Callable[[float, asyncio.AbstractEventLoop | None], T]) -> T:
        asked = time.monotonic()
        if self._executor is None:
            return work(asked, None)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, work, asked, loop)

    # -- in the worker's thread --

    def _write(self, decide: Callable[[Tx], T], asked: float, loop: asyncio.AbstractEventLoop | None) -> T:
        committed: Meta | None = None
        with self._storage(), transaction(self._ready(self._patience(asked), reading=False)) as db:
            # First, so that on every kind of database this row makes the writers take turns.
            db.execute(COUNT_WRITE)
            tx = SqlTx(db)
            result = decide(tx)
            if self._on_commit is not None:
                committed = tx.meta()
        if self._on_commit is not None and committed is not None:
            if loop is None:
                self._on_commit(committed)
            else:
                loop.call_soon_threadsafe(self._on_commit, committed)
        return result

    def _read(self, look: Callable[[Tx], T], asked: float, _loop: asyncio.AbstractEventLoop | None) -> T:
        with (
            self._storage(),
            transaction(self._ready(self._patience(asked), reading=True), reading=True) as db,
        ):
            return look(SqlTx(db))

    def _patience(self, asked: float) -> float:
        """Seconds that are left of the time-out after waiting for this thread."""
        left = self._timeout_s - (time.monotonic() - asked)
        if left <= 0:
            raise StorageUnavailable(
                f"{OURS} was busy for longer than {self._timeout_s:g} s; try again", retry_after=RETRY_AFTER_S
            )
        return left

    def _ready(self, patience_s: float, *, reading: bool) -> sa.Connection:
        """The one connection, opened when there is none, told how the next transaction is to be."""
        if self._held is None:
            self._held = self._engine.connect()
        set_patience(self._held, seconds=patience_s, reading=reading)
        return self._held

    @contextmanager
    def _storage(self) -> Iterator[None]:
        """After a failure that is more than a lock, open the database anew: SQLite for instance goes
        on treating as read-only what was so when it was opened."""
        try:
            with storage_errors(OURS):
                yield
        except StorageUnavailable as failure:
            if needs_reopening(failure):
                self._let_go()
            raise

    def _let_go(self) -> None:
        if self._held is not None and not self._memory:
            self._held.close()
            self._held = None
