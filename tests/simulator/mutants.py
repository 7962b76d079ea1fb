"""Deliberate breakages of the protocol, each a small patch of one production function, applied at runtime.

A checker that finds none of them would find no bug either. `CAUGHT` records, for each, the first seed that
catches it and the invariant that it breaks there; `make test` plays these seeds again. When the simulator or
the protocol changes, `make simulate MUTANTS=1` searches anew and prints the table to put here.
"""

import inspect
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType

from diminet.engine import following, participant, pools, reserving
from diminet.engine.changes import Changes
from diminet.engine.coordinator import Coordinator
from diminet.engine.giving import Giving
from diminet.engine.outbox import Outbox
from diminet.engine.participant import Participant
from diminet.engine.pools import Pools
from diminet.engine.reconciler import Reconciler
from diminet.engine.reservations import Reservations
from diminet.engine.resuming import Resuming
from diminet.engine.sync import Sync
from diminet.engine.takeover import Takeover
from diminet.engine.undoing import Undoing
from diminet.store.site import SiteWide
from simulator.run import Plan

STEPS = 500  # of the storm in which it is looked for
SEEDS_MOST = 40  # each is caught within so many seeds, from the first


@dataclass(frozen=True)
class Mutant:
    """In the source of `function` of each of `places`, `old` (there once) becomes `new`. faults: the kinds
    with which it is looked for, so that few seeds suffice; none where users alone bring it out."""

    name: str
    places: tuple[type | ModuleType, ...]
    function: str
    old: str
    new: str

    @property
    def plan(self) -> Plan:
        return Plan(steps=STEPS, faults=frozenset(FAULTS.get(self.name, ())))


def _one(name: str, place: type | ModuleType, function: str, old: str, new: str) -> Mutant:
    return Mutant(name, (place,), function, old, new)


