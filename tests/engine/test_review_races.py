"""Operations that meet on one service, one key, one quota; what overtakes, repeats or comes too late."""

import asyncio
import dataclasses

import pytest

import simulated_cloud
from diminet.errors import (
    DiminetError,
    IdempotencyConflict,
    QuotaExceeded,
    ResourceBusy,
    RevisionConflict,
    ServiceNotFound,
    SiteRefused,
)
from diminet.messages import Change, CreateRequest, ReserveRequest, Tombstone
from diminet.model import Entry, Ticket
from simulated_cloud import until

LIMITS = dataclasses.replace(simulated_cloud.LIMITS, request_timeout=10.0, reservation_lifetime=15.0)


def Cloud(*names, limits=LIMITS):  # noqa: N802
    """With time enough for a busy machine."""
    return simulated_cloud.Cloud(*names, limits=limits)


def run(work):
    return asyncio.run(asyncio.wait_for(work, 60))


async def l3(cloud, *sites):
    ids = {s: cloud.vims[s].add_network(f"10.{ord(s) - 60}.0.0/24") for s in cloud.vims}
    view = await cloud.create("A", "l3", *(f"{s}:{ids[s]}" for s in sites))
    return view.document, ids


async def held(cloud, site, service_id):
    return await cloud.stores[site].read(lambda tx: tx.service(service_id))


def hold(vim, name):
    """That call of the VIM waits until the answered event is set."""
    go, reached, call = asyncio.Event(), asyncio.Event(), getattr(vim, name)

    async def slow(*arguments, **more):
        reached.set()
        await go.wait()
        return await call(*arguments, **more)

    setattr(vim, name, slow)
    return reached, go


def ask(cloud, site, service_id, **change):
    return cloud[site].requests.change(cloud.caller(), cloud.ctx(site), service_id, Change(**change))


def test_a_change_of_what_has_moved_on_meanwhile_is_not_written():
    async def main():
        cloud = Cloud("A", "B")
        document, _ = await l3(cloud, "A", "B")
        changes = cloud["A"].changes
        wanted = tuple(Entry(site=r.site, resource_id=r.resource_id) for r in document.resources)
        await changes.write(cloud.ctx("A"), document, wanted, {"name": "one"}, "modify")
        with pytest.raises(RevisionConflict):
            await changes.write(cloud.ctx("A"), document, wanted, {"name": "two"}, "modify")
        for site in "AB":
            row = await held(cloud, site, document.service_id)
            assert (row.document.name, row.document.revision) == ("one", 2)
        assert await cloud.stores["A"].read(lambda tx: tx.intents()) == []
        await cloud.close()

    run(main())


def test_a_delete_overtakes_a_change_that_is_being_spread():
    async def main():
        cloud = Cloud("A", "B")
        document, _ = await l3(cloud, "A", "B")
        reached, go = hold(cloud.vims["B"], "connect")
        cloud.vims["A"].refuse.add("disconnect")  # so that the tombstone is not settled at once
        change = asyncio.create_task(ask(cloud, "A", document.service_id, operation="modify", name="x"))
        await reached.wait()
        delete = asyncio.create_task(ask(cloud, "A", document.service_id, operation="delete"))
        await until(lambda: _is_buried(cloud, document.service_id))
        go.set()
        with pytest.raises(ServiceNotFound):
            await change
        await delete
        row = await held(cloud, "A", document.service_id)
        assert row.document.tombstone
        assert row.status == "PENDING_DELETE"
        await cloud.close()

    run(main())


async def _is_buried(cloud, service_id):
    row = await held(cloud, "A", service_id)
    return row.document.tombstone


def test_who_no_longer_holds_the_operation_takes_nothing_back():
    async def main():
        cloud = Cloud("A", "B")
        document, _ = await l3(cloud, "A", "B")
        reached, go = hold(cloud.vims["B"], "connect")
        change = asyncio.create_task(ask(cloud, "A", document.service_id, operation="modify", name="x"))
        await reached.wait()
        # another process on this database has concluded it
        await cloud.stores["A"].write(lambda tx: tx.delete_intent(document.service_id))
        cloud.vims["B"].refuse.add("connect")
        go.set()
        with pytest.raises(SiteRefused):
            await change
        assert not (await held(cloud, "A", document.service_id)).document.tombstone
        await cloud.close()

    run(main())


