"""The checkers that run behind every step, on a mirror of all databases and VIMs that only they can see.

Each failure names its invariant of DESIGN section 5. They look only at what the step has changed.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import lru_cache
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING

from diminet.engine.ports import HeldBlock, ServiceRow
from diminet.messages import BlockGrant, BlockRequest, Snapshot, VoteRequest
from diminet.model import AddressRange, Block, Document, Epoch, Pair, Target

if TYPE_CHECKING:
    from simulator.disk import Recorder
    from simulator.network import Message
    from simulator.site import Site
    from simulator.world import World

Key = tuple[str, int]  # CIDR and index of a block
WITHOUT_SERVICE = frozenset({"hello", "sync"})


@lru_cache(maxsize=65536)
def number(address: str) -> int:
    return int(ip_address(address))


@lru_cache(maxsize=16384)
def spans(pools: tuple[AddressRange, ...]) -> tuple[tuple[int, int], ...]:
    return tuple((number(first), number(last)) for first, last in pools)


@lru_cache(maxsize=16384)
def overlap(one: str, other: str) -> bool:
    a, b = ip_network(one), ip_network(other)
    return a.version == b.version and a.overlaps(b)


def stage(row: ServiceRow | None) -> str:
    """Where a member's copy is in its life (diminet.logic.lifecycle)."""
    if row is None:
        return "unknown"
    if row.document.tombstone:
        return "settled" if row.settled else "buried"
    if row.left is not None:
        return "left" if row.settled else "leaving"
    if row.applied != row.document.pair:
        return "held"
    return "confirmed" if row.confirmed == row.document.pair else "applied"


def live(row: ServiceRow | None) -> bool:
    return row is not None and not row.document.tombstone and row.left is None