MUTANTS = (
    _one(
        "gift told before it is written",
        Giving,
        "_write_gift",
        "tx.put_blocks(service_id, [HeldBlock(block=b) for b in gift])",
        "pass",
    ),
    _one("repeated request granted twice", Giving, "_write_gift", "if given is not None:", "if False:"),
    _one(
        "gift out of the pool before the VIM is told",
        Giving,
        "_free_of",
        "if not out:\n        return False, used\n    await self.pools.shape(document, resource)",
        "if not out:\n        return False, used",
    ),
    _one(
        "spare is not told to the VIM after a crash",
        Pools,
        "at_rest",
        "if resource.resource_id not in self.shaped:",
        "if False:",
    ),
    _one("reclaim without acknowledgement", Pools, "_has_nothing", "return known.clean", "return True"),
    _one(
        "growth only by asking others",
        Pools,
        "more_room",
        "spare = await self._pool_spare(document, cidr)",
        "spare = False",
    ),
    Mutant(
        "everybody is believed about blocks",
        (participant, pools),
        "believe",
        "return sender == known.owner",
        "return True",
    ),
    _one(
        "claim not asked back",
        Participant,
        "_is_news",
        "following.check(self.here, row, document) is not None",
        "False",
    ),
    _one("vote not durable", Takeover, "_vote", "tx.save_service(row, expect=held.pair)", "pass"),
    _one(
        "voter goes on with the master before",
        following,
        "within_promise",
        "if fenced(document, promised):",
        "if False:",
    ),
    _one(
        "reclaim before the masters before have followed",
        Pools,
        "reclaim",
        "if not self._followed(row.document, members):",
        "if False:",
    ),
    _one(
        "sites that only the master before knew are not told",
        Outbox,
        "_tell_also",
        "new = sorted(set(state.also) - known)",
        "new = []",
    ),
    _one(
        "delete by who is not the master any more",
        Undoing,
        "bury",
        "if row.document.epoch.site != self.here.number:",
        "if False:",
    ),
    _one(
        "identifier free again when only its creator is clean",
        Outbox,
        "_free_identifier",
        "if document.epoch.site != self.here.number:",
        "if False:",
    ),
    _one(
        "hint taken for the master's word",
        Participant,
        "put",
        "ctx.sender != put.document.master or await",
        "await",
    ),
    _one(
        "tombstone taken from anybody",
        Participant,
        "entomb",
        "if ctx.sender not in masters and not proven:",
        "if False:",
    ),
    _one("leaving not durable", Participant, "leave", '"left": me.join if me else 1,', '"left": None,'),
    _one("promise used behind its time", Participant, "_live", "and row.expires_at > now", ""),
    _one(
        "commit not checked again at the member",
        Participant,
        "accept",
        "here.type_of(document.type).recheck(document, here.name, list(committed.values()))",
        "pass",
    ),
    _one(
        "late document applied without asking the master",
        participant,
        "judge",
        "return Verdict.STORE if confirmed else Verdict.ASK_MASTER",
        "return Verdict.STORE",
    ),
    _one("authorisation not asked for", participant, "judge", "if missing - authorised:", "if False:"),
    _one(
        "join number ignored", participant, "judge", "if left is not None and me.join <= left:", "if False:"
    ),
    _one(
        "own promise not checked at the commit",
        Coordinator,
        "still_promised",
        "if mine and (",
        "if False and (",
    ),
    _one(
        "share of a joining site not written",
        Coordinator,
        "give",
        "tx.put_blocks(service_id, [HeldBlock(block=block) for block in gives])",
        "pass",
    ),
    _one(
        "document restored under its old revision",
        Undoing,
        "_restore",
        '"revision": document.revision + 1,',
        '"revision": document.revision,',
    ),
    _one(
        "join number of a failed join forgotten",
        Undoing,
        "_restore",
        '"departed": {**before.departed, **joined},',
        '"departed": before.departed,',
    ),
    _one(
        "tombstone dropped after one try",
        Outbox,
        "deliver",
        "await self.here.store.write(lambda tx: self._later(tx, row, refusal))",
        'if row.kind == "tombstone":\n'
        "            await self.here.store.write(lambda tx: self._unknown_there(tx, row))\n"
        "        else:\n"
        "            await self.here.store.write(lambda tx: self._later(tx, row, refusal))",
    ),
    _one("identifier free again at once", Outbox, "settle", "if done:", "if True:"),
    _one(
        "confirmed before all have it",
        Outbox,
        "conclude",
        "pending = ProvisioningStatus.PENDING_UPDATE if active else row.status",
        "pending = row.status",
    ),
    _one(
        "late answer unsettles a deleted service",
        Outbox,
        "note",
        "if row is None or row.document.tombstone:",
        "if row is None:",
    ),
    _one(
        "data plane left on", Reconciler, "_take_down", "await self.here.south.disconnect(service_id)", "pass"
    ),
    _one(
        "pools back before the data plane is off",
        Reconciler,
        "_take_down",
        "await self.here.south.disconnect(service_id)\n"
        "    connections = await self.here.store.read(lambda tx: tx.connections(service_id))\n"
        "    warnings = await self._restore(connections)",
        "connections = await self.here.store.read(lambda tx: tx.connections(service_id))\n"
        "    warnings = await self._restore(connections)\n"
        "    await self.here.south.disconnect(service_id)",
    ),
    _one(
        "blocks not given back on leaving",
        Reconciler,
        "_taken_down",
        "if current.left is not None:",
        "if False:",
    ),
    _one(
        "two promises of one network",
        Reservations,
        "_row",
        "if other.service_id != request.service_id:",
        "if False:",
    ),
    _one(
        "network promised while it is put back",
        Reservations,
        "_row",
        "if tx.being_put_back(entry.resource_id):",
        "if False:",
    ),
    _one(
        "abort does not restore the pool",
        Reservations,
        "_undo",
        "for shape in row.original:",
        "for shape in ():",
    ),
    _one(
        "another project's network",
        Reservations,
        "theirs",
        "if network is None or network.project_id != project_id:",
        "if network is None:",
    ),
    _one(
        "strangers hand in changes",
        Changes,
        "_may",
        "if ctx.sender is not None and document.member(ctx.sender) is None and not joining:",
        "if False:",
    ),
    _one("interrupted operations are left", Resuming, "resume", "for intent in intents", "for intent in ()"),
    _one(
        "news of blocks not compared",
        Sync,
        "_same",
        "if entry.digest != block_logic.digest(h.block for h in held):",
        "if False:",
    ),
    _one(
        "every site of the directory is asked",
        Sync,
        "round",
        "if site.name in shared - {self.here.name} - self.busy and",
        "if site.name != self.here.name and site.name not in self.busy and",
    ),
    _one(
        "who is busy keeps what it has",
        reserving,
        "after_busy",
        "all(mine < holder for holder in holders)",
        "True",
    ),
    _one(
        "lease of before the clock was set back",
        SiteWide,
        "lease",
        "now < held.expires_at <= now + seconds",
        "now < held.expires_at",
    ),
)

