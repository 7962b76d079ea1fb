"""A service gets another master: agreed, by votes, by an operator's word; the one before follows."""

import contextlib
import dataclasses
import os

import pytest

from diminet.errors import (
    Fenced,
    InvalidRequest,
    NotAuthorised,
    ResourceBusy,
    SiteRefused,
    SiteUnreachable,
)
from diminet.messages import Change, DocumentPut, Tombstone, VoteRequest
from diminet.model import Entry, Epoch
from simulated_cloud import LIMITS, Cloud, Crash, Life, until
from simulated_cloud import run_virtually as run

STRIDE = int(os.environ.get("CRASH_STRIDE", "4"))  # 1: every step
BRIEF = dataclasses.replace(LIMITS, request_timeout=1.0, reservation_lifetime=1.5)


def with_service(work, *sites, kind="l3"):
    """Run `work(cloud, service id)` on a service of which A is the master."""

    async def main():
        cloud = Cloud(*sites, limits=BRIEF)
        try:
            if kind == "l3":
                nets = {s: cloud.vims[s].add_network(f"10.{n}.0.0/24") for n, s in enumerate(sites)}
                view = await cloud.create("A", "l3", *(f"{s}:{nets[s]}" for s in sites))
            else:
                origin = cloud.vims["A"].add_network("10.0.0.0/24")
                view = await cloud.create("A", "l2", f"A:{origin}", *sites[1:])
            await work(cloud, view.document.service_id)
        finally:
            await cloud.close()

    run(main())


async def row(cloud, site, service):
    return await cloud.stores[site].read(lambda tx: tx.service(service))


async def take(cloud, site, service, *gone):
    admin = cloud.caller("root", "admin")
    return await cloud[site].requests.takeover(admin, cloud.ctx(site, "root"), service, frozenset(gone))


async def change(cloud, site, service, **what):
    return await cloud[site].requests.change(cloud.caller(), cloud.ctx(site), service, Change(**what))


async def kinds(cloud, site, service):
    events = await cloud.stores[site].read(
        lambda tx: tx.events(service_id=service, project_id=None, after=0, limit=1000)
    )
    return [event.kind for event in events]


async def alike(cloud, service, sites, master):
    rows = [await row(cloud, s, service) for s in sites]
    return len({r.document.pair for r in rows}) == 1 and all(
        r.document.master == master and r.applied == r.document.pair and r.confirmed == r.document.pair
        for r in rows
    )


def test_the_master_agrees_and_all_follow():
    async def work(cloud, service):
        view = await take(cloud, "B", service)
        assert view.document.master == "B"
        assert view.document.epoch == Epoch(2, 2)
        before = await row(cloud, "A", service)
        assert before.document.identifiers == view.document.identifiers
        await cloud.run()
        await until(lambda: alike(cloud, service, "ABC", "B"))
        assert "master-changed" in await kinds(cloud, "A", service)
        assert "lost-by-takeover" not in await kinds(cloud, "A", service)
        await change(cloud, "A", service, operation="modify", name="new")  # handed to the new master
        await until(lambda: alike(cloud, service, "ABC", "B"))
        assert (await row(cloud, "C", service)).document.name == "new"

    with_service(work, "A", "B", "C")


def test_only_an_operator_may():
    async def work(cloud, service):
        with pytest.raises(NotAuthorised):
            await cloud["B"].requests.takeover(cloud.caller(), cloud.ctx("B"), service, frozenset())
        assert "request-refused" in await kinds(cloud, "B", service)

    with_service(work, "A", "B")


def test_without_the_master_a_majority_of_all_members_is_needed():
    async def work(cloud, service):
        cloud.wire.isolate("A")
        cloud.wire.cut("B", "C")
        with pytest.raises(SiteUnreachable) as refused:
            await take(cloud, "B", service)
        assert set(refused.value.sites) == {"A", "C"}
        assert (await row(cloud, "B", service)).document.master == "A"
        cloud.wire.cuts.discard(frozenset("BC"))
        assert (await take(cloud, "B", service)).document.epoch == Epoch(3, 2)

    with_service(work, "A", "B", "C")


def test_of_two_members_an_operators_word_is_needed():
    async def work(cloud, service):
        cloud.wire.isolate("A")
        with pytest.raises(SiteUnreachable):
            await take(cloud, "B", service)
        with pytest.raises(InvalidRequest):
            await take(cloud, "B", service, "Z")
        assert (await take(cloud, "B", service, "A")).document.master == "B"

    with_service(work, "A", "B")


def test_who_answers_is_not_gone():
    async def work(cloud, service):
        with pytest.raises(InvalidRequest, match="is not gone"):
            await take(cloud, "B", service, "C")

    with_service(work, "A", "B", "C")


def test_a_site_with_a_newer_document_is_not_passed_over():
    async def work(cloud, service):
        cloud.wire.cut("A", "B")
        await change(cloud, "A", service, operation="modify", on_unreachable="defer", name="newer")
        cloud.wire.isolate("A")
        with pytest.raises(SiteRefused) as refused:
            await take(cloud, "B", service)
        assert refused.value.sites == ("C",)
        assert (await take(cloud, "C", service)).document.name == "newer"

    with_service(work, "A", "B", "C")


