"""What the site answers that a user has asked: the final state, wherever it was asked."""

import asyncio
import dataclasses

import pytest

from diminet.errors import ServiceNotFound
from diminet.messages import Change
from diminet.model import Entry
from simulated_cloud import LIMITS, Cloud

LATE = dataclasses.replace(LIMITS, sync_interval=60.0, confirm_delay=30.0, refusal_backoff_most=60.0)


def run(work):
    return asyncio.run(asyncio.wait_for(work, 60))


async def l3(sites="ABC", joined="ABC"):
    cloud = Cloud(*sites, limits=LATE)
    ids = {s: cloud.vims[s].add_network(f"10.{i}.0.0/24") for i, s in enumerate(sites)}
    view = await cloud.create("A", "l3", *(f"{s}:{ids[s]}" for s in joined))
    return cloud, view.document.service_id, ids


def ask(cloud, site, service_id, **change):
    return cloud[site].requests.change(cloud.caller(), cloud.ctx(site), service_id, Change(**change))


@pytest.mark.parametrize("asked", ["B", "C"])
def test_a_change_asked_at_a_member_is_answered_when_all_have_it(asked):
    async def main():
        cloud, service_id, _ = await l3(joined="AB")
        more = cloud.vims["B"].add_network("10.80.0.0/24")
        if asked == "C":
            entry = Entry(site="C", resource_id=cloud.vims["C"].add_network("10.81.0.0/24"))
            changes = [{"operation": "join", "entry": entry, "via": "B"}]
        else:
            join = Entry(site="B", resource_id=more)
            changes = [
                {"operation": "modify", "name": "new"},
                {"operation": "join", "entry": join},
                {"operation": "leave", "entry": join},
            ]
        for change in changes:
            view, waiting = await ask(cloud, asked, service_id, **change)
            assert waiting == ()
            assert view.provisioning_status == "ACTIVE", change
            assert {r.provisioning_status for r in view.resources} == {"ACTIVE"}
        await cloud.close()

    run(main())


@pytest.mark.parametrize("operation", ["leave", "modify"])
def test_the_site_that_leaves_by_the_request_answers_with_what_is_left(operation):
    async def main():
        cloud, service_id, ids = await l3()
        if operation == "leave":
            change = {"operation": "leave", "entry": Entry(site="B")}
        else:
            kept = tuple(Entry(site=s, resource_id=ids[s]) for s in "AC")
            change = {"operation": "modify", "resources": kept}
        view, waiting = await ask(cloud, "B", service_id, **change)
        assert waiting == ()
        assert {r.resource.site for r in view.resources} == {"A", "C"}
        assert {r.provisioning_status for r in view.resources} == {"ACTIVE"}
        assert (view.provisioning_status, view.document.revision) == ("ACTIVE", 2)
        assert "has left" in view.warnings[0]
        assert view.connections == ()
        with pytest.raises(ServiceNotFound):
            await cloud["B"].requests.show(cloud.caller(), service_id)
        await cloud.close()

    run(main())


def test_a_site_is_shown_as_reachable_to_those_who_share_a_service_with_it():
    async def main():
        cloud, _, _ = await l3(joined="AB")
        await cloud["A"].sync_.with_peer("B")
        seen = {}
        for project, role in (("demo", "member"), ("other", "member"), ("ops", "admin")):
            views = await cloud["A"].requests.sites(cloud.caller(project, role))
            seen[project] = {v.name: (v.reachable, v.last_seen is not None) for v in views}
        assert seen["demo"]["B"] == (True, True)
        assert seen["other"]["B"] == (None, False)
        assert seen["ops"]["B"] == (True, True)
        assert {site["C"] for site in seen.values()} == {(None, False)}
        await cloud.close()

    run(main())


def test_a_create_that_anti_entropy_meets_half_way_waits_for_nobody():
    """B does not list the service yet when A and B compare: A's letter about it is not needed in the end."""

    async def main():
        cloud, _, ids = await l3(sites="AB", joined="AB")
        put = cloud["B"].put

        async def letters():
            rows = await cloud["A"].here.store.read(lambda tx: tx.outbox())
            return [row.kind for row in rows]

        async def late(*given):
            await cloud["A"].sync_.with_peer("B")
            assert await letters() == ["document"]
            return await put(*given)

        cloud["B"].put = late
        view = await cloud.create("A", "l3", *(f"{s}:{i}" for s, i in ids.items()))
        assert (view.waiting, await letters()) == ((), [])
        await cloud.close()

    run(main())


def test_a_promise_made_while_expired_ones_are_looked_for_stays():
    """The look began a little earlier, or the clock was put right by a little meanwhile."""

    async def main():
        cloud, _, ids = await l3(sites="AB", joined="AB")
        put = cloud["B"].put

        async def late(*given):
            clock = cloud["B"].here.clock
            clock.began -= 0.05
            await cloud["B"].reservations.release_expired()
            clock.began += 0.05
            return await put(*given)

        cloud["B"].put = late
        view = await cloud.create("A", "l3", *(f"{s}:{i}" for s, i in ids.items()))
        assert view.provisioning_status == "ACTIVE"
        await cloud.close()

    run(main())


def test_a_vim_that_refuses_to_be_read_costs_an_answer_only_the_pools():
    async def work():
        cloud = Cloud("A", "B")
        try:
            own = cloud.vims["A"].add_network("10.0.0.0/24")
            service = (await cloud.create("A", "l2", f"A:{own}", "B")).document.service_id
            cloud.vims["A"].refuse.add("network")
            shown = await cloud["A"].requests.show(cloud.caller(), service)
            assert [s.allocation_pools for r in shown.resources for s in r.subnets] == [None, None]
        finally:
            await cloud.close()

    asyncio.run(work())
