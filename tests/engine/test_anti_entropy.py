"""One exchange for a pair of sites and interval serves both, however many services they share."""

import asyncio
import dataclasses

from diminet.errors import SiteUnreachable
from diminet.messages import Change
from simulated_cloud import LIMITS, Cloud

SLOW = dataclasses.replace(
    LIMITS, sync_interval=3600.0, refusal_backoff_most=3600.0, confirm_delay=30.0, reconcile_interval=3600.0
)


def run(work):
    return asyncio.run(asyncio.wait_for(work, 60))


async def pair(services, limits=SLOW):
    cloud = Cloud("A", "B", limits=limits)
    documents = []
    for i in range(services):
        ids = {s: cloud.vims[s].add_network(f"10.{2 * i + k}.0.0/24") for k, s in enumerate("AB")}
        view = await cloud.create("A", "l3", *(f"{s}:{ids[s]}" for s in "AB"), on_unreachable="defer")
        documents.append(view.document)
    for engine in cloud.wire.engines.values():  # those that wait for the master's word
        await engine.stop()
    cloud.wire.seen.clear()
    return cloud, documents


async def rounds(cloud, *sites):
    """Each site's turn, and what it begins; the messages of all kinds, by receiver."""
    cloud.wire.seen.clear()
    for site in sites:
        await cloud[site].sync_.round()
        while any(engine.here.tasks for engine in cloud.wire.engines.values()):
            tasks = [t for engine in cloud.wire.engines.values() for t in engine.here.tasks]
            await asyncio.gather(*tasks)
    return {(at, kind): n for (at, _, kind), n in cloud.wire.seen.items()}


def pass_by(cloud, intervals):
    for engine in cloud.wire.engines.values():
        engine.sync_.met = {k: v - 3600.0 * intervals for k, v in engine.sync_.met.items()}


def test_an_idle_pair_costs_one_request_an_interval():
    async def main():
        for services in (1, 7):
            cloud, _ = await pair(services)
            assert await rounds(cloud, "A", "B", "A", "B") == {("B", "sync"): 1}
            for _ in range(3):
                pass_by(cloud, 1.0)
                assert await rounds(cloud, "B", "A", "B", "A") == {("B", "sync"): 1}
            pass_by(cloud, 1.5)  # A has not asked for a while, as if its way to B were closed
            assert await rounds(cloud, "B", "A") == {("A", "sync"): 1}
            await cloud.close()

    run(main())


def test_an_exchange_serves_both_sites():
    async def main():
        cloud, documents = await pair(2)
        service_id, put = documents[0].service_id, cloud["B"].put

        async def away(*arguments):
            raise SiteUnreachable("it does not answer")

        cloud["B"].put = away
        change = Change(operation="modify", name="new")
        await cloud["A"].requests.change(cloud.caller(), cloud.ctx("A"), service_id, change)
        cloud["B"].put = put
        for row in await cloud.stores["A"].read(lambda tx: tx.outbox()):
            await cloud.stores["A"].write(lambda tx, row=row: tx.unpost(row))
        messages = await rounds(cloud, "A")
        assert messages["B", "sync"] == 1
        assert ("A", "sync") not in messages
        row = await cloud.stores["B"].read(lambda tx: tx.service(service_id))
        assert row.document.name == "new"
        for site, other in ("AB", "BA"):
            assert (await cloud.stores[site].read(lambda tx, o=other: tx.peer(o))).seen_at is not None
            known = await cloud.stores[site].read(lambda tx: tx.members(documents[1].service_id))
            assert {m.site: m.operating for m in known}[other] == "ONLINE"
        await cloud.close()

    run(main())


def test_with_more_services_than_one_message_carries_both_ask():
    async def main():
        cloud, _ = await pair(3, dataclasses.replace(SLOW, sync_entries=2))
        assert await rounds(cloud, "A", "B") == {("B", "sync"): 1, ("A", "sync"): 1}
        await cloud.close()

    run(main())


def test_who_has_just_begun_to_share_something_is_asked_an_interval_later():
    """The create itself has told both all there is."""

    async def main():
        cloud = Cloud("A", "B", limits=SLOW)
        assert await rounds(cloud, "A", "B") == {}
        ids = {s: cloud.vims[s].add_network(f"10.{k}.0.0/24") for k, s in enumerate("AB")}
        await cloud.create("A", "l3", *(f"{s}:{ids[s]}" for s in "AB"))
        for engine in cloud.wire.engines.values():  # those that wait for the master's word
            await engine.stop()
        assert await rounds(cloud, "A", "B") == {}
        pass_by(cloud, 1.0)
        assert await rounds(cloud, "A", "B") == {("B", "sync"): 1}
        await cloud.close()

    run(main())


def test_repair_leaves_alone_what_is_just_being_made():
    async def main():
        cloud, (document,) = await pair(1)
        here = cloud["A"].here
        await here.store.write(lambda tx: _unmade(tx, document.service_id))
        async with here.locks[f"service {document.service_id}"]:
            async with asyncio.timeout(30):
                assert await cloud["A"].reconciler.repair() == []
            assert await here.store.read(lambda tx: tx.services_to_realise()) == [document.service_id]
        assert await cloud["A"].reconciler.repair() == []
        assert await here.store.read(lambda tx: tx.services_to_realise()) == []
        await cloud.close()

    run(main())


def _unmade(tx, service_id):
    row = tx.service(service_id)
    assert tx.save_service(row.model_copy(update={"applied": None}), expect=row.document.pair)
