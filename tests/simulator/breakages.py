"""The deliberate breakages of the protocol that the simulator has to catch: see `mutants`.

Where two checks stand behind one another both are broken, or nothing would be. What was tried and broke
nothing, because of what stands behind it, is told in docs/simulator.md.
"""

from types import ModuleType

from diminet.engine import fence, following, participant, pools, reserving
from diminet.engine.changes import Changes
from diminet.engine.coordinator import Coordinator
from diminet.engine.fencing import Fencing
from diminet.engine.giving import Giving
from diminet.engine.outbox import Outbox
from diminet.engine.participant import Participant
from diminet.engine.pools import Pools
from diminet.engine.reconciler import Reconciler
from diminet.engine.rejoining import Rejoining
from diminet.engine.reservations import Reservations
from diminet.engine.resuming import Resuming
from diminet.engine.sync import Sync
from diminet.engine.takeover import Takeover
from diminet.engine.undoing import Undoing
from diminet.store.fences import Fences
from diminet.store.services import Services
from diminet.store.site import SiteWide
from simulator.mutants import Mutant, Patch


def _one(
    name: str,
    place: type | ModuleType,
    function: str,
    old: str,
    new: str,
    *also: Patch,
    faults: tuple[str, ...] = (),
    emphasis: str = "",
) -> Mutant:
    patches = (Patch((place,), function, old, new), *also)
    return Mutant(name, patches, frozenset(faults), emphasis)


# -- addresses ---------------------------------------------------------------------------------------

BLOCKS = (
    _one(
        "gift told before it is written",
        Giving,
        "_write_gift",
        "tx.put_blocks(service_id, [HeldBlock(block=b) for b in gift])",
        "pass",
    ),
    _one(
        "repeated request granted twice",
        Giving,
        "_write_gift",
        "if given is not None:",
        "if False:",
        faults=("weather",),
        emphasis="one side",
    ),
    _one(
        "gift out of the pool before the VIM is told",
        Giving,
        "_free_of",
        "if not out:\n        return False, used\n    await self.pools.shape(document, resource)",
        "if not out:\n        return False, used",
    ),
    _one(
        "reclaim without acknowledgement",
        Pools,
        "_has_nothing",
        "return known.clean",
        "return True",
        Patch(
            (Services,),
            "services_to_reclaim",
            "self._bodies(_TO_RECLAIM)",
            "sorted(self.services_at_work())",
        ),
        faults=("cut", "isolation"),
        emphasis="comings and goings",
    ),
    _one(
        "growth only by asking others",
        Pools,
        "more_room",
        "spare = await self._pool_spare(document, cidr)",
        "spare = False",
    ),
    Mutant(
        "everybody is believed about blocks",
        (Patch((participant, pools), "believe", "return sender == known.owner", "return True"),),
        frozenset({"forgery"}),
        "dry pools",
    ),
    _one(
        "blocks not given back on leaving",
        Reconciler,
        "_taken_down",
        "if current.left is not None and not tx.fenced(service_id):",
        "if False:",
    ),
    _one(
        "news of blocks not compared",
        Sync,
        "_same",
        "if entry.digest != block_logic.digest(h.block for h in held):",
        "if False:",
    ),
)

# -- documents: who may write, and when one is applied ---------------------------------------------------

DOCUMENTS = (
    _one(
        "claim not asked back",
        Participant,
        "_is_news",
        "following.check(self.here, row, document) is not None",
        "False",
        faults=("forgery",),
    ),
    _one(
        "hint taken for the master's word",
        Participant,
        "put",
        "ctx.sender != put.document.master or await",
        "await",
        faults=("forgery",),
    ),
    _one(
        "tombstone taken from anybody",
        Participant,
        "entomb",
        "if ctx.sender not in masters and not proven:",
        "if False:",
        faults=("forgery",),
    ),
    _one(
        "a master before deletes although it has followed",
        following,
        "deleted_before",
        "return own and not followed",
        "return True",
        faults=("forgery",),
        emphasis="takeovers",
    ),
    _one(
        "strangers hand in changes",
        Changes,
        "_may",
        "if ctx.sender is not None and document.member(ctx.sender) is None and not joining:",
        "if False:",
        faults=("forgery",),
        emphasis="strangers",
    ),
    _one(
        "epoch ignored",
        participant,
        "judge",
        "incoming.pair <= held.pair:",
        "incoming.revision <= held.revision:",
        faults=("cut", "isolation"),
        emphasis="takeovers",
    ),
    _one(
        "promise used behind its time",
        Participant,
        "_live",
        "and row.expires_at > now",
        "",
        faults=("weather",),
        emphasis="late letters",
    ),
    _one(
        "commit not checked again at the member",
        Participant,
        "accept",
        "here.type_of(document.type).recheck(document, here.name, list(committed.values()))",
        "pass",
        Patch((Reservations,), "_row", "if other.service_id != request.service_id:", "if False:"),
        emphasis="routes",
    ),
    _one(
        "late document applied without asking the master",
        participant,
        "judge",
        "return Verdict.STORE if confirmed else Verdict.ASK_MASTER",
        "return Verdict.STORE",
        faults=("weather",),
        emphasis="late letters",
    ),
    _one(
        "authorisation not asked for",
        participant,
        "judge",
        "if missing - authorised:",
        "if False:",
        faults=("slow site", "clock"),
        emphasis="comings and goings",
    ),
    _one(
        "own promise not checked at the commit",
        Coordinator,
        "still_promised",
        "if mine and (",
        "if False and (",
        faults=(
            "slow site",
            "clock",
        ),
        emphasis="endings",
    ),
    _one(
        "document restored under its old revision",
        Undoing,
        "_restore",
        '"revision": document.revision + 1,',
        '"revision": document.revision,',
        Patch(
            (Participant,),
            "accept",
            "document.pair <= before.document.pair:",
            "document.pair < before.document.pair:",
        ),
        faults=("cut", "vim errors"),
        emphasis="changes",
    ),
    _one(
        "interrupted operations are left",
        Resuming,
        "resume",
        "for intent in intents",
        "for intent in ()",
        faults=("crash",),
    ),
    _one(
        "every site of the directory is asked",
        Sync,
        "round",
        "if site.name in shared - {self.here.name} - self.busy and",
        "if site.name != self.here.name and site.name not in self.busy and",
    ),
    _one(
        "lease of before the clock was set back",
        SiteWide,
        "lease",
        "now < held.expires_at <= now + seconds",
        "now < held.expires_at",
        faults=("clock", "crash"),
    ),
)

