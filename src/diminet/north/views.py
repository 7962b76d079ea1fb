"""How the engine's objects look to users. Pure; `now` is an argument."""

from datetime import UTC, datetime
from typing import Any, Final

from diminet.messages import PoolView, ResourceView, ServiceView, SiteView
from diminet.model import Document, Event
from diminet.north.errors import without_internals

ADMIN_ONLY: Final = frozenset(
    {
        "asn",
        "east_west_url",
        "export_target",
        "identifiers",
        "import_targets",
        "north_url",
        "rid",
        "route_target",
        "route_targets",
        "target",
        "targets",
        "token",
        "url",
        "vni",
    }
)
"""Keys of an event's detail that tenants never see (DESIGN section 3)."""


def rfc3339(at: float | None) -> str | None:
    """UTC with milliseconds: 2026-11-23T11:37:52.125Z."""
    if at is None:
        return None
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def service(view: ServiceView, *, admin: bool, now: float) -> dict[str, Any]:
    """`ServiceTold`; what is not for tenants only if `admin`."""
    document = view.document
    told: dict[str, Any] = {
        "id": document.service_id,
        "name": document.name,
        "description": document.description,
        "type": document.type,
        "project_id": document.project_id,
        "tags": list(document.tags),
        "on_unreachable": document.on_unreachable,
        "params": document.params,
        "master": next((m.site for m in document.members if m.number == document.epoch.site), None),
        "epoch": list(document.epoch),
        "revision": document.revision,
        "provisioning_status": view.provisioning_status.value,
        "operating_status": view.operating_status.value,
        "created_at": rfc3339(document.created_at),
        "updated_at": rfc3339(document.updated_at),
        "synced_at": rfc3339(view.synced_at),
        "warnings": [_text(warning, admin) for warning in view.warnings],
        "fault": _fault(view.fault, admin),
        "waiting": list(view.waiting),
        "resources": [_resource(resource, admin, now) for resource in view.resources],
    }
    if admin:
        told["connections"] = list(view.connections)
        told["identifiers"] = _identifiers(document)
    return told


def _text(text: str, admin: bool) -> str:
    return text if admin else without_internals(text)


def _fault(fault: dict[str, Any] | None, admin: bool) -> dict[str, Any] | None:
    if fault is None:
        return None
    return {
        "code": str(fault.get("code", "internal-error")),
        "message": _text(str(fault.get("message", "")), admin),
        "sites": [str(site) for site in fault.get("sites") or ()],
    }


def _identifiers(document: Document) -> dict[str, Any]:
    identifiers = document.identifiers
    targets = {member.site: identifiers.target(member.slot) for member in document.members}
    return {"vni": identifiers.vni, "route_targets": targets}


def _resource(view: ResourceView, admin: bool, now: float) -> dict[str, Any]:
    resource = view.resource
    return {
        "site": resource.site,
        "resource_id": resource.resource_id or None,
        "resource_type": resource.resource_type,
        "made": resource.made,
        "provisioning_status": view.provisioning_status.value,
        "operating_status": view.operating_status.value,
        "seen_at": rfc3339(view.seen_at),
        "status_age": None if view.seen_at is None else round(max(0.0, now - view.seen_at), 3),
        "fault": None if view.fault is None else _text(view.fault, admin),
        "subnets": [_subnet(subnet) for subnet in view.subnets],
    }


def _subnet(view: PoolView) -> dict[str, Any]:
    pools = view.allocation_pools
    return {
        "cidr": view.cidr,
        "gateway_ip": view.gateway_ip,
        "allocation_pools": None
        if pools is None
        else [{"start": first, "end": last} for first, last in pools],
        "used": view.used,
        "blocks": view.blocks,
    }


def event(event: Event, *, admin: bool) -> dict[str, Any]:
    """`EventTold`."""
    return {
        "id": event.seq,
        "at": rfc3339(event.at),
        "kind": event.kind,
        "service_id": event.service_id,
        "project_id": event.project_id,
        "request_id": event.request_id,
        "user_id": event.user_id,
        "site": event.site,
        "detail": event.detail if admin else _detail(event.detail),
    }


def _detail(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _detail(item) for key, item in value.items() if key.lower() not in ADMIN_ONLY}
    if isinstance(value, list | tuple):
        return [_detail(item) for item in value]
    return without_internals(value) if isinstance(value, str) else value


def site(view: SiteView, *, admin: bool) -> dict[str, Any]:
    """`SiteTold`."""
    told: dict[str, Any] = {
        "name": view.name,
        "reachable": view.reachable,
        "last_seen": rfc3339(view.last_seen),
    }
    if admin:
        told |= {
            "number": view.number,
            "protocol": view.protocol,
            "north_url": view.north_url,
            "east_west_url": view.east_west_url,
        }
    return told
