"""Every kind of east-west message, forged by a valid peer in every way that it can be: refused, counted, and
nothing is changed by it in any database or VIM (invariant 8). A kind, an operation or a way that is new and
has no forgery here fails `test_nothing_is_left_out`.

A read says nothing that could be refused: who has no part in a service is answered as if there were none.
A document or report of somebody else is a hint (DESIGN section 4): looked up at the master, not refused.
"""

import asyncio
import json
from collections.abc import Callable
from typing import Any, NamedTuple, get_args

import pytest
from doors_world import (
    BODY_BYTES,
    CIDR,
    CLAIMS,
    FRESH,
    NAMES,
    ROOT,
    Message,
    World,
    block_request,
    entry_of,
    opened,
    report_of,
    reserve_request,
)

from diminet.east_west.server import make_east_west_app
from diminet.engine.ports import Horizontal
from diminet.logic import restored
from diminet.logic.blocks import next_version
from diminet.messages import Change, Count, DocumentPut, SyncEntry, SyncReport, Tombstone, VoteRequest
from diminet.model import Document, Entry, Epoch, Member, Resource, Subnet, Ticket

KINDS = sorted(name for name in vars(Horizontal) if not name.startswith("_"))
OPERATIONS = get_args(Change.model_fields["operation"].annotation)
WITH_BODY = {"reserve", "put", "bury", "give", "hand_in", "vote", "sync"}


class Forgery(NamedTuple):
    """codes: those of which the answer must have one; "ok" only where the module says why. says_nothing:
    of an "ok", the fields of the answer that must be empty."""

    sender: str
    receiver: str
    message: Message
    codes: tuple[str, ...]
    says_nothing: tuple[str, ...] = ()


Forge = Callable[[World], Forgery]


def number(site: str) -> int:
    return NAMES.index(site) + 1


def one(document: Document, rest: str = "") -> str:
    return f"{ROOT}/{document.service_id}{rest}"


def put(document: Document, path: Document | None = None, **more: Any) -> Message:
    body = DocumentPut(document=document, **more).model_dump_json().encode()
    return Message("PUT", one(path or document), body)


def bury(document: Document, stone: Document | None = None) -> Message:
    body = Tombstone(service_id=document.service_id, document=stone).model_dump_json().encode()
    return Message("DELETE", one(document), body)


def reserve(world: World, network: str, **changes: Any) -> Message:
    return Message("POST", ROOT, reserve_request(world, network, **changes).model_dump_json().encode())


def abort(word: str) -> Message:
    return Message("DELETE", f"{ROOT}/{FRESH}", query=f"reservation={word}")


def give(document: Document, **changes: Any) -> Message:
    return Message("POST", one(document, "/blocks"), block_request(**changes).model_dump_json().encode())


def hand_in(document: Document, operation: str, **changes: Any) -> Message:
    body = Change(operation=operation, **changes).model_dump_json(exclude_none=True).encode()
    return Message("POST", one(document, "/requests"), body)


def vote(document: Document, number: int, **changes: Any) -> Message:
    """That site claims the epoch after the document's. changes: of the request."""
    claim = {"epoch": Epoch(document.epoch.n + 1, number), "pair": document.pair, **changes}
    return Message("POST", one(document, "/votes"), VoteRequest(**claim).model_dump_json().encode())


def older(site: str, proof: str, *entries: SyncEntry) -> SyncReport:
    """Says that the receiver has told of a much newer database."""
    return report_of(site, *entries).model_copy(update={"seen": Count(writes=10**12, proof=proof)})


def sync(member: str, report: SyncReport | None) -> Message:
    body = report.model_dump_json().encode() if report else b""
    return Message("GET", ROOT, body, query=f"member={member}")


def newer(document: Document, **changes: Any) -> Document:
    return document.model_copy(update={"revision": document.revision + 1, "name": "forged", **changes})


