"""What an operation costs does not grow with services or sites that it does not concern: service rows
read, SQL statements, steps of SQLite's virtual machine and messages are counted."""

import asyncio
import dataclasses
from typing import NamedTuple

import pytest
import sqlalchemy as sa

from diminet.engine.ports import ServiceFilter, ServiceRow
from diminet.messages import BlockRequest, Change
from diminet.model import Connection, Entry, Resource, SubnetFacts
from diminet.store import services as store_services
from simulated_cloud import LIMITS, Cloud

MANY = 2000
QUIET = dataclasses.replace(LIMITS, sync_interval=60.0, refusal_backoff_most=60.0, confirm_delay=30.0)


def run(work):
    return asyncio.run(asyncio.wait_for(work, 110))


class Cost(NamedTuple):
    rows: int
    statements: int
    steps: int  # in hundreds
    messages: int = 0


class Counted:
    """What an instance does: service rows read, statements and steps of SQLite, messages of the cloud."""

    def __init__(self, store, monkeypatch, wire):
        self.rows = self.steps = self.statements = 0
        self.wire = wire
        sa.event.listen(store._engine, "before_cursor_execute", self._statement)
        raw = store._ready(5.0, reading=False).connection.dbapi_connection
        raw.set_progress_handler(self._step, 100)
        parse = store_services.parse

        def counted(body):
            self.rows += 1
            return parse(body)

        monkeypatch.setattr(store_services, "parse", counted)

    def _step(self):
        self.steps += 1
        return 0

    def _statement(self, *_):
        self.statements += 1

    def now(self):
        return Cost(self.rows, self.statements, self.steps, self.wire.seen.total())

    async def of(self, work):
        before = self.now()
        await work
        return Cost(*(after - was for was, after in zip(before, self.now(), strict=True)))


async def crowd(cloud, document, number):
    """Services of another project, of A and a site Z, on networks of their own; all as they should be."""

    def fill(tx):
        for i in range(number):
            service_id = f"5e000000-0000-4000-8000-{i:012d}"
            members = (document.members[0], document.members[1].model_copy(update={"site": "Z"}))
            update = {
                "service_id": service_id,
                "project_id": "crowd",
                "members": members,
                "resources": tuple(Resource(site=m.site, resource_id=f"n{i}") for m in members),
            }
            other = document.model_copy(update=update)
            tx.save_service(
                ServiceRow(
                    document=other,
                    status="ACTIVE",
                    applied=other.pair,
                    confirmed=other.pair,
                    created_at=1.0,
                    updated_at=1.0,
                ),
                expect=None,
            )
            tx.save_connection(Connection(service_id=service_id, resource_id=f"n{i}", made=False))
            tx.take_identifier(service_id, 1, 4095)

    await cloud.stores["A"].write(fill)


