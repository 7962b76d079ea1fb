"""Lists of services: filters, order and pages, all by indexed columns."""

from typing import Any

import sqlalchemy as sa

from diminet.engine.ports import ServiceFilter, ServiceRow
from diminet.errors import InvalidRequest
from diminet.model import ProvisioningStatus
from diminet.store.rows import Rows
from diminet.store.services import HIDDEN, parse
from diminet.store.tables import service_members, service_tags, services

SORT_KEYS: dict[str, "sa.Column[Any]"] = {
    "created_at": services.c.created_at,
    "updated_at": services.c.updated_at,
    "name": services.c.name,
    "type": services.c.type,
    "status": services.c.status,
    "provisioning_status": services.c.status,
    "id": services.c.id,
}


class Lists(Rows):
    def services(self, where: ServiceFilter) -> list[ServiceRow]:
        """Times are those of the document, which users see. Raises InvalidRequest for an unknown
        sort key or marker."""
        key = SORT_KEYS.get(where.sort_key)
        if key is None:
            raise InvalidRequest(
                f"sort_key {where.sort_key!r} is not known; use one of {', '.join(sorted(SORT_KEYS))}"
            )
        conditions = [_shown(where.status), *_filters(where)]
        if where.marker is not None:
            conditions.append(self._beyond(key, where.marker, descending=where.sort_dir == "desc"))
        columns = (key,) if key is services.c.id else (key, services.c.id)
        order = [column.desc() if where.sort_dir == "desc" else column for column in columns]
        page = sa.select(services.c.body).where(*conditions).order_by(*order).limit(where.limit)
        return [parse(body) for body in self._bodies(page)]

    def _beyond(self, key: "sa.Column[Any]", marker: str, *, descending: bool) -> sa.ColumnElement[bool]:
        """Behind the marker in the order; the id decides between equals."""
        last = self._db.execute(sa.select(key).where(services.c.id == marker)).scalar()
        if last is None:
            raise InvalidRequest(f"there is no service {marker!r} to go on behind; list again without marker")
        later: sa.ColumnElement[bool] = key < last if descending else key > last
        if key is services.c.id:
            return later
        behind = services.c.id < marker if descending else services.c.id > marker
        # The first term says no more than the second, but is one that an index can be entered by.
        return sa.and_(key <= last if descending else key >= last, sa.or_(later, behind))


def _shown(status: str | None) -> sa.ColumnElement[bool]:
    """Without being asked for: neither revoked ones, nor any whose GET is 404."""
    if status == ProvisioningStatus.REVOKED:
        return services.c.status == status
    shown = services.c.stage.not_in(HIDDEN)
    if status is None:
        return sa.and_(services.c.status != ProvisioningStatus.REVOKED, shown)
    return sa.and_(services.c.status == status, shown)


def _filters(where: ServiceFilter) -> list[sa.ColumnElement[bool]]:
    equal = {"project_id": where.project_id, "type": where.type, "name": where.name}
    conditions: list[sa.ColumnElement[bool]] = [
        services.c[name] == value for name, value in equal.items() if value is not None
    ]
    if where.site is not None:
        of_site = sa.select(service_members.c.service_id).where(service_members.c.site == where.site)
        conditions.append(services.c.id.in_(of_site))
    for tag in where.tags:
        tagged = sa.select(service_tags.c.service_id).where(service_tags.c.tag == tag)
        conditions.append(services.c.id.in_(tagged))
    return conditions
