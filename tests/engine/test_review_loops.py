"""The background work: one slow or refusing thing holds up no other, and nothing piles up."""

import asyncio
import dataclasses

import pytest

from diminet.engine.ports import IntentRow, ReservationRow
from diminet.engine.reservations import as_shapes
from diminet.errors import SiteUnreachable
from diminet.messages import Change
from diminet.model import Entry, Initiator, Ticket
from simulated_cloud import LIMITS, Cloud, run_virtually, until

QUICK = dataclasses.replace(
    LIMITS,
    request_timeout=5.0,
    reconcile_interval=0.1,
    deliver_interval=0.05,
    lease_lifetime=1.0,
    backoff_most=0.2,
)


def run(work):
    return asyncio.run(asyncio.wait_for(work, 60))


def ask(cloud, site, service_id, **change):
    return cloud[site].requests.change(cloud.caller(), cloud.ctx(site), service_id, Change(**change))


async def l3(cloud, *sites, **more):
    ids = {s: cloud.vims[s].add_network(f"10.{ord(s) - 60}.0.0/24") for s in cloud.vims}
    view = await cloud.create("A", "l3", *(f"{s}:{ids[s]}" for s in sites), **more)
    return view.document, ids


async def held(cloud, site, service_id):
    return await cloud.stores[site].read(lambda tx: tx.service(service_id))


async def never(*arguments):
    await asyncio.sleep(3600)


def test_locks_do_not_pile_up():
    async def main():
        cloud = Cloud("A", "B")
        document, _ = await l3(cloud, "A", "B")
        await ask(cloud, "A", document.service_id, operation="delete")
        assert len(cloud["A"].here.locks) == 0
        assert len(cloud["B"].here.locks) == 0
        await cloud.close()

    run(main())


def test_a_peer_that_hangs_holds_up_neither_the_others_nor_the_rest():
    async def main():
        cloud = Cloud("A", "B", "C", limits=QUICK)
        document, _ = await l3(cloud, "A", "B", "C")
        for kind in ("put", "bury", "sync", "hello", "give", "snapshot"):
            setattr(cloud["C"], kind, never)
        await cloud.run()
        a, service_id = cloud["A"], document.service_id
        ctx = cloud.ctx("A")
        await a.here.store.write(lambda tx: a.outbox.post(tx, ctx, service_id, ["C"], "document"))
        await until(lambda: "C" in a.outbox.busy and "C" in a.sync_.busy)
        ctx = cloud.ctx("A")
        await a.here.store.write(lambda tx: a.outbox.post(tx, ctx, service_id, ["B"], "document"))
        await until(lambda: _nothing_for(cloud, "B"), 3)
        seen = (await a.here.store.read(lambda tx: tx.peer("B"))).seen_at

        async def heard():
            return (await a.here.store.read(lambda tx: tx.peer("B"))).seen_at > seen

        await until(heard, 3)
        cloud.vims["A"].targets.clear()
        await until(lambda: service_id in cloud.vims["A"].targets, 3)
        await cloud.close()

    run(main())


async def _nothing_for(cloud, peer):
    return not await cloud.stores["A"].read(lambda tx: tx.outbox(peer=peer))


def test_a_network_that_its_tenant_has_deleted_holds_up_nothing():
    async def main():
        cloud = Cloud("A", "B", limits=QUICK)
        network = cloud.vims["A"].add_network("10.7.0.0/24")
        await cloud.create("A", "l2", f"A:{network}", "B")
        del cloud.vims["A"].networks[network], cloud.vims["A"].port_rows[network]
        await cloud.stores["A"].write(
            lambda tx: tx.remember("demo", "old", "hash", "id", cloud["A"].here.clock.now() - 1e6)
        )
        counted = []
        cloud["A"].here.meter.set_services = counted.append
        await cloud.run()
        await until(lambda: counted)
        await cloud.close()

    run(main())


def test_a_promise_that_the_vim_will_not_undo_holds_up_no_other_and_not_the_outbox():
    async def main():
        cloud = Cloud("A", "B", limits=QUICK)
        vim, store = cloud.vims["B"], cloud.stores["B"]
        stuck, fine = vim.add_network("10.7.0.0/24"), vim.add_network("10.8.0.0/24")
        shape_subnet = vim.shape_subnet

        async def shape(network_id, shape, **more):
            if network_id == stuck:
                raise SiteUnreachable("the VIM is away", sites=["B"])
            await shape_subnet(network_id, shape, **more)

        vim.shape_subnet = shape
        for network_id in (stuck, fine):
            row = ReservationRow(
                rid=f"r-{network_id}",
                service_id=network_id,
                network_id=network_id,
                project_id="demo",
                sender="A",
                ticket=Ticket(1, 1, 1),
                expires_at=1.0,
                original=as_shapes(vim.networks[network_id]),
            )
            await store.write(lambda tx, row=row: tx.add_reservation(row))
        await cloud.run()

        async def one_left():
            rows = await store.read(lambda tx: tx.expired_reservations(1e12))
            return [row.network_id for row in rows] == [stuck]

        await until(one_left)
        await cloud.close()

    run(main())


