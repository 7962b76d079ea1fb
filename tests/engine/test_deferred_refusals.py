"""A deferred site that answers and refuses: told by the service's fault, asked ever more seldom."""

import asyncio
import dataclasses

import pytest

from diminet.errors import NotAuthorised, SiteRefused
from diminet.messages import Change
from diminet.model import Entry
from simulated_cloud import LIMITS, Cloud, until

SELDOM = dataclasses.replace(LIMITS, refusal_backoff_most=60.0, sync_interval=2.0)


def run(work):
    return asyncio.run(asyncio.wait_for(work, 60))


async def deferred(limits, *wanted, sites="ABC"):
    """An l3 service of A and B, with `wanted` networks of sites that were away and have none of them."""
    cloud = Cloud(*sites, limits=limits)
    ids = {s: cloud.vims[s].add_network(f"10.{i}.0.0/24") for i, s in enumerate("AB")}
    for entry in wanted:
        cloud.wire.isolate(entry.partition(":")[0])
    view = await cloud.create("A", "l3", f"A:{ids['A']}", f"B:{ids['B']}", *wanted, on_unreachable="defer")
    cloud.wire.heal()
    return cloud, view.document.service_id


async def shown(cloud, service_id, site="A"):
    return await cloud[site].requests.show(cloud.caller(), service_id)


async def faulty(cloud, service_id, site="A"):
    return (await shown(cloud, service_id, site)).fault is not None


def asked(cloud, site="C"):
    return sum(n for (at, _, kind), n in cloud.wire.seen.items() if (at, kind) == (site, "reserve"))


def test_a_deferred_site_that_refuses_is_told_and_asked_seldom_until_something_changes():
    async def main():
        cloud, service_id = await deferred(SELDOM, "C:nothing")
        a = cloud["A"]
        await a.sync_.complete_deferred()
        view = await shown(cloud, service_id)
        assert view.fault["code"] == "network-not-found"
        assert view.fault["sites"] == ["C"]
        missing = next(r for r in view.resources if r.resource.site == "C")
        assert missing.provisioning_status == "PENDING_CREATE"
        assert missing.fault == view.fault["message"]
        assert (view.provisioning_status, view.operating_status) == ("ACTIVE", "DEGRADED")
        for _ in range(3):
            await a.sync_.complete_deferred()
        assert asked(cloud) == 1
        refusal = (await a.here.store.read(lambda tx: tx.service(service_id))).refusals["C"]
        assert a.here.clock.now() < refusal.next_at <= a.here.clock.now() + 60
        # a request that changes nothing is one to ask again, with what its user shows
        same = Change(operation="modify", name="web")
        await a.requests.change(cloud.caller(), cloud.ctx("A"), service_id, same)
        await until(lambda: asked(cloud) == 2)

        async def twice():
            row = await a.here.store.read(lambda tx: tx.service(service_id))
            return row.refusals["C"].attempts == 1

        await until(twice)
        # a modify that has nothing to do with that site is not refused for it
        renamed = Change(operation="modify", name="new")
        view, _ = await a.requests.change(cloud.caller(), cloud.ctx("A"), service_id, renamed)
        assert view.document.name == "new"
        await until(lambda: faulty(cloud, service_id))
        await cloud.close()

    run(main())


def test_the_fault_is_seen_at_the_members_and_goes_when_the_site_is_taken_in():
    async def main():
        limits = dataclasses.replace(LIMITS, refusal_backoff_most=0.4)
        cloud = Cloud("A", "B", "C", limits=limits)
        ids = {s: cloud.vims[s].add_network(f"10.{i}.0.0/24") for i, s in enumerate("ABC")}
        cloud.wire.isolate("C")
        view = await cloud.create("A", "l3", *(f"{s}:{ids[s]}" for s in "ABC"), on_unreachable="defer")
        service_id, vim = view.document.service_id, cloud.vims["C"]
        hidden = vim.networks.pop(ids["C"])
        cloud.wire.heal()
        await cloud.run()
        await until(lambda: faulty(cloud, service_id, "B"))
        vim.networks[ids["C"]] = hidden

        async def whole():
            views = [await shown(cloud, service_id, site) for site in "AB"]
            return all(v.operating_status == "ONLINE" and v.fault is None for v in views)

        await until(whole)
        assert service_id in vim.targets
        await cloud.close()

    run(main())


