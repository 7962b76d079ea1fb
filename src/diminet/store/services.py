"""Services with their search tables, the members as the master knows them, and connections."""

from collections.abc import Iterable
from enum import StrEnum

import sqlalchemy as sa

from diminet.engine.ports import Figures, MemberRow, ServiceRow
from diminet.model import Connection, Document, Pair, ProvisioningStatus
from diminet.store.tables import (
    block_requests,
    blocks,
    connections,
    fences,
    grants,
    identifiers,
    intents,
    member_states,
    outbox,
    reservations,
    service_members,
    service_resources,
    service_tags,
    services,
)
from diminet.store.tallies import POOLED, SPARE, Bucket, Tallies, moved

HANGING_ON_A_SERVICE = (
    member_states,
    connections,
    reservations,
    blocks,
    grants,
    block_requests,
    intents,
    identifiers,
    fences,
)


class Stage(StrEnum):
    """How far a service's life is; derived, to be searched."""

    LIVE = "live"
    BURIED = "buried"  # a tombstone with something of it still here
    SETTLED = "settled"  # a tombstone with nothing left here
    LEAVING = "leaving"  # this site has left it; something of it is still here
    LEFT = "left"  # nothing is; kept for a while so that no old document takes us in again

    @classmethod
    def of(cls, row: ServiceRow) -> "Stage":
        if row.document.tombstone:
            return cls.SETTLED if row.settled else cls.BURIED
        if row.left is not None:
            return cls.LEFT if row.settled else cls.LEAVING
        return cls.LIVE


REPLACEABLE = (Stage.LIVE, Stage.LEAVING, Stage.LEFT)  # by a document that is no tombstone
AT_WORK = (Stage.LIVE, Stage.BURIED, Stage.LEAVING)  # something is, or should be, or should not be here
GOING = (Stage.BURIED, Stage.LEAVING)
OVER = (Stage.SETTLED, Stage.LEFT)
HIDDEN = (Stage.SETTLED, Stage.LEAVING, Stage.LEFT)  # whose GET is 404


