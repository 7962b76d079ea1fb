"""A member refuses, behind the answer, what conflicts with something committed there."""

import asyncio
import dataclasses

import pytest

from diminet.errors import SiteUnreachable
from diminet.messages import Change
from diminet.model import Entry
from simulated_cloud import LIMITS, Cloud, until

SHORT = dataclasses.replace(LIMITS, reservation_lifetime=0.5, refusals=1)


def run(work):
    return asyncio.run(asyncio.wait_for(work, 60))


async def held(cloud, site, service_id):
    return await cloud.stores[site].read(lambda tx: tx.service(service_id))


def deaf(engine):
    """No document reaches that site; returns what makes it hear again."""
    put = engine.put

    async def away(*arguments):
        raise SiteUnreachable("it does not answer", retry_after=1.0)

    engine.put = away
    return lambda: setattr(engine, "put", put)


async def confirmed(cloud, service_id):
    """Nobody looks any more for the master's word."""

    async def all_know():
        rows = [await held(cloud, site, service_id) for site in "ABC"]
        return all(row.confirmed == rows[0].document.pair for row in rows)

    await until(all_know)
    await asyncio.gather(*(task for engine in cloud.wire.engines.values() for task in engine.here.tasks))


async def stale(cloud, site, add):
    """An l3 service of A, B and C of which `site` has missed, for good, that `add` has joined."""
    ids = {s: cloud.vims[s].add_network(f"10.{i}.0.0/24") for i, s in enumerate("ABC")}
    view = await cloud.create("A", "l3", *(f"{s}:{ids[s]}" for s in "ABC"), on_unreachable="defer")
    document = view.document
    await confirmed(cloud, document.service_id)
    hear = deaf(cloud[site])
    change = Change(operation="join", entry=add)
    await cloud["A"].requests.change(cloud.caller(), cloud.ctx("A"), document.service_id, change)
    await asyncio.sleep(0.6)
    await cloud[site].reservations.release_expired()
    return document.service_id, ids, hear


@pytest.mark.parametrize("more", [False, True])
def test_a_network_that_has_got_into_a_conflict_at_its_site_leaves_the_service_with_a_fault(more):
    async def main():
        cloud = Cloud("A", "B", "C", limits=SHORT)
        new = cloud.vims["A"].add_network("10.50.0.0/24")
        service_id, ids, hear = await stale(cloud, "B", Entry(site="A", resource_id=new))
        if more:  # B has another network in the service, which stays
            other = cloud.vims["B"].add_network("10.60.0.0/24")
            hear()
            join = Change(operation="join", entry=Entry(site="B", resource_id=other))
            await cloud["A"].requests.change(cloud.caller(), cloud.ctx("A"), service_id, join)
            await confirmed(cloud, service_id)
            deaf_again = deaf(cloud["B"])
            late = cloud.vims["A"].add_network("10.51.0.0/24")
            join = Change(operation="join", entry=Entry(site="A", resource_id=late))
            await cloud["A"].requests.change(cloud.caller(), cloud.ctx("A"), service_id, join)
            await asyncio.sleep(0.6)
            await cloud["B"].reservations.release_expired()
            hear = deaf_again
        clash = cloud.vims["C"].add_network("10.51.0.0/24" if more else "10.50.0.0/24")
        second = await cloud.create("B", "l3", f"B:{ids['B']}", f"C:{clash}")
        hear()
        await cloud.run()

        async def told():
            row = await held(cloud, "A", service_id)
            return row.fault is not None and row.confirmed == row.document.pair

        await until(told)
        shown = await cloud["A"].requests.show(cloud.caller(), service_id)
        assert shown.fault["code"] == "cidr-overlap"
        assert shown.fault["sites"] == ["B"]
        left = {r.resource_id for r in shown.document.resources_of("B")}
        assert left == ({other} if more else set())
        assert {r.site for r in shown.document.resources} >= {"A", "C"}
        if not more:
            await until(lambda: service_id not in cloud.vims["B"].targets)
        else:
            await until(lambda: cloud.vims["B"].targets[service_id].networks == (other,))
        assert second.document.service_id in cloud.vims["B"].targets
        await cloud.close()

    run(main())


def test_a_network_that_nobody_keeps_any_more_leaves_and_the_others_of_its_site_stay():
    async def main():
        cloud = Cloud("A", "B", "C", limits=SHORT)
        more = cloud.vims["C"].add_network("10.60.0.0/24")
        service_id, ids, hear = await stale(cloud, "C", Entry(site="C", resource_id=more))
        hear()
        await cloud.run()

        async def told():
            row = await held(cloud, "A", service_id)
            return row.fault is not None and row.confirmed == row.document.pair

        await until(told)
        row = await held(cloud, "A", service_id)
        assert row.fault["code"] == "resource-busy"
        assert [r.resource_id for r in row.document.resources_of("C")] == [ids["C"]]
        await cloud.close()

    run(main())
