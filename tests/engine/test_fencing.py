"""An older copy of a database is brought back: what is fenced, what lifts it, what is not done twice."""

import asyncio
from dataclasses import replace

import pytest

from diminet.engine.ports import SITE
from diminet.errors import Fenced
from diminet.messages import BlockRequest, Change, Count, DocumentPut, Tombstone
from diminet.model import Epoch
from simulated_cloud import LIMITS, Cloud, run_virtually, until

CIDR = "10.0.0.0/24"


def run(work):
    async def main():
        cloud = Cloud("A", "B", "C", limits=replace(LIMITS, request_timeout=1.0))
        try:
            await work(cloud)
        finally:
            await cloud.close()

    run_virtually(main())


async def stretched(cloud, *others):
    a = cloud.vims["A"].add_network(CIDR)
    view = await cloud.create("A", "l2", f"A:{a}", *others)
    return view.document.service_id, {r.site: r.resource_id for r in view.document.resources}


def copied(cloud, site):
    held = cloud.stores[site]._held
    return held.connection.dbapi_connection.serialize()


async def bring_back(cloud, site, image, *, marked=True):
    old = cloud.wire.engines.pop(site)
    await old.stop()
    held = cloud.stores[site]._held
    raw = held.connection.dbapi_connection
    raw.deserialize(image)
    raw.execute("PRAGMA query_only=OFF")
    held.info.clear()
    if marked:  # as `diminet db restore` does
        await cloud.stores[site].write(lambda tx: tx.fence("new"))
    await cloud.restart(site)
    await cloud[site].start()


async def fences(cloud, site):
    return await cloud.stores[site].read(lambda tx: tx.fences())


async def owners(cloud, site, service):
    held = await cloud.stores[site].read(lambda tx: tx.blocks(service))
    return {h.block.index: h.block for h in held}


async def free(cloud, site, service):
    return service not in await fences(cloud, site)


def test_a_block_that_was_given_away_since_is_not_given_again():
    async def work(cloud):
        service, _ = await stretched(cloud, "B")
        image = copied(cloud, "A")
        ask = BlockRequest(cidr=CIDR, number=1, count=1)
        given = await cloud["A"].give(cloud.ctx("B").model_copy(update={"sender": "B"}), service, ask)
        block = given.blocks[0]
        put = await cloud.stores["B"].read(lambda tx: tx.blocks(service))
        held = next(h for h in put if h.block.index == block.index)
        await cloud.stores["B"].write(
            lambda tx: tx.put_blocks(service, [held.model_copy(update={"block": block})])
        )
        await bring_back(cloud, "A", image)
        with pytest.raises(Fenced):
            await cloud["A"].give(cloud.ctx("B").model_copy(update={"sender": "B"}), service, ask)
        with pytest.raises(Fenced):
            await cloud["A"].requests.change(
                cloud.caller(), cloud.ctx("A"), service, Change(operation="modify", name="x")
            )
        with pytest.raises(Fenced):
            await stretched(cloud, "B")
        cloud.wire.cut("A", "C")
        await cloud.run()
        await until(lambda: free(cloud, "A", service), 60)
        assert SITE in await fences(cloud, "A")  # C may share something that A has forgotten
        assert (await owners(cloud, "A", service))[block.index].owner == "B"
        cloud.wire.heal()

        async def all_free():
            return not await fences(cloud, "A")

        await until(all_free, 60)
        rows = [await cloud.stores[s].read(lambda tx: tx.service(service)) for s in "AB"]
        assert rows[0].document.epoch.n > 1

    run(work)


def test_a_service_whose_member_is_away_stays_fenced_and_the_others_do_not():
    async def work(cloud):
        with_b, _ = await stretched(cloud, "B")
        with_c, _ = await stretched(cloud, "C")
        await bring_back(cloud, "A", copied(cloud, "A"))
        cloud.wire.isolate("C")
        await cloud.run()
        await until(lambda: free(cloud, "A", with_b), 60)
        assert not await free(cloud, "A", with_c)
        view = await cloud["A"].requests.show(cloud.caller(), with_c)
        assert any(warning.startswith("fenced: ") for warning in view.warnings)
        gone = frozenset({"C"})
        operator = cloud.caller("admin", "admin")
        await cloud["A"].requests.takeover(operator, cloud.ctx("A"), with_c, gone)
        assert await free(cloud, "A", with_c)
        view = await cloud["A"].requests.show(cloud.caller(), with_c)
        assert not any(warning.startswith("fenced: ") for warning in view.warnings)

    run(work)