async def operations(number, monkeypatch, bystanders=0):
    """Costs at A of every operation of users, every message of peers and every background work, beside
    `number` other services and so many other sites."""
    cloud = Cloud("A", "B", "C", *(f"X{i}" for i in range(bystanders)), limits=QUIET)
    ids = {s: cloud.vims[s].add_network(f"10.{i}.0.0/24") for i, s in enumerate("ABC")}
    first = await cloud.create("A", "l3", f"A:{ids['A']}", f"B:{ids['B']}")
    await crowd(cloud, first.document, number)
    stretched = cloud.vims["A"].add_network("10.7.0.0/24")
    counted, a = Counted(cloud.stores["A"], monkeypatch, cloud.wire), cloud["A"]
    for service_id in await cloud.stores["A"].read(lambda tx: tx.services_at_work()):
        cloud.vims["A"].targets[service_id] = cloud.vims["A"].targets[first.document.service_id]
    costs = {}

    async def measure(name, work):
        costs[name] = await counted.of(work)

    made = asyncio.create_task(cloud.create("A", "l2", f"A:{stretched}", "B"))
    await measure("create", made)
    service_id = made.result().document.service_id

    def change(**what):
        return a.requests.change(cloud.caller(), cloud.ctx("A"), service_id, Change(**what))

    async def boots():
        for _ in range(20):
            await cloud.vims["A"].boot(stretched)
        await asyncio.gather(*a.here.tasks)

    await measure("boot", boots())
    await measure("show", a.requests.show(cloud.caller(), service_id))
    await measure("sites", a.requests.sites(cloud.caller()))
    await measure("modify", change(operation="modify", name="new"))
    await measure("join", change(operation="join", entry=Entry(site="C")))
    await measure("list", a.requests.list(cloud.caller(), ServiceFilter(project_id="demo", limit=10)))
    await measure("events", a.requests.events(cloud.caller(), service_id, 0, 10))
    await measure("more room", a.requests.more_room(cloud.caller(), cloud.ctx("A"), service_id))
    await measure("leave", change(operation="leave", entry=Entry(site="C")))
    peer = cloud.ctx("B").model_copy(update={"sender": "B"})
    await measure("hello", a.hello(peer))
    await measure("snapshot", a.snapshot(peer, service_id))
    await measure("abort", a.abort(peer, service_id, "00000000-0000-4000-8000-000000000000"))
    (cidr,) = {b.cidr for b in (await a.snapshot(peer, service_id)).blocks}
    await measure("give", a.give(peer, service_id, BlockRequest(cidr=cidr, number=1, count=1)))
    by_b = cloud.vims["B"].add_network("10.9.0.0/24")
    by_a = cloud.vims["A"].add_network("10.8.0.0/24")
    made = asyncio.create_task(cloud.create("B", "l3", f"B:{by_b}", f"A:{by_a}"))
    await measure("reserve and put", made)
    of_b = made.result().document.service_id
    await measure("vote", cloud["B"].requests.takeover(cloud.caller("demo", "admin"), peer, of_b, ()))
    wish = Change(operation="modify", description="handed in")
    await measure("hand in", cloud["B"].requests.change(cloud.caller(), cloud.ctx("B"), service_id, wish))
    end = Change(operation="delete")
    await measure("bury", cloud["B"].requests.change(cloud.caller(), cloud.ctx("B"), of_b, end))
    await measure("sync", a.sync(peer))
    await measure("exchange", a.sync_.with_peer("B"))
    await measure("deferred", a.sync_.complete_deferred())
    await measure("refusals", a.refusals.settle())
    await measure("resume", a.resuming.resume())
    await measure("outbox", a.outbox.deliver_due())
    await measure("settle", a._settle())
    await measure("renew", a.takeover.renew())
    await measure("expired", a.reservations.release_expired())
    await measure("sweep", a.reconciler.sweep_networks())
    await measure("figures", a._figures())
    await measure("tidy", a._tidy())
    await measure("delete", change(operation="delete"))
    await cloud.close()
    return costs


def test_no_operation_reads_services_that_it_does_not_concern(monkeypatch):
    few = run(operations(20, monkeypatch))
    monkeypatch.undo()
    many = run(operations(MANY, monkeypatch))
    for name, cost in many.items():
        assert cost.rows <= few[name].rows + 2, (name, few[name], cost)
        assert cost.statements <= few[name].statements + 12, (name, few[name], cost)
        assert cost.steps <= 1.5 * few[name].steps + 100, (name, few[name], cost)
        assert cost.messages <= few[name].messages + 1, (name, few[name], cost)


def test_no_operation_asks_sites_that_it_does_not_concern(monkeypatch):
    few = run(operations(20, monkeypatch))
    monkeypatch.undo()
    many = run(operations(20, monkeypatch, bystanders=20))
    for name, cost in many.items():
        assert cost.statements <= few[name].statements + 12, (name, few[name], cost)
        assert cost.messages <= few[name].messages + 1, (name, few[name], cost)