def epoch_of(document: Document, site: str, number: int) -> Document:
    """As if that site had taken the service over, whether it is a member or not."""
    members = document.members
    if document.member(site) is None:
        members = (*members[:-1], members[-1].model_copy(update={"site": site, "number": number}))
    return newer(document, epoch=Epoch(document.epoch.n + 1, number), members=members)


def stolen(world: World, owner: str, thief: str) -> Message:
    """The service X as it is, with the owner's blocks as if they had been given to the thief."""
    taken = [next_version(b, thief, owner) for b in world.blocks if b.owner == owner]
    assert taken
    return put(world.x, blocks=tuple(taken))


def honest(world: World) -> dict[str, tuple[str, str, Message]]:
    """One message of each kind by who may send it, as it may: (sender, receiver, message)."""
    return {
        "hello": ("C", "B", Message("GET", "/")),
        "reserve": ("A", "B", reserve(world, world.networks["B"])),
        "put": ("A", "B", put(world.x)),
        "bury": ("A", "B", bury(world.x)),
        "abort": ("A", "B", abort(world.promise.rid)),
        "snapshot": ("A", "B", Message("GET", one(world.x))),
        "give": ("B", "A", give(world.x)),
        "hand_in": ("B", "A", hand_in(world.x, "modify", name="changed")),
        "vote": ("D", "B", vote(world.x, 4)),
        "sync": ("B", "A", sync("B", report_of("B", entry_of(world.x)))),
    }


# -- what is forged --------------------------------------------------------------------------------
# Of each way, what every kind makes of it: forgeries, or why there is none.

OPEN = "any valid peer may ask it, and it changes nothing"
NO_PROJECT = "it has no project; the envelope's is only told in the history"
NO_EPOCH = "it has no epoch"
NO_BLOCKS = "it has no blocks"
READ = "it is a read"
REFUSED = ("not-authorised",)

Forgeries = tuple[Forge, ...] | str

