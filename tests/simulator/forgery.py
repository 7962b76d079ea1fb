"""A valid peer that lies: messages which must change nothing (invariant 8)."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from pydantic import BaseModel

from diminet.logic.blocks import next_version
from diminet.messages import BlockRequest, Change, Context, DocumentPut, ReserveRequest, Tombstone
from diminet.model import Document, Entry, Epoch, Initiator, Ticket
from simulator.checks import live
from simulator.network import Message

if TYPE_CHECKING:
    from simulator.site import Site
    from simulator.world import World


class Forger:
    def __init__(self, world: "World") -> None:
        self.world, self.rng = world, world.rng

    def forge(self) -> None:
        """One message of a site to another about a service that it does not master; now and then of its
        master about what even that may not say."""
        if self.rng.random() < 0.15:
            self._false_gift()
            return
        liar = self.rng.choice(list(self.world.sites.values()))
        known = [
            (site, row.document)
            for site in self.world.sites.values()
            for row in self.world.checks.rows[site.name].values()
            if site is not liar and live(row) and row.document.epoch.site != liar.number
        ]
        if not known:
            return
        victim, document = self.rng.choice(known)
        lies: list[Callable[[Site, Site, Document], tuple[str, list[str | BaseModel]]]] = [
            self._newer,
            self._own_epoch,
            self._stolen_block,
            self._tombstone,
            self._abort,
            self._give,
            self._delete,
            self._other_project,
        ]
        kind, parts = self.rng.choice(lies)(liar, victim, document)
        self._send(liar, victim, document, kind, parts)

    def _false_gift(self) -> None:
        """Its master says that it has blocks now, which it was not given."""
        known = [
            (site, row.document)
            for site in self.world.sites.values()
            for row in self.world.checks.rows[site.name].values()
            if live(row) and row.document.epoch.site != site.number
        ]
        if not known:
            return
        victim, document = self.rng.choice(known)
        master, members = document.master, {m.site for m in document.members}
        held = self.world.checks.blocks[victim.name][document.service_id].values()
        theirs = [b for b in held if b.owner in members - {victim.name, master}]
        stolen = tuple(next_version(b, master, master) for b in theirs)
        parts: list[str | BaseModel] = [document.service_id, DocumentPut(document=document, blocks=stolen)]
        self._send(self.world.sites[master], victim, document, "put", parts)

    def _send(
        self, liar: "Site", victim: "Site", document: Document, kind: str, parts: list[str | BaseModel]
    ) -> None:
        project = self.rng.choice([document.project_id, "other"])
        ctx = Context(
            request_id=f"req-{self.world.uuid()}",
            initiator=Initiator(user_id="mallory", project_id=project, site=liar.name),
        )
        message = Message(
            sender=liar.name,
            receiver=victim.name,
            kind=kind,
            headers=liar.headers(ctx, 10.0),
            parts=[part if isinstance(part, str) else liar.encode(part) for part in parts],
            reply=None,
        )
        self.world.step("fault", liar.name, lambda: f"lies to {victim.name}: {kind} {parts[0]!s:.8}")
        self.world.network.post(message)

    def _newer(self, liar: "Site", victim: "Site", document: Document) -> tuple[str, list[str | BaseModel]]:
        forged = document.model_copy(update={"revision": document.revision + 1, "name": "forged"})
        return "put", [document.service_id, DocumentPut(document=forged)]

    def _own_epoch(
        self, liar: "Site", victim: "Site", document: Document
    ) -> tuple[str, list[str | BaseModel]]:
        """It calls itself the master; only a member can, or the document names no master."""
        members = document.members
        if document.member(liar.name) is None:
            spare = members[-1].model_copy(update={"site": liar.name, "number": liar.number})
            members = (*members[:-1], spare)
        epoch = Epoch(document.epoch.n + 1, liar.number)
        forged = document.model_copy(update={"epoch": epoch, "members": members, "name": "forged"})
        return "put", [document.service_id, DocumentPut(document=forged)]

    def _stolen_block(
        self, liar: "Site", victim: "Site", document: Document
    ) -> tuple[str, list[str | BaseModel]]:
        """The document as it is, with blocks of others that are said to be given to the liar."""
        held = self.world.checks.blocks[victim.name][document.service_id].values()
        stolen = [next_version(b, liar.name, liar.name) for b in held if b.owner != liar.name]
        return "put", [document.service_id, DocumentPut(document=document, blocks=tuple(stolen))]

    def _tombstone(
        self, liar: "Site", victim: "Site", document: Document
    ) -> tuple[str, list[str | BaseModel]]:
        return "bury", [document.service_id, Tombstone(service_id=document.service_id, document=document)]

    def _abort(self, liar: "Site", victim: "Site", document: Document) -> tuple[str, list[str | BaseModel]]:
        promises = victim.disk.look(lambda tx: tx.expired_reservations(1e15))
        promises = [p for p in promises if p.sender != liar.name]
        if not promises:
            return self._tombstone(liar, victim, document)
        promise = self.rng.choice(promises)
        return "abort", [promise.service_id, promise.rid]

    def _give(self, liar: "Site", victim: "Site", document: Document) -> tuple[str, list[str | BaseModel]]:
        """As a member it would be a request like any other."""
        if document.member(liar.name) is not None:
            return self._stolen_block(liar, victim, document)
        cidr = next((s.cidr for r in document.resources for s in r.subnets), "10.0.0.0/24")
        return "give", [document.service_id, BlockRequest(cidr=cidr, number=1, count=4)]

    def _delete(self, liar: "Site", victim: "Site", document: Document) -> tuple[str, list[str | BaseModel]]:
        """A member may hand a delete in for its user: then it is one that somebody asked for."""
        if document.member(liar.name) is not None:
            return self._newer(liar, victim, document)
        return "hand_in", [document.service_id, Change(operation="delete")]

    def _other_project(
        self, liar: "Site", victim: "Site", document: Document
    ) -> tuple[str, list[str | BaseModel]]:
        """A network of another project is asked for."""
        foreign = [n.network_id for n in victim.vim.networks.values() if n.project_id == "other"]
        entry = Entry(site=victim.name, resource_id=foreign[0] if foreign else "none")
        request = ReserveRequest(
            service_id=document.service_id,
            type=document.type,
            project_id=document.project_id,
            ticket=Ticket(0, liar.number, 1),
            lifetime=30.0,
            entries=(entry,),
            members=(liar.name, victim.name),
        )
        return "reserve", [request]
