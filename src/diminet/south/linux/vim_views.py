"""Rows of the networking service as Neutron shows them, and its lists: filters, fields, pages."""

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from starlette.datastructures import QueryParams

from diminet.south.linux.vim_errors import BadRequest
from diminet.south.linux.vim_tables import NetworkRow, PortRow, SubnetRow

View = dict[str, Any]
PAGE = 1_000  # objects in one answer, at most
_PAGING = {"limit", "marker", "sort_key", "sort_dir", "page_reverse", "fields"}
_COMMON = "id name project_id tenant_id description tags created_at updated_at revision_number"
_OF_EACH = {
    "networks": "admin_state_up status shared mtu router:external port_security_enabled intersite_service_id",
    "subnets": "network_id cidr ip_version gateway_ip enable_dhcp ipv6_address_mode ipv6_ra_mode "
    "subnetpool_id",
    "ports": "network_id mac_address fixed_ips status admin_state_up device_id device_owner "
    "binding:vnic_type binding:vif_type",
}
FILTERS = {plural: frozenset(f"{_COMMON} {own}".split()) for plural, own in _OF_EACH.items()}


def _common(row: NetworkRow | SubnetRow | PortRow) -> View:
    return {
        "id": row.id,
        "name": row.name,
        "project_id": row.project_id,
        "tenant_id": row.project_id,
        "description": row.description,
        "tags": list(row.tags),
        "created_at": _time(row.created_at),
        "updated_at": _time(row.updated_at),
        "revision_number": row.revision,
    }


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def network_view(row: NetworkRow, subnet_ids: Sequence[str]) -> View:
    """intersite_service_id: of the service that DIMINET made the network for, or null."""
    up = row.admin_state_up
    return _common(row) | {
        "admin_state_up": up,
        "status": {"BUILD": "BUILD", "ACTIVE": "ACTIVE" if up else "DOWN"}.get(row.state, "DOWN"),
        "subnets": list(subnet_ids),
        "shared": row.shared,
        "mtu": row.mtu,
        "port_security_enabled": row.port_security_enabled,
        "router:external": False,
        "availability_zones": [],
        "availability_zone_hints": [],
        "ipv4_address_scope": None,
        "ipv6_address_scope": None,
        "intersite_service_id": row.ours,
    }


def subnet_view(row: SubnetRow) -> View:
    return _common(row) | {
        "network_id": row.network_id,
        "cidr": row.cidr,
        "ip_version": row.ip_version,
        "gateway_ip": row.gateway_ip,
        "allocation_pools": [{"start": first, "end": last} for first, last in row.pools],
        "enable_dhcp": row.enable_dhcp,
        "ipv6_address_mode": row.ipv6_address_mode,
        "ipv6_ra_mode": row.ipv6_ra_mode,
        "dns_nameservers": list(row.dns_nameservers),
        "host_routes": list(row.host_routes),
        "subnetpool_id": None,
        "service_types": [],
    }


def port_view(row: PortRow, namespace: Path | None) -> View:
    """namespace: file of the instance's network namespace (`nsenter --net=FILE`)."""
    plugged = row.instance is not None and row.admin_state_up
    return _common(row) | {
        "network_id": row.network_id,
        "mac_address": row.mac,
        "fixed_ips": [{"subnet_id": a.subnet_id, "ip_address": a.ip} for a in row.fixed_ips],
        "status": {"BUILD": "BUILD", "ACTIVE": "ACTIVE" if plugged else "DOWN"}.get(row.state, "DOWN"),
        "admin_state_up": row.admin_state_up,
        "device_id": row.device_id,
        "device_owner": row.device_owner,
        "port_security_enabled": row.port_security_enabled,
        "security_groups": [],
        "allowed_address_pairs": [],
        "extra_dhcp_opts": [],
        "binding:vnic_type": "normal",
        "binding:vif_type": "netns" if plugged else "unbound",
        "binding:vif_details": {"instance": row.instance, "namespace": str(namespace)} if plugged else {},
    }


def page(plural: str, views: Sequence[View], query: QueryParams, url: str) -> View:
    """One answer of a list: filtered, sorted, cut. url: of the list, for the link to the next page.

    Raises BadRequest for an unknown filter, marker, sort key or a bad limit.
    """
    filters = set(query.keys()) - _PAGING
    for name in filters:
        if name not in FILTERS[plural]:
            raise BadRequest("HTTPBadRequest", f"[{name!r}] is invalid attribute for filtering.")
    found = [view for view in views if all(_fits(view, name, query) for name in filters)]
    found = _sorted(found, query, FILTERS[plural])
    limit = _limit(query)
    start = _after_marker(found, query.get("marker"))
    shown = found[start : start + limit]
    answer: View = {plural: [choose_fields(view, query) for view in shown]}
    if start + limit < len(found):
        rest = [(k, v) for k, v in query.multi_items() if k != "marker"] + [("marker", shown[-1]["id"])]
        answer[f"{plural}_links"] = [{"rel": "next", "href": f"{url}?{QueryParams(rest)}"}]
    return answer


def choose_fields(view: View, query: QueryParams) -> View:
    wanted = query.getlist("fields")
    return {name: value for name, value in view.items() if name in wanted} if wanted else view


def _fits(view: View, name: str, query: QueryParams) -> bool:
    """Neutron's rule: values of one filter are alternatives; tags must all be there."""
    values, have = query.getlist(name), view[name]
    if name == "tags":
        return all(tag in have for value in values for tag in value.split(","))
    if name == "fixed_ips":
        pairs = [value.partition("=") for value in values]
        return any(all(ip.get(key) == value for key, _, value in pairs) for ip in have)
    if isinstance(have, bool):
        return any((value.lower() in ("true", "1")) == have for value in values)
    return str("" if have is None else have) in values


def _sorted(views: list[View], query: QueryParams, known: frozenset[str]) -> list[View]:
    keys, directions = query.getlist("sort_key"), query.getlist("sort_dir")
    if directions and len(directions) != len(keys):
        raise BadRequest("HTTPBadRequest", "Give as many sort_dir as sort_key.")
    for key, direction in reversed(list(zip(keys, directions or ["asc"] * len(keys), strict=True))):
        if key not in known or direction not in ("asc", "desc"):
            raise BadRequest("HTTPBadRequest", f"[{key!r}] with {direction!r} is no way to sort.")
        views = sorted(views, key=partial(_sort_value, key), reverse=direction == "desc")
    return views[::-1] if query.get("page_reverse", "").lower() == "true" else views


def _sort_value(key: str, view: View) -> str:
    return str(view[key])


def _limit(query: QueryParams) -> int:
    text = query.get("limit", "0")
    if not text.isascii() or not text.isdigit():
        raise BadRequest("HTTPBadRequest", f"Bad limit {text!r}: give a number, 0 for as many as allowed.")
    return min(int(text[:9]) or PAGE, PAGE)


def _after_marker(views: list[View], marker: str | None) -> int:
    if marker is None:
        return 0
    for index, view in enumerate(views):
        if view["id"] == marker:
            return index + 1
    raise BadRequest("HTTPBadRequest", f"Marker {marker!r} could not be found.")