OTHERS_SERVICE: dict[str, Forgeries] = {
    "hello": OPEN,
    "reserve": (
        *(
            lambda w, who=who, changes=changes: Forgery(
                who, "B", reserve(w, w.networks["B"], ticket=Ticket(0, number(who), 1), **changes(w)), REFUSED
            )
            for who in "CD"
            for changes in (lambda w: {}, lambda w: {"service_id": w.x.service_id})
        ),
    ),
    "put": (
        lambda w: Forgery("C", "B", put(newer(w.x)), REFUSED),
        lambda w: Forgery("C", "A", put(newer(w.x)), REFUSED),
        lambda w: Forgery("C", "B", put(w.y, path=w.x), ("invalid-request",)),
        lambda w: Forgery("D", "B", put(newer(w.x)), ("ok",)),  # a hint: the master has no such revision
        lambda w: Forgery("B", "A", put(newer(w.x)), REFUSED),
    ),
    "bury": (
        lambda w: Forgery("C", "B", bury(w.x), REFUSED),
        lambda w: Forgery("C", "B", bury(w.y, w.x), ("invalid-request",)),
        lambda w: Forgery("D", "B", bury(w.x, w.x), REFUSED),
        lambda w: Forgery("B", "A", bury(w.x), REFUSED),
    ),
    "abort": (
        lambda w: Forgery("C", "B", abort(w.promise.rid), REFUSED),
        lambda w: Forgery("D", "B", abort(Ticket(1, 1, 1).word()), REFUSED),
    ),
    "snapshot": (
        lambda w: Forgery(
            "C", "B", Message("GET", one(w.x)), ("ok",), ("document", "state", "blocks", "ports")
        ),
        lambda w: Forgery(
            "C", "A", Message("GET", one(w.x)), ("ok",), ("document", "state", "blocks", "ports")
        ),
    ),
    "give": (
        lambda w: Forgery("C", "A", give(w.x), REFUSED),
        lambda w: Forgery("C", "B", give(w.x, free=0, count=1024), REFUSED),
    ),
    "hand_in": (
        *(
            lambda w, op=op, to=to, via=via: Forgery(
                "C",
                to,
                hand_in(w.x, op, name="forged", entry=Entry(site="D"), via=via),
                ("service-not-found",),
            )
            for op in OPERATIONS
            for to in "AB"
            for via in (None, "B")
        ),
        lambda w: Forgery("D", "B", hand_in(w.x, "delete"), REFUSED),  # a member, to one that is no master
    ),
    "vote": tuple(
        lambda w, to=to, changes=changes: Forgery("C", to, vote(w.x, 3, **changes(w)), REFUSED)
        for to in "AB"
        for changes in (lambda w: {}, lambda w: {"pair": w.x.pair._replace(revision=9)})
    ),
    "sync": (
        # A stranger that has the ids: told nothing, and nothing is sent to it either.
        *(
            lambda w, to=to, changes=changes: Forgery(
                "C", to, sync("C", report_of("C", entry_of(w.x, **changes(w)))), ("ok",)
            )
            for to in "AB"
            for changes in (
                lambda w: {"pair": w.x.pair._replace(revision=w.x.revision - 1)},
                lambda w: {"pair": w.x.pair._replace(revision=w.x.revision + 1)},
                lambda w: {"pair": w.x.pair._replace(epoch=Epoch(9, 3))},
                lambda w: {"tombstone": True},
                lambda w: {"digest": "0" * 32, "spare": {CIDR: 7}},
            )
        ),
        lambda w: Forgery("D", "B", sync("D", report_of("D", entry_of(w.x, tombstone=True))), ("ok",)),
        # "Your database is an older copy": nobody can make the proof of a count that was never told.
        *(
            lambda w, who=who, proof=proof: Forgery(
                who,
                "A",
                sync(who, older(who, proof, *(() if who == "C" else (entry_of(w.x),)))),
                ("ok",),
            )
            for who in "CD"
            for proof in ("", "0" * 64, restored.proof("", 10**12))
        ),
        # "Mine is": a stranger is told of nothing but what has its own number.
        lambda w: Forgery("C", "A", sync("C", report_of("C").model_copy(update={"fenced": True})), ("ok",)),
    ),
}

OTHERS_BLOCK: dict[str, Forgeries] = {
    "hello": NO_BLOCKS,
    "reserve": NO_BLOCKS,
    "put": (
        *(
            lambda w, who=who, owner=owner, to=to: Forgery(who, to, stolen(w, owner, who), ("ok",))
            for who, owner, to in (("D", "A", "B"), ("A", "B", "D"), ("A", "B", "B"))
        ),
        lambda w: Forgery("D", "A", stolen(w, "B", "D"), REFUSED),
        lambda w: Forgery("C", "B", stolen(w, "A", "C"), REFUSED),
    ),
    "bury": NO_BLOCKS,
    "abort": NO_BLOCKS,
    "snapshot": READ,
    "give": (
        lambda w: Forgery("B", "A", give(w.x, cidr="10.99.0.0/24"), ("ok",), ("blocks",)),
        lambda w: Forgery("B", "A", give(w.x, cidr="nonsense"), ("ok",), ("blocks",)),
        lambda w: Forgery("B", "A", give(w.x, index=1023), ("ok",), ("blocks",)),
        lambda w: Forgery("D", "B", give(w.x, index=0), ("ok",), ("blocks",)),  # A's own
        lambda w: Forgery("B", "C", give(w.y), ("ok",), ("blocks",)),  # a service without blocks
    ),
    "hand_in": NO_BLOCKS,
    "vote": NO_BLOCKS,
    "sync": (
        lambda w: Forgery("D", "A", sync("D", report_of("D", entry_of(w.x, digest="0" * 32))), ("ok",)),
    ),
}

