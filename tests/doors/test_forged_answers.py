"""Answers are messages too: what a valid peer answers of another site or service, or beyond its rights, is
refused or not believed, and changes nothing. A kind that is new and has no forgery here fails."""

import asyncio
import json
from typing import Any

import pytest
from doors_world import CIDR, World, opened, report_of, reserve_request

from diminet.east_west.client import HttpPeers
from diminet.east_west.metered import MeteredPeers
from diminet.engine.ports import Horizontal
from diminet.errors import DiminetError, IncompatibleSites, NotAuthorised, ResourceBusy, SiteUnknown
from diminet.logic.blocks import next_version
from diminet.messages import (
    Acknowledgement,
    BlockGrant,
    Change,
    ChangeAnswer,
    DocumentPut,
    Hello,
    MemberState,
    Reservation,
    Snapshot,
    Tombstone,
    Vote,
    VoteRequest,
)
from diminet.model import Block, Capabilities, Document, Epoch, OperatingStatus, ProvisioningStatus
from diminet.telemetry import Metrics

KINDS = sorted(name for name in vars(Horizontal) if not name.startswith("_"))


def run(work):
    return asyncio.run(asyncio.wait_for(work, 120))


# -- of another site, or of another service ------------------------------------------------------------


class Said(HttpPeers):
    """The production client, to which every site answers the same."""

    def __init__(self, world: World, answer: Any) -> None:
        super().__init__(world.cloud.names, site_name="B", credentials=None, incarnation=str)
        self._answer = answer.model_dump_json().encode()

    async def call(self, *arguments: Any, **more: Any) -> bytes:
        return self._answer


def state_of(site: str) -> MemberState:
    status = {"provisioning_status": ProvisioningStatus.ACTIVE, "operating_status": OperatingStatus.ONLINE}
    return MemberState(site=site, pair=None, applied=None, **status)


def promise_of(world: World, **changes: Any) -> Reservation:
    return Reservation(
        rid="r",
        service_id=world.x.service_id,
        site="A",
        number=1,
        expires_at=9e9,
        capabilities=Capabilities(kind="linux"),
        resources=(),
    ).model_copy(update=changes)


def hello_of(number: int) -> Hello:
    return Hello(name="A", number=number, protocol="1.0", incarnation="inc")


def forgeries(world: World) -> dict[str, tuple[tuple[Any, ...], Any, tuple[Any, ...]] | str]:
    """Kind -> (arguments of the call, the answer as it should be, forged answers); B asks A."""
    x, y = world.x, world.y
    return {
        "hello": ((), hello_of(1), (hello_of(3),)),
        "reserve": (
            (reserve_request(world, "n", service_id=x.service_id),),
            promise_of(world),
            (
                promise_of(world, service_id=y.service_id),
                promise_of(world, site="D"),
                promise_of(world, number=4),
            ),
        ),
        "put": ((x.service_id, DocumentPut(document=x)), state_of("A"), (state_of("D"),)),
        "bury": (
            (x.service_id, Tombstone(service_id=x.service_id)),
            Acknowledgement(site="A", clean=True),
            (Acknowledgement(site="D", clean=True),),
        ),
        "abort": "its answer is empty",
        "snapshot": (
            (x.service_id,),
            Snapshot(document=x, state=state_of("A")),
            (Snapshot(document=y, state=state_of("A")), Snapshot(document=x, state=state_of("D"))),
        ),
        "give": "whose blocks they are is judged by what is known of them, below",
        "hand_in": (
            (x.service_id, Change(operation="delete")),
            ChangeAnswer(document=x),
            (ChangeAnswer(document=y),),
        ),
        "vote": (
            (x.service_id, VoteRequest(epoch=Epoch(9, 2), pair=x.pair)),
            Vote(site="A", granted=True, pair=x.pair),
            (Vote(site="D", granted=True, pair=x.pair),),
        ),
        "sync": ((), report_of("A"), (report_of("D", number=1), report_of("A", number=4))),
    }