class Services(Tallies):
    def service(self, service_id: str) -> ServiceRow | None:
        body = self._db.execute(_BODY_OF_SERVICE, {"service_id": service_id}).scalar()
        return None if body is None else parse(body)

    def save_service(self, row: ServiceRow, *, expect: Pair | None) -> bool:
        document = row.document
        held = self.service(document.service_id)
        if expect is None:
            if held is not None:
                return False
            self._db.execute(services.insert(), {"id": document.service_id, **_columns(row)})
            self._tally("services", moved(None, _bucket(row)))
            self._index(document, None)
            return True
        if held is None or not _may_replace(held.document, document, expect):
            return False
        # The condition once more, in the statement: right even if the read above were stale.
        done = self._db.execute(_REPLACE_SERVICE, {**_columns(row), **_condition(document, expect)})
        if done.rowcount == 0:
            return False
        self._tally("services", moved(_bucket(held), _bucket(row)))
        self._index(document, held.document)
        return True

    def delete_service(self, service_id: str) -> None:
        """What is still owed to a peer and needs no document (an abort, a tombstone, a wish) stays in
        the outbox."""
        held = self.service(service_id)
        if held is not None:
            self._tally("services", moved(_bucket(held), None))
        gone = self._db.execute(_OWNED, {"service_id": service_id})
        self._tally("blocks", {(owner, block_state(pooled)): -number for owner, pooled, number in gone})
        self._drop(services, id=service_id)
        for table in HANGING_ON_A_SERVICE:
            self._drop(table, service_id=service_id)
        self._drop(outbox, service_id=service_id, kind="document")

    def services_at_work(self) -> set[str]:
        return set(self._bodies(_AT_WORK))

    def services_to_realise(self) -> list[str]:
        return self._bodies(_TO_REALISE)

    def services_realised(self, site: str) -> set[str]:
        return set(self._bodies(_REALISED, site=site))

    def services_unconnected(self, site: str) -> list[str]:
        return self._bodies(_UNCONNECTED, site=site)

    def services_waiting(self) -> list[ServiceRow]:
        return [parse(body) for body in self._bodies(_WAITING)]

    def services_buried(self) -> list[str]:
        return self._bodies(_BURIED)

    def services_of_type(self, kind: str, after: str, limit: int) -> list[ServiceRow]:
        return [parse(b) for b in self._bodies(_SERVICES_OF_TYPE, kind=kind, after=after, most=limit)]

    def services_page(self, after: str, limit: int) -> list[ServiceRow]:
        return [parse(body) for body in self._bodies(_PAGE, after=after, most=limit)]

    def services_to_reclaim(self) -> list[str]:
        return self._bodies(_TO_RECLAIM)

    def figures(self) -> Figures:
        posted = self._db.execute(_POSTED).one()
        return Figures(
            services=self._tallied("services"),
            blocks={(owner, state == POOLED): n for (owner, state), n in self._tallied("blocks").items()},
            outbox=posted[0],
            oldest=posted[1],
        )

    def services_of_network(self, site: str, network_id: str) -> list[ServiceRow]:
        found = self._bodies(_SERVICES_OF_NETWORK, site=site, network_id=network_id)
        return [parse(body) for body in found]

    def being_put_back(self, network_id: str) -> bool:
        return self._db.execute(_BEING_PUT_BACK, {"network_id": network_id}).first() is not None

    def services_shared_with(self, site: str) -> list[ServiceRow]:
        return [parse(body) for body in self._bodies(_SERVICES_SHARED_WITH, site=site)]

    def sharing_sites(self, project_id: str | None = None) -> set[str]:
        if project_id is None:
            return set(self._db.execute(_SHARING_SITES).scalars())
        found = (
            sa.select(service_members.c.site)
            .distinct()
            .join(services, services.c.id == service_members.c.service_id)
            .where(services.c.project_id == project_id, services.c.stage == Stage.LIVE)
        )
        return set(self._db.execute(found).scalars())

    def count_services(self, project_id: str) -> int:
        """Those that stand: neither deleted nor revoked."""
        return self._db.execute(_SERVICES_OF_PROJECT, {"project_id": project_id}).scalar_one()

    def count_blocks(self, project_id: str) -> int:
        return self._db.execute(_BLOCKS_OF_PROJECT, {"project_id": project_id}).scalar_one()

    # -- what hangs on them --

    def members(self, service_id: str) -> list[MemberRow]:
        rows = self._bodies(_MEMBERS, service_id=service_id)
        return [MemberRow.model_validate_json(body) for body in rows]

    def save_member(self, row: MemberRow) -> None:
        key = {"service_id": row.service_id, "site": row.site}
        self._put(member_states, key, {"clean": row.clean, "body": row.model_dump_json()})

    def connections(self, service_id: str) -> list[Connection]:
        rows = self._bodies(_CONNECTIONS, service_id=service_id)
        return [Connection.model_validate_json(body) for body in rows]

    def save_connection(self, row: Connection) -> None:
        key = {"service_id": row.service_id, "resource_id": row.resource_id}
        self._put(connections, key, {"body": row.model_dump_json()})

    def delete_connection(self, service_id: str, resource_id: str) -> None:
        self._drop(connections, service_id=service_id, resource_id=resource_id)

    # -- the search tables --

    def _index(self, new: Document, old: Document | None) -> None:
        """Only what has changed: most writes change a status, not who takes part."""
        for table, keys in (
            (service_resources, _resource_keys),
            (service_members, _member_keys),
            (service_tags, _tag_keys),
        ):
            before = keys(old) if old is not None else set()
            after = keys(new)
            if before - after:
                self._drop(table, service_id=new.service_id)
                before = set()
            self._add(table, new.service_id, after - before)

    def _add(self, table: sa.Table, service_id: str, keys: Iterable[tuple[str, ...]]) -> None:
        rows = [dict(zip(table.c.keys(), (service_id, *key), strict=True)) for key in sorted(keys)]
        if rows:
            self._db.execute(table.insert(), rows)


