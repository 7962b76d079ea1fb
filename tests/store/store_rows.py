"""Rows as the engine writes them, and the store driven from synchronous tests."""

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from diminet.engine.ports import HeldBlock, IntentRow, OutboxRow, ReservationRow, ServiceRow, Tx
from diminet.model import (
    Block,
    Document,
    Epoch,
    Identifiers,
    Initiator,
    Member,
    Pair,
    ProvisioningStatus,
    Resource,
    Ticket,
)
from diminet.store import SqlStore

T = TypeVar("T")
WHO = Initiator(user_id="ann", project_id="p1", site="paris")
CIDR = "10.1.0.0/24"


def write(store: SqlStore, decide: Callable[[Tx], T]) -> T:
    return asyncio.run(store.write(decide))


def read(store: SqlStore, look: Callable[[Tx], T]) -> T:
    return asyncio.run(store.read(look))


def pair(revision: int = 1, n: int = 1, site: int = 1) -> Pair:
    return Pair(Epoch(n, site), revision)


def document(
    service_id: str = "s1",
    at: Pair | None = None,
    *,
    resources: tuple[tuple[str, str], ...] = (("paris", "net-p"), ("lyon", "net-l")),
    **more: Any,
) -> Document:
    at = at or pair()
    sites = sorted({site for site, _ in resources})
    members = tuple(Member(site=site, number=i, slot=i) for i, site in enumerate(sites, 1))
    if at.epoch.site > len(members):
        members += (Member(site="master", number=at.epoch.site, slot=250),)
    fields: dict[str, Any] = {
        "type": "l2",
        "project_id": "p1",
        "members": members,
        "resources": tuple(Resource(site=site, resource_id=network) for site, network in resources),
        "identifiers": Identifiers(vni=4096, asn=64999),
        "initiator": WHO,
        "created_at": 1000.0,
        "updated_at": 1000.0,
    }
    return Document(service_id=service_id, epoch=at.epoch, revision=at.revision, **{**fields, **more})


def row(
    what: Document | None = None,
    *,
    status: ProvisioningStatus = ProvisioningStatus.ACTIVE,
    updated_at: float = 1000.0,
    **more: Any,
) -> ServiceRow:
    return ServiceRow(
        document=what or document(), status=status, created_at=1000.0, updated_at=updated_at, **more
    )


def save(store: SqlStore, *rows: ServiceRow) -> None:
    for each in rows:
        assert write(store, lambda tx, each=each: tx.save_service(each, expect=None))


def held(
    index: int = 0, version: int = 1, *, owner: str = "paris", cidr: str = CIDR, **more: Any
) -> HeldBlock:
    pooled = more.pop("pooled", False)
    block = Block(cidr=cidr, index=index, owner=owner, version=version, giver="paris", **more)
    return HeldBlock(block=block, pooled=pooled)


def reservation(rid: str = "r1", network: str = "net-p", **more: Any) -> ReservationRow:
    fields: dict[str, Any] = {
        "service_id": "s1",
        "project_id": "p1",
        "sender": "paris",
        "ticket": Ticket(1, 1, 1),
        "expires_at": 100.0,
    }
    return ReservationRow(rid=rid, network_id=network, **{**fields, **more})


def intent(service_id: str = "s1", **more: Any) -> IntentRow:
    fields: dict[str, Any] = {
        "operation": "create",
        "sites": ("lyon", "paris"),
        "ticket": Ticket(1, 1, 1),
        "deadline": 10.0,
        "initiator": WHO,
        "request_id": "req-1",
    }
    return IntentRow(service_id=service_id, **{**fields, **more})


def letter(peer: str = "lyon", service_id: str = "s1", kind: str = "document", **more: Any) -> OutboxRow:
    fields: dict[str, Any] = {"created_at": 1.0, "next_at": 1.0, "request_id": "req-1", "initiator": WHO}
    return OutboxRow(peer=peer, service_id=service_id, kind=kind, **{**fields, **more})  # type: ignore[arg-type]
