"""Several stores on one file, several callers on one store: one writer at a time, nothing twice."""

import asyncio
import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from store_rows import document, pair, read, row, save, write

from diminet.engine.ports import Meta, Tx
from diminet.errors import StorageUnavailable
from diminet.store import SqlStore


def test_compare_and_set_is_won_once_between_two_stores(url: str) -> None:
    one, two = SqlStore(url), SqlStore(url)
    save(one, row())

    async def race(revision: int) -> list[bool]:
        def decide(tx: Tx) -> bool:
            return tx.save_service(row(document(at=pair(revision + 1))), expect=pair(revision))

        return list(await asyncio.gather(one.write(decide), two.write(decide), one.write(decide)))

    for revision in range(1, 21):
        assert sorted(asyncio.run(race(revision))) == [False, False, True]
    assert read(two, lambda tx: tx.service("s1")) == row(document(at=pair(21)))
    one.close()
    two.close()


def test_compare_and_set_is_won_once_between_two_processes(url: str) -> None:
    store = SqlStore(url)
    save(store, row())
    program = Path(__file__).with_name("store_process.py")
    rivals = [
        subprocess.Popen([sys.executable, str(program), url, name, "60"], stdout=subprocess.PIPE, text=True)
        for name in ("a", "b")
    ]
    outputs = [rival.communicate(timeout=120)[0] for rival in rivals]
    assert [rival.returncode for rival in rivals] == [0, 0]
    won = [revision for output in outputs for revision in json.loads(output)]
    # Whoever lags behind may find every revision gone; no revision is won by both.
    assert len(won) == len(set(won))
    final = read(store, lambda tx: tx.service("s1"))
    assert final.document.revision == max(won) + 1
    assert read(store, lambda tx: tx.meta()).writes == 1 + 2 * 60
    store.close()


def test_a_read_sees_one_moment(url: str) -> None:
    one, two = SqlStore(url), SqlStore(url)
    save(one, row())

    def look(tx: Tx) -> tuple[object, object]:
        before = tx.service("s1")
        assert write(two, lambda other: other.save_service(row(document(at=pair(2))), expect=pair()))
        return before, tx.service("s1")

    before, after = read(one, look)
    assert before == after == row()
    assert read(one, lambda tx: tx.service("s1")).document.revision == 2
    one.close()
    two.close()


def test_a_lock_that_lasts_is_told_in_time_and_then_forgotten(url: str) -> None:
    impatient, holder = SqlStore(url, storage_timeout_s=0.3), SqlStore(url)
    inside, release = threading.Event(), threading.Event()

    def hold(tx: Tx) -> None:
        inside.set()
        assert release.wait(30)

    async def scene() -> None:
        holding = asyncio.create_task(holder.write(hold))
        await asyncio.to_thread(inside.wait, 30)
        # The first waits for the lock, the others' time has run out when it is their turn.
        refused = await asyncio.gather(
            *(impatient.write(lambda tx: tx.meta()) for _ in range(3)), return_exceptions=True
        )
        assert [type(each) for each in refused] == [StorageUnavailable] * 3
        assert all(each.retry_after for each in refused)
        assert "locked" in refused[0].message
        assert "busy" in refused[2].message
        assert await impatient.read(lambda tx: tx.service("s1")) is None
        release.set()
        await holding
        await impatient.write(lambda tx: tx.meta())

    try:
        asyncio.run(scene())
    finally:
        release.set()
        impatient.close()
        holder.close()


def test_what_a_decision_raises_comes_out_as_it_is(store: SqlStore) -> None:
    wrong = ZeroDivisionError("mine")

    def decide(tx: Tx) -> None:
        tx.save_service(row(), expect=None)
        raise wrong

    with pytest.raises(ZeroDivisionError) as raised:
        write(store, decide)
    assert raised.value is wrong
    assert read(store, lambda tx: tx.service("s1")) is None
    assert read(store, lambda tx: tx.meta()).writes == 0


def test_commits_are_told_in_order_and_nothing_else_is(url: str) -> None:
    told: list[tuple[Meta, int]] = []
    here = threading.get_ident
    store = SqlStore(url, on_commit=lambda meta: told.append((meta, here())))

    async def scene() -> None:
        for _ in range(3):
            await store.write(lambda tx: None)
        await store.read(lambda tx: None)
        with pytest.raises(ZeroDivisionError):
            await store.write(lambda tx: 1 // 0)

    asyncio.run(scene())
    assert [meta.writes for meta, _ in told] == [1, 2, 3]
    assert {thread for _, thread in told} == {here()}
    store.close()


def test_a_cancelled_write_that_has_begun_ends_as_it_would(store: SqlStore) -> None:
    inside, release = threading.Event(), threading.Event()

    def decide(tx: Tx) -> None:
        inside.set()
        assert release.wait(30)
        tx.save_service(row(), expect=None)

    async def scene() -> None:
        writing = asyncio.create_task(store.write(decide))
        await asyncio.to_thread(inside.wait, 30)
        writing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await writing
        release.set()
        assert await store.read(lambda tx: tx.service("s1")) == row()

    asyncio.run(scene())


def test_stores_in_memory_are_each_their_own() -> None:
    one, two = SqlStore("sqlite://", threaded=False), SqlStore("sqlite://")
    save(one, row())
    assert read(two, lambda tx: tx.service("s1")) is None
    save(two, row())
    one.close()
    two.close()