def parse(body: str) -> ServiceRow:
    return ServiceRow.model_validate_json(body)


def block_state(pooled: bool) -> str:
    return POOLED if pooled else SPARE


def _bucket(row: ServiceRow) -> Bucket | None:
    """Where it is counted; what is over is not."""
    return (row.document.type, row.status.value) if Stage.of(row) in AT_WORK else None


def _may_replace(held: Document, new: Document, expect: Pair) -> bool:
    return held.pair == expect and (new.tombstone or not held.tombstone)


def _resource_keys(document: Document) -> set[tuple[str, ...]]:
    return {(resource.site, resource.resource_id) for resource in document.resources}


def _member_keys(document: Document) -> set[tuple[str, ...]]:
    return {(member.site,) for member in document.members}


def _tag_keys(document: Document) -> set[tuple[str, ...]]:
    return {(tag,) for tag in document.tags}


def _columns(row: ServiceRow) -> dict[str, object]:
    document, stage = row.document, Stage.of(row)
    return {
        "epoch_n": document.epoch.n,
        "epoch_site": document.epoch.site,
        "revision": document.revision,
        "type": document.type,
        "project_id": document.project_id,
        "name": document.name,
        "status": row.status.value,
        "stage": stage.value,
        "created_at": document.created_at,
        "updated_at": document.updated_at,
        "changed_at": row.updated_at,
        "pending": stage in AT_WORK and row.applied != document.pair,
        "waiting": stage is Stage.LIVE and any(member.deferred for member in document.members),
        "body": row.model_dump_json(),
    }


def _condition(document: Document, expect: Pair) -> dict[str, object]:
    return {
        "held_id": document.service_id,
        "held_n": expect.epoch.n,
        "held_site": expect.epoch.site,
        "held_revision": expect.revision,
        "for_good": document.tombstone,
    }


# Building a statement takes longer than running it: each is built once.