OLD_EPOCH: dict[str, Forgeries] = {
    "hello": NO_EPOCH,
    "reserve": NO_EPOCH,
    "put": (
        lambda w: Forgery("A", "B", put(newer(w.x, epoch=Epoch(0, 1))), ("ok",)),  # late: as held
        lambda w: Forgery("A", "B", put(w.x.model_copy(update={"revision": 0})), ("ok",)),  # late: as held
        lambda w: Forgery("A", "B", put(newer(w.x, epoch=Epoch(9, 1))), ("ok",)),  # asked back: as held
        lambda w: Forgery("D", "B", put(epoch_of(w.x, "D", 4)), ("resource-busy",)),  # asked back: it is not
        lambda w: Forgery("C", "B", put(epoch_of(w.x, "C", 3)), REFUSED),
        lambda w: Forgery("C", "B", put(epoch_of(w.x, "C", 1)), REFUSED),  # with A's number
    ),
    "bury": (
        lambda w: Forgery("A", "B", bury(w.x, newer(w.x, epoch=Epoch(0, 1))), REFUSED),
        lambda w: Forgery("D", "B", bury(w.x, epoch_of(w.x, "D", 4)), REFUSED),
        lambda w: Forgery("C", "B", bury(w.x, epoch_of(w.x, "C", 3)), REFUSED),
    ),
    "abort": NO_EPOCH,
    "snapshot": READ,
    "give": NO_EPOCH,
    "hand_in": (
        lambda w: Forgery(
            "B", "A", hand_in(w.x, "modify", name="x", if_match='"0.1-1"'), ("revision-conflict",)
        ),
        lambda w: Forgery("B", "A", hand_in(w.x, "delete", if_match='"9.9-9"'), ("revision-conflict",)),
    ),
    "vote": (
        lambda w: Forgery("D", "B", vote(w.x, 4, epoch=Epoch(0, 4)), ("ok",), ("granted",)),
        lambda w: Forgery("D", "B", vote(w.x, 4, pair=w.x.pair._replace(revision=0)), ("ok",), ("granted",)),
    ),
    "sync": (
        lambda w: Forgery(
            "D",
            "B",
            sync("D", report_of("D", entry_of(w.x, pair=w.x.pair._replace(epoch=Epoch(9, 4))))),
            ("ok",),
        ),
    ),
}

WRONG_PROJECT: dict[str, Forgeries] = {
    "hello": NO_PROJECT,
    "reserve": (
        lambda w: Forgery("A", "B", reserve(w, w.networks["B"])._replace(project="other"), REFUSED),
        lambda w: Forgery("A", "B", reserve(w, w.foreign, project_id="other"), REFUSED),
        lambda w: Forgery(
            "A", "B", reserve(w, w.foreign, project_id="other")._replace(project="other"), REFUSED
        ),
        lambda w: Forgery("A", "B", reserve(w, w.foreign), ("network-not-found",)),
    ),
    "put": (
        lambda w: Forgery("A", "B", put(newer(w.x, project_id="other")), REFUSED),
        lambda w: Forgery("A", "B", put(newer(w.x, type="l3")), REFUSED),
        lambda w: Forgery(
            "A", "B", put(newer(w.x, resources=_with(w.x, "B", w.foreign))), ("resource-busy",)
        ),
        lambda w: Forgery(
            "C", "B", put(newer(w.y, resources=_with(w.y, "B", w.foreign))), ("resource-busy",)
        ),
    ),
    "bury": (
        lambda w: Forgery("A", "B", bury(w.x, newer(w.x, project_id="other")), REFUSED),
        lambda w: Forgery("A", "B", bury(w.x, newer(w.x, type="of-the-future")), REFUSED),
    ),
    "abort": NO_PROJECT,
    "snapshot": NO_PROJECT,
    "give": NO_PROJECT,
    "hand_in": tuple(
        lambda w, op=op, to=to: Forgery(
            "D",
            to,
            hand_in(w.x, op, name="forged", entry=Entry(site="D"))._replace(project="other"),
            ("service-not-found",),
        )
        for op in OPERATIONS
        for to in "AB"
    ),
    "vote": NO_PROJECT,
    "sync": NO_PROJECT,
}

