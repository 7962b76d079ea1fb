"""A promise whose answer was lost is given up as soon as its site can be told, not only when it runs out."""

import asyncio
import dataclasses

import pytest

from diminet.errors import DiminetError, NetworkNotFound, SiteUnreachable
from diminet.messages import Change
from diminet.model import Entry
from simulated_cloud import LIMITS, Cloud, until

LONG = dataclasses.replace(LIMITS, reservation_lifetime=3600.0)


def run(work):
    return asyncio.run(asyncio.wait_for(work, 60))


def losing_answers(engine):
    """What that site promises is promised, but nobody hears of it."""
    reserve = engine.reserve

    async def lost(*arguments):
        await reserve(*arguments)
        raise SiteUnreachable("it does not answer", retry_after=1.0)

    engine.reserve = lost


async def no_promises(cloud, *sites):
    for site in sites:
        if await cloud.stores[site].read(lambda tx: tx.expired_reservations(1e12)):
            return False
    return True


@pytest.mark.parametrize("kind", ["l2", "l3"])
def test_of_a_create_that_another_site_has_refused(kind):
    async def main():
        cloud = Cloud("A", "B", "C", limits=LONG)
        a, c = cloud.vims["A"].add_network("10.0.0.0/24"), cloud.vims["C"].add_network("10.2.0.0/24")
        before = cloud.pictures()
        losing_answers(cloud["C"])
        with pytest.raises(NetworkNotFound):
            await cloud.create("A", kind, f"A:{a}", "B:nothing", "C" if kind == "l2" else f"C:{c}")
        assert not await no_promises(cloud, "C")
        await cloud.run()
        await until(lambda: no_promises(cloud, "A", "B", "C"))
        assert cloud.pictures() == before
        await cloud.close()

    run(main())


def test_of_a_join_that_was_refused_and_not_of_the_one_that_follows_it():
    async def main():
        cloud = Cloud("A", "B", "C", "D", limits=LONG)
        ids = {s: cloud.vims[s].add_network(f"10.{i}.0.0/24") for i, s in enumerate("ABCD")}
        view = await cloud.create("A", "l3", f"A:{ids['A']}", f"B:{ids['B']}")
        service_id, requests = view.document.service_id, cloud["A"].requests
        reserve = cloud["C"].reserve
        losing_answers(cloud["C"])
        wanted = [Entry(site=s, resource_id=ids[s]) for s in "ABC"]
        bad = Change(operation="modify", resources=(*wanted, Entry(site="D", resource_id="nothing")))
        with pytest.raises(DiminetError):
            await requests.change(cloud.caller(), cloud.ctx("A"), service_id, bad)
        shown = await requests.show(cloud.caller(), service_id)
        assert shown.waiting == ()
        (late,) = await cloud.stores["A"].read(lambda tx: tx.outbox(peer="C"))
        cloud["C"].reserve = reserve
        good = Change(operation="modify", resources=tuple(wanted))
        put = cloud["C"].put

        async def first_the_abort(*arguments):
            """That comes late, when the next request has reserved already."""
            await cloud["A"].outbox.deliver(late, cloud["A"].here.clock.now() + 5)
            return await put(*arguments)

        cloud["C"].put = first_the_abort
        view, _ = await requests.change(cloud.caller(), cloud.ctx("A"), service_id, good)
        assert view.document.member("C") is not None
        assert await cloud.stores["A"].read(lambda tx: tx.outbox(peer="C")) == []
        await cloud.close()

    run(main())


def test_a_promise_that_could_not_be_taken_back_is_when_its_site_is_heard_again():
    async def main():
        cloud = Cloud("A", "B", "C", limits=LONG)
        a, b = cloud.vims["A"].add_network("10.0.0.0/24"), cloud.vims["B"].add_network("10.1.0.0/24")
        abort = cloud["B"].abort

        async def away(*arguments):
            raise SiteUnreachable("it does not answer")

        cloud["B"].abort = away
        with pytest.raises(NetworkNotFound):
            await cloud.create("A", "l3", f"A:{a}", f"B:{b}", "C:nothing")
        cloud["B"].abort = abort
        await cloud.run()
        await until(lambda: no_promises(cloud, "A", "B", "C"))
        await cloud.close()

    run(main())
