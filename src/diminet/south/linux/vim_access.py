"""Who may see and change which row, how much one may have, and what an instance is called.

Neutron's rules: what one may not see does not exist (404); what one sees but may not change is 403.
"""

import re
from typing import NamedTuple

from diminet.south.linux.vim_errors import Forbidden, InUse, missing
from diminet.south.linux.vim_requests import PortCreate
from diminet.south.linux.vim_store import VimTx
from diminet.south.linux.vim_tables import NetworkRow, PortRow, SubnetRow

INSTANCE_NAME_MAX = 40  # characters, before the port id that tells two of one name apart
_NO_INSTANCE = ("network:",)  # owners of ports that no instance is plugged into


class Actor(NamedTuple):
    """Who acts on the networking service. writer: may change anything at all."""

    project_id: str
    admin: bool = False
    writer: bool = True


class Quotas(NamedTuple):
    """The most that one project may have."""

    networks: int = 1_000
    subnets: int = 1_000
    ports: int = 10_000


def sees(actor: Actor, project_id: str) -> bool:
    return actor.admin or actor.project_id == project_id


def sees_network(actor: Actor, row: NetworkRow) -> bool:
    return row.state != "DELETING" and (row.shared or sees(actor, row.project_id))


def network(tx: VimTx, actor: Actor, network_id: str) -> NetworkRow:
    row = tx.network(network_id)
    if row is None or not sees_network(actor, row):
        raise missing("network", network_id)
    return row


def own_network(tx: VimTx, actor: Actor, network_id: str) -> NetworkRow:
    row = network(tx, actor, network_id)
    if not actor.writer or not sees(actor, row.project_id):
        raise forbidden(f"change network {network_id}")
    return row


def subnet(tx: VimTx, actor: Actor, subnet_id: str) -> SubnetRow:
    row = tx.subnet(subnet_id)
    on = tx.network(row.network_id) if row else None
    if row is None or on is None or not sees_network(actor, on):
        raise missing("subnet", subnet_id)
    return row


def own_subnet(tx: VimTx, actor: Actor, subnet_id: str) -> SubnetRow:
    row = subnet(tx, actor, subnet_id)
    if not actor.writer or not sees(actor, row.project_id):
        raise forbidden(f"change subnet {subnet_id}")
    return row


def port(tx: VimTx, actor: Actor, port_id: str) -> PortRow:
    row = tx.port(port_id)
    on = tx.network(row.network_id) if row else None
    if row is None or on is None or not (sees(actor, row.project_id) or sees(actor, on.project_id)):
        raise missing("port", port_id)
    return row


def own_port(tx: VimTx, actor: Actor, port_id: str) -> PortRow:
    """Of one's own project; the owner of the network may take a port off it too, as in Neutron."""
    row = port(tx, actor, port_id)
    if not actor.writer:
        raise forbidden(f"change port {port_id}")
    if row.state == "DELETING":
        raise missing("port", port_id)
    return row


def project(actor: Actor, asked_for: str | None) -> str:
    """The project of a new object."""
    if not actor.writer:
        raise forbidden("create anything")
    if asked_for and asked_for != actor.project_id and not actor.admin:
        raise forbidden("create something for another project")
    return asked_for or actor.project_id


def same_project(asked_for: str | None, row: NetworkRow) -> None:
    if asked_for and asked_for != row.project_id:
        raise forbidden(f"create a subnet for another project than that of network {row.id}")


def forbidden(doing: str) -> Forbidden:
    return Forbidden("PolicyNotAuthorized", f"You are not authorised to {doing}; ask an administrator.")


def within_quota(what: str, have: int, most: int) -> None:
    if have >= most:
        raise InUse("OverQuota", f"Quota exceeded for resources: ['{what}']: a project may have {most}.")


def check_not_in_service(tx: VimTx, row: NetworkRow) -> None:
    """A network, or a subnet of it, that an inter-site service uses is not the tenant's to delete."""
    services = sorted({link.service_id for link in tx.links(network_id=row.id)} | {row.ours or ""} - {""})
    if services:
        raise InUse(
            "NetworkInUse",
            f"Network {row.id} is part of the inter-site service {services[0]}; take it out of that "
            "service, or delete the service, first.",
        )


def mark_network_deleting(tx: VimTx, network_id: str) -> None:
    row = tx.network(network_id)
    if row is not None:
        tx.save_network(row.model_copy(update={"state": "DELETING", "ours": None, "key": None}))


def instance_name(tx: VimTx, port_id: str, project_id: str, request: PortCreate) -> str | None:
    """Name of the network namespace that the port is plugged into, unique at the site.

    The same device_id of one project means the same instance, with a port more.
    """
    if request.device_owner.startswith(_NO_INSTANCE):
        return None
    if request.device_id:
        for other in tx.ports(device_id=request.device_id, project_id=project_id):
            if other.instance and other.state != "DELETING":
                return other.instance
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", request.name or request.device_id).strip(".-_")
    name = plain[:INSTANCE_NAME_MAX] or "vm"
    if not plain or name.startswith("gw-") or tx.ports(instance=name):
        return f"vm-{name}-{port_id[:8]}"
    return name