def test_a_request_that_is_too_slow_undoes_its_own_operation_only():
    async def main():
        cloud = Cloud("A", "B", limits=dataclasses.replace(LIMITS, request_timeout=1.0))
        document, _ = await l3(cloud, "A", "B")
        reached, go = hold(cloud.vims["B"], "connect")
        mine = cloud.ctx("A")
        change = asyncio.create_task(ask(cloud, "A", document.service_id, operation="modify", name="x"))
        await reached.wait()
        await cloud["A"].resuming.abandon(mine, document.service_id, ResourceBusy("too slow"))
        go.set()
        await change
        assert (await held(cloud, "B", document.service_id)).document.name == "x"
        await cloud.close()

    run(main())


def request(cloud, *entries, kind="l3"):
    resources = tuple(
        Entry(site=e.partition(":")[0], resource_id=e.partition(":")[2] or None) for e in entries
    )
    return CreateRequest(type=kind, name="web", resources=resources)


def create(cloud, body, key=None, wait=True):
    idempotency = (key, "hash") if key else None
    return cloud["A"].requests.create(
        cloud.caller(), cloud.ctx("A"), body, wait=wait, idempotency=idempotency
    )


async def live(cloud, site="A"):
    rows = await cloud.stores[site].read(lambda tx: [tx.service(i) for i in sorted(tx.services_at_work())])
    return [row for row in rows if not row.document.tombstone]


def entries(cloud, base):
    return [f"{s}:{v.add_network(f'10.{base + i}.0.0/24')}" for i, (s, v) in enumerate(cloud.vims.items())]


def test_one_key_makes_one_service_however_often_and_at_once_it_is_sent():
    async def main():
        cloud = Cloud("A", "B")
        body = request(cloud, *entries(cloud, 0))
        answers = await asyncio.gather(
            *(create(cloud, body, "key") for _ in range(4)), return_exceptions=True
        )
        made = [a[0].document.service_id for a in answers if not isinstance(a, BaseException)]
        assert all(isinstance(a, ResourceBusy) for a in answers if isinstance(a, BaseException)), answers
        assert len(set(made)) == 1
        again, _ = await create(cloud, body, "key")
        assert again.document.service_id == made[0]
        assert len(await live(cloud)) == 1
        with pytest.raises(IdempotencyConflict):
            await cloud["A"].requests.create(
                cloud.caller(), cloud.ctx("A"), body, wait=True, idempotency=("key", "other")
            )
        await cloud.close()

    run(main())


def test_a_key_whose_request_came_to_nothing_is_used_again_for_one_service():
    async def main():
        cloud = Cloud("A", "B")
        body = request(cloud, *entries(cloud, 0))
        # as after a crash between the key and the commit
        await cloud.stores["A"].write(
            lambda tx: tx.remember("demo", "key", "hash", "gone", cloud["A"].here.clock.now())
        )
        first, _ = await create(cloud, body, "key")
        second, _ = await create(cloud, body, "key")
        assert first.document.service_id == second.document.service_id
        assert len(await live(cloud)) == 1
        await cloud.close()

    run(main())


def test_a_failed_create_frees_its_own_key_only():
    async def main():
        cloud = Cloud("A", "B")
        body = request(cloud, *entries(cloud, 0))
        reached, go = hold(cloud.vims["B"], "connect")
        first = asyncio.create_task(create(cloud, body, "key"))
        await reached.wait()
        with pytest.raises(ResourceBusy):
            await create(cloud, body, "key")
        go.set()
        view, _ = await first
        again, _ = await create(cloud, body, "key")
        assert again.document.service_id == view.document.service_id
        await cloud.close()

    run(main())