class Checks:
    """rows, blocks: what each site's database holds. documents, versions: everything that was ever
    rightly written. concerned: the sites that users have named for a service. deleted: services whose
    deletion was acknowledged by all."""

    def __init__(self, world: "World") -> None:
        self.world = world
        self.rows: dict[str, dict[str, ServiceRow]] = defaultdict(dict)
        self.blocks: dict[str, dict[str, dict[Key, Block]]] = defaultdict(lambda: defaultdict(dict))
        self.documents: dict[str, dict[Pair, Document]] = defaultdict(dict)
        self.versions: dict[tuple[str, Key], list[Block]] = defaultdict(list)
        self.asked: dict[str, set[str]] = {}  # request id -> sites that the user named
        self.concerned: dict[str, set[str]] = defaultdict(set)
        self.partners: dict[str, set[str]] = defaultdict(set)
        self.deleted: set[str] = set()
        self.vnis: dict[int, str] = {}
        self.granted: dict[tuple[str, str, str, str, int], tuple[Block, ...]] = {}
        self.brought_back: set[str] = set()  # sites of which an older copy was
        self.active: set[tuple[str, Pair]] = set()  # as their masters have called them
        self.voted: dict[tuple[str, str], Epoch] = {}  # (site, service): the highest that it has told
        self.told: dict[tuple[str, str], set[Pair]] = defaultdict(set)  # by its master, in a snapshot

    def fail(self, invariant: str, text: str) -> None:
        self.world.fail(invariant, text)

    # -- messages (invariant 6) ------------------------------------------------------------------------

    def named(self, request_id: str, sites: Iterable[str], service_id: str | None = None) -> None:
        """A user's request names these sites."""
        self.asked[request_id] = set(sites)
        if service_id is not None:
            self.concern(service_id, sites)

    def concern(self, service_id: str, sites: Iterable[str]) -> None:
        known = self.concerned[service_id]
        known |= set(sites)
        for site in known:
            self.partners[site] |= known

    def message(self, message: "Message") -> None:
        sender, receiver, kind = message.sender, message.receiver, message.kind
        if kind in WITHOUT_SERVICE:
            if receiver not in self.partners[sender]:
                self.fail("6", f"{sender} sends {kind} to {receiver}, with which it shares no service")
            return
        service_id = message.parts[0] if kind != "reserve" else self._reserved(message)
        if receiver not in self.concerned[service_id]:
            self.fail("6", f"{sender} sends {kind} of {service_id} to {receiver}, which nobody has named")

    def _reserved(self, message: "Message") -> str:
        """A create's first message: the service is known by its request from here on."""
        at = message.parts[0].index('"service_id":"') + len('"service_id":"')
        return message.parts[0][at : at + 36]

    def answered(self, message: "Message", answer: str) -> None:
        """What a site has told, for what it writes, or has written, of it."""
        if message.kind == "give" and '"blocks":[{' in answer:
            self._given(message, answer)
        elif message.kind == "vote" and '"granted":true' in answer:
            self._has_voted(message)
        elif message.kind == "snapshot" and '"document":{' in answer:
            told = Snapshot.model_validate_json(answer).document
            if told is not None and told.master == message.receiver:
                self.told[message.sender, told.service_id].add(told.pair)

    def _has_voted(self, message: "Message") -> None:
        """Invariant 4: a vote is durable before it is told (and kept, see `_keeps_its_vote`)."""
        site, service_id = message.receiver, message.parts[0]
        row = self.rows[site].get(service_id)
        if row is None or not live(row):
            return  # it has left since, or the service is deleted
        epoch = VoteRequest.model_validate_json(message.parts[1]).epoch
        if epoch not in (row.promised, row.document.epoch) and epoch > (row.promised or row.document.epoch):
            self.fail("4", f"{site} tells a vote for {tuple(epoch)} of {service_id} that it has not written")
        self.voted[site, service_id] = max(epoch, self.voted.get((site, service_id), epoch))

    def _given(self, message: "Message", answer: str) -> None:
        """Invariant 1: a numbered request for blocks is answered the same when it is repeated."""
        request = BlockRequest.model_validate_json(message.parts[1])
        key = (message.receiver, message.sender, message.parts[0], request.cidr, request.number)
        blocks = BlockGrant.model_validate_json(answer).blocks
        if self.granted.setdefault(key, blocks) != blocks:
            self.fail("1", f"{message.receiver} gives {message.sender} other blocks on the same request")

    # -- commits ---------------------------------------------------------------------------------------

    def fresh(self, site: "Site", row: ServiceRow) -> set[str]:
        """Networks of the site that it takes in with this row of another site's document."""
        document = row.document
        if document.epoch.site == site.number or not live(row):
            return set()
        before = self.rows[site.name].get(document.service_id)
        if before is not None and before.document.pair == document.pair:
            return set()
        known = before.document.resources_of(site.name) if before is not None and live(before) else ()
        return {r.resource_id for r in document.resources_of(site.name)} - {r.resource_id for r in known}

    def _lent(self, site: str, row: ServiceRow, network_id: str, why: str) -> None:
        """Invariant 8: a network is taken in on a live promise; without one only if it was authorised
        before and the master, asked by this site, has told that very document."""
        document = row.document
        if why == "no right":
            self.fail("8", f"{site} takes {network_id} into {_told(document)}, which nobody allowed there")
        elif document.pair not in self.told[site, document.service_id]:
            self.fail(
                "8",
                f"{site} takes {network_id} into {_told(document)} without a promise or its master's word",
            )

    def committed(self, site: "Site", done: "Recorder", blocks: Mapping[str, list[HeldBlock]]) -> None:
        for lent in done.lent:
            self._lent(site.name, *lent)
        for intent in done.intents:
            if not isinstance(intent, str):
                self.concern(intent.service_id, self.asked.get(intent.request_id, ()))
        for row in done.rows:
            if isinstance(row, str):
                self._forgotten(site.name, row)
            else:
                self._row(site, row)
        last = {row.document.service_id: row for row in done.rows if not isinstance(row, str)}
        for row in last.values():  # nobody sees a row that a transaction writes on the way to that
            self._called_active(site, row)
            self._stays_deleted(site, row)
        if done.pruned:
            self._pruned(site)
        for service_id, held in blocks.items():
            self._blocks(site, service_id, held)

    def restored(self, site: "Site") -> None:
        """The site holds an older copy of its database now; what it has told since, it does not know."""
        self.voted = {key: epoch for key, epoch in self.voted.items() if key[0] != site.name}
        self.brought_back.add(site.name)
        self.deleted = {service_id for service_id in self.deleted if not self.only_at(site.name, service_id)}
        everybody = set(self.world.sites)
        self.partners[site.name] |= everybody  # it asks all what they share with it
        rows = site.disk.look(lambda tx: [tx.service(i) for i in self.documents])
        self.rows[site.name] = {row.document.service_id: row for row in rows if row is not None}
        for service_id in self.documents:
            held = site.disk.look(lambda tx, i=service_id: tx.blocks(i))
            self.blocks[site.name][service_id] = {(h.block.cidr, h.block.index): h.block for h in held}

    def only_at(self, site: str, service_id: str) -> bool:
        """Nobody else was in it, or left in it, so nobody else knows that it was made, or deleted."""
        known = self.documents[service_id]
        return {member.site for member in known[max(known)].members if not member.deferred} == {site}

    def _pruned(self, site: "Site") -> None:
        """What is over may have gone by itself; the store's own pruning is not seen row by row."""
        for service_id, row in list(self.rows[site.name].items()):
            if stage(row) in ("settled", "left") and site.missing(service_id):
                self._forgotten(site.name, service_id)

    def _forgotten(self, site: str, service_id: str) -> None:
        row = self.rows[site].pop(service_id, None)
        self.blocks[site].pop(service_id, None)
        self.voted.pop((site, service_id), None)
        self.world.count("transition", f"{stage(row)} to unknown")

    def _row(self, site: "Site", row: ServiceRow) -> None:
        document = row.document
        old = self.rows[site.name].get(document.service_id)
        self.rows[site.name][document.service_id] = row
        self._written_by_its_master(site, document)
        self._once_gone_stays_gone(site.name, old, row)
        self._keeps_its_vote(site.name, old, row)
        if old is None or old.document.pair != document.pair or stage(old) != stage(row):
            self.world.count("transition", f"{stage(old)} to {stage(row)}")
            if live(row):
                self._theirs(site, document)
                self._apart(site, document)

    def _written_by_its_master(self, site: "Site", document: Document) -> None:
        """Invariant 8: a document is the one that its master wrote under that pair, whoever holds it."""
        known = self.documents[document.service_id]
        first = known.get(document.pair)
        if first is not None:
            if not _same(first, document):
                self.fail("8", f"{site.name} holds another {_told(document)} than its master wrote")
            return
        if document.epoch.site != site.number:
            self.fail("8", f"{site.name} stores {_told(document)}, which its master never wrote")
        same = [pair for pair in known if pair.epoch == document.epoch]
        if same and document.pair < max(same):
            self.fail("8", f"{site.name} writes {_told(document)} behind {max(same)}")
        if not known:
            self._own_identifier(document)
        known[document.pair] = document

    def _own_identifier(self, document: Document) -> None:
        """An identifier is free again only when everybody has put the service before away (section 5)."""
        vni = document.identifiers.vni
        before = self.vnis.get(vni)
        if before is not None:
            for name, site in self.world.sites.items():
                fenced = site.disk.look(
                    lambda tx: tx.fenced(before)
                )  # an older copy: nothing is done with it
                if before in site.vim.targets or (live(self.rows[name].get(before)) and not fenced):
                    self.fail("3", f"VNI {vni} of {before[:8]}, still at {name}, is given to another service")
        self.vnis[vni] = document.service_id

    def _once_gone_stays_gone(self, site: str, old: ServiceRow | None, row: ServiceRow) -> None:
        """Invariant 4: tombstones are absorbing, who has left is taken in only by a new join."""
        document, service_id = row.document, row.document.service_id
        if old is not None and old.document.tombstone and not document.tombstone:
            self.fail("4", f"{service_id} is back at {site}, which had its tombstone")
        if old is not None and old.left is not None and live(row):
            me = document.member(site)
            if me is None or me.join <= old.left:
                self.fail("4", f"{site} is taken into {service_id} by a join that it had left")

    def _keeps_its_vote(self, site: str, old: ServiceRow | None, row: ServiceRow) -> None:
        """Invariant 4: who has voted for an epoch stores nothing of a lower one."""
        document, key = row.document, (site, row.document.service_id)
        voted = self.voted.get(key)
        if voted is None:
            return
        if not live(row):
            del self.voted[key]  # who has left has no vote any more
        elif document.epoch < voted and (old is None or document.pair > old.document.pair):
            self.fail("4", f"{site} stores {_told(document)}, though it has voted for {tuple(voted)}")

    def _theirs(self, site: "Site", document: Document) -> None:
        """Invariant 8: no tenant joins what is not theirs."""
        for resource in document.resources_of(site.name):
            network = site.vim.networks.get(resource.resource_id)
            if network is not None and network.project_id != document.project_id:
                self.fail(
                    "8",
                    f"{document.service_id} of {document.project_id} has a network of {network.project_id}",
                )

    def _apart(self, site: "Site", document: Document) -> None:
        """Invariants 2 and 10, for the networks of this site: what reaches one another is disjoint, and a
        stretched network is in one service only."""
        for own in document.resources_of(site.name):
            sharing = [
                row.document
                for row in self.rows[site.name].values()
                if live(row)
                and not site.disk.look(lambda tx, i=row.document.service_id: tx.fenced(i))  # an older copy
                and own.resource_id in {r.resource_id for r in row.document.resources_of(site.name)}
            ]
            if len(sharing) > 1 and any(d.type == "l2" for d in sharing):
                ids = ", ".join(d.service_id for d in sharing)
                self.fail("10", f"network {own.resource_id} of {site.name} was granted to {ids}")
            if document.type == "l3":
                self._disjoint(site.name, sharing)

    def _disjoint(self, site: str, sharing: list[Document]) -> None:
        parts = sorted(
            {(r.site, r.resource_id, s.cidr) for d in sharing for r in d.resources for s in r.subnets}
        )
        for at, (one_site, one, cidr) in enumerate(parts):
            for other_site, other, other_cidr in parts[at + 1 :]:
                if (one_site, one) != (other_site, other) and overlap(cidr, other_cidr):
                    self.fail("2", f"at {site}, {cidr} of {one_site} reaches {other_cidr} of {other_site}")

    def _called_active(self, site: "Site", row: ServiceRow) -> None:
        document, key = row.document, (row.document.service_id, row.document.pair)
        master = live(row) and document.epoch.site == site.number
        if master and row.confirmed == document.pair and key not in self.active:
            self.active.add(key)
            self._held_by_all(document)

    def _stays_deleted(self, site: "Site", row: ServiceRow) -> None:
        """Invariant 4; an older copy still has it, and does nothing with it."""
        service_id = row.document.service_id
        if live(row) and service_id in self.deleted and not site.disk.look(lambda tx: tx.fenced(service_id)):
            self.fail("4", f"{service_id} is live at {site.name} although its deletion was acknowledged")

    def _held_by_all(self, document: Document) -> None:
        """Invariant 4: what is called ACTIVE is durable at every member (but, where the tenant said
        `defer`, at one that went away meanwhile)."""
        if document.on_unreachable == "defer":
            return
        for member in document.members:
            row = self.rows[member.site].get(document.service_id)
            if not member.deferred and (row is None or row.document.pair < document.pair):
                self.fail("4", f"{_told(document)} is called active, but {member.site} does not hold it")

    # -- blocks (invariant 1) --------------------------------------------------------------------------

    def _blocks(self, site: "Site", service_id: str, held: Iterable[HeldBlock]) -> None:
        before = self.blocks[site.name][service_id]
        for block in (h.block for h in held):
            key = (block.cidr, block.index)
            known = before.get(key)
            if known is block or known == block:
                continue
            if known is not None and block.version < known.version:
                self.fail("1", f"{site.name} goes back to {_told_block(block)}")
            before[key] = block
            self._rightly_given(site, service_id, key, block)

    def _rightly_given(self, site: "Site", service_id: str, key: Key, block: Block) -> None:
        """Owners give, nobody takes; written before it is told."""
        versions = self.versions[service_id, key]
        if block.version <= len(versions):
            if versions[block.version - 1] != block:
                first = _told_block(versions[block.version - 1])
                self.fail("1", f"{site.name} holds {_told_block(block)}, but {first} was written before")
            return
        if block.giver != site.name:
            self.fail("1", f"{site.name} holds {_told_block(block)}, which {block.giver} has not written")
        elif site.name in self.brought_back and self._outbids(service_id, block, versions):
            versions += [versions[-1]] * (block.version - 1 - len(versions))
        elif block.version > len(versions) + 1:
            self.fail("1", f"{site.name} writes {_told_block(block)} without the version before")
        elif (
            versions
            and versions[-1].owner != site.name
            and not self._reclaims(site, service_id, versions[-1])
        ):
            self.fail("1", f"{site.name} writes {_told_block(block)}, but {versions[-1].owner} owns it")
        versions.append(block)

    def _outbids(self, service_id: str, block: Block, versions: list[Block]) -> bool:
        """Behind a restore, with a gap: not what another site knows to be its own."""
        if not versions or block.version <= len(versions):
            return False
        key, last = (block.cidr, block.index), versions[-1]
        theirs = self.blocks[last.owner][service_id].get(key)
        return last.owner == block.giver or theirs is None or theirs.owner != last.owner

    def _reclaims(self, site: "Site", service_id: str, last: Block) -> bool:
        """The master, what was given to a site that has left for good and never knew of it."""
        row = self.rows[site.name].get(service_id)
        theirs = self.blocks[last.owner][service_id].get((last.cidr, last.index))
        there = self.rows[last.owner].get(service_id)
        member = there.document.member(last.owner) if there else None
        gone = stage(there) in ("left", "settled", "unknown") or (member is not None and member.deferred)
        unaware = theirs is None or theirs.owner != last.owner
        master = row is not None and row.document.epoch.site == site.number
        return master and gone and unaware

    # -- VIMs (invariant 1) ----------------------------------------------------------------------------

    def vim(self, site: "Site", what: str, name: str) -> None:
        """what: `network` or `target`, as SimulatedVim tells it."""
        for service_id, target in site.vim.targets.items():
            if target.layer == "l2" and (service_id == name if what == "target" else name in target.networks):
                for other in self.world.sites.values():
                    theirs = other.vim.targets.get(service_id) if other is not site else None
                    if theirs is not None and _linked(target, theirs):
                        self._no_address_twice(site, target, other, theirs)

    def _no_address_twice(self, site: "Site", mine: Target, other: "Site", theirs: Target) -> None:
        network = site.vim.networks.get(mine.networks[0])
        far = other.vim.networks.get(theirs.networks[0])
        if network is None or far is None:
            return
        both = mine.anycast_gateway
        used, used_far = _used(site, network.network_id, both), _used(other, far.network_id, both)
        where = f"at {site.name} and {other.name}, both in {mine.service_id}"
        twice = used.keys() & used_far.keys()
        if twice:
            self.fail("1", f"{min(twice)} is in use {where}")
        if set(used.values()) & set(used_far.values()):
            self.fail("1", f"a MAC is in use {where}")
        pools = [span for s in network.subnets for span in spans(s.pools)]
        pools_far = [span for s in far.subnets for span in spans(s.pools)]
        if any(a <= d and c <= b for a, b in pools for c, d in pools_far):
            self.fail("1", f"{pools} and {pools_far} give out the same addresses {where}")
        for addresses, others in ((used, pools_far), (used_far, pools)):
            for address in addresses:
                if any(a <= number(address) <= b for a, b in others):
                    self.fail("1", f"{address}, in use, is in the other's pool {where}")


def _linked(one: Target, other: Target) -> bool:
    """Does either let in what the other announces?"""
    return one.export_target in other.import_targets or other.export_target in one.import_targets


def _used(site: "Site", network_id: str, anycast: bool) -> dict[str, str]:
    """Address -> MAC. The shared gateway is one on purpose."""
    ports = list(site.vim.port_rows[network_id].values())
    if not anycast:
        ports += site.vim.gateways(network_id)
    return {port.ip: port.mac for port in ports}


def _same(one: Document, other: Document) -> bool:
    """But for the tombstone mark, and what a newer minor version added on the way."""
    a, b = one.__dict__, other.__dict__
    return all(a[name] == b[name] for name in a if name != "tombstone")


def _told(document: Document) -> str:
    return f"{document.service_id} {document.pair.etag()}"


def _told_block(block: Block) -> str:
    return f"block {block.cidr} {block.index} v{block.version} of {block.owner} by {block.giver}"
