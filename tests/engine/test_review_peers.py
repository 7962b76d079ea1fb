"""A valid peer that acts beyond its rights: refused, by its own words, and nothing changes (invariant 8)."""

import asyncio
import contextlib
import dataclasses

import pytest

import simulated_cloud
from diminet.errors import DiminetError, InvalidRequest, NotAuthorised, ResourceBusy, ServiceNotFound
from diminet.messages import Change, DocumentPut, MemberState, ReserveRequest, Tombstone
from diminet.model import Block, Document, Entry, Epoch, Member, Resource, Subnet, Ticket

LIMITS = dataclasses.replace(simulated_cloud.LIMITS, request_timeout=10.0, reservation_lifetime=15.0)


def Cloud(*names, limits=LIMITS):  # noqa: N802
    """With time enough for a busy machine."""
    return simulated_cloud.Cloud(*names, limits=limits)


def run(work):
    return asyncio.run(asyncio.wait_for(work, 60))


def from_peer(cloud, peer, project="demo"):
    return cloud.ctx(peer, project).model_copy(update={"sender": peer})


async def l3(cloud, *sites):
    ids = {s: cloud.vims[s].add_network(f"10.{ord(s) - 60}.0.0/24") for s in cloud.vims}
    view = await cloud.create("A", "l3", *(f"{s}:{ids[s]}" for s in sites))
    return view.document, ids


async def held(cloud, site, service_id):
    return await cloud.stores[site].read(lambda tx: tx.service(service_id))


def asked(document, *entries, service_id=None, project="demo"):
    return ReserveRequest(
        service_id=service_id or document.service_id,
        type="l3",
        project_id=project,
        ticket=Ticket(1, 3, 1),
        lifetime=4.0,
        entries=entries,
        members=tuple({e.site for e in entries}),
    )


@pytest.mark.parametrize("operation", ["delete", "modify", "leave", "join"])
def test_a_stranger_cannot_have_a_member_pass_its_request_on(operation):
    async def main():
        cloud = Cloud("A", "B", "C")
        document, _ = await l3(cloud, "A", "B")
        entry = Entry(site="A", resource_id=cloud.vims["A"].add_network("10.77.0.0/24"))
        change = Change(
            operation=operation, name="mine" if operation == "modify" else None, entry=entry, via="B"
        )
        with pytest.raises(ServiceNotFound):
            await cloud["B"].hand_in(from_peer(cloud, "C"), document.service_id, change)
        assert (await held(cloud, "A", document.service_id)).document == document
        await cloud.close()

    run(main())


def test_a_joining_site_changes_nothing_but_its_own_membership():
    async def main():
        cloud = Cloud("A", "B", "C")
        document, ids = await l3(cloud, "A", "B")
        entry = Entry(site="C", resource_id=ids["C"])
        change = Change(operation="join", entry=entry, name="mine", on_unreachable="defer", tags=("x",))
        await cloud["A"].hand_in(from_peer(cloud, "C"), document.service_id, change)
        now = (await held(cloud, "A", document.service_id)).document
        assert now.member("C") is not None
        assert (now.name, now.on_unreachable, now.tags) == ("web", "revoke", ())
        await cloud.close()

    run(main())


def forged(document, **update):
    """The document as C might write it: of a service of its own."""
    return document.model_copy(
        update={
            "service_id": "3b0c2ab5-1d7e-4f55-8ad6-0c5c2e7a9c11",
            "epoch": Epoch(1, 3),
            "members": (
                Member(site="C", number=3, slot=1),
                Member(site="B", number=2, slot=2, rid="r", deferred=True),
            ),
            "resources": (),
            **update,
        }
    )


def test_a_document_that_nobody_here_promised_anything_for_is_not_taken_in():
    async def main():
        cloud = Cloud("A", "B", "C")
        document, _ = await l3(cloud, "A", "B")
        stranger = Document.model_validate(forged(document).model_dump())
        for members in (stranger.members, (stranger.members[0], Member(site="B", number=2, slot=2))):
            put = DocumentPut(document=stranger.model_copy(update={"members": members}))
            with contextlib.suppress(DiminetError):
                await cloud["B"].put(from_peer(cloud, "C"), stranger.service_id, put)
            assert await held(cloud, "B", stranger.service_id) is None
        await cloud.close()

    run(main())