def test_an_answer_of_another_site_or_service_is_refused():
    async def main():
        world = await opened()
        table = forgeries(world)
        assert sorted(table) == KINDS
        ctx, metrics = world.cloud.ctx("B"), Metrics()

        async def ask(kind: str, arguments: Any, answer: Any) -> Any:
            peers = MeteredPeers(Said(world, answer), metrics.east_west_sent)
            return await getattr(peers.at("A"), kind)(ctx, *arguments)

        for kind, forged in table.items():
            if isinstance(forged, str):
                continue
            arguments, right, wrong = forged
            assert await ask(kind, arguments, right) == right
            for answer in wrong:
                with pytest.raises(IncompatibleSites):
                    await ask(kind, arguments, answer)
            for code, times in (("ok", 1), ("incompatible-sites", len(wrong))):
                labels = {"peer": "A", "kind": kind, "direction": "out", "code": code}
                name = "diminet_east_west_messages_total"
                assert metrics.registry.get_sample_value(name, labels) == times
        await world.cloud.close()

    run(main())


def test_a_name_that_is_no_site_becomes_no_metric():
    async def main():
        world, metrics = await opened(), Metrics()
        real = HttpPeers(world.cloud.names, site_name="B", credentials=None, incarnation=str)
        peers = MeteredPeers(real, metrics.east_west_sent)
        with pytest.raises(SiteUnknown):
            await peers.at("made-up").snapshot(world.cloud.ctx("B"), world.x.service_id)
        assert b"made-up" not in metrics.text()
        await world.cloud.close()

    run(main())


# -- beyond its rights -------------------------------------------------------------------------------


class Liar:
    """A site whose instance answers some kinds as it is told to; told: kind -> answer."""

    def __init__(self, engine: Any, **told: Any) -> None:
        self._engine, self._told = engine, told

    def __getattr__(self, name: str) -> Any:
        if name not in self._told:
            return getattr(self._engine, name)

        async def lie(*_: Any) -> Any:
            return self._told[name]

        return lie


def lies(world: World, site: str, **told: Any) -> None:
    world.cloud.wire.engines[site] = Liar(world.cloud[site], **told)


def snapshot_of(document: Document, blocks: tuple[Block, ...] = ()) -> Snapshot:
    state = state_of(document.master).model_copy(update={"pair": document.pair, "applied": document.pair})
    return Snapshot(document=document, state=state, blocks=blocks, confirmed=True)


def test_a_master_that_is_asked_for_its_own_service_cannot_write_anothers():
    """C is asked, as the master of Y, because of a hint, and answers with X, whose master is A."""

    async def main():
        world = await opened()
        forged = world.x.model_copy(update={"revision": world.x.revision + 1, "name": "forged"})
        hint = world.y.model_copy(update={"revision": world.y.revision + 1})
        told = world.cloud.ctx("D").model_copy(update={"sender": "D"})
        before = await world.picture()
        for answer in (forged, world.y.model_copy(update={"epoch": Epoch(1, 2), "revision": 9})):
            lies(world, "C", snapshot=snapshot_of(answer))
            with pytest.raises((NotAuthorised, ResourceBusy)):
                await world.cloud["B"].put(told, world.y.service_id, DocumentPut(document=hint))
        await world.settled()
        assert await world.picture() == before
        await world.cloud.close()

    run(main())


def _grants(world: World) -> dict[str, Block]:
    """What A, whom B asks for blocks, may not give."""
    of = {b.owner: b for b in world.blocks}
    odd = {"owner": "B", "version": 9, "giver": "A"}
    return {
        "one of D": next_version(of["D"], "B", "D"),
        "B's own, once more": next_version(of["B"], "B", "A"),
        "its own, to D": next_version(of["A"], "D", "A"),
        "one beyond the subnet": Block(cidr=CIDR, index=1000, **odd),
        "one of another subnet": Block(cidr="10.99.0.0/24", index=0, **odd),
        "one of no subnet": Block(cidr="nonsense", index=0, **odd),
    }


def test_blocks_that_are_not_the_givers_or_of_no_subnet_are_not_taken():
    async def main():
        world = await opened()
        for what, block in _grants(world).items():
            lies(world, "A", give=BlockGrant(blocks=(block,), spare=99))
            lies(world, "D", give=BlockGrant(blocks=(block,) if block.owner != "B" else (), spare=0))
            before = await _blocks(world, "B")
            row = await world.cloud.stores["B"].read(lambda tx: tx.service(world.x.service_id))
            assert not await world.cloud["B"].pools._ask(row.document, CIDR), what
            assert await _blocks(world, "B") == before, what
        await world.cloud.close()

    run(main())


async def _blocks(world: World, site: str) -> str:
    return repr(await world.cloud.stores[site].read(lambda tx: tx.blocks(world.x.service_id)))