WRONG_SENDER: dict[str, Forgeries] = {
    "hello": OPEN,
    "reserve": (
        # The ticket, by which requests are put in order, is another site's.
        lambda w: Forgery(
            "C", "B", reserve(w, w.networks["B"], ticket=Ticket(0, 1, 1)), ("incompatible-sites",)
        ),
        lambda w: Forgery("A", "B", reserve(w, w.networks["A"], entries=(_a(w),)), ("invalid-request",)),
    ),
    "put": (lambda w: Forgery("C", "B", put(newer(w.x))._replace(headers=CLAIMS), REFUSED),),
    "bury": (lambda w: Forgery("C", "B", bury(w.x)._replace(headers=CLAIMS), REFUSED),),
    "abort": (lambda w: Forgery("C", "B", abort(w.promise.rid)._replace(headers=CLAIMS), REFUSED),),
    "snapshot": (
        lambda w: Forgery("C", "B", Message("GET", one(w.x), headers=CLAIMS), ("ok",), ("document", "state")),
    ),
    "give": (lambda w: Forgery("C", "A", give(w.x)._replace(headers=CLAIMS), REFUSED),),
    "hand_in": (
        lambda w: Forgery("C", "A", hand_in(w.x, "delete")._replace(headers=CLAIMS), ("service-not-found",)),
    ),
    "vote": (
        lambda w: Forgery("C", "B", vote(w.x, 4)._replace(headers=CLAIMS), REFUSED),
        lambda w: Forgery("D", "B", vote(w.x, 1), REFUSED),  # with the master's number
    ),
    "sync": (
        lambda w: Forgery("C", "A", sync("B", None), REFUSED),
        lambda w: Forgery("C", "A", sync("C", report_of("B", entry_of(w.x))), REFUSED),
        lambda w: Forgery("C", "A", sync("C", report_of("C", number=2)), ("incompatible-sites",)),
    ),
}

WAYS = {
    "other's service": OTHERS_SERVICE,
    "other's block": OTHERS_BLOCK,
    "old epoch": OLD_EPOCH,
    "wrong project": WRONG_PROJECT,
    "wrong sender": WRONG_SENDER,
}


def _a(world: World) -> Entry:
    return Entry(site="A", resource_id=world.networks["A"])


def _with(document: Document, site: str, network: str) -> Any:
    """Its resources, that site's with another network's id."""
    return tuple(
        r.model_copy(update={"resource_id": network}) if r.site == site else r for r in document.resources
    )


def test_nothing_is_left_out():
    paths = make_east_west_app(
        None, site_name="A", directory=None, incarnation=str, received=print, revoked=bool
    ).routes
    served = {kind for route in paths for kind, _ in (route.endpoint._answers or {}).values()} | {"abort"}
    assert served == set(KINDS)
    for way, table in WAYS.items():
        assert sorted(table) == KINDS, way
        assert all(isinstance(f, str) or f for f in table.values()), way


def run(work):
    return asyncio.run(asyncio.wait_for(work, 120))


async def wrong(world: World, forgery: Forgery, kind: str) -> list[str]:
    """What is not as it should be: answered so, counted, told to the operator alone, and nothing changed."""
    before, counts = await world.picture(), {c: _count(world, forgery, kind, c) for c in forgery.codes}
    old = len(await world.events(forgery.receiver))
    answer = await world.send(forgery.sender, forgery.receiver, forgery.message)
    await world.settled()
    found = []
    if answer.code not in forgery.codes:
        return [f"answered {answer.code}: {answer.body}"]
    if _count(world, forgery, kind, answer.code) != counts[answer.code] + 1:
        found.append("not counted")
    found += [f"told {name}" for name in forgery.says_nothing if answer.body[name]]
    after = await world.picture()
    found += [differs(k, before[k], after[k]) for k in after if before[k] != after[k]]
    news = (await world.events(forgery.receiver))[old:]
    return found + [str(e) for e in news if (e.kind, e.project_id) != ("peer-refused", None)]