def test_a_quota_holds_for_requests_at_once():
    async def main():
        cloud = Cloud("A", "B", limits=dataclasses.replace(LIMITS, services_per_project=1))
        bodies = [request(cloud, *entries(cloud, base)) for base in (0, 10, 20)]
        answers = await asyncio.gather(*(create(cloud, b) for b in bodies), return_exceptions=True)
        assert sum(isinstance(a, QuotaExceeded) for a in answers) == 2, answers
        assert len(await live(cloud)) == 1
        await cloud.close()

    run(main())


def test_address_blocks_have_a_quota_at_every_site():
    async def main():
        few = dataclasses.replace(LIMITS, blocks_per_project=64)
        cloud = Cloud("A", "B", limits=few)
        networks = [cloud.vims["A"].add_network(f"10.{i}.0.0/24") for i in range(2)]
        before = cloud.pictures()
        first, _ = await create(cloud, request(cloud, f"A:{networks[0]}", "B", kind="l2"))
        with pytest.raises(QuotaExceeded):
            await create(cloud, request(cloud, f"A:{networks[1]}", "B", kind="l2"))
        await ask(cloud, "A", first.document.service_id, operation="delete")
        assert cloud.pictures() == before
        await create(cloud, request(cloud, f"A:{networks[1]}", "B", kind="l2"))
        await cloud.close()

    run(main())


def test_members_have_a_quota_on_joining_too():
    async def main():
        cloud = Cloud("A", "B", "C", limits=dataclasses.replace(LIMITS, members_per_service=2))
        document, ids = await l3(cloud, "A", "B")
        with pytest.raises(QuotaExceeded):
            await ask(
                cloud, "A", document.service_id, operation="join", entry=Entry(site="C", resource_id=ids["C"])
            )
        await cloud.close()

    run(main())


def test_a_delete_is_not_done_while_our_own_part_is_still_there():
    async def main():
        cloud = Cloud("A", "B")
        document, _ = await l3(cloud, "A", "B")
        cloud.vims["A"].refuse.add("disconnect")
        view, waiting = await ask(cloud, "A", document.service_id, operation="delete")
        assert waiting == ("A",)
        assert view.provisioning_status == "PENDING_DELETE"
        await cloud.close()

    run(main())


def test_if_match_is_honoured_by_a_delete():
    async def main():
        cloud = Cloud("A", "B")
        document, _ = await l3(cloud, "A", "B")
        with pytest.raises(RevisionConflict):
            await ask(cloud, "B", document.service_id, operation="delete", if_match='"1.1-7"')
        await ask(cloud, "B", document.service_id, operation="delete", if_match=document.pair.etag())
        await cloud.close()

    run(main())


def test_a_refused_create_that_nobody_waits_for_leaves_nothing_running():
    async def main():
        cloud = Cloud("A", "B")
        body = request(cloud, *entries(cloud, 0)[:1], "B:nothing")
        with pytest.raises(DiminetError):
            await create(cloud, body, wait=False)
        assert cloud["A"].coordinator.running == set()
        await cloud.close()

    run(main())


def test_a_create_revoked_behind_its_answer_stays_readable():
    async def main():
        cloud = Cloud("A", "B")
        cloud.vims["B"].refuse.add("connect")
        view, active = await create(cloud, request(cloud, *entries(cloud, 0)), wait=False)
        assert not active

        async def revoked():
            shown = await cloud["A"].requests.show(cloud.caller(), view.document.service_id)
            return shown.provisioning_status == "REVOKED" and shown.fault["code"] == "site-refused"

        await until(revoked)
        await until(lambda: cloud["A"].coordinator.running == set())
        await cloud.close()

    run(main())


def test_a_promise_of_our_own_that_ran_out_is_not_committed_on():
    async def main():
        cloud = Cloud("A", "B", limits=dataclasses.replace(LIMITS, reservation_lifetime=0.3))
        network = cloud.vims["A"].add_network("10.7.0.0/24")
        before = cloud.pictures()
        reached, go = hold(cloud.vims["B"], "make_network")
        task = asyncio.create_task(create(cloud, request(cloud, f"A:{network}", "B", kind="l2")))
        await reached.wait()
        await asyncio.sleep(0.4)
        await cloud["A"].reservations.release_expired()
        go.set()
        with pytest.raises(ResourceBusy):
            await task
        await cloud["B"].reservations.release_expired()
        assert cloud.pictures() == before
        await cloud.close()

    run(main())


