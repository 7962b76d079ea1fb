"""Every message goes over real mutual TLS and arrives as it was sent."""

import asyncio
import time

import pytest
from east_west_world import SERVICE, context, document, run
from pydantic import SecretStr

from diminet import errors
from diminet.messages import (
    BlockRequest,
    Change,
    DocumentPut,
    ReserveRequest,
    SyncReport,
    Tombstone,
    VoteRequest,
)
from diminet.model import Block, Entry, Epoch, Pair, Ticket


def reserve_request(**more):
    return ReserveRequest(
        service_id=SERVICE,
        type="l3",
        project_id="demo",
        ticket=Ticket(1, 2, 3),
        lifetime=30.0,
        entries=(Entry(site="A", resource_id="n"),),
        members=("A", "B"),
        **more,
    )


def test_every_message_arrives_and_is_answered(world):
    put = DocumentPut(
        document=document(), blocks=(Block(cidr="10.0.0.0/24", index=0, owner="B", version=1, giver="B"),)
    )
    tombstone = Tombstone(service_id=SERVICE, document=document(tombstone=True))
    request = BlockRequest(cidr="10.0.0.0/24", number=1, count=2)
    change = Change(operation="join", entry=Entry(site="B", resource_id="n"))
    claim = VoteRequest(epoch=Epoch(2, 2), pair=Pair(Epoch(1, 1), 4))
    mine = SyncReport(site="B", number=2, incarnation="inc-B", services=())

    async def go():
        async with world.serving(), world.peers() as peers:
            a = peers.at("A")
            return [
                await a.hello(context()),
                await a.reserve(context(), reserve_request()),
                await a.put(context(), SERVICE, put),
                await a.bury(context(), SERVICE, tombstone),
                await a.abort(context(), SERVICE, "r-1"),
                await a.snapshot(context(), SERVICE),
                await a.give(context(), SERVICE, request),
                await a.hand_in(context(), SERVICE, change),
                await a.sync(context(), mine),
                await a.sync(context()),
                await a.vote(context(), SERVICE, claim),
            ]

    answers = run(go())
    calls = world.horizontal.calls
    kinds = [
        "hello",
        "reserve",
        "put",
        "bury",
        "abort",
        "snapshot",
        "give",
        "hand_in",
        "sync",
        "sync",
        "vote",
    ]
    assert [call[0] for call in calls] == kinds
    assert [call[2:] for call in calls] == [
        (),
        (reserve_request(),),
        (SERVICE, put),
        (SERVICE, tombstone),
        (SERVICE, "r-1"),
        (SERVICE,),
        (SERVICE, request),
        (SERVICE, change),
        (mine,),
        (None,),
        (SERVICE, claim),
    ]
    assert (answers[10].granted, answers[10].promised) == (True, Epoch(2, 2))
    assert answers[0].name == "A"
    assert answers[2].pair.revision == 3
    assert answers[3].also == ("C",)
    assert answers[4] is None
    assert answers[5].document == document()
    assert answers[6].blocks[0].index == 3
    assert answers[7].waiting == ("C",)
    assert [(peer, kind, code) for peer, kind, _, code in world.received] == [("B", k, "ok") for k in kinds]


def test_the_envelope_arrives(world):
    async def go():
        async with world.serving(), world.peers() as peers:
            ctx = context(
                token=SecretStr("s3cret"), deadline=time.time() + 5, sender="forged", incarnation="x"
            )
            await peers.at("A").hand_in(ctx, SERVICE, Change(operation="delete"))
            await peers.at("A").hand_in(context(), SERVICE, Change(operation="delete"))
            return ctx

    sent = run(go())
    got = world.horizontal.calls[0][1]
    assert got.request_id == sent.request_id
    assert got.initiator == sent.initiator
    assert got.sender == "B"  # from the certificate
    assert got.incarnation == "inc-B"
    assert got.token.get_secret_value() == "s3cret"
    assert 3 < got.deadline - time.time() <= 5
    assert world.horizontal.calls[1][1].token is None


def test_tokens_go_only_where_they_are_judged_and_as_the_identity_says(world):
    async def outgoing(ctx):
        return ctx.model_copy(update={"service_token": SecretStr("service")})

    async def go():
        async with world.serving(), world.peers(outgoing=outgoing) as peers:
            ctx = context(token=SecretStr("s3cret"))
            await peers.at("A").hello(ctx)
            await peers.at("A").snapshot(ctx, SERVICE)
            await peers.at("A").hand_in(ctx, SERVICE, Change(operation="delete"))

    run(go())
    first, second, judged = (call[1] for call in world.horizontal.calls)
    assert (first.token, first.service_token, second.token, second.service_token) == (None,) * 4
    assert judged.token.get_secret_value() == "s3cret"
    assert judged.service_token.get_secret_value() == "service"