def differs(what: str, before: str, after: str) -> str:
    """From shortly ahead of the first difference."""
    pairs = enumerate(zip(before, after, strict=False))
    at = max(0, next((n for n, (a, b) in pairs if a != b), len(before)) - 40)
    return f"{what}: …{before[at : at + 120]}… is now …{after[at : at + 120]}…"


def _count(world: World, forgery: Forgery, kind: str, code: str) -> float:
    return world.counted(forgery.receiver, forgery.sender, kind, code)


@pytest.mark.parametrize("kind", KINDS)
def test_a_forged_message_is_refused_counted_and_changes_nothing(kind):
    async def main():
        world = await opened()
        problems = {
            f"{way}, number {number}": found
            for way, table in WAYS.items()
            for number, forge in enumerate(() if isinstance(table[kind], str) else table[kind])
            if (found := await wrong(world, forge(world), kind))
        }
        assert problems == {}
        sender, receiver, message = honest(world)[kind]  # the same world takes what is no forgery
        assert (await world.send(sender, receiver, message)).code == "ok"
        await world.cloud.close()

    run(main())


# -- the same message once more, later ----------------------------------------------------------------


async def _deleted(world: World) -> None:
    """X and the promise are gone; Y goes on."""
    changes = Change(operation="delete")
    await world.cloud["A"].requests.change(
        world.cloud.caller(), world.cloud.ctx("A"), world.x.service_id, changes
    )


def test_a_stranger_learns_nothing_of_a_deletion():
    async def main():
        world = await opened()
        await _deleted(world)
        await world.settled()
        assert await wrong(world, Forgery("C", "B", bury(world.x), REFUSED), "bury") == []
        await world.cloud.close()

    run(main())


async def _renamed(world: World) -> None:
    changes = Change(operation="modify", name="later")
    await world.cloud["A"].requests.change(
        world.cloud.caller(), world.cloud.ctx("A"), world.x.service_id, changes
    )


async def _fresh_is_over(world: World) -> None:
    """The service FRESH came and went: B has buried it."""
    members = tuple(
        Member(site=s, number=number(s), slot=number(s), rid=world.promise.rid if s == "B" else None)
        for s in "AB"
    )
    subnet = Subnet(cidr="10.21.0.0/24", ip_version=4)
    here = Resource(site="B", resource_id=world.networks["B"], subnets=(subnet,))
    update = {"service_id": FRESH, "type": "l3", "params": {}, "members": members, "resources": (here,)}
    fresh = world.x.model_copy(update=update)
    for message in (put(fresh), bury(fresh)):
        answer = await world.send("A", "B", message)
        assert answer.code == "ok", answer


Later = Callable[[World], Any]
REPLAYS: dict[str, tuple[Later, tuple[str, ...]] | str] = {
    "hello": OPEN,
    "reserve": (_fresh_is_over, ("service-not-found",)),
    "put": (_deleted, ("service-not-found",)),
    "bury": (_deleted, ("ok",)),  # the same answer: clean
    "abort": (_fresh_is_over, ("ok",)),  # there is nothing any more
    "snapshot": READ,
    "give": (_renamed, ("ok",)),  # the same blocks
    "hand_in": (_deleted, ("service-not-found",)),
    "vote": (_deleted, ("service-not-found",)),
    "sync": "what is behind is sent the document: a member whose database was restored says the same",
}


def test_every_kind_is_played_again():
    assert sorted(REPLAYS) == KINDS


@pytest.mark.parametrize("kind", [k for k in KINDS if not isinstance(REPLAYS[k], str)])
def test_a_message_that_comes_again_when_all_is_over_changes_nothing(kind):
    async def main():
        world = await opened()
        later, codes = REPLAYS[kind]
        sender, receiver, message = honest(world)[kind]
        if kind == "put":
            message = put(newer(world.x))
            assert (await world.send(sender, receiver, message)).code == "ok"
        elif kind in ("give", "hand_in", "bury"):
            assert (await world.send(sender, receiver, message)).code == "ok"
        await later(world)
        await world.settled()
        assert await wrong(world, Forgery(sender, receiver, message, codes), kind) == []
        await world.cloud.close()

    run(main())


