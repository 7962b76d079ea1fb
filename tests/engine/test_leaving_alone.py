"""A site leaves by itself, or is lost for good: who is left behind learns of it, or is told."""

import asyncio
import dataclasses

import pytest

from diminet.errors import InvalidRequest, NotAuthorised, SiteUnreachable
from diminet.messages import Change
from diminet.model import Entry
from simulated_cloud import LIMITS, Cloud, until
from simulated_cloud import run_virtually as run

BRIEF = dataclasses.replace(LIMITS, request_timeout=1.0, reservation_lifetime=1.5)
CIDR = "10.0.0.0/24"


def stretched(work):
    """Run `work(cloud, service id)` on a network of A stretched to B and C."""

    async def main():
        cloud = Cloud("A", "B", "C", limits=BRIEF)
        try:
            origin = cloud.vims["A"].add_network(CIDR)
            view = await cloud.create("A", "l2", f"A:{origin}", "B", "C")
            await work(cloud, view.document.service_id)
        finally:
            await cloud.close()

    run(main())


async def row(cloud, site, service):
    return await cloud.stores[site].read(lambda tx: tx.service(service))


async def owners(cloud, site, service):
    held = await cloud.stores[site].read(lambda tx: tx.blocks(service))
    return {h.block.owner for h in held}


async def leave(cloud, at, service, site):
    change = Change(operation="leave", entry=Entry(site=site))
    return await cloud[at].requests.change(cloud.caller(), cloud.ctx(at), service, change)


async def forget(cloud, service, site, at="A"):
    admin = cloud.caller("root", "admin")
    return await cloud[at].requests.forget(admin, cloud.ctx(at, "root"), service, site)


async def members(cloud, site, service):
    return {m.site for m in (await row(cloud, site, service)).document.members}


def test_a_member_that_is_cut_off_leaves_at_once_and_the_master_learns_later():
    async def work(cloud, service):
        cloud.wire.isolate("C")
        view, waiting = await leave(cloud, "C", service, "C")
        assert waiting == ("A",)
        assert view.document.member("C") is None
        assert service not in cloud.vims["C"].targets
        assert all(n.ours is None for n in cloud.vims["C"].networks.values())
        await cloud.restart("C")
        assert (await row(cloud, "C", service)).left == 1
        assert "C" in await members(cloud, "A", service)
        cloud.wire.heal()
        await cloud.run()

        async def learnt():
            return await members(cloud, "A", service) == await members(cloud, "B", service) == {"A", "B"}

        async def given_back():
            return await owners(cloud, "A", service) == await owners(cloud, "B", service) == {"A", "B"}

        await until(learnt)
        await until(given_back)
        change = Change(operation="join", entry=Entry(site="C"))
        await cloud["A"].requests.change(cloud.caller(), cloud.ctx("A"), service, change)
        assert (await row(cloud, "C", service)).document.member("C").join == 2

    stretched(work)


def test_only_for_itself():
    async def work(cloud, service):
        cloud.wire.isolate("C")
        with pytest.raises(SiteUnreachable):
            await leave(cloud, "C", service, "B")
        assert (await row(cloud, "C", service)).left is None

    stretched(work)


def test_a_lost_site_is_forgotten_by_an_operators_word():
    async def work(cloud, service):
        cloud.wire.isolate("C")
        with pytest.raises(InvalidRequest, match="is a member"):
            await forget(cloud, service, "C")
        _, waiting = await leave(cloud, "A", service, "C")
        assert waiting == ("C",)
        assert "C" in await owners(cloud, "A", service)
        with pytest.raises(NotAuthorised):
            await cloud["A"].requests.forget(cloud.caller(), cloud.ctx("A"), service, "C")
        with pytest.raises(InvalidRequest, match="the master"):
            await forget(cloud, service, "C", at="B")
        await forget(cloud, service, "C")
        assert await owners(cloud, "A", service) == {"A", "B"}
        assert not await cloud.stores["A"].read(lambda tx: tx.outbox(peer="C"))
        with pytest.raises(InvalidRequest, match="nothing"):
            await forget(cloud, service, "C")

    stretched(work)


def test_all_members_are_asked_first():
    async def work(cloud, service):
        cloud.wire.isolate("C")
        await leave(cloud, "A", service, "C")
        cloud.wire.cut("A", "B")
        with pytest.raises(SiteUnreachable):
            await forget(cloud, service, "C")
        assert "C" in await owners(cloud, "A", service)

    stretched(work)


