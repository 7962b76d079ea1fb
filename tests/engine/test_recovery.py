"""The database of a site is lost: what its VIM remembers is kept, and taken in again."""

import asyncio

import pytest

from diminet.clock import SystemClock
from diminet.engine.recovery import Recovery
from diminet.errors import ServiceNotFound
from diminet.messages import Change
from diminet.store.store import SqlStore
from simulated_cloud import Cloud, until

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
    return Recovery(cloud.stores[site], cloud.vims[site], SystemClock(), site)


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
        await cloud["B"].reconciler.repair()
        assert service in cloud.vims["B"].targets
        await recovery.discard(service)
        await cloud["B"].reservations.release_expired()
        await cloud["B"].reconciler.repair()
        assert made not in cloud.vims["B"].networks
        assert not cloud.vims["B"].targets

    run(work)