# -- takeover --------------------------------------------------------------------------------------------

TAKEOVER = (
    _one(
        "vote not durable",
        Takeover,
        "_vote",
        "tx.save_service(row, expect=held.pair)",
        "pass",
        faults=("crash", "cut"),
        emphasis="takeovers",
    ),
    _one(
        "voter goes on with the master before",
        following,
        "within_promise",
        "if fenced(document, promised):",
        "if False:",
        faults=("cut", "isolation"),
        emphasis="takeovers",
    ),
    _one(
        "candidate that has vanished stops the service",
        Takeover,
        "renew",
        "for service_id, epoch in due.items():",
        "for service_id, epoch in ():",
        faults=("cut", "isolation", "crash"),
        emphasis="takeovers",
    ),
)

# -- leaving, deleting, putting back -----------------------------------------------------------------------

ENDINGS = (
    _one(
        "leaving not durable",
        Participant,
        "leave",
        '"left": me.join if me else 1,',
        '"left": None,',
    ),
    _one(
        "join number ignored",
        participant,
        "judge",
        "if left is not None and me.join <= left:",
        "if False:",
        faults=("cut", "isolation"),
        emphasis="comings and goings",
    ),
    _one(
        "join number given again",
        Coordinator,
        "_join",
        "max(departed, left) + 1",
        "1",
        emphasis="comings and goings",
    ),
    _one(
        "who has left by itself stays a member",
        Outbox,
        "_has_detached",
        "return gone and document.epoch.site == self.here.number",
        "return False",
        faults=("cut", "isolation"),
        emphasis="comings and goings",
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
        faults=("cut", "isolation"),
    ),
    _one(
        "identifier free again at once",
        Outbox,
        "settle",
        "if done:",
        "if True:",
        faults=("cut", "isolation"),
    ),
    _one(
        "data plane left on",
        Reconciler,
        "_take_down",
        "await self.here.south.disconnect(service_id)",
        "pass",
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
        "two promises of one network",
        Reservations,
        "_row",
        "if other.service_id != request.service_id:",
        "if False:",
    ),
    _one(
        "abort does not restore the pool",
        Reservations,
        "_undo",
        "for shape in row.original:",
        "for shape in ():",
        Patch((Reconciler,), "_undo_late", "for shape in remains.shapes:", "for shape in ():"),
    ),
    _one(
        "who is busy keeps what it has",
        reserving,
        "after_busy",
        "all(mine < holder for holder in holders)",
        "True",
    ),
)

# -- restored databases --------------------------------------------------------------------------------

RESTORED = (
    _one(
        "a restored database is trusted",
        fence,
        "refuse",
        "if tx.fenced(service_id):",
        "if False:",
        Patch(
            (Fences,),
            "fence",
            'self._db.execute(fences.insert().from_select(["service_id"], standing))',
            "pass",
        ),
        faults=("restored",),
    ),
    _one(
        "a restored site says that nothing is here",
        fence,
        "known",
        "if row is None:",
        "if False:",
        faults=("restored",),
        emphasis="one side",
    ),
    _one(
        "blocks not as their owners say",
        Rejoining,
        "_recollect_blocks",
        "for site, snapshot in told.items()",
        "for site, snapshot in ()",
        faults=("restored",),
    ),
    _one(
        "what was adopted stays",
        Fencing,
        "_lift",
        "if not tx.fenced(service_id):",
        "if False:",
        faults=("restored",),
    ),
)

MUTANTS = BLOCKS + DOCUMENTS + TAKEOVER + ENDINGS + RESTORED
