"""Idempotency keys of a join and of a request for more room (those of a create: test_review_races)."""

import asyncio

import pytest

from diminet.errors import IdempotencyConflict, NetworkNotFound, PoolExhausted
from diminet.messages import Change
from diminet.model import Entry
from simulated_cloud import Cloud


def run(work):
    return asyncio.run(asyncio.wait_for(work, 60))


def join(cloud, service_id, network, key, project="demo"):
    change = Change(operation="join", entry=Entry(site="C", resource_id=network))
    return cloud["A"].requests.change(
        cloud.caller(project), cloud.ctx("A", project), service_id, change, idempotency=key
    )


def test_a_join_is_done_once_however_often_it_is_sent():
    async def main():
        cloud = Cloud("A", "B", "C")
        ids = {s: cloud.vims[s].add_network(f"10.{i}.0.0/24") for i, s in enumerate("ABC")}
        view = await cloud.create("A", "l3", f"A:{ids['A']}", f"B:{ids['B']}")
        service_id = view.document.service_id
        with pytest.raises(NetworkNotFound):
            await join(cloud, service_id, "nothing", ("k", "h"))
        # what failed is retried, here with what was meant
        both = await asyncio.gather(*(join(cloud, service_id, ids["C"], ("k", "h")) for _ in range(2)))
        assert {v.document.revision for v, _ in both} == {2}
        with pytest.raises(IdempotencyConflict):
            await join(cloud, service_id, ids["C"], ("k", "other"))
        leave = Change(operation="leave", entry=Entry(site="C"))
        await cloud["A"].requests.change(cloud.caller(), cloud.ctx("A"), service_id, leave)
        again, _ = await join(cloud, service_id, ids["C"], ("k", "h"))
        assert again.document.member("C") is None  # told again, not done again
        anew, _ = await join(cloud, service_id, ids["C"], ("k2", "h"))
        assert anew.document.member("C") is not None
        await cloud.close()

    run(main())


def test_more_room_is_given_once_for_a_key():
    async def main():
        cloud = Cloud("A", "B")
        network = cloud.vims["A"].add_network("10.7.0.0/24")
        view = await cloud.create("A", "l2", f"A:{network}", "B")
        service_id, requests = view.document.service_id, cloud["A"].requests

        async def pooled():
            held = await cloud.stores["A"].read(lambda tx: tx.blocks(service_id))
            return sum(h.pooled for h in held)

        async def more(key):
            await requests.more_room(cloud.caller(), cloud.ctx("A"), service_id, idempotency=key)
            return await pooled()

        before = await pooled()
        once = await more(("k", "h"))
        assert once > before
        assert await more(("k", "h")) == once
        with pytest.raises(IdempotencyConflict):
            await more(("k", "other"))
        assert await more(("k2", "h")) > once
        grow = cloud["A"].pools.more_room

        async def dry(*arguments):
            return False

        cloud["A"].pools.more_room = dry
        with pytest.raises(PoolExhausted):
            await more(("k3", "h"))
        cloud["A"].pools.more_room = grow
        full = await pooled()
        assert await more(("k3", "h")) > full
        await cloud.close()

    run(main())