def test_a_tombstone_that_overtakes_a_slow_reservation_leaves_no_network():
    async def main():
        cloud = Cloud("A", "B", limits=dataclasses.replace(LIMITS, request_timeout=1.5))
        network = cloud.vims["A"].add_network("10.7.0.0/24")
        before = cloud.pictures()
        reached, go = hold(cloud.vims["B"], "make_network")
        await cloud.run()
        task = asyncio.create_task(create(cloud, request(cloud, f"A:{network}", "B", kind="l2")))
        await reached.wait()
        cloud.wire.cut("A", "B")  # the answer of B is lost
        await asyncio.sleep(0.1)
        cloud.wire.heal()
        with pytest.raises(DiminetError):
            await asyncio.gather(task, _set_later(go))

        async def clean():
            rows = await cloud.stores["B"].read(lambda tx: tx.expired_reservations(1e12))
            return not rows and cloud.pictures() == before

        await until(clean, 10)
        await cloud.close()

    run(main())


async def _set_later(go):
    await asyncio.sleep(2.5)
    go.set()


def test_what_a_second_request_no_longer_names_is_put_back():
    async def main():
        cloud = Cloud("A", "B")
        one, two = (cloud.vims["B"].add_network("10.7.0.0/24") for _ in range(2))
        before = cloud.pictures()
        engine, requests = cloud["B"], []
        for network in (one, two):
            body = ReserveRequest(
                service_id="s",
                type="l2",
                project_id="demo",
                ticket=Ticket(1, 1, 1),
                lifetime=0.2,
                members=("A", "B"),
                entries=(Entry(site="B", resource_id=network),),
                wanted={"subnets": [{"cidr": "10.7.0.0/24", "ip_version": 4}]},
            )
            requests.append(body)
        told = cloud.ctx("A").model_copy(update={"sender": "A"})
        for one_request in requests:
            await engine.reserve(told, one_request)
        assert cloud.pictures() != before
        await asyncio.sleep(0.3)
        await engine.reservations.release_expired()
        assert cloud.pictures() == before
        await cloud.close()

    run(main())


def test_a_deletion_that_meets_the_first_document_half_way_buries_it():
    """Found by the simulator: the document took the promise between the tombstone, which found nothing to
    bury, and the release of what was promised; the site said that it was clean, and the service stood."""

    async def main():
        cloud = Cloud("A", "B")
        participant, store = cloud["B"].participant, cloud.stores["B"]
        check, write = participant._master_is_who_it_says, store.write
        arrived, go = asyncio.Event(), asyncio.Event()

        async def checked(document):
            arrived.set()
            await go.wait()
            await check(document)

        async def write_then_let_the_document_in(work):
            result = await write(work)
            if asyncio.current_task() is bury and not go.is_set():
                go.set()
                await until(lambda: _holds(store, service_id))
            return result

        participant._master_is_who_it_says = checked
        networks = {s: cloud.vims[s].add_network(f"10.{ord(s) - 60}.0.0/24") for s in "AB"}
        create = asyncio.create_task(cloud.create("A", "l3", *(f"{s}:{networks[s]}" for s in "AB")))
        await arrived.wait()
        (row,) = await store.read(lambda tx: tx.reservations_of_network(networks["B"]))
        service_id = row.service_id
        store.write = write_then_let_the_document_in
        told = cloud.ctx("A").model_copy(update={"sender": "A"})
        bury = asyncio.create_task(cloud["B"].bury(told, service_id, Tombstone(service_id=service_id)))
        assert (await bury).clean
        assert (await held(cloud, "B", service_id)).document.tombstone
        await until(lambda: service_id not in cloud.vims["B"].targets)
        create.cancel()
        await asyncio.gather(create, return_exceptions=True)
        await cloud.close()

    run(main())


async def _holds(store, service_id):
    return await store.read(lambda tx: tx.service(service_id)) is not None
