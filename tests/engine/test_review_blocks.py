"""Blocks between giver, requester and who comes, leaves, crashes meanwhile: none at two sites, none lost."""

import asyncio
import contextlib
import dataclasses

import pytest

import simulated_cloud
from diminet.errors import DiminetError, NotAuthorised, SiteUnreachable
from diminet.messages import BlockRequest, Change
from diminet.model import Entry
from simulated_cloud import until

LIMITS = dataclasses.replace(simulated_cloud.LIMITS, request_timeout=10.0, reservation_lifetime=15.0)


def Cloud(*names, limits=LIMITS):  # noqa: N802
    """With time enough for a busy machine."""
    return simulated_cloud.Cloud(*names, limits=limits)


def run(work):
    return asyncio.run(asyncio.wait_for(work, 60))


def ask(cloud, site, service_id, **change):
    return cloud[site].requests.change(cloud.caller(), cloud.ctx(site), service_id, Change(**change))


async def l2(cloud, *sites, cidr="10.7.0.0/26"):
    network = cloud.vims["A"].add_network(cidr)
    view = await cloud.create("A", "l2", f"A:{network}", *sites)
    return view.document, {r.site: r.resource_id for r in view.document.resources}


def hold(vim, name):
    """That call of the VIM waits until the answered event is set."""
    go, reached, call = asyncio.Event(), asyncio.Event(), getattr(vim, name)

    async def slow(*arguments, **more):
        reached.set()
        await go.wait()
        return await call(*arguments, **more)

    setattr(vim, name, slow)
    return reached, go


async def blocks(cloud, site, service_id):
    return await cloud.stores[site].read(lambda tx: tx.blocks(service_id))


async def set_pooled(cloud, site, service_id, pooled, only=lambda block: True):
    def decide(tx):
        mine = [h for h in tx.blocks(service_id) if h.block.owner == site and only(h.block)]
        tx.put_blocks(service_id, [h.model_copy(update={"pooled": pooled}) for h in mine])

    await cloud.stores[site].write(decide)


async def boot_all(cloud, site, network):
    """Instances until the site has no address left."""
    ips = []
    with contextlib.suppress(RuntimeError):
        for _ in range(200):
            ips.append(await cloud.vims[site].boot(network))
    return ips


def test_a_block_that_the_vim_still_gives_out_after_a_crash_is_not_given_away():
    async def main():
        cloud = Cloud("A", "B")
        document, nets = await l2(cloud, "B")
        first = [await cloud.vims["A"].boot(nets["A"]) for _ in range(3)]
        # A crashed when it had written what leaves its pool and had not told its VIM yet
        await set_pooled(cloud, "A", document.service_id, False)
        await cloud.restart("A")
        there = await boot_all(cloud, "B", nets["B"])
        here = await boot_all(cloud, "A", nets["A"])
        ips = [*first, *there, *here]
        assert len(ips) == len(set(ips))
        await cloud.close()

    run(main())