def test_a_site_that_refuses_keeps_no_other_out():
    async def main():
        limits = dataclasses.replace(LIMITS, refusal_backoff_most=60.0)
        cloud = Cloud("A", "B", "C", "D", limits=limits)
        ids = {s: cloud.vims[s].add_network(f"10.{i}.0.0/24") for i, s in enumerate("ABD")}
        for site in "CD":
            cloud.wire.isolate(site)
        entries = [f"{s}:{ids[s]}" for s in "ABD"]
        view = await cloud.create("A", "l3", *entries, "C:nothing", on_unreachable="defer")
        cloud.wire.heal()
        await cloud.run()
        service_id = view.document.service_id
        await until(lambda: service_id in cloud.vims["D"].targets)
        await until(lambda: faulty(cloud, service_id))
        await cloud.close()

    run(main())


def test_a_vim_that_refuses_after_the_commit_is_asked_ever_more_seldom():
    async def main():
        limits = dataclasses.replace(LIMITS, refusal_backoff_most=60.0)
        cloud = Cloud("A", "B", "C", limits=limits)
        ids = {s: cloud.vims[s].add_network(f"10.{i}.0.0/24") for i, s in enumerate("ABC")}
        cloud.wire.isolate("C")
        view = await cloud.create("A", "l3", *(f"{s}:{ids[s]}" for s in "ABC"), on_unreachable="defer")
        cloud.wire.heal()

        async def refuse(target):
            raise SiteRefused("no more tunnels here")

        cloud.vims["C"].connect = refuse
        service_id, store = view.document.service_id, cloud.stores["A"]
        for attempt in range(3):
            row = await store.read(lambda tx: tx.service(service_id))
            with_c = frozenset("C")
            try:
                await cloud["A"].changes.complete(cloud.ctx("A"), row, with_c)
            except SiteRefused:
                row = await store.read(lambda tx: tx.service(service_id))
            assert row.refusals["C"].attempts == attempt
            assert row.fault["code"] == "site-refused"
        await cloud.close()

    run(main())


def test_joining_another_network_does_not_wait_for_a_deferred_site():
    async def main():
        cloud, service_id = await deferred(LIMITS, "C:nothing")
        cloud.wire.isolate("C")
        more = cloud.vims["B"].add_network("10.90.0.0/24")
        join = Change(operation="join", entry=Entry(site="B", resource_id=more))
        view, _ = await cloud["A"].requests.change(cloud.caller(), cloud.ctx("A"), service_id, join)
        assert more in {r.resource_id for r in view.document.resources}
        assert view.document.member("C").deferred
        assert [e.resource_id for e in view.document.member("C").wanted] == ["nothing"]
        await cloud.close()

    run(main())


def test_a_member_is_not_asked_for_a_token_again_when_another_site_is_taken_in():
    """A token is not kept: what was authorised once stands while the service has that network."""

    async def main():
        cloud, service_id = await deferred(LIMITS, "C:nothing")
        shown_none = []

        async def refuse(ctx, project_id):
            shown_none.append(ctx.sender)
            raise NotAuthorised("no token")

        for site in "AB":
            cloud[site].here.identity.authorise = refuse
        await cloud["A"].sync_.complete_deferred()
        assert (await shown(cloud, service_id)).fault["code"] == "network-not-found"
        assert shown_none == []
        more = cloud.vims["B"].add_network("10.90.0.0/24")
        join = Change(operation="join", entry=Entry(site="B", resource_id=more))
        with pytest.raises(NotAuthorised):
            await cloud["A"].requests.change(cloud.caller(), cloud.ctx("A"), service_id, join)
        assert shown_none == ["A"]
        await cloud.close()

    run(main())
