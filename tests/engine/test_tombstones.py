"""Tombstones reach every site that anybody knows to have a part in the service."""

import asyncio
import dataclasses

from diminet.messages import Change
from diminet.store import tables
from simulated_cloud import LIMITS, Cloud, until


def run(work):
    return asyncio.run(asyncio.wait_for(work, 60))


async def forgetful(cloud):
    """An l3 service over all sites, of whose member C the master A knows nothing any more."""
    ids = {s: v.add_network(f"10.{i}.0.0/24") for i, (s, v) in enumerate(cloud.vims.items())}
    view = await cloud.create("A", "l3", *(f"{s}:{ids[s]}" for s in cloud.vims))
    service_id = view.document.service_id

    def forget(tx):
        row = tx.service(service_id)
        document = row.document.model_copy(
            update={
                "members": tuple(m for m in row.document.members if m.site != "C"),
                "resources": tuple(r for r in row.document.resources if r.site != "C"),
            }
        )
        tx.save_service(row.model_copy(update={"document": document}), expect=document.pair)
        tx._db.execute(tables.member_states.delete().where(tables.member_states.c.site == "C"))

    await cloud.stores["A"].write(forget)
    return service_id


def test_a_member_that_only_a_receiver_knows_of_is_told_and_waited_for():
    async def main():
        cloud = Cloud("A", "B", "C")
        service_id = await forgetful(cloud)
        cloud.wire.cut("A", "C")
        delete = Change(operation="delete")
        _, waiting = await cloud["A"].requests.change(cloud.caller(), cloud.ctx("A"), service_id, delete)
        assert waiting == ("C",)
        assert service_id in cloud.vims["C"].targets
        cloud.wire.heal()
        await cloud.run()
        await until(lambda: service_id not in cloud.vims["C"].targets)

        async def settled():
            return (await cloud.stores["A"].read(lambda tx: tx.service(service_id))).settled

        await until(settled)
        await cloud.close()

    run(main())


def test_the_receiver_says_it_in_every_answer_and_only_sites_of_the_directory_are_told():
    async def main():
        limits = dataclasses.replace(LIMITS, sync_interval=60.0, refusal_backoff_most=60.0)
        cloud = Cloud("A", "B", "C", limits=limits)
        service_id = await forgetful(cloud)
        bury, answers = cloud["B"].bury, []

        async def twice(*arguments):
            answers.extend([await bury(*arguments), await bury(*arguments)])
            return answers[1].model_copy(update={"also": (*answers[1].also, "nowhere", "A")})

        cloud["B"].bury = twice
        delete = Change(operation="delete")
        await cloud["A"].requests.change(cloud.caller(), cloud.ctx("A"), service_id, delete)
        assert [a.also for a in answers] == [("C",), ("C",)]
        known = await cloud.stores["A"].read(lambda tx: tx.members(service_id))
        assert {m.site for m in known} == {"B", "C"}
        await cloud.run()
        await until(lambda: service_id not in cloud.vims["C"].targets)
        await cloud.close()

    run(main())