def test_what_the_lost_site_had_given_stays_given():
    async def work(cloud, service):
        cloud.wire.cut("A", "B")
        cloud.wire.cut("A", "C")
        network = (await row(cloud, "B", service)).document.resources_of("B")[0].resource_id
        before = {h.block.index: h.block for h in await cloud.stores["B"].read(lambda tx: tx.blocks(service))}
        for _ in range(256 // 3 + 8):
            await cloud.vims["B"].boot(network)
        after = {h.block.index: h.block for h in await cloud.stores["B"].read(lambda tx: tx.blocks(service))}
        given = {i for i, block in after.items() if block != before[i]}
        assert given
        assert {after[i].giver for i in given} == {"C"}
        cloud.wire.cuts.discard(frozenset("AB"))
        cloud.wire.cut("B", "C")
        await leave(cloud, "A", service, "C")
        await forget(cloud, service, "C")
        held = {h.block.index: h.block for h in await cloud.stores["A"].read(lambda tx: tx.blocks(service))}
        assert {held[i].owner for i in given} == {"B"}
        assert all(block.owner in "AB" for block in held.values())

    stretched(work)


def test_who_answers_and_knows_the_service_is_not_lost():
    async def work(cloud, service):
        cloud.wire.isolate("C")
        await leave(cloud, "A", service, "C")
        cloud.wire.heal()
        with pytest.raises(InvalidRequest, match="is not lost"):
            await forget(cloud, service, "C")

    stretched(work)


def test_a_deletion_waits_no_longer_for_a_lost_site():
    async def work(cloud, service):
        cloud.wire.isolate("C")
        await cloud["A"].requests.change(cloud.caller(), cloud.ctx("A"), service, Change(operation="delete"))
        assert not (await row(cloud, "A", service)).settled
        assert await forget(cloud, service, "C") is None
        assert (await row(cloud, "A", service)).settled

    stretched(work)


def test_a_delete_that_waits_for_the_master_does_not_undo_a_leave():
    """Both asked at once, while the master is away."""

    async def work(cloud, service):
        cloud.wire.isolate("C")
        delete = cloud["C"].requests.change(
            cloud.caller(), cloud.ctx("C"), service, Change(operation="delete")
        )
        await asyncio.gather(leave(cloud, "C", service, "C"), delete)
        assert (await row(cloud, "C", service)).left == 1

    stretched(work)


def test_a_delete_that_waits_is_done_by_the_next_master():
    async def work(cloud, service):
        cloud.wire.isolate("A")
        _, waiting = await cloud["C"].requests.change(
            cloud.caller(), cloud.ctx("C"), service, Change(operation="delete")
        )
        assert waiting == ("A",)
        admin = cloud.caller("root", "admin")
        await cloud["B"].requests.takeover(admin, cloud.ctx("B", "root"), service, frozenset())
        cloud.wire.heal()
        await cloud.run()

        async def gone():
            rows = [await row(cloud, s, service) for s in "ABC"]
            return all(r.document.tombstone and r.settled for r in rows)

        await until(gone)

    stretched(work)


def test_a_delete_that_waits_is_done_by_who_takes_over_itself():
    async def work(cloud, service):
        cloud.wire.isolate("A")
        await cloud["C"].requests.change(cloud.caller(), cloud.ctx("C"), service, Change(operation="delete"))
        admin = cloud.caller("root", "admin")
        await cloud["C"].requests.takeover(admin, cloud.ctx("C", "root"), service, frozenset())
        assert (await row(cloud, "C", service)).document.tombstone

    stretched(work)


def test_who_has_left_is_not_bound_by_its_vote():
    async def work(cloud, service):
        cloud.wire.isolate("C")
        admin = cloud.caller("root", "admin")
        with pytest.raises(SiteUnreachable):
            await cloud["C"].requests.takeover(admin, cloud.ctx("C", "root"), service, frozenset())
        await leave(cloud, "C", service, "C")
        cloud.wire.heal()
        await cloud.run()

        async def learnt():
            return await members(cloud, "A", service) == {"A", "B"} and not await cloud.stores["A"].read(
                lambda tx: tx.outbox()
            )

        await until(learnt)
        change = Change(operation="join", entry=Entry(site="C"))
        await cloud["A"].requests.change(cloud.caller(), cloud.ctx("A"), service, change)
        assert await members(cloud, "C", service) == {"A", "B", "C"}

    stretched(work)