def test_a_promise_is_good_only_for_its_project_and_its_asker_and_never_makes_a_network_ours():
    async def main():
        cloud = Cloud("A", "B", "C")
        document, ids = await l3(cloud, "A", "C")
        service_id = forged(document).service_id
        entry = Entry(site="B", resource_id=ids["B"])
        promise = await cloud["B"].reserve(
            from_peer(cloud, "C"), asked(document, entry, service_id=service_id)
        )

        def put(**update):
            members = (
                Member(site="C", number=3, slot=1),
                Member(site="B", number=2, slot=2, rid=promise.rid),
            )
            subnets = (Subnet(cidr="10.6.0.0/24", ip_version=4),)
            resources = (Resource(site="B", resource_id=ids["B"], made=True, subnets=subnets),)
            body = forged(document, members=members, resources=resources, **update)
            return DocumentPut(document=Document.model_validate(body.model_dump()))

        with pytest.raises(DiminetError):
            await cloud["B"].put(from_peer(cloud, "C"), service_id, put(project_id="other"))
        assert await held(cloud, "B", service_id) is None
        await cloud["B"].put(from_peer(cloud, "C"), service_id, put())
        with pytest.raises(NotAuthorised):
            await cloud["B"].put(from_peer(cloud, "C"), service_id, put(project_id="other", revision=2))
        await cloud["B"].bury(from_peer(cloud, "C"), service_id, Tombstone(service_id=service_id))
        assert ids["B"] in cloud.vims["B"].networks
        await cloud.close()

    run(main())


def test_a_reservation_of_another_site_is_neither_renewed_nor_undone():
    async def main():
        cloud = Cloud("A", "B", "C")
        document, ids = await l3(cloud, "A", "C")
        entry = Entry(site="B", resource_id=ids["B"])
        fresh = "3b0c2ab5-1d7e-4f55-8ad6-0c5c2e7a9c12"
        mine = await cloud["B"].reserve(from_peer(cloud, "A"), asked(document, entry, service_id=fresh))
        with pytest.raises((NotAuthorised, ResourceBusy)):
            await cloud["B"].reserve(from_peer(cloud, "C"), asked(document, entry, service_id=fresh))
        with pytest.raises(NotAuthorised):
            await cloud["B"].abort(from_peer(cloud, "C"), fresh, mine.rid)
        rows = await cloud.stores["B"].read(lambda tx: tx.reservation(mine.rid))
        assert [row.sender for row in rows] == ["A"]
        await cloud.close()

    run(main())


def test_only_the_master_asks_for_more_networks_of_a_service_that_exists():
    async def main():
        cloud = Cloud("A", "B", "C")
        document, _ = await l3(cloud, "A", "B")
        more = cloud.vims["B"].add_network("10.99.0.0/24")
        with pytest.raises(NotAuthorised):
            await cloud["B"].reserve(
                from_peer(cloud, "C"), asked(document, Entry(site="B", resource_id=more))
            )
        await cloud.close()

    run(main())


def test_a_reservation_names_networks_of_the_asked_site():
    async def main():
        cloud = Cloud("A", "B")
        document, ids = await l3(cloud, "A", "B")
        fresh = "3b0c2ab5-1d7e-4f55-8ad6-0c5c2e7a9c12"
        for entries in ((), (Entry(site="A", resource_id=ids["A"]),), (Entry(site="B"), Entry(site="B"))):
            with pytest.raises(InvalidRequest):
                await cloud["B"].reserve(from_peer(cloud, "A"), asked(document, *entries, service_id=fresh))
        await cloud.close()

    run(main())


def test_a_member_answers_for_itself_only():
    async def main():
        cloud = Cloud("A", "B", "C")
        document, _ = await l3(cloud, "A", "B", "C")
        true = cloud["C"].participant.states.state

        async def lie(service_id, wanted):
            state: MemberState = await true(service_id, wanted)
            return state.model_copy(update={"site": "B", "fault": "forged"})

        cloud["C"].participant.states.state = lie
        await cloud["A"].requests.change(
            cloud.caller(), cloud.ctx("A"), document.service_id, Change(operation="modify", name="new")
        )
        members = await cloud.stores["A"].read(lambda tx: tx.members(document.service_id))
        assert {m.site: m.fault for m in members if m.site != "A"} == {"B": None, "C": "forged"}
        await cloud.close()

    run(main())


