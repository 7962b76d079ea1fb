"""An instance ends at every single step of an operation, before or after the step took effect, and is
started again: every service ends complete or gone, and nothing is left over."""

import asyncio
import contextlib
import os
from dataclasses import replace

import pytest

from diminet.errors import DiminetError
from diminet.messages import Change
from diminet.model import Entry
from simulated_cloud import LIMITS, Cloud, Crash, Life, until
from simulated_cloud import run_virtually as run

MOST_STEPS = 80
STRIDE = int(os.environ.get("CRASH_STRIDE", "3"))  # 1: every step (some ten minutes)
BRIEF = replace(LIMITS, request_timeout=1.0, reservation_lifetime=1.5)  # of virtual time
AT_ONCE = 6  # crashes at different steps, each in a cloud of its own, side by side


def at_every_step(trial, offset):
    """Run `trial(step)` for every STRIDE-th step of an operation, from 1 + `offset` % STRIDE on, until
    one is not reached; returns how many steps there are at least."""
    steps = range(1 + offset % STRIDE, MOST_STEPS, STRIDE)

    async def batch(some):
        return await asyncio.gather(*(trial(at) for at in some))

    for first in range(0, len(steps), AT_ONCE):
        some = steps[first : first + AT_ONCE]
        reached = run(batch(some))
        if not all(reached):
            return some[reached.index(False)] - 1
    raise AssertionError("the operation takes more steps than expected")


async def settled(cloud):
    """No intent, no promise, nothing in an outbox, every service wholly there or wholly gone."""
    for store in cloud.stores.values():
        if await store.read(lambda tx: tx.intents() or tx.outbox() or tx.expired_reservations(1e12)):
            return False
    return True


async def services(cloud):
    """service id -> sites at which it is live."""
    found = {}
    for name, store in cloud.stores.items():
        for row in await store.read(lambda tx: [tx.service(i) for i in sorted(tx.services_at_work())]):
            if not row.document.tombstone and row.left is None:
                found.setdefault(row.document.service_id, set()).add(name)
    return found


def check_whole(cloud, found, before, sites):
    if not found:
        assert cloud.pictures() == before
        return
    ((service_id, at),) = found.items()
    assert at == sites
    for site in sites:
        assert service_id in cloud.vims[site].targets


async def one(kind, victim, at, after):
    """Crash `victim` at step `at` of a create asked at A; returns whether the step was reached."""
    cloud = Cloud("A", "B", "C", limits=BRIEF)
    try:
        a = cloud.vims["A"].add_network("10.0.0.0/24")
        b = cloud.vims["B"].add_network("10.1.0.0/24")
        c = cloud.vims["C"].add_network("10.2.0.0/24")
        entries = ("A:" + a, "B", "C") if kind == "l2" else ("A:" + a, "B:" + b, "C:" + c)
        before = cloud.pictures()
        life = Life(at, after=after)
        await cloud.restart(victim, life)
        with contextlib.suppress(Crash, DiminetError):
            await cloud.create("A", kind, *entries)
        reached = not life.alive
        await cloud.restart(victim)
        await cloud.run()
        await until(lambda: settled(cloud), 20)
        check_whole(cloud, await services(cloud), before, {"A", "B", "C"})
        return reached
    finally:
        await cloud.close()


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("victim", ["A", "B"])
@pytest.mark.parametrize("kind", ["l3", "l2"])
def test_crash_at_every_step_of_a_create(kind, victim, after):
    offset = len(kind + victim) + after
    assert at_every_step(lambda at: one(kind, victim, at, after), offset) > 5


async def one_change(victim, at, after, operation):
    cloud = Cloud("A", "B", "C", limits=BRIEF)
    try:
        ids = {s: cloud.vims[s].add_network(f"10.{i}.0.0/24") for i, s in enumerate("ABC")}
        before = cloud.pictures()
        start = "AB" if operation == "join" else "ABC"
        view = await cloud.create("A", "l3", *(f"{s}:{ids[s]}" for s in start))
        service_id = view.document.service_id
        life = Life(at, after=after)
        await cloud.restart(victim, life)
        change = {
            "join": Change(operation="join", entry=Entry(site="C", resource_id=ids["C"])),
            "leave": Change(operation="leave", entry=Entry(site="C")),
            "delete": Change(operation="delete"),
            "modify": Change(operation="modify", name="new"),
        }[operation]
        asked = True
        try:
            await cloud["A"].requests.change(cloud.caller(), cloud.ctx("A"), service_id, change)
        except (Crash, DiminetError):
            asked = False
        reached = not life.alive
        await cloud.restart(victim)
        await cloud.run()
        await until(lambda: settled(cloud), 20)
        found = await services(cloud)
        if operation == "delete":
            assert not asked or not found
            check_whole(cloud, found, before, {"A", "B", "C"})
        else:
            rows = {
                s: await cloud.stores[s].read(lambda tx: tx.service(service_id)) for s in found[service_id]
            }

            async def alike():
                pairs = set()
                for s in found[service_id]:
                    row = await cloud.stores[s].read(lambda tx: tx.service(service_id))
                    pairs.add(row.document.pair)
                    if row.applied != row.document.pair:
                        return False
                return len(pairs) == 1

            await until(alike)
            document = rows["A"].document
            assert found[service_id] == {m.site for m in document.members}
            for site in found[service_id]:
                assert len(cloud.vims[site].targets[service_id].import_targets) == len(document.members) - 1
            for site in set("ABC") - found[service_id]:
                assert service_id not in cloud.vims[site].targets
        return reached
    finally:
        await cloud.close()


@pytest.mark.parametrize("operation", ["join", "leave", "delete", "modify"])
@pytest.mark.parametrize(("victim", "after"), [("A", False), ("A", True), ("B", True)])
def test_crash_at_every_step_of_a_change(operation, victim, after):
    offset = len(operation + victim) + after
    assert at_every_step(lambda at: one_change(victim, at, after, operation), offset) > 2