def test_a_block_on_its_way_out_of_the_pool_is_no_share_for_a_joining_site():
    async def main():
        cloud = Cloud("A", "B", "C")
        document, nets = await l2(cloud, "B", cidr="10.7.0.0/24")
        service_id = document.service_id
        await set_pooled(cloud, "A", service_id, True)
        await cloud["A"].pools.shape(document, document.resources[0])
        reached, go = hold(cloud.vims["A"], "shape_subnet")
        request = BlockRequest(cidr="10.7.0.0/24", number=1, count=8, free=0)
        told = cloud.ctx("B").model_copy(update={"sender": "B"})
        gift = asyncio.create_task(cloud["A"].give(told, service_id, request))
        await reached.wait()
        leaving = [
            h.block for h in await blocks(cloud, "A", service_id) if h.block.owner == "A" and not h.pooled
        ]
        assert leaving
        join = asyncio.create_task(ask(cloud, "A", service_id, operation="join", entry=Entry(site="C")))
        await asyncio.sleep(0.3)
        booted, vim = [], cloud.vims["A"]  # which has not been told yet
        while vim._free(nets["A"], vim.networks[nets["A"]].subnets[0]) is not None:
            booted.append(await vim.boot(nets["A"]))
        go.set()
        granted = await gift
        with contextlib.suppress(DiminetError):
            await join
        held = await blocks(cloud, "A", service_id)
        size = cloud["A"].here.type_of("l2").block_size(document, "10.7.0.0/24")
        foreign = [h.block for h in held if h.block.owner != "A"]
        assert not granted.blocks or {b.owner for b in granted.blocks} == {"B"}
        taken = {int(ip.rpartition(".")[2]) // size for ip in booted}
        assert not taken & {b.index for b in foreign}
        await cloud.close()

    run(main())


def test_room_that_comes_after_the_deletion_changes_no_pool():
    async def main():
        cloud = Cloud("A", "B")
        before_net = cloud.vims["A"].add_network("10.7.0.0/26")
        before = cloud.pictures()
        view = await cloud.create("A", "l2", f"A:{before_net}", "B")
        service_id = view.document.service_id
        await set_pooled(cloud, "A", service_id, True)
        give, go, reached = cloud["B"].give, asyncio.Event(), asyncio.Event()

        async def slow(*arguments, **more):
            answer = await give(*arguments)
            reached.set()
            await go.wait()
            return answer

        cloud["B"].give = slow
        more = asyncio.create_task(cloud["A"].pools.more_room(before_net, "10.7.0.0/26"))
        await reached.wait()
        await ask(cloud, "A", service_id, operation="delete")
        assert cloud.pictures() == before
        go.set()
        with contextlib.suppress(DiminetError):
            await more
        assert cloud.pictures() == before
        await cloud.close()

    run(main())


@pytest.mark.parametrize("how", ["refuses", "away", "answer lost"])
def test_the_share_of_a_site_whose_join_failed_comes_back(how):
    async def main():
        cloud = Cloud("A", "B", "C")
        document, _ = await l2(cloud, "B", cidr="10.7.0.0/24")
        service_id, put = document.service_id, cloud["C"].put
        before = cloud.pictures()["C"]

        async def away(*arguments):
            if how == "answer lost":
                await put(*arguments)
            raise SiteUnreachable("site C does not answer", sites=["C"])

        if how == "refuses":
            cloud.vims["C"].refuse.add("connect")
        else:
            cloud["C"].put = away
        with pytest.raises(DiminetError):
            await ask(cloud, "A", service_id, operation="join", entry=Entry(site="C"))
        cloud["C"].put = put
        await cloud.run()

        async def back():
            owners = [{h.block.owner for h in await blocks(cloud, s, service_id)} for s in "AB"]
            return owners == [{"A", "B"}] * 2 and cloud.pictures()["C"] == before

        await until(back, 10)
        await cloud.close()

    run(main())


def test_a_document_that_comes_after_the_word_that_it_is_off_is_refused():
    async def main():
        cloud = Cloud("A", "B", "C")
        document, _ = await l2(cloud, "B", cidr="10.7.0.0/24")
        service_id, put = document.service_id, cloud["C"].put
        caught = []

        async def lost(*arguments):
            caught.append(arguments)
            raise SiteUnreachable("site C does not answer", sites=["C"])

        cloud["C"].put = lost
        with pytest.raises(SiteUnreachable):
            await ask(cloud, "A", service_id, operation="join", entry=Entry(site="C"))
        cloud["C"].put = put
        row = await cloud.stores["A"].read(lambda tx: tx.service(service_id))
        for posted in await cloud.stores["A"].read(lambda tx: tx.outbox(peer="C")):
            await cloud["A"].outbox.deliver(posted, cloud["A"].here.clock.now() + 1)
        assert row.document.member("C") is None
        with pytest.raises(DiminetError):
            await put(*caught[0])
        assert await cloud.stores["C"].read(lambda tx: tx.service(service_id)) is None
        await cloud.close()

    run(main())


def test_a_grant_that_comes_after_leaving_makes_nothing_ours():
    async def main():
        cloud = Cloud("A", "B", "C")
        document, nets = await l2(cloud, "B", "C", cidr="10.7.0.0/24")
        service_id = document.service_id
        await set_pooled(cloud, "C", service_id, True)
        give, go, reached = cloud["A"].give, asyncio.Event(), asyncio.Event()

        async def slow(*arguments, **more):
            answer = await give(*arguments)
            reached.set()
            await go.wait()
            return answer

        cloud["A"].give = slow
        more = asyncio.create_task(cloud["C"].pools.more_room(nets["C"], "10.7.0.0/24"))
        await asyncio.wait_for(reached.wait(), 5)
        await ask(cloud, "A", service_id, operation="leave", entry=Entry(site="C"))
        go.set()
        await more
        assert "C" not in {h.block.owner for h in await blocks(cloud, "A", service_id)}
        assert "C" not in {h.block.owner for h in await blocks(cloud, "C", service_id)}
        await cloud.close()

    run(main())


def test_nothing_is_given_to_a_site_that_has_left_meanwhile():
    async def main():
        cloud = Cloud("A", "B", "C")
        document, _ = await l2(cloud, "B", "C", cidr="10.7.0.0/24")
        service_id = document.service_id
        await ask(cloud, "A", service_id, operation="leave", entry=Entry(site="C"))
        request = BlockRequest(cidr="10.7.0.0/24", number=1, count=1, free=0)
        told = cloud.ctx("C").model_copy(update={"sender": "C"})
        with pytest.raises(NotAuthorised):
            await cloud["A"].give(told, service_id, request)
        row = await cloud.stores["A"].read(lambda tx: tx.service(service_id))
        gift = await cloud.stores["A"].write(
            lambda tx: cloud["A"].giving._write_gift(tx, row, "C", request, 1, [])
        )
        assert gift == ()
        await cloud.close()

    run(main())


def test_who_has_left_is_not_told_again_and_again():
    async def main():
        cloud = Cloud("A", "B", "C")
        document, _ = await l2(cloud, "B", "C", cidr="10.7.0.0/24")
        service_id, put = document.service_id, cloud["C"].put

        async def lost(*arguments):
            await put(*arguments)
            raise SiteUnreachable("site C does not answer", sites=["C"])

        cloud["C"].put = lost
        await ask(cloud, "A", service_id, operation="leave", entry=Entry(site="C"))
        await ask(cloud, "A", service_id, operation="modify", name="later")
        cloud["C"].put = put
        await cloud.run()

        async def told():
            members = await cloud.stores["A"].read(lambda tx: tx.members(service_id))
            posted = await cloud.stores["A"].read(lambda tx: tx.outbox())
            return not posted and all(m.clean for m in members if m.site == "C")

        await until(told)
        await asyncio.sleep(0.5)
        assert await told()
        await cloud.close()

    run(main())