def test_clocks_ten_minutes_apart_do_no_harm(world):
    """The deadline travels as seconds left: B's clock is 10 minutes ahead of A's."""

    async def go():
        async with world.serving(now=time.time), world.peers(now=lambda: time.time() + 600) as peers:
            await peers.at("A").hello(context(deadline=time.time() + 600 + 4))

    run(go())
    assert 0 < world.horizontal.calls[0][1].deadline - time.time() <= 4


def test_fields_of_a_newer_minor_are_kept(world):
    later = document().model_copy()
    content = later.model_dump(mode="json") | {"colour": {"of": ["the", "future"]}}
    content["members"][0]["weight"] = 7
    newer = type(later).model_validate(content)

    async def go():
        async with world.serving(), world.peers() as peers:
            await peers.at("A").put(context(), SERVICE, DocumentPut(document=newer, hurry=True))

    run(go())
    put = world.horizontal.calls[0][3]
    assert put.model_extra == {"hurry": True}
    assert put.document.model_extra == {"colour": {"of": ["the", "future"]}}
    assert put.document.members[0].model_extra == {"weight": 7}


def test_a_newer_minors_field_in_a_block_is_no_reason_to_refuse(world):
    block = Block(cidr="10.0.0.0/24", index=0, owner="B", version=1, giver="B")
    later = DocumentPut(document=document(), blocks=(block,)).model_dump(mode="json")
    later["blocks"][0]["colour"] = "red"
    put = DocumentPut.model_validate(later, extra="allow")

    async def go():
        async with world.serving(), world.peers() as peers:
            await peers.at("A").put(context(), SERVICE, put)

    run(go())
    assert world.horizontal.calls[0][3].blocks == (block,)


@pytest.mark.parametrize("code", sorted(errors.BY_CODE.keys() - {"too-many-requests"}))  # test_peer_rates
def test_errors_cross_with_their_code(world, code):
    world.horizontal.error = errors.BY_CODE[code]("because", retry_after=3.0, ticket=(1, 2, 3))

    async def go():
        async with world.serving(), world.peers() as peers:
            await peers.at("A").snapshot(context(), SERVICE)

    with pytest.raises(errors.DiminetError) as caught:
        run(go())
    assert caught.value.code == code
    assert caught.value.message == "because"
    assert (caught.value.retry_after, caught.value.ticket) == (3.0, (1, 2, 3))
    assert caught.value.sites == ("A",)
    assert world.received[0][3] == code


def test_a_bug_is_an_internal_error_and_no_traceback_leaves(world):
    world.horizontal.error = ZeroDivisionError("secret detail")

    async def go():
        async with world.serving(), world.peers() as peers:
            await peers.at("A").snapshot(context(), SERVICE)

    with pytest.raises(errors.InternalError) as caught:
        run(go())
    assert "secret" not in caught.value.message
    assert world.received[0][3] == "internal-error"


def test_thirty_two_at_once_and_more_wait_their_turn(world):
    world.horizontal.delay_s = 0.1

    async def go():
        async with world.serving() as listener, world.peers(connections_per_peer=32) as peers:
            answers = await asyncio.gather(*(peers.at("A").hello(context()) for _ in range(80)))
            return len(answers), len(listener._server.server_state.connections)

    assert run(go()) == (80, 32)


def test_a_call_ends_at_its_deadline(world):
    world.horizontal.delay_s = 30

    async def go():
        async with world.serving(), world.peers(request_timeout_s=0.3) as peers:
            began = time.monotonic()
            with pytest.raises(errors.SiteUnreachable, match=r"'A'.*did not answer within 0\.3 s") as caught:
                await peers.at("A").hello(context())
            with pytest.raises(errors.SiteUnreachable, match=r"within 0\.2 s"):
                await peers.at("A").hello(context(deadline=time.time() + 0.2))
            with pytest.raises(errors.SiteUnreachable, match="no time is left"):
                await peers.at("A").hello(context(deadline=time.time() - 1))
            return caught.value, time.monotonic() - began

    error, seconds = run(go())
    assert error.sites == ("A",)
    assert error.retry_after == 10.0
    assert seconds < 5


def test_refused_unknown_and_unresolvable_sites(world):
    async def go():
        async with world.peers() as peers:
            with pytest.raises(errors.SiteUnreachable, match="is its instance running"):
                await peers.at("A").hello(context())
            with pytest.raises(errors.SiteUnknown):
                await peers.at("Z").hello(context())
            world.directory.point("A", 9, host="no-such-host.invalid")
            with pytest.raises(errors.SiteUnreachable, match="does not resolve"):
                await peers.at("A").hello(context())

    run(go())


def test_idle_connections_that_the_peer_closed_are_no_failure(world):
    """The peer dies without closing anything in order, as after kill -9; POST is repeated too."""

    async def go():
        async with world.serving() as listener, world.peers() as peers:
            await asyncio.gather(*(peers.at("A").hello(context()) for _ in range(5)))
            for connection in list(listener._server.server_state.connections):
                connection.transport.abort()
            await peers.at("A").reserve(context(), reserve_request())

    run(go())
    assert [call[0] for call in world.horizontal.calls] == ["hello"] * 5 + ["reserve"]