_SERVICES_OF_TYPE = (
    sa.select(services.c.body)
    .where(services.c.type == sa.bindparam("kind"), services.c.stage == Stage.LIVE)
    .where(services.c.id > sa.bindparam("after"))
    .order_by(services.c.id)
    .limit(sa.bindparam("most"))
)
_AT_WORK = sa.select(services.c.id).where(services.c.stage.in_(AT_WORK))
_TO_REALISE = sa.select(services.c.id).where(services.c.pending.is_(True))
_REALISED = (
    sa.select(service_resources.c.service_id)
    .join(services, services.c.id == service_resources.c.service_id)
    .where(service_resources.c.site == sa.bindparam("site"))
    .where(services.c.stage == Stage.LIVE, services.c.pending.is_not(True))
)
_CONNECTED = sa.exists().where(
    connections.c.service_id == service_resources.c.service_id,
    connections.c.resource_id == service_resources.c.resource_id,
)
_UNCONNECTED = (
    sa.select(service_resources.c.service_id)
    .distinct()
    .join(services, services.c.id == service_resources.c.service_id)
    .where(service_resources.c.site == sa.bindparam("site"), services.c.stage == Stage.LIVE)
    .where(~_CONNECTED.correlate(service_resources))
    .order_by(service_resources.c.service_id)
)
_WAITING = sa.select(services.c.body).where(services.c.waiting.is_(True))
_BURIED = sa.select(services.c.id).where(services.c.stage == Stage.BURIED)
_PAGE = (
    sa.select(services.c.body)
    .where(services.c.id > sa.bindparam("after"))
    .order_by(services.c.id)
    .limit(sa.bindparam("most"))
)
_OWNS = sa.exists().where(
    blocks.c.service_id == member_states.c.service_id, blocks.c.owner == member_states.c.site
)
_TO_RECLAIM = (
    sa.select(member_states.c.service_id)
    .distinct()
    .join(services, services.c.id == member_states.c.service_id)
    .where(member_states.c.clean.is_(True), services.c.stage == Stage.LIVE, _OWNS.correlate(member_states))
)
_POSTED = sa.select(sa.func.count(), sa.func.min(outbox.c.created_at))
_OF_PROJECT = (services.c.project_id == sa.bindparam("project_id"), services.c.stage == Stage.LIVE)
_SERVICES_OF_PROJECT = (
    sa.select(sa.func.count())
    .select_from(services)
    .where(*_OF_PROJECT, services.c.status != ProvisioningStatus.REVOKED)
)
_BLOCKS_OF_PROJECT = (
    sa.select(sa.func.count())
    .select_from(blocks)
    .where(blocks.c.service_id.in_(sa.select(services.c.id).where(*_OF_PROJECT)))
)
_SERVICES_OF_NETWORK = (
    sa.select(services.c.body)
    .join(service_resources, service_resources.c.service_id == services.c.id)
    .where(service_resources.c.site == sa.bindparam("site"))
    .where(service_resources.c.resource_id == sa.bindparam("network_id"))
    .where(services.c.stage == Stage.LIVE)
    .order_by(services.c.id)
)
_BEING_PUT_BACK = (
    sa.select(services.c.id)
    .join(connections, connections.c.service_id == services.c.id)
    .where(services.c.stage.in_(GOING), connections.c.resource_id == sa.bindparam("network_id"))
    .limit(1)
)
_CONCERNING = sa.union(
    sa.select(service_members.c.service_id).where(service_members.c.site == sa.bindparam("site")),
    sa.select(member_states.c.service_id).where(member_states.c.site == sa.bindparam("site")),
).subquery()
_SERVICES_SHARED_WITH = (
    sa.select(services.c.body)
    .join(_CONCERNING, _CONCERNING.c.service_id == services.c.id)
    .order_by(services.c.id)
)
_MEMBERS = (
    sa.select(member_states.c.body)
    .where(member_states.c.service_id == sa.bindparam("service_id"))
    .order_by(member_states.c.site)
)
_CONNECTIONS = (
    sa.select(connections.c.body)
    .where(connections.c.service_id == sa.bindparam("service_id"))
    .order_by(connections.c.resource_id)
)
_OWNED = (
    sa.select(blocks.c.owner, blocks.c.pooled, sa.func.count())
    .where(blocks.c.service_id == sa.bindparam("service_id"))
    .group_by(blocks.c.owner, blocks.c.pooled)
)
_BODY_OF_SERVICE = sa.select(services.c.body).where(services.c.id == sa.bindparam("service_id"))
_REPLACE_SERVICE = (
    services.update()
    .where(
        services.c.id == sa.bindparam("held_id"),
        services.c.epoch_n == sa.bindparam("held_n"),
        services.c.epoch_site == sa.bindparam("held_site"),
        services.c.revision == sa.bindparam("held_revision"),
        sa.or_(services.c.stage.in_(REPLACEABLE), sa.bindparam("for_good", type_=sa.Boolean)),
    )
    .values({column: sa.bindparam(column.name) for column in services.c if column.name != "id"})
)


def _sharing_sites() -> "sa.Select[str]":
    """From each site's first entry of the index to the next site's: as many steps as there are sites."""
    column = service_members.c.site
    site = sa.select(sa.func.min(column).label("site")).cte("sites", recursive=True)
    following = sa.select(sa.func.min(column)).where(column > site.c.site).correlate(site).scalar_subquery()
    sites = site.union_all(sa.select(following).where(site.c.site.is_not(None)))
    one = (
        sa.select(service_members.c.service_id)
        .join(services, services.c.id == service_members.c.service_id)
        .where(service_members.c.site == sites.c.site, services.c.stage == Stage.LIVE)
        .correlate(sites)
    )
    return sa.select(sites.c.site).where(one.exists())


_SHARING_SITES = _sharing_sites()