def test_a_document_that_is_older_than_the_held_one_is_answered_with_that():
    async def main():
        world = await opened()
        old = put(world.x)
        await _renamed(world)
        await world.settled()
        assert await wrong(world, Forgery("A", "B", old, ("ok",)), "put") == []
        answer = await world.send("A", "B", old)
        assert answer.body["pair"][1] > world.x.revision
        await world.cloud.close()

    run(main())


# -- what every kind refuses in the same way ----------------------------------------------------------

DEEP = b'{"a":' * 100 + b"1" + b"}" * 100
HUGE = b'"' + b"x" * (2 * BODY_BYTES) + b'"'


def everywhere(kind: str, message: Message) -> dict[str, tuple[str | None, Message, str]]:
    """Way -> (whose certificate, message, code). Of kinds without a body only the envelope can be huge."""
    sender = {"hello": "C", "give": "B", "hand_in": "B", "sync": "B"}.get(kind, "A")
    initiator = "DIMINET-Initiator"
    ways = {
        "no certificate": (None, message, "not-authorised"),
        "a revoked certificate": ("R", message, "not-authorised"),
        "a site that is in no directory": ("Z", message, "not-authorised"),
        "a huge envelope": (sender, _headed(message, initiator, "x" * 9000), "invalid-request"),
        "a deep envelope": (sender, _headed(message, initiator, "[" * 7000), "invalid-request"),
        "a huge request id": (
            sender,
            _headed(message, "X-OpenStack-Request-ID", "r" * 129),
            "invalid-request",
        ),
        "a huge path": (
            sender,
            message._replace(path=message.path + "/x/y/" + "a" * 5000),
            "invalid-request",
        ),
        "a huge query": (sender, message._replace(query="x=" + "y" * 20_000), "invalid-request"),
        "another major version": (sender, _headed(message, "DIMINET-Protocol", "2.0"), "incompatible-sites"),
    }
    if kind in WITH_BODY:
        ways |= {
            "a huge body": (sender, message._replace(body=HUGE), "too-large"),
            "a deep body": (sender, message._replace(body=DEEP), "invalid-request"),
            "a body of brackets": (sender, message._replace(body=b"[" * 50_000), "invalid-request"),
            "a slow body": (sender, message._replace(slow=True), "invalid-request"),
            "a huge number": (
                sender,
                message._replace(body=b'{"number": 1' + b"0" * 40 + b"}"),
                "invalid-request",
            ),
        }
    return ways


def _headed(message: Message, name: str, value: str) -> Message:
    return message._replace(headers={name: value})


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_huge_deep_slow_or_not_from_a_site_is_refused_and_counted(kind):
    async def main():
        world = await opened()
        _, receiver, message = honest(world)[kind]
        before = await world.picture()
        problems = {}
        for way, (sender, forged, code) in everywhere(kind, message).items():
            answer = await world.send(sender, receiver, forged)
            peer = sender if sender and sender in NAMES else "unknown"
            counted = (
                "unknown" if "path" in way else "bury" if (kind, way) == ("abort", "a huge query") else kind
            )
            if answer.code != code or not world.counted(receiver, peer, counted, code):
                problems[way] = answer
            if len(json.dumps(answer.body)) > 2500:
                problems[way] = "a long answer"
        assert problems == {}
        if kind not in WITH_BODY:
            assert (await world.send(_sender(kind), receiver, message._replace(body=HUGE))).unread
            if kind == "abort":
                before = await world.picture()
        await world.settled()
        assert await world.picture() == before
        await world.cloud.close()

    run(main())


def _sender(kind: str) -> str:
    return "C" if kind == "hello" else "A"