def test_the_old_master_back_undoes_what_lost():
    async def work(cloud, service):
        extra = cloud.vims["D"].add_network("10.9.0.0/24")
        for site in "BC":
            cloud.wire.cut("A", site)
            cloud.wire.cut("D", site)
        await change(cloud, "A", service, operation="modify", on_unreachable="defer")
        await take(cloud, "B", service)
        cloud.wire.heal()
        # Not healed for A's own loops yet: it still believes itself the master.
        cloud.wire.cut("A", "B")
        cloud.wire.cut("A", "C")
        await change(cloud, "A", service, operation="modify", name="lost")
        cloud.wire.heal()
        await cloud.run()
        await until(lambda: alike(cloud, service, "ABC", "B"))
        assert (await row(cloud, "A", service)).document.name == "web"
        assert "lost-by-takeover" in await kinds(cloud, "A", service)
        entry = Entry(site="D", resource_id=extra)
        await change(cloud, "B", service, operation="join", entry=entry)
        await until(lambda: alike(cloud, service, "ABCD", "B"))

    def only_three(work_):
        async def main():
            cloud = Cloud("A", "B", "C", "D", limits=BRIEF)
            try:
                nets = {s: cloud.vims[s].add_network(f"10.{n}.0.0/24") for n, s in enumerate("ABC")}
                view = await cloud.create("A", "l3", *(f"{s}:{nets[s]}" for s in "ABC"))
                await work_(cloud, view.document.service_id)
            finally:
                await cloud.close()

        run(main())

    only_three(work)


def test_who_has_voted_takes_nothing_more_from_the_master_before():
    async def work(cloud, service):
        held = (await row(cloud, "C", service)).document
        request = VoteRequest(epoch=Epoch(7, 2), pair=held.pair)
        ctx = cloud.ctx("B").model_copy(update={"sender": "B"})
        assert (await cloud["C"].vote(ctx, service, request)).granted
        with pytest.raises(Fenced, match="has voted for another master"):
            await change(cloud, "A", service, operation="modify", name="x")
        assert (await row(cloud, "C", service)).document.pair == held.pair
        # Nothing came of that candidate: the master asks for votes itself, and goes on.
        await cloud.run()
        await until(lambda: alike(cloud, service, "ABC", "A"))
        assert (await row(cloud, "A", service)).document.epoch > Epoch(7, 2)
        await change(cloud, "A", service, operation="modify", name="y")

    with_service(work, "A", "B", "C")


def test_a_vote_is_durable_and_given_once():
    async def work(cloud, service):
        held = (await row(cloud, "C", service)).document

        async def ask(site, epoch):
            ctx = cloud.ctx(site).model_copy(update={"sender": site})
            return await cloud["C"].vote(ctx, service, VoteRequest(epoch=epoch, pair=held.pair))

        assert (await ask("B", Epoch(5, 2))).granted
        await cloud.restart("C")
        assert not (await ask("A", Epoch(5, 1))).granted
        assert (await ask("B", Epoch(5, 2))).granted
        assert not (await ask("B", Epoch(4, 2))).granted
        with pytest.raises(NotAuthorised):
            await ask("A", Epoch(9, 2))

    with_service(work, "A", "B", "C")


def test_a_claim_is_asked_back():
    async def work(cloud, service):
        held = (await row(cloud, "C", service)).document
        forged = held.model_copy(update={"epoch": Epoch(9, 2), "name": "forged"})
        ctx = cloud.ctx("B").model_copy(update={"sender": "B"})
        with pytest.raises(ResourceBusy, match="is not the master"):
            await cloud["C"].put(ctx, service, DocumentPut(document=forged))
        assert (await row(cloud, "C", service)).document == held

    with_service(work, "A", "B", "C")


def test_a_deletion_by_the_master_before_stands():
    async def work(cloud, service):
        cloud.wire.isolate("A")
        await take(cloud, "B", service)
        await change(cloud, "A", service, operation="delete")
        cloud.wire.heal()
        await cloud.run()

        async def gone():
            rows = [await row(cloud, s, service) for s in "ABC"]
            return all(r.document.tombstone and r.settled for r in rows)

        await until(gone)
        assert not any(vim.targets for vim in cloud.vims.values())

    with_service(work, "A", "B", "C")


def test_a_master_before_deletes_nothing_once_it_has_followed():
    async def work(cloud, service):
        old = (await row(cloud, "A", service)).document
        await take(cloud, "B", service)
        await until(lambda: followed(cloud, service))
        for site in "BC":
            assert await cloud[site].sync_.with_peer("A") is None
            held = (await row(cloud, site, service)).document
            ctx = cloud.ctx("A").model_copy(update={"sender": "A"})
            for document in (held, old, old.model_copy(update={"tombstone": True}), None):
                forged = Tombstone(service_id=service, document=document)
                with pytest.raises(NotAuthorised):
                    await cloud[site].bury(ctx, service, forged)
            assert (await row(cloud, site, service)).document == held

    async def followed(cloud, service):
        rows = [await row(cloud, s, service) for s in "ABC"]
        return all(r.document.master == "B" and r.applied == r.document.pair for r in rows)

    with_service(work, "A", "B", "C")


