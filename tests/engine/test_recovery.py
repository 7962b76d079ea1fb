"""The database of a site is lost: what its VIM remembers is kept, and taken in again."""

import asyncio

import pytest

from diminet.clock import SystemClock
from diminet.engine.recovery import Recovery
from diminet.errors import ServiceNotFound
from diminet.messages import Change
from diminet.store.store import SqlStore
from simulated_cloud import Cloud, run_virtually, until

CIDR = "10.0.0.0/24"


def run(work):
    async def main():
        cloud = Cloud("A", "B")
        try:
            await work(cloud)
        finally:
            await cloud.close()

    asyncio.run(asyncio.wait_for(main(), 120))


async def stretched(cloud):
    a = cloud.vims["A"].add_network(CIDR)
    view = await cloud.create("A", "l2", f"A:{a}", "B")
    for site in "AB":  # a database leaves its mark in the VIM within an interval
        await cloud[site].reconciler.sweep_networks()
    return view.document.service_id, view.document.resources_of("B")[0].resource_id


async def lose_database(cloud, site):
    cloud.stores[site].close()
    cloud.stores[site] = SqlStore("sqlite://", threaded=False)
    await cloud.restart(site)
    return Recovery(cloud.stores[site], cloud.vims[site], SystemClock())


def test_an_empty_database_takes_nothing_down():
    async def work(cloud):
        service, made = await stretched(cloud)
        await lose_database(cloud, "B")
        for _ in range(2):
            await cloud["B"].reconciler.repair()
            await cloud["B"].reconciler.sweep_networks()
        assert service in cloud.vims["B"].targets
        assert made in cloud.vims["B"].networks
        assert cloud["B"].reconciler.stranger

    run(work)


def test_what_was_adopted_comes_back_with_the_masters_word_and_goes_with_the_service():
    async def work(cloud):
        service, made = await stretched(cloud)
        recovery = await lose_database(cloud, "B")
        assert [(r.network_id, r.made, r.service_id) for r in await recovery.lost()] == [
            (made, True, service)
        ]
        await recovery.adopt()
        assert await recovery.lost() == ()
        await cloud.run()

        async def back():
            row = await cloud["B"].here.store.read(lambda tx: tx.service(service))
            return row is not None and row.applied == row.document.pair

        await until(back, 20)
        assert not cloud["B"].reconciler.stranger
        await cloud.vims["B"].boot(made)
        cloud.vims["B"].port_rows[made].clear()
        await cloud["A"].requests.change(cloud.caller(), cloud.ctx("A"), service, Change(operation="delete"))
        await until(lambda: made not in cloud.vims["B"].networks and not cloud.vims["B"].targets, 20)

    run(work)


def test_what_nobody_has_any_more_is_discarded():
    async def work(cloud):
        service, made = await stretched(cloud)
        recovery = await lose_database(cloud, "B")
        cloud.wire.engines.pop("A")  # for good
        with pytest.raises(ServiceNotFound):
            await recovery.discard(service)
        await recovery.adopt()
        assert await cloud["B"].fencing.adopt([])
        await cloud["B"].reconciler.repair()
        assert service in cloud.vims["B"].targets
        await recovery.discard(service)
        await cloud["B"].reservations.release_expired()
        await cloud["B"].reconciler.repair()
        assert made not in cloud.vims["B"].networks
        assert not cloud.vims["B"].targets

    run(work)


async def three(cloud, kind):
    """A service of A, B and C; its id and A's network."""
    if kind == "l2":
        own = cloud.vims["A"].add_network(CIDR)
        entries = [f"A:{own}", "B", "C"]
    else:
        ids = {s: cloud.vims[s].add_network(f"10.{n}.0.0/24") for n, s in enumerate("ABC")}
        own, entries = ids["A"], [f"{s}:{ids[s]}" for s in ids]
    view = await cloud.create("A", kind, *entries)
    for site in "ABC":
        await cloud[site].reconciler.sweep_networks()
    return view.document.service_id, own


