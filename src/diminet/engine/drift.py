"""What has changed behind our back: how our part of each service is now, against how it was made.

Seen within one interval, told in the history of the service once, and shown in its warnings while it
lasts. What is ours the reconciler then makes again; a tenant's network and subnets are only told of.
"""

from collections.abc import Mapping, Sequence, Set

from diminet.engine.audit import Audit
from diminet.engine.instance import Instance
from diminet.engine.ports import ServiceRow, Tx
from diminet.engine.turns import Turn
from diminet.errors import NetworkNotFound
from diminet.model import Document, Health, OperatingStatus


def neighbours(tx: Tx, document: Document, site: str) -> list[Document]:
    """Other live documents that share a network of that site."""
    rows = [row for r in document.resources_of(site) for row in tx.services_of_network(site, r.resource_id)]
    unique = {row.document.service_id: row.document for row in rows}
    unique.pop(document.service_id, None)
    return list(unique.values())


class Drift:
    def __init__(self, here: Instance, audit: Audit) -> None:
        self.here = here
        self.audit = audit
        self.health: dict[str, Health] = {}  # as last read back, or made
        self.appeared: dict[str, tuple[str, ...]] = {}  # of networks: what stands against the document
        self.told: dict[str, tuple[str, ...]] = {}  # of each service that was not as it was made
        self.looking = Turn()  # for what has appeared

    # -- what is told --------------------------------------------------------------------------------

    def operating(self, row: ServiceRow) -> OperatingStatus:
        """Of our own part: what is realised, not only what is configured."""
        health = self.health.get(row.document.service_id)
        if row.applied is None or row.document.tombstone:
            return OperatingStatus.OFFLINE
        if health is None or not health.compared:
            return OperatingStatus.UNKNOWN
        wrong = self.problems(row.document.service_id)
        return OperatingStatus.DEGRADED if wrong else OperatingStatus.ONLINE

    def problems(self, service_id: str) -> tuple[str, ...]:
        """What was wrong with our part when we last looked: sentences."""
        health = self.health.get(service_id)
        seen = (*health.problems, *health.silent) if health else ()
        return (*seen, *self.appeared.get(service_id, ()), *self.audit.problems(service_id))

    async def _tell(self, news: Mapping[str, Sequence[str]]) -> None:
        """In the history of each service."""

        def tell(tx: Tx) -> None:
            for service_id in sorted(news):
                row = tx.service(service_id)
                if row is not None:
                    project, problems = row.document.project_id, list(news[service_id])
                    tx.add_event(self.here.seen("drift", service_id, project, problems=problems))

        if news:
            await self.here.store.write(tell)
            await self.here.tell_news()

    def made(self, service_id: str) -> None:
        """As it should be, just now: what goes wrong from here on is news."""
        self.health[service_id] = Health(service_id=service_id)
        self.told.pop(service_id, None)

    def taken_down(self, service_id: str) -> None:
        self.health.pop(service_id, None)

    # -- the data plane and our rows -------------------------------------------------------------------

    async def look(self) -> None:
        """Read from the South how everything is."""
        found = await self.here.south.realised()
        made = await self.here.store.read(lambda tx: tx.services_realised(self.here.name))
        missing = {
            service_id: Health(service_id=service_id, problems=("its data plane is missing",))
            for service_id in sorted(made - found.keys())
        }
        self.health = {**found, **missing}

    async def to_make_again(self, made: Set[str]) -> set[str]:
        """Those of the services `made` that are not as they were made any more, told; and those of which
        it is not known. Call `look` before."""
        unconnected = await self.here.store.read(lambda tx: tx.services_unconnected(self.here.name))
        drifted = self._drifted(made, unconnected)
        await self._tell({i: said for i, said in drifted.items() if said != self.told.get(i)})
        self.told = drifted
        return drifted.keys() | {i for i in made & self.health.keys() if not self.health[i].compared}

    def _drifted(self, made: Set[str], unconnected: Sequence[str]) -> dict[str, tuple[str, ...]]:
        """What is wrong with each; not where one is just being changed."""
        found = {i: health.problems for i, health in self.health.items() if health.problems}
        for service_id in unconnected:
            lost = "its connection was gone from this site's database"
            found[service_id] = (*found.get(service_id, ()), lost)
        return {
            service_id: problems
            for service_id, problems in found.items()
            if service_id in made and not self.here.locks[f"service {service_id}"].locked()
        }

    # -- networks ------------------------------------------------------------------------------------

    async def look_for_overlaps(self) -> None:
        """Networks that are gone, and subnets that have appeared since the document was written and stand
        against it: the next services, in turns."""
        after, most = self.looking.after, self.here.limits.round_batch
        rows = await self.here.store.read(lambda tx: tx.services_page(after, most))
        stretch = self.looking.took({row.document.service_id for row in rows}, most)
        found: dict[str, tuple[str, ...]] = {}
        for row in rows:
            over = row.document.tombstone or row.left is not None or row.applied is None
            problems = () if over else await self._appeared(row.document)
            if problems:
                found[row.document.service_id] = problems
        await self._tell({i: said for i, said in found.items() if i not in self.appeared})
        # What lies between and was not found has no problem any more, or is no more.
        kept = {i: problems for i, problems in self.appeared.items() if i not in stretch}
        self.appeared = {**kept, **found}

    async def _appeared(self, document: Document) -> tuple[str, ...]:
        here, networks = self.here, []
        for resource in document.resources_of(here.name):
            try:
                networks.append(await here.south.network(resource.resource_id))
            except NetworkNotFound:
                return (
                    f"network {resource.resource_id} of site {here.name} was deleted: take it out of the "
                    "service; the site may join again with another network",
                )
        committed = await here.store.read(lambda tx: neighbours(tx, document, here.name))
        return here.type_of(document.type).appeared(document, here.name, networks, committed)