def test_a_master_before_that_is_the_master_again_deletes():
    """Also where nobody has heard of that yet."""

    async def work(cloud, service):
        await take(cloud, "B", service)
        await until(lambda: alike(cloud, service, "ABC", "B"))
        cloud.wire.isolate("C")
        await take(cloud, "A", service)
        _, waiting = await change(cloud, "A", service, operation="delete")
        assert waiting == ("C",)
        cloud.wire.heal()
        await cloud.run()

        async def gone():
            rows = [await row(cloud, s, service) for s in "ABC"]
            return all(r.document.tombstone and r.settled for r in rows)

        await until(gone)

    with_service(work, "A", "B", "C")


def test_the_identifier_is_free_again_only_when_the_new_master_says_so():
    async def work(cloud, service):
        def numbered(tx):
            return tx.take_identifier("probe", 1, 1) is None

        await take(cloud, "B", service)
        cloud.wire.cut("B", "C")
        _, waiting = await change(cloud, "B", service, operation="delete")
        assert waiting == ("C",)
        await until(lambda: settled(cloud, "A", service))
        assert await cloud.stores["A"].write(numbered)
        cloud.wire.heal()
        await cloud.run()
        await until(lambda: settled(cloud, "B", service))

        async def free():
            return await cloud.stores["A"].write(lambda tx: not numbered(tx))

        await until(free)

    async def settled(cloud, site, service):
        return (await row(cloud, site, service)).settled

    with_service(work, "A", "B", "C")


def test_blocks_and_growth_go_on_under_the_new_master():
    async def work(cloud, service):
        cloud.wire.isolate("A")
        await take(cloud, "B", service)
        owned = {
            s: {
                h.block.index
                for h in await cloud.stores[s].read(lambda tx: tx.blocks(service))
                if h.block.owner == s
            }
            for s in "ABC"
        }
        network = (await row(cloud, "C", service)).document.resources_of("C")[0].resource_id
        _, waiting = await change(cloud, "B", service, operation="leave", entry=Entry(site="A"))
        assert waiting == ("A",)
        await cloud.stores["B"].write(lambda tx: cloud["B"].pools.reclaim(tx, service))
        held = await cloud.stores["B"].read(lambda tx: tx.blocks(service))
        assert owned["A"] == {h.block.index for h in held if h.block.owner == "A"}  # in quarantine
        assert await cloud["C"].pools.more_room(network, "10.0.0.0/24")
        cloud.wire.heal()
        await cloud.run()

        async def taken_in():
            known = await cloud.stores["B"].read(lambda tx: tx.blocks(service))
            return all(h.block.owner in "BC" for h in known)

        await until(taken_in)

    with_service(work, "A", "B", "C", kind="l2")


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("victim", ["A", "B", "C"])
def test_crash_at_every_step_of_a_takeover(victim, after):
    """Whatever step the candidate, the master or a voter ends at: there is one master in the end, and it
    can change the service."""

    async def one(at):
        cloud = Cloud("A", "B", "C", limits=BRIEF)
        try:
            nets = {s: cloud.vims[s].add_network(f"10.{n}.0.0/24") for n, s in enumerate("ABC")}
            view = await cloud.create("A", "l3", *(f"{s}:{nets[s]}" for s in "ABC"))
            service = view.document.service_id
            life = Life(at, after=after)
            await cloud.restart(victim, life)
            with contextlib.suppress(Crash, SiteUnreachable):
                await take(cloud, "B", service)
            reached = not life.alive
            await cloud.restart(victim)
            await cloud.run()

            async def one_master():
                rows = [await row(cloud, s, service) for s in "ABC"]
                return await alike(cloud, service, "ABC", rows[0].document.master)

            await until(one_master)
            await until(lambda: modified(cloud, service))
            return reached
        finally:
            await cloud.close()

    async def modified(cloud, service):
        try:
            await change(cloud, "C", service, operation="modify", name="after")
        except (Fenced, ResourceBusy, SiteUnreachable):
            return False
        return True

    steps = 0
    for at in range(1 + (len(victim) + ord(victim) + after) % STRIDE, 60, STRIDE):
        if not run(one(at)):
            break
        steps = at
    assert steps >= 1


def test_a_delete_that_meets_a_takeover_is_not_done_by_the_master_before():
    async def work(cloud, service):
        await take(cloud, "B", service)
        await until(lambda: followed(cloud, service))
        with pytest.raises(ResourceBusy):
            await cloud["A"].coordinator.undoing.bury(cloud.ctx("A"), service)
        assert not (await row(cloud, "A", service)).document.tombstone

    async def followed(cloud, service):
        return (await row(cloud, "A", service)).document.master == "B"

    with_service(work, "A", "B")
