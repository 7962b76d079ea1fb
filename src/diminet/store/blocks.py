"""Blocks of L2 subnets: who owns which, what was given on which request, what we have asked for."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from pydantic import TypeAdapter

from diminet.engine.ports import HeldBlock, ServiceRow
from diminet.messages import BlockRequest
from diminet.model import Block
from diminet.store.services import Stage, block_state, parse
from diminet.store.tables import block_requests, blocks, grants, service_resources, services
from diminet.store.tallies import Bucket, Tallies

GRANTS_KEPT = 8  # answers per requester and subnet; one request at a time is open, so one would do
FEW_BLOCKS = 32  # up to so many, look for those alone instead of all of the service

_Blocks = TypeAdapter(tuple[Block, ...])


class Blocks(Tallies):
    def blocks(self, service_id: str) -> list[HeldBlock]:
        """By CIDR and index."""
        return [_held(row) for row in self._db.execute(_OF_SERVICE, {"service_id": service_id})]

    def put_blocks(self, service_id: str, new: Iterable[HeldBlock]) -> None:
        offered = list(new)
        stored = self._stored(service_id, offered)
        inserts: dict[tuple[str, int], dict[str, Any]] = {}
        updates: dict[tuple[str, int], dict[str, Any]] = {}
        for held in offered:
            key = (held.block.cidr, held.block.index)
            best = (inserts.get(key) or updates.get(key) or stored.get(key) or {"version": 0})["version"]
            if held.block.version >= best:
                (updates if key in stored else inserts)[key] = _columns(service_id, held)
        if inserts:
            self._db.execute(blocks.insert(), list(inserts.values()))
        if updates:
            self._db.execute(_UPDATE_BLOCK, [_renamed(row) for row in updates.values()])
        new_rows = (*inserts.values(), *updates.values())
        changes = Counter(_bucket(row["owner"], row["pooled"]) for row in new_rows)
        changes.subtract(_bucket(stored[key]["owner"], stored[key]["pooled"]) for key in updates)
        self._tally("blocks", changes)

    def network_blocks(
        self, site: str, network_id: str, cidr: str
    ) -> tuple[ServiceRow, list[HeldBlock]] | None:
        wanted = {"site": site, "network_id": network_id, "cidr": cidr}
        body = self._db.execute(_WITH_BLOCKS, wanted).scalar()
        if body is None:
            return None
        row = parse(body)
        held = self._db.execute(_OF_CIDR, {"service_id": row.document.service_id, "cidr": cidr})
        return row, [_held(block) for block in held]

    # -- requests of others --

    def grant(self, service_id: str, requester: str, cidr: str, number: int) -> tuple[Block, ...] | None:
        """A number below an answered one whose answer is not kept any more is a late copy: nothing is
        given on it again."""
        asked = {"service_id": service_id, "requester": requester, "cidr": cidr, "asked": number}
        body = self._db.execute(_GRANT, asked).scalar()
        if body is not None:
            return _Blocks.validate_json(body)
        return () if self._db.execute(_LATER_GRANT, asked).first() is not None else None

    def add_grant(
        self, service_id: str, requester: str, cidr: str, number: int, blocks: Sequence[Block]
    ) -> None:
        key = {"service_id": service_id, "requester": requester, "cidr": cidr}
        body = _Blocks.dump_json(tuple(blocks)).decode()
        self._put(grants, {**key, "number": number}, {"body": body})
        self._db.execute(_OLD_GRANTS, {**key, "last": number - GRANTS_KEPT})

    # -- our own requests --

    def pending_block_request(self, service_id: str, peer: str, cidr: str) -> BlockRequest | None:
        row = self._request(service_id, peer, cidr)
        if row is None or not row.pending:
            return None
        return BlockRequest(cidr=cidr, number=row.number, count=row.wanted)

    def start_block_request(self, service_id: str, peer: str, cidr: str, count: int) -> BlockRequest:
        """The pending one if there is one; else with the next number of this peer and subnet."""
        row = self._request(service_id, peer, cidr)
        if row is not None and row.pending:
            return BlockRequest(cidr=cidr, number=row.number, count=row.wanted)
        number = 1 if row is None else row.number + 1
        key = {"service_id": service_id, "peer": peer, "cidr": cidr}
        self._put(block_requests, key, {"number": number, "wanted": count, "pending": True})
        return BlockRequest(cidr=cidr, number=number, count=count)

    def end_block_request(self, service_id: str, peer: str, cidr: str) -> None:
        """The row stays: its number is the counter."""
        self._db.execute(_END_REQUEST, {"of_service": service_id, "of_peer": peer, "of_cidr": cidr})

    def block_requests(self, service_id: str, peer: str) -> dict[str, int]:
        table = block_requests
        of_peer = (table.c.service_id == service_id, table.c.peer == peer)
        rows = self._db.execute(
            sa.select(table.c.cidr, table.c.number).where(*of_peer).order_by(table.c.cidr)
        )
        return {row.cidr: row.number for row in rows}

    def _request(self, service_id: str, peer: str, cidr: str) -> "sa.Row[Any] | None":
        this = {"of_service": service_id, "of_peer": peer, "of_cidr": cidr}
        return self._db.execute(_REQUEST, this).first()

    # -- rows --

    def _stored(self, service_id: str, offered: list[HeldBlock]) -> "dict[tuple[str, int], sa.RowMapping]":
        """version, owner and pooled of those that are there already."""
        wanted: dict[str, Any] = {"service_id": service_id, "cidrs": list({h.block.cidr for h in offered})}
        few = len(offered) <= FEW_BLOCKS
        if few:
            wanted["positions"] = list({h.block.index for h in offered})
        stored = self._db.execute(_FEW_STORED if few else _STORED, wanted).mappings()
        return {(row["cidr"], row["position"]): row for row in stored}


def _bucket(owner: str, pooled: bool) -> Bucket:
    """Where a block is counted."""
    return owner, block_state(pooled)


def _columns(service_id: str, held: HeldBlock) -> dict[str, Any]:
    block = held.block
    return {
        "service_id": service_id,
        "cidr": block.cidr,
        "position": block.index,
        "owner": block.owner,
        "version": block.version,
        "giver": block.giver,
        "exclusions": json.dumps(block.exclusions) if block.exclusions else "",
        "pooled": held.pooled,
    }


def _held(row: "sa.Row[Any]") -> HeldBlock:
    block = Block(
        cidr=row.cidr,
        index=row.position,
        owner=row.owner,
        version=row.version,
        giver=row.giver,
        exclusions=tuple(json.loads(row.exclusions)) if row.exclusions else (),
    )
    return HeldBlock(block=block, pooled=row.pooled)


_OF_SERVICE = (
    sa.select(blocks)
    .where(blocks.c.service_id == sa.bindparam("service_id"))
    .order_by(blocks.c.service_id, blocks.c.cidr, blocks.c.position)
)
_OF_CIDR = _OF_SERVICE.where(blocks.c.cidr == sa.bindparam("cidr"))
_HAS_BLOCKS = (
    sa.exists()
    .where(blocks.c.service_id == services.c.id)
    .where(blocks.c.cidr == sa.bindparam("cidr"))
    .correlate(services)
)
_WITH_BLOCKS = (
    sa.select(services.c.body)
    .join(service_resources, service_resources.c.service_id == services.c.id)
    .where(service_resources.c.site == sa.bindparam("site"))
    .where(service_resources.c.resource_id == sa.bindparam("network_id"))
    .where(services.c.stage == Stage.LIVE, _HAS_BLOCKS)
    .limit(1)
)
_STORED = sa.select(
    blocks.c.cidr, blocks.c.position, blocks.c.version, blocks.c.owner, blocks.c.pooled
).where(
    blocks.c.service_id == sa.bindparam("service_id"),
    blocks.c.cidr.in_(sa.bindparam("cidrs", expanding=True)),
)
_FEW_STORED = _STORED.where(blocks.c.position.in_(sa.bindparam("positions", expanding=True)))
_OF_REQUESTER = [grants.c[name] == sa.bindparam(name) for name in ("service_id", "requester", "cidr")]
_GRANT = sa.select(grants.c.body).where(*_OF_REQUESTER, grants.c.number == sa.bindparam("asked"))
_LATER_GRANT = (
    sa.select(grants.c.number).where(*_OF_REQUESTER, grants.c.number > sa.bindparam("asked")).limit(1)
)
_OLD_GRANTS = grants.delete().where(*_OF_REQUESTER, grants.c.number <= sa.bindparam("last"))
_OPEN = (
    block_requests.c.service_id == sa.bindparam("of_service"),
    block_requests.c.peer == sa.bindparam("of_peer"),
    block_requests.c.cidr == sa.bindparam("of_cidr"),
)
_REQUEST = sa.select(block_requests).where(*_OPEN)
_END_REQUEST = block_requests.update().where(*_OPEN).values(pending=False)
_BLOCK_KEY = ("service_id", "cidr", "position")


def _renamed(row: Mapping[str, Any]) -> dict[str, Any]:
    """SQLAlchemy keeps the column's own name for what is to be set."""
    return {f"of_{name}" if name in _BLOCK_KEY else name: value for name, value in row.items()}


_UPDATE_BLOCK = (
    blocks.update()
    .where(*(blocks.c[name] == sa.bindparam(f"of_{name}") for name in _BLOCK_KEY))
    .values({column: sa.bindparam(column.name) for column in blocks.c if column.name not in _BLOCK_KEY})
)