def run_three(work):
    async def main():
        cloud = Cloud("A", "B", "C")
        try:
            await work(cloud)
        finally:
            await cloud.close()

    run_virtually(main())


async def row_of(cloud, site, service):
    return await cloud.stores[site].read(lambda tx: tx.service(service))


async def is_back(cloud, service):
    row = await row_of(cloud, "A", service)
    return row is not None and row.confirmed == row.applied == row.document.pair


async def caught_up(cloud, service, pair):
    """All members hold that document, and nothing is fenced any more."""
    rows = [await row_of(cloud, site, service) for site in "ABC"]
    return {row.document.pair for row in rows} == {pair} and not await fences_of(cloud, "A")


async def fences_of(cloud, site):
    return await cloud.stores[site].read(lambda tx: tx.fences())


@pytest.mark.parametrize("kind", ["l2", "l3"])
def test_a_master_takes_its_own_services_in_from_all_their_members(kind):
    async def work(cloud):
        service, own = await three(cloud, kind)
        name = Change(operation="modify", name="new")
        await cloud["A"].requests.change(cloud.caller(), cloud.ctx("A"), service, name)
        before = await row_of(cloud, "B", service)
        if kind == "l2":
            addresses = {await cloud.vims["A"].boot(own) for _ in range(3)}
        recovery = await lose_database(cloud, "A")
        await recovery.adopt()
        cloud.wire.cut("A", "C")
        await cloud.run()
        await asyncio.sleep(3)
        assert await row_of(cloud, "A", service) is None  # C may know better
        cloud.wire.heal()
        await until(lambda: is_back(cloud, service), 20)
        row = await row_of(cloud, "A", service)
        changed = {"epoch", "revision", "former", "updated_at"}
        assert row.document.name == "new"
        assert row.document.epoch > before.document.epoch  # nothing is written again under an old pair
        assert row.document.model_dump(exclude=changed) == before.document.model_dump(exclude=changed)
        await until(lambda: caught_up(cloud, service, row.document.pair), 20)
        blocks = [
            {
                (h.block.index, h.block.owner)
                for h in await cloud.stores[s].read(lambda tx: tx.blocks(service))
            }
            for s in "ABC"
        ]
        assert blocks[0] == blocks[1] == blocks[2]
        if kind == "l2":
            made = {r.site: r.resource_id for r in row.document.resources}
            more = {await cloud.vims[s].boot(made[s]) for s in "ABC"}
            assert len(addresses | more) == 6
            for site in "BC":
                cloud.vims[site].port_rows[made[site]].clear()
        fresh = [cloud.vims[s].add_network(f"10.9.{n}.0/24") for n, s in enumerate("AB")]
        other = await cloud.create("A", "l3", f"A:{fresh[0]}", f"B:{fresh[1]}")
        assert other.document.identifiers.vni != row.document.identifiers.vni
        delete = Change(operation="delete")
        await cloud["A"].requests.change(cloud.caller(), cloud.ctx("A"), service, delete)
        await until(lambda: all(service not in vim.targets for vim in cloud.vims.values()), 20)

    run_three(work)


def test_what_any_member_knows_to_be_deleted_does_not_come_back():
    async def work(cloud):
        service, _ = await three(cloud, "l3")
        cloud.wire.cut("A", "C")
        mine = cloud.vims["A"].targets[service]
        delete = Change(operation="delete")
        await cloud["A"].requests.change(cloud.caller(), cloud.ctx("A"), service, delete)
        assert service in cloud.vims["C"].targets
        cloud.vims["A"].targets[service] = mine  # as if A had not got to that
        recovery = await lose_database(cloud, "A")
        await recovery.adopt()
        cloud.wire.heal()
        await cloud.run()
        await until(lambda: all(service not in vim.targets for vim in cloud.vims.values()), 20)
        assert (await row_of(cloud, "A", service)).document.tombstone

    run_three(work)
