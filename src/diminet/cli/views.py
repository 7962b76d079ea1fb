"""How services, sites and events look on a terminal."""

from collections.abc import Iterable
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from diminet.cli.output import cell, table

Row = dict[str, Any]


def service_list(services: Iterable[Row]) -> RenderableType:
    rows = [
        (
            service["id"],
            service["name"],
            service["type"],
            ", ".join(sorted({entry["site"] for entry in service["resources"]})),
            service["provisioning_status"],
            service["operating_status"],
        )
        for service in services
    ]
    return table(("id", "name", "type", "sites", "provisioning", "operating"), rows)


def service(view: Row) -> RenderableType:
    """One service: its fields, its resources, and what is wrong with it."""
    parts: list[RenderableType] = [_fields(view), resources(view)]
    parts.extend(Text(f"warning: {warning}", style="yellow") for warning in view.get("warnings") or ())
    fault = view.get("fault")
    if fault:
        parts.append(Text(f"fault: {fault['message']}", style="bold red"))
    return Group(*parts)


def _fields(view: Row) -> RenderableType:
    names = ("id", "name", "description", "type", "master", "on_unreachable", "provisioning_status")
    rows = [(name, view.get(name)) for name in (*names, "operating_status", "created_at", "updated_at")]
    if view.get("tags"):
        rows.append(("tags", ", ".join(view["tags"])))
    if view.get("params"):
        rows.append(("params", ", ".join(f"{key}={value}" for key, value in view["params"].items())))
    return table(("field", "value"), rows)


def resources(view: Row) -> RenderableType:
    """A row per resource: how far each site is."""
    rows = [
        (
            entry["site"],
            entry.get("resource_id"),
            entry.get("provisioning_status"),
            entry.get("operating_status"),
            "\n".join(subnet["cidr"] for subnet in entry.get("subnets") or ()),
            "\n".join(_pools(subnet) for subnet in entry.get("subnets") or ()),
        )
        for entry in view["resources"]
    ]
    return table(("site", "network", "provisioning", "operating", "cidr", "addresses"), rows)


def _pools(subnet: Row) -> str:
    return ", ".join(f"{pool['start']}-{pool['end']}" for pool in subnet.get("allocation_pools") or ())


def sites(rows: Iterable[Row]) -> RenderableType:
    """`reachable` is null where no service is shared."""
    words = {True: "reachable", False: "unreachable", None: None}
    return table(
        ("site", "state", "last seen"),
        [(row["name"], words[row.get("reachable")], row.get("last_seen")) for row in rows],
    )


def events(rows: Iterable[Row]) -> RenderableType:
    return table(
        ("at", "event", "site", "user", "detail"),
        [
            (row.get("at"), row.get("kind"), row.get("site"), row.get("user_id"), _detail(row.get("detail")))
            for row in rows
        ],
    )


def event_line(row: Row) -> Text:
    line = Text.assemble((str(row.get("at") or ""), "dim"), "  ", cell(row.get("kind")))
    return line.append(f"  {_detail(row.get('detail'))}")


def _detail(detail: Row | None) -> str:
    return ", ".join(f"{key}={value}" for key, value in (detail or {}).items())