def test_a_members_report_moves_no_blocks_of_others_and_fills_no_memory():
    async def main():
        world = await opened()
        theirs = tuple(next_version(b, "D", b.owner) for b in world.blocks if b.owner != "D")
        made_up = tuple(Block(cidr=CIDR, index=i, owner="D", version=1, giver="D") for i in range(500, 600))
        lies(world, "D", snapshot=snapshot_of(world.x, (*theirs, *made_up)))
        spare = {f"10.{n}.0.0/16": 7 for n in range(200)} | {CIDR: 3}
        entry = {**_entry(world), "digest": "0" * 32, "spare": spare}
        before = await _blocks(world, "A")
        told = world.cloud.ctx("D").model_copy(update={"sender": "D"})
        report = report_of("D").model_validate({**report_of("D").model_dump(), "services": [entry]})
        await world.cloud["A"].sync(told, report)
        await world.settled()
        assert await _blocks(world, "A") == before
        hints = world.cloud["A"].pools.spare_of
        assert hints[world.x.service_id, CIDR, "D"] == 3
        assert {cidr for _, cidr, _ in hints} == {CIDR}
        await world.cloud.close()

    run(main())


def _entry(world: World) -> dict[str, Any]:
    return {
        "service_id": world.x.service_id,
        "pair": world.x.pair,
        "provisioning_status": "ACTIVE",
        "operating_status": "ONLINE",
    }


def test_reports_that_come_faster_than_they_are_read_do_not_pile_up():
    async def main():
        world = await opened()
        told = world.cloud.ctx("D").model_copy(update={"sender": "D"})
        held = asyncio.Event()

        async def slow(*_: Any) -> None:
            await held.wait()

        world.cloud["A"].sync_._take_in = slow
        for _ in range(50):
            await world.cloud["A"].sync(told, report_of("D"))
        assert len(world.cloud["A"].here.tasks) == 1
        held.set()
        await world.settled()
        await world.cloud["A"].sync(told, report_of("D"))
        assert len(world.cloud["A"].here.tasks) == 1
        await world.settled()
        await world.cloud.close()

    run(main())


# -- nonsense ----------------------------------------------------------------------------------------


def test_facts_that_make_no_sense_refuse_the_create_and_leave_nothing():
    """Of the site that is asked: its networks as it tells them."""

    async def main():
        world = await opened()
        a, d = world.networks["A"], world.networks["D"]
        told = world.cloud.ctx("A").model_copy(update={"sender": "A"})
        asked = reserve_request(world, d, service_id="0" * 8 + "-0000-4000-8000-" + "0" * 12)
        entries = (asked.entries[0].model_copy(update={"site": "D"}),)
        true = await world.cloud["D"].reserve(told, asked.model_copy(update={"entries": entries}))
        await world.cloud["D"].abort(told, asked.service_id, true.rid)
        before = await world.picture()
        for what, nonsense in _nonsense(true).items():
            lies(world, "D", reserve=nonsense)
            with pytest.raises(DiminetError) as caught:
                await world.cloud.create("A", "l3", f"A:{a}", f"D:{d}")
            assert caught.value.code != "internal-error", what
            await world.settled()
            after = await world.picture()
            changed = {k for k in after if after[k] != before[k]}
            assert {k for k in changed if k.endswith("vim") or not k.startswith("A")} == set(), what
            rows = await world.cloud.stores["A"].read(
                lambda tx: [tx.service(i) for i in sorted(tx.services_at_work())]
            )
            assert {r.document.service_id for r in rows if not r.document.tombstone} == {world.x.service_id}
        await world.cloud.close()

    run(main())


def _nonsense(true: Reservation) -> dict[str, Reservation]:
    def told(**subnet: Any) -> Reservation:
        body = json.loads(true.model_dump_json())
        body["resources"][0]["network"]["subnets"][0].update(subnet)
        return Reservation.model_validate(body)

    resource = true.resources[0]
    foreign = resource.model_copy(
        update={"network": resource.network.model_copy(update={"network_id": "another"})}
    )
    return {
        "a CIDR": told(cidr="nonsense"),
        "a version": told(ip_version=6),
        "no network": true.model_copy(update={"resources": ()}),
        "another network": true.model_copy(update={"resources": (foreign,)}),
        "two networks": true.model_copy(update={"resources": (resource, resource)}),
    }
