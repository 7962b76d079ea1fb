"""Faults that the simulator has found, each at its smallest."""

import asyncio
import uuid

import pytest

from diminet.engine.ports import MemberRow, OutboxRow
from diminet.errors import ResourceBusy
from diminet.messages import Change, MemberState, ReserveRequest
from diminet.model import Entry, Initiator, OperatingStatus, ProvisioningStatus, Ticket
from simulated_cloud import Cloud, until

WHO = Initiator(user_id="alice", project_id="demo", site="A")


def run(work):
    return asyncio.run(asyncio.wait_for(work, 60))


def letter(service_id="s1", **more):
    more = {"next_at": 0.0, **more}
    return OutboxRow(
        peer="B",
        service_id=service_id,
        kind="document",
        created_at=0.0,
        request_id="req-1",
        initiator=WHO,
        **more,
    )


def test_a_lease_of_before_the_clock_was_set_back_is_over():
    async def work():
        cloud = Cloud("A")
        try:
            store = cloud.stores["A"]
            assert await store.write(lambda tx: tx.lease("background", "dead", 40_000.0, 5.0))
            assert not await store.write(lambda tx: tx.lease("background", "next", 39_999.0, 5.0))
            assert await store.write(lambda tx: tx.lease("background", "next", 10.0, 5.0))
        finally:
            await cloud.close()

    run(work())


def test_a_message_of_before_the_clock_was_set_back_is_due():
    async def work():
        cloud = Cloud("A")
        try:
            store = cloud.stores["A"]
            await store.write(lambda tx: tx.post(letter(next_at=40_000.0)))
            assert await store.read(lambda tx: tx.outbox(due=10.0)) == []
            assert len(await store.read(lambda tx: tx.outbox(due=10.0, most=10.0))) == 1
            assert await store.read(lambda tx: tx.outbox(due=39_995.0, most=10.0)) == []
        finally:
            await cloud.close()

    run(work())


def test_a_network_that_is_being_put_back_is_not_promised():
    """Else its narrowed pool is taken for what it was before."""

    async def work():
        cloud = Cloud("A", "B")
        try:
            a = cloud.vims["A"].add_network("10.0.0.0/24")
            before = cloud.pictures()
            view = await cloud.create("A", "l2", f"A:{a}", "B")
            cloud.vims["A"].refuse.add("disconnect")
            delete = Change(operation="delete")
            await cloud["A"].requests.change(cloud.caller(), cloud.ctx("A"), view.document.service_id, delete)
            request = ReserveRequest(
                service_id=str(uuid.uuid4()),
                type="l2",
                project_id="demo",
                ticket=Ticket(1, 1, 1),
                lifetime=9.0,
                entries=(Entry(site="A", resource_id=a),),
                members=("A", "B"),
            )
            with pytest.raises(ResourceBusy, match="being put back"):
                await cloud["A"].reserve(cloud.ctx("A"), request)
            cloud.vims["A"].refuse.clear()
            await cloud.run()
            await until(lambda: cloud.pictures() == before, 20)
            again = await cloud.create("A", "l2", f"A:{a}", "B")
            await cloud["A"].requests.change(
                cloud.caller(), cloud.ctx("A"), again.document.service_id, delete
            )
            await until(lambda: cloud.pictures() == before, 20)
        finally:
            await cloud.close()

    run(work())


async def _made(cloud):
    ids = {s: cloud.vims[s].add_network(f"10.{i}.0.0/24") for i, s in enumerate("ABC")}
    view = await cloud.create("A", "l3", *(f"{s}:{n}" for s, n in ids.items()))
    return view.document


def test_a_late_answer_does_not_unsettle_a_deleted_service():
    async def work():
        cloud = Cloud("A", "B", "C")
        try:
            document = await _made(cloud)
            service_id = document.service_id
            await cloud["A"].requests.change(
                cloud.caller(), cloud.ctx("A"), service_id, Change(operation="delete")
            )
            late = MemberState(
                site="B",
                pair=document.pair,
                applied=None,
                provisioning_status=ProvisioningStatus.PENDING_DELETE,
                operating_status=OperatingStatus.OFFLINE,
            )
            await cloud.stores["A"].write(lambda tx: cloud["A"].outbox.note(tx, service_id, late))
            members = await cloud.stores["A"].read(lambda tx: tx.members(service_id))
            assert all(member.clean for member in members)
        finally:
            await cloud.close()

    run(work())


def test_a_restored_document_is_confirmed_when_all_have_it():
    async def work():
        cloud = Cloud("A", "B", "C")
        try:
            service_id = (await _made(cloud)).service_id

            def conclude(tx):
                row = tx.service(service_id)
                restored = row.document.model_copy(update={"revision": row.document.revision + 1})
                update = {"document": restored, "applied": restored.pair}
                tx.save_service(row.model_copy(update=update), expect=row.document.pair)
                done = MemberRow(
                    service_id=service_id, site="B", pair=restored.pair, status=ProvisioningStatus.ACTIVE
                )
                tx.save_member(done)
                cloud["A"].outbox.conclude(tx, tx.service(service_id))
                half = tx.service(service_id).confirmed
                tx.save_member(done.model_copy(update={"site": "C"}))
                cloud["A"].outbox.conclude(tx, tx.service(service_id))
                return half, tx.service(service_id).confirmed, restored.pair

            half, whole, pair = await cloud.stores["A"].write(conclude)
            assert half != pair
            assert whole == pair
        finally:
            await cloud.close()

    run(work())


def test_a_sync_forgets_no_refusals():
    async def work():
        cloud = Cloud("A", "B", "C")
        try:
            service_id = (await _made(cloud)).service_id
            store = cloud.stores["A"]
            refused = letter(service_id=service_id, refusals=2, next_at=9e9)
            await store.write(lambda tx: tx.post(refused))
            row = await store.read(lambda tx: tx.service(service_id))
            await cloud["A"].sync_._post(row, "B", "document")
            assert await store.read(lambda tx: [o.refusals for o in tx.outbox()]) == [2]
        finally:
            await cloud.close()

    run(work())