def test_background_looks_take_a_batch_at_a_time(monkeypatch):
    """Audit, pools, overlaps and the sweep: at most so many services in a round, all of them in turns."""

    async def main():
        cloud = Cloud("A", "B", limits=dataclasses.replace(QUIET, round_batch=4))
        ids = {s: cloud.vims[s].add_network(f"10.{i}.0.0/24") for i, s in enumerate("AB")}
        first = await cloud.create("A", "l3", f"A:{ids['A']}", f"B:{ids['B']}")
        await crowd(cloud, first.document, 30)
        a, counted = cloud["A"], Counted(cloud.stores["A"], monkeypatch, cloud.wire)
        for work in (a.audit.round, a._grow, a.drift.look_for_overlaps, a.reconciler.sweep_networks):
            for _ in range(3):
                assert (await counted.of(work())).rows <= 4 + 4, work.__name__  # their neighbours, too
        await cloud.close()

    run(main())


def test_what_an_exchange_found_alike_is_written_at_one_go(monkeypatch):
    """Each transaction waits for the disk: not one for each service that both share."""

    async def main():
        cloud = Cloud("A", "B", limits=QUIET)
        for i in range(12):
            ids = {s: cloud.vims[s].add_network(f"10.{2 * i + k}.0.0/24") for k, s in enumerate("AB")}
            await cloud.create("A", "l3", f"A:{ids['A']}", f"B:{ids['B']}")
        await cloud["A"].sync_.with_peer("B")
        before = (await cloud.stores["A"].read(lambda tx: tx.meta())).writes
        assert await cloud["A"].sync_.with_peer("B") is None
        after = (await cloud.stores["A"].read(lambda tx: tx.meta())).writes
        assert after - before <= 3
        await cloud.close()

    run(main())


@pytest.mark.parametrize("number", [20, MANY])
def test_a_round_of_repairs_reads_no_document_of_what_is_as_it_should_be(number, monkeypatch):
    async def main():
        cloud = Cloud("A", "B", limits=QUIET)
        ids = {s: cloud.vims[s].add_network(f"10.{i}.0.0/24") for i, s in enumerate("AB")}
        view = await cloud.create("A", "l3", f"A:{ids['A']}", f"B:{ids['B']}")
        await crowd(cloud, view.document, number)
        target = cloud.vims["A"].targets[view.document.service_id]
        for service_id in await cloud.stores["A"].read(lambda tx: tx.services_at_work()):
            cloud.vims["A"].targets[service_id] = target
        counted = Counted(cloud.stores["A"], monkeypatch, cloud.wire)
        assert (await counted.of(cloud["A"].reconciler.repair()))[0] == 0
        assert (await counted.of(cloud["A"]._tidy()))[0] == 0
        del cloud.vims["A"].targets[view.document.service_id]
        assert 0 < (await counted.of(cloud["A"].reconciler.repair()))[0] < 10
        assert view.document.service_id in cloud.vims["A"].targets
        await cloud.close()

    run(main())


def test_overlaps_are_looked_for_in_turns():
    async def main():
        cloud = Cloud("A", "B", limits=dataclasses.replace(QUIET, round_batch=2))
        made, drift = [], cloud["A"].drift
        for i in range(5):
            ids = {s: cloud.vims[s].add_network(f"10.{i * 2 + k}.0.0/24") for k, s in enumerate("AB")}
            view = await cloud.create("A", "l3", f"A:{ids['A']}", f"B:{ids['B']}")
            made.append((view.document.service_id, ids["A"], f"10.{i * 2 + 1}.0.0/25"))
        vim = cloud.vims["A"]
        for _, network, overlap in made:
            vim.networks[network] = vim.networks[network].model_copy(
                update={"subnets": (*vim.networks[network].subnets, _subnet(overlap))}
            )
        for rounds in range(1, 4):
            await drift.look_for_overlaps()
            assert len(drift.appeared) == min(2 * rounds, 5)
        assert drift.appeared.keys() == {service_id for service_id, _, _ in made}
        for _, network, _ in made[:3]:
            subnets = vim.networks[network].subnets[:1]
            vim.networks[network] = vim.networks[network].model_copy(update={"subnets": subnets})
        for _ in range(3):
            await drift.look_for_overlaps()
        assert drift.appeared.keys() == {service_id for service_id, _, _ in made[3:]}
        await cloud.close()

    run(main())


def _subnet(cidr):
    return SubnetFacts(subnet_id=cidr, cidr=cidr, ip_version=4, gateway_ip=None, pools=())