def test_what_was_created_since_comes_back_and_its_identifier_is_not_minted_again():
    async def work(cloud):
        image = copied(cloud, "A")
        service, _ = await stretched(cloud, "B")
        vni = (await cloud.stores["B"].read(lambda tx: tx.service(service))).document.identifiers.vni
        await bring_back(cloud, "A", image)
        await cloud.run()

        async def back():
            row = await cloud.stores["A"].read(lambda tx: tx.service(service))
            return row is not None and row.confirmed == row.document.pair and not await fences(cloud, "A")

        await until(back, 60)
        other, _ = await stretched(cloud, "B")
        row = await cloud.stores["A"].read(lambda tx: tx.service(other))
        assert row.document.identifiers.vni != vni

    run(work)


def test_a_service_that_was_deleted_since_stays_deleted():
    async def work(cloud):
        service, _ = await stretched(cloud, "B", "C")
        image = copied(cloud, "A")
        delete = Change(operation="delete")
        await cloud["A"].requests.change(cloud.caller(), cloud.ctx("A"), service, delete)
        await bring_back(cloud, "A", image)
        await cloud.run()

        async def gone():
            row = await cloud.stores["A"].read(lambda tx: tx.service(service))
            return row.document.tombstone and row.settled

        await until(gone, 60)
        assert all(service not in vim.targets for vim in cloud.vims.values())

    run(work)


@pytest.mark.parametrize("who", ["vim", "peer"])
def test_an_unmarked_copy_is_noticed(who):
    async def work(cloud):
        service, _ = await stretched(cloud, "B")
        image = copied(cloud, "A")
        for _ in range(3):
            await cloud["B"].sync_.with_peer("A")
        if who == "vim":
            await cloud["A"].reconciler.sweep_networks()
            await cloud["A"].fencing.compare_with_vim()
        await bring_back(cloud, "A", image, marked=False)
        if who == "peer":
            assert not await fences(cloud, "A")
            await cloud["A"].sync_.with_peer("B")
        assert await fences(cloud, "A") == [SITE, service]
        await cloud.run()

        async def lifted():
            return not await fences(cloud, "A")

        await until(lifted, 60)
        await asyncio.sleep(2)
        assert not await fences(cloud, "A")  # noticed once

    run(work)


def test_two_copies_at_once_do_not_wait_for_each_other():
    async def work(cloud):
        service, _ = await stretched(cloud, "B", "C")
        images = {site: copied(cloud, site) for site in "AB"}
        for site, image in images.items():
            await bring_back(cloud, site, image)
        await cloud.run()

        async def lifted():
            return not await fences(cloud, "A") and not await fences(cloud, "B")

        await until(lifted, 120)

        async def whole():
            rows = [await cloud.stores[s].read(lambda tx: tx.service(service)) for s in "ABC"]
            return len({row.document.pair for row in rows}) == 1 and all(
                row.confirmed == row.document.pair for row in rows
            )

        await until(whole, 60)

    run(work)


def test_a_fenced_site_does_not_call_unknown_what_it_may_have_forgotten():
    async def work(cloud):
        image = copied(cloud, "A")
        service, _ = await stretched(cloud, "B")
        document = (await cloud.stores["B"].read(lambda tx: tx.service(service))).document
        await bring_back(cloud, "A", image)
        from_b = cloud.ctx("B").model_copy(update={"sender": "B"})
        with pytest.raises(Fenced):
            await cloud["A"].requests.show(cloud.caller(), service)
        with pytest.raises(Fenced):
            await cloud["A"].requests.handed_in(from_b, service, Change(operation="delete"))
        with pytest.raises(Fenced):
            await cloud["A"].participant.bury(from_b, service, Tombstone(service_id=service))
        without = document.model_copy(
            update={
                "master": "B",
                "epoch": Epoch(2, 2),
                "resources": tuple(r for r in document.resources if r.site == "B"),
                "members": tuple(m for m in document.members if m.site == "B"),
            }
        )
        with pytest.raises(Fenced):
            await cloud["A"].participant.put(from_b, service, DocumentPut(document=without))

    run(work)


def test_a_peer_that_lies_about_what_it_has_seen_fences_nobody():
    async def work(cloud):
        await stretched(cloud, "B")
        for _ in range(2):
            await cloud["B"].sync_.with_peer("A")
        told = (await cloud.stores["B"].read(lambda tx: tx.peer("A"))).count
        assert told.writes > 0
        for lie in (Count(writes=10**12, proof=told.proof), Count(writes=10**12, proof="0" * 64)):
            report = (await cloud["B"].sync_.report("A")).model_copy(update={"seen": lie})
            await cloud["A"].sync(cloud.ctx("B").model_copy(update={"sender": "B"}), report)
            assert not await fences(cloud, "A")

    run(work)
