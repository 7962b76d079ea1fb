"""What has to be so once faults have stopped and everybody has had time: the checkers of liveness.

Each returns complaints, (invariant, sentence); none is left when all is well.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from diminet.engine.ports import ServiceRow
from diminet.model import Block, Document, ProvisioningStatus
from simulator.checks import live, stage
from simulator.site import NEW_FIELD

if TYPE_CHECKING:
    from simulator.site import Site
    from simulator.workload import Workload
    from simulator.world import World

Complaint = tuple[str, str]
OVER = frozenset({"settled", "left"})


class Quiet:
    def __init__(self, world: "World", workload: "Workload") -> None:
        self.world, self.workload, self.checks = world, workload, world.checks

    # -- all alike (invariant 5) -----------------------------------------------------------------------

    def alike(self) -> Iterator[Complaint]:
        """Every member holds the master's document, nobody else holds one."""
        for name, rows in self.checks.rows.items():
            for service_id, row in rows.items():
                if live(row):
                    yield from self._alike(name, service_id, row)

    def _alike(self, name: str, service_id: str, row: ServiceRow) -> Iterator[Complaint]:
        document = row.document
        master = self.checks.rows[document.master].get(service_id)
        if master is None or not live(master):
            yield "5", f"{name} holds {service_id}, which its master {document.master} has not"
            return
        if master.document.pair != document.pair:
            yield (
                "5",
                f"{name} holds {document.pair.etag()} of {service_id}, not {master.document.pair.etag()}",
            )
        if name != document.master:
            return
        for member in document.members:
            held = self.checks.rows[member.site].get(service_id)
            if not member.deferred and not live(held):
                yield "5", f"{member.site} does not hold {service_id} ({stage(held)}) of which it is a member"

    def unfenced(self) -> Iterator[Complaint]:
        """Whoever was restored has been told by all the others."""
        for site in self.world.sites.values():
            for service_id in site.disk.look(lambda tx: tx.fences()):
                yield "5", f"{service_id or 'the site itself'} stays fenced at {site.name}"

    # -- at rest ---------------------------------------------------------------------------------------

    def at_rest(self) -> Iterator[Complaint]:
        """Nothing under way, all parts made, nothing lost, nothing left over."""
        yield from self.alike()
        yield from self._acknowledged()
        yield from self._accepted()
        for site in self.world.sites.values():
            yield from self._nothing_under_way(site)
            yield from self._rows(site)
            yield from self._vim(site)
        for service_id in {i: None for rows in self.checks.rows.values() for i in rows}:
            yield from self._blocks(service_id)

    def _acknowledged(self) -> Iterator[Complaint]:
        """Invariant 4: what was acknowledged stands until somebody asks for its deletion."""
        for service_id in self.workload.acknowledged:
            if service_id in self.workload.to_delete:
                continue
            master = self._master(service_id)
            row = self.checks.rows[master].get(service_id)
            if not live(row):
                yield "4", f"{service_id}, which was acknowledged, is {stage(row)} at its master"

    def _accepted(self) -> Iterator[Complaint]:
        """What a member has taken a deletion of, its master does; unless that member is out meanwhile."""
        for service_id, site in self.workload.accepted:
            row = self.checks.rows[self._master(service_id)].get(service_id)
            if row is not None and live(row) and row.document.member(site) is not None:
                yield "4", f"{service_id} lives, although {site} took a request to delete it"

    def _master(self, service_id: str) -> str:
        """Of the highest epoch that was ever claimed."""
        known = self.checks.documents[service_id]
        return known[max(known)].master

    def _nothing_under_way(self, site: "Site") -> Iterator[Complaint]:
        intents, outbox, promises = site.disk.look(
            lambda tx: (tx.intents(), tx.outbox(), tx.expired_reservations(1e15))
        )
        for intent in intents:
            yield "5", f"{intent.operation} of {intent.service_id} does not end at {site.name}"
        for row in outbox:
            yield (
                "5",
                f"{row.kind} of {row.service_id} does not reach {row.peer} from {site.name}: {row.refused}",
            )
        for promise in promises:
            yield "3", f"a reservation of network {promise.network_id} stays at {site.name}"

    def _rows(self, site: "Site") -> Iterator[Complaint]:
        for service_id, row in self.checks.rows[site.name].items():
            if row.document.tombstone or row.left is not None:
                if stage(row) not in OVER:
                    yield "3", f"{service_id} is not taken down at {site.name}: {stage(row)}"
                elif row.document.tombstone and row.document.epoch.site == site.number:
                    yield from self._waits_for_nobody(site, service_id)
                continue
            if self._damaged(row.document):
                continue
            if stage(row) != "confirmed" or row.status != ProvisioningStatus.ACTIVE:
                yield "5", f"{service_id} does not become active at {site.name}: {stage(row)}, {row.status}"
            yield from self._kept(site, row.document)

    def _waits_for_nobody(self, site: "Site", service_id: str) -> Iterator[Complaint]:
        """Else its tombstone is kept for ever."""
        for member in site.disk.look(lambda tx: tx.members(service_id)):
            if member.site != site.name and not member.clean:
                yield "3", f"the settled {service_id} waits for {member.site} at {site.name}"

    def _damaged(self, document: Document) -> bool:
        return any(r.resource_id in self.workload.damaged for r in document.resources)

    def _kept(self, site: "Site", document: Document) -> Iterator[Complaint]:
        """Section 4: what a newer minor version added is kept and handed on."""
        master = self.world.sites[document.master]
        if master.newer_minor and master is not site and NEW_FIELD not in (document.model_extra or {}):
            yield "5", f"{site.name} lost a field of {document.service_id} that its newer master has added"

    # -- VIMs (invariants 3 and 9) ---------------------------------------------------------------------

    def _vim(self, site: "Site") -> Iterator[Complaint]:
        rows = {i: row.document for i, row in self.checks.rows[site.name].items() if live(row)}
        whole = {i: d for i, d in rows.items() if not self._damaged(d)}
        for service_id in site.vim.targets:
            if service_id not in rows:
                yield "3", f"a data plane of {service_id} is left at {site.name}"
        for service_id, document in whole.items():
            others = [d for d in rows.values() if d is not document and self._share(site.name, d, document)]
            wanted = site.engine.here.type_of(document.type).target(document, site.name, others)
            if site.vim.targets.get(service_id) != wanted:
                yield "5", f"the data plane of {service_id} at {site.name} is not as it should be"
        in_service = {r.resource_id for d in rows.values() for r in d.resources_of(site.name)}
        stretched = {
            r.resource_id for d in rows.values() if d.type == "l2" for r in d.resources_of(site.name)
        }
        for network_id, network in site.vim.networks.items():
            if network.ours is not None and network_id not in in_service:
                yield "3", f"network {network_id}, made for {network.ours}, is left at {site.name}"
            birth = self.workload.births[site.name].get(network_id)
            mine = birth is None or network_id in stretched or network_id in self.workload.damaged
            mine = mine or network_id in site.vim.gateways_in_use
            if not mine and self.workload.shapes(site, network_id) != birth:
                yield "3", f"network {network_id} of {site.name} is not as it was before"
        for network_id in self.workload.births[site.name].keys() - site.vim.networks.keys():
            if network_id not in self.workload.damaged:
                yield "3", f"network {network_id} of {site.name} was deleted, which DIMINET has not made"

    @staticmethod
    def _share(site: str, one: Document, other: Document) -> bool:
        ids = {r.resource_id for r in one.resources_of(site)}
        return any(r.resource_id in ids for r in other.resources_of(site))

    # -- blocks ----------------------------------------------------------------------------------------

    def _blocks(self, service_id: str) -> Iterator[Complaint]:
        """All members know the last version of every block, and its owner is one of them."""
        master = self._master(service_id)
        row = self.checks.rows[master].get(service_id)
        if not live(row) or row is None or self._damaged(row.document):
            return
        members = [m.site for m in row.document.members if not m.deferred]
        for (of, key), versions in self.checks.versions.items():
            if of != service_id:
                continue
            last: Block = versions[-1]
            if last.owner not in members:
                yield "7", f"block {key} of {service_id} is lost with {last.owner}, which is no member"
            for name in members:
                if self.checks.blocks[name][service_id].get(key) != last:
                    yield "5", f"{name} does not know the last version of block {key} of {service_id}"