def test_a_document_without_its_master_or_with_nonsense_is_refused_as_such():
    async def main():
        cloud = Cloud("A", "B", "C")
        view = await cloud.create("A", "l2", "A:" + cloud.vims["A"].add_network("10.7.0.0/24"), "B")
        document = view.document
        resource = document.resources[1]
        nonsense = [
            {"members": document.members[1:]},
            {"resources": (document.resources[0], resource.model_copy(update={"subnets": ()}))},
            {"resources": tuple(_with_subnet(r, gateway_ip="nonsense") for r in document.resources)},
            {"resources": tuple(_with_subnet(r, cidr="nonsense") for r in document.resources)},
            {"resources": tuple(_with_subnet(r, block_prefix=3) for r in document.resources)},
        ]
        for update in nonsense:
            raw = document.model_copy(update={**update, "revision": 2}).model_dump_json()
            with pytest.raises((DiminetError, ValueError)) as caught:
                await _put_raw(cloud, document.service_id, raw)
            assert isinstance(caught.value, DiminetError) or "epoch" in str(caught.value), caught.value
        assert (await held(cloud, "B", document.service_id)).document == document
        await cloud.close()

    run(main())


async def _put_raw(cloud, service_id, raw):
    put = DocumentPut(document=Document.model_validate_json(raw))
    await cloud["B"].put(from_peer(cloud, "A"), service_id, put)


def _with_subnet(resource, **update):
    return resource.model_copy(
        update={"subnets": tuple(s.model_copy(update=update) for s in resource.subnets)}
    )


def test_blocks_that_are_not_of_the_service_are_not_kept():
    async def main():
        cloud = Cloud("A", "B")
        view = await cloud.create("A", "l2", "A:" + cloud.vims["A"].add_network("10.7.0.0/24"), "B")
        service_id = view.document.service_id
        before = await cloud.stores["B"].read(lambda tx: tx.blocks(service_id))
        strange = [
            Block(cidr="nonsense", index=0, owner="A", version=9, giver="A"),
            Block(cidr="10.8.0.0/24", index=0, owner="A", version=9, giver="A"),
            Block(cidr="10.7.0.0/24", index=1000, owner="A", version=9, giver="A"),
        ]
        put = DocumentPut(document=view.document, blocks=tuple(strange))
        await cloud["B"].put(from_peer(cloud, "A"), service_id, put)
        assert await cloud.stores["B"].read(lambda tx: tx.blocks(service_id)) == before
        await cloud.close()

    run(main())


def test_a_site_that_has_left_and_said_so_learns_nothing_more():
    async def main():
        cloud = Cloud("A", "B", "C")
        document, _ = await l3(cloud, "A", "B", "C")
        leave = Change(operation="leave", entry=Entry(site="C"))
        await cloud["A"].requests.change(cloud.caller(), cloud.ctx("A"), document.service_id, leave)
        snapshot = await cloud["A"].snapshot(from_peer(cloud, "C"), document.service_id)
        assert snapshot.document is None
        assert (await cloud["A"].sync(from_peer(cloud, "C"))).services == ()
        assert (await cloud["C"].sync(from_peer(cloud, "A"))).services == ()
        await cloud.close()

    run(main())


def test_strangers_learn_and_change_nothing():
    async def main():
        cloud = Cloud("A", "B", "C")
        document, _ = await l3(cloud, "A", "B")
        stranger, service_id = from_peer(cloud, "C"), document.service_id
        for site in "AB":
            with pytest.raises(DiminetError):
                await cloud[site].put(stranger, service_id, DocumentPut(document=forged(document)))
            with pytest.raises(DiminetError):
                await cloud[site].bury(stranger, service_id, Tombstone(service_id=service_id))
            assert (await cloud[site].snapshot(stranger, service_id)).document is None
            assert (await cloud[site].sync(stranger)).services == ()
            with pytest.raises(ServiceNotFound):
                await cloud[site].hand_in(stranger, service_id, Change(operation="delete"))
            assert (await held(cloud, site, service_id)).document == document
        await cloud.close()

    run(main())


def test_what_a_peer_was_refused_is_in_the_history_for_operators_only():
    async def main():
        cloud = Cloud("A", "B", "C")
        document, ids = await l3(cloud, "A", "B")
        with pytest.raises(NotAuthorised):
            await cloud["B"].bury(
                from_peer(cloud, "C"), document.service_id, Tombstone(service_id=document.service_id)
            )
        entry = Entry(site="B", resource_id=ids["B"])
        fresh = "3b0c2ab5-1d7e-4f55-8ad6-0c5c2e7a9c13"
        with pytest.raises(NotAuthorised):
            await cloud["B"].reserve(
                from_peer(cloud, "C", "other"), asked(document, entry, service_id=fresh, project="other")
            )
        for project, expected in (("demo", []), ("other", []), (None, ["bury", "reserve"])):
            events = await cloud.stores["B"].read(
                lambda tx, p=project: tx.events(service_id=None, project_id=p, after=0, limit=100)
            )
            refused = [e.detail["operation"] for e in events if e.kind == "peer-refused"]
            assert refused == expected
        assert "reserved" in {e.kind for e in events}
        await cloud.close()

    run(main())