FAULTS: dict[str, tuple[str, ...]] = {
    "repeated request granted twice": ("weather",),
    "spare is not told to the VIM after a crash": (
        "crash at a step",
        "vim errors",
    ),
    "reclaim without acknowledgement": (
        "cut",
        "isolation",
    ),
    "everybody is believed about blocks": ("forgery",),
    "claim not asked back": ("forgery",),
    "hint taken for the master's word": ("forgery",),
    "tombstone taken from anybody": ("forgery",),
    "strangers hand in changes": ("forgery",),
    "vote not durable": ("crash", "cut"),
    "voter goes on with the master before": ("cut", "isolation"),
    "reclaim before the masters before have followed": ("cut", "isolation"),
    "sites that only the master before knew are not told": ("cut", "one-way cut"),
    "promise used behind its time": (
        "slow site",
        "weather",
    ),
    "commit not checked again at the member": (
        "slow site",
        "weather",
    ),
    "late document applied without asking the master": (
        "slow site",
        "weather",
        "cut",
    ),
    "authorisation not asked for": (
        "slow site",
        "weather",
        "cut",
    ),
    "join number ignored": (
        "weather",
        "cut",
    ),
    "own promise not checked at the commit": (
        "slow site",
        "weather",
    ),
    "document restored under its old revision": (
        "cut",
        "vim errors",
    ),
    "join number of a failed join forgotten": (
        "cut",
        "vim errors",
    ),
    "tombstone dropped after one try": (
        "cut",
        "isolation",
    ),
    "identifier free again at once": (
        "cut",
        "isolation",
    ),
    "confirmed before all have it": (
        "vim errors",
        "storage",
        "cut",
    ),
    "late answer unsettles a deleted service": (
        "weather",
        "slow site",
    ),
    "interrupted operations are left": ("crash",),
    "lease of before the clock was set back": (
        "clock",
        "crash",
    ),
}

CAUGHT: dict[str, tuple[int, str]] = {
    "gift told before it is written": (2, "1"),
    "hint taken for the master's word": (9, "8"),
    "gift out of the pool before the VIM is told": (7, "1"),
    "growth only by asking others": (2, "7"),
    "claim not asked back": (1, "8"),
    "tombstone taken from anybody": (1, "4"),
    "leaving not durable": (1, "1"),
}


@contextmanager
def applied(mutant: Mutant) -> Iterator[None]:
    """Production code is so broken inside. Raises AssertionError when the source is not as expected."""
    before = [(place, inspect.getattr_static(place, mutant.function)) for place in mutant.places]
    original = getattr(mutant.places[0], mutant.function)
    source = textwrap.dedent(inspect.getsource(original))
    assert source.count(mutant.old) == 1, f"{mutant.name}: {mutant.function} has changed"
    names: dict[str, object] = {}
    code = compile(source.replace(mutant.old, mutant.new), f"<mutant: {mutant.name}>", "exec")
    exec(code, inspect.getmodule(original).__dict__, names)
    try:
        for place in mutant.places:
            setattr(place, mutant.function, names[mutant.function])
        yield
    finally:
        for place, function in before:
            setattr(place, mutant.function, function)