def test_two_processes_on_one_database_take_turns_in_the_background():
    async def main():
        cloud = Cloud("A", "B", limits=QUICK)
        first = cloud["A"]
        cloud.start("A", 1)
        second = cloud["A"]
        assert await first._leads()
        assert not await second._leads()
        await first._resign()
        assert await second._leads()
        await cloud.close()

    run(main())


def test_an_operation_of_another_process_is_resumed_only_behind_its_deadline():
    async def main():
        cloud = Cloud("A", "B", limits=QUICK)
        document, _ = await l3(cloud, "A", "B")
        now = cloud["A"].here.clock.now()
        intent = IntentRow(
            service_id=document.service_id,
            operation="modify",
            sites=("A", "B"),
            ticket=Ticket(1, 1, 1),
            deadline=now + 0.5,
            initiator=Initiator(user_id="u", project_id="demo", site="A"),
            request_id="req-1",
            before=document,
            holder="another process",
        )
        await cloud.stores["A"].write(lambda tx: tx.add_intent(intent))
        await cloud["A"].resuming.resume()
        assert await cloud.stores["A"].read(lambda tx: tx.intents()) == [intent]
        await asyncio.sleep(0.6)
        await cloud["A"].resuming.resume()
        assert await cloud.stores["A"].read(lambda tx: tx.intents()) == []
        await cloud.close()

    run(main())


def test_a_create_that_came_to_nothing_leaves_no_row():
    async def main():
        cloud = Cloud("A", "B", limits=dataclasses.replace(QUICK, reservation_lifetime=0.3))
        ids = {s: cloud.vims[s].add_network(f"10.{i}.0.0/24") for i, s in enumerate("AB")}
        await cloud.run()
        cloud.wire.isolate("B")
        for _ in range(2):
            with pytest.raises(SiteUnreachable):
                await cloud.create("A", "l3", *(f"{s}:{ids[s]}" for s in "AB"))
        await until(lambda: _nothing_for(cloud, "B"))  # what was promised there has run out by itself
        cloud.wire.heal()
        for site in "AB":
            service_ids = {
                e.service_id
                for e in await cloud.stores[site].read(
                    lambda tx: tx.events(service_id=None, project_id=None, after=0, limit=100)
                )
            }
            for service_id in service_ids:
                assert await cloud.stores[site].read(lambda tx, i=service_id: tx.members(i)) == []
        await cloud.close()

    run(main())


def test_deleted_services_are_forgotten_at_every_member():
    async def main():
        cloud = Cloud("A", "B", "C", limits=dataclasses.replace(QUICK, revoked_ttl=0.2))
        await cloud.run()
        document, _ = await l3(cloud, "A", "B", "C")
        service_id = document.service_id

        async def met():
            members = await cloud.stores["B"].read(lambda tx: tx.members(service_id))
            return {m.site for m in members} >= {"A", "C"}

        await until(met)
        leave = await ask(cloud, "A", service_id, operation="leave", entry=Entry(site="C"))
        assert leave[1] == ()
        await until(lambda: _forgotten(cloud, "C", service_id))
        await ask(cloud, "A", service_id, operation="delete")
        for site in "AB":
            await until(lambda site=site: _forgotten(cloud, site, service_id))
        await cloud.close()

    run(main())


async def _forgotten(cloud, site, service_id):
    return await held(cloud, site, service_id) is None


def test_a_deferred_member_whose_promise_ran_out_meanwhile_is_asked_again():
    async def main():
        limits = dataclasses.replace(QUICK, reservation_lifetime=0.5, refusals=1)
        cloud = Cloud("A", "B", "C", limits=limits)
        put = cloud["C"].put

        async def away(*arguments):
            raise SiteUnreachable("site C does not answer", sites=["C"])

        cloud["C"].put = away
        document, _ = await l3(cloud, "A", "B", "C", on_unreachable="defer")
        service_id = document.service_id
        shown = await cloud["A"].requests.show(cloud.caller(), service_id)
        missing = [r.provisioning_status for r in shown.resources if r.resource.site == "C"]
        assert missing == ["PENDING_CREATE"]
        assert shown.operating_status == "DEGRADED"
        await asyncio.sleep(0.7)
        await cloud["C"].reservations.release_expired()
        cloud["C"].put = put
        await cloud.run()

        async def online():
            shown = await cloud["A"].requests.show(cloud.caller(), service_id)
            return shown.operating_status == "ONLINE" and service_id in cloud.vims["C"].targets

        await until(online, 15)
        await cloud.close()

    run_virtually(main())
