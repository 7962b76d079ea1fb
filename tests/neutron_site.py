"""A site of the session's real cloud as tests use it: its South, and what a tenant does there."""

from typing import Any

import openstack
from keystoneauth1.session import Session

from diminet.lab.openstack.cloud import Cloud
from diminet.south.neutron.neutron import Neutron
from diminet.south.neutron.south import NeutronSouth

VOLATILE = {"revision_number", "updated_at", "created_at"}  # what may differ when all is as it was


def connect(cloud: Cloud, region: str, url: str | None = None) -> openstack.connection.Connection:
    """As DIMINET's service user. url: of a proxy in front of that Neutron."""
    return openstack.connect(
        auth=cloud.clouds_yaml("diminet")["clouds"]["diminet"]["auth"],
        region_name=region,
        load_yaml_config=False,
        load_envvars=False,
        **({"network_endpoint_override": url} if url else {}),
    )


class Tenant:
    """What a user does at a Neutron, through its REST API. Synchronous; raises keystoneauth's errors."""

    def __init__(self, cloud: Cloud, region: str, user: str = "demo") -> None:
        self.session: Session = cloud.session(user)
        self.base = f"{cloud.neutron_url(region)}/v2.0"

    def call(self, method: str, path: str, body: Any = None) -> Any:
        response = self.session.request(f"{self.base}{path}", method, json=body)
        return response.json() if response.content else None

    def make(self, kind: str, **fields: Any) -> Any:
        return self.call("POST", path_of(kind), {kind: fields})[kind]

    def set(self, kind: str, item_id: str, **fields: Any) -> Any:
        return self.call("PUT", f"{path_of(kind)}/{item_id}", {kind: fields})[kind]

    def drop(self, kind: str, item_id: str) -> None:
        self.call("DELETE", f"{path_of(kind)}/{item_id}")

    def list(self, kind: str, query: str = "") -> list[Any]:
        found: list[Any] = self.call("GET", f"{path_of(kind)}?{query}")[f"{kind}s"]
        return found

    def network(self, cidr: str | None = None, name: str = "web", **subnet: Any) -> str:
        network_id: str = self.make("network", name=name)["id"]
        if cidr:
            version = 6 if ":" in cidr else 4
            self.make("subnet", network_id=network_id, cidr=cidr, ip_version=version, **subnet)
        return network_id

    def boot(self, network_id: str, ip: str | None = None, **fields: Any) -> Any:
        """A port; its `fixed_ips` and `mac_address` among the rest."""
        fixed = {"fixed_ips": [{"ip_address": ip}]} if ip else {}
        return self.make("port", network_id=network_id, **fixed, **fields)

    def clear(self, network_id: str) -> None:
        """The network goes with all that is on it."""
        for port in self.list("port", f"network_id={network_id}"):
            self.drop("port", port["id"])
        self.drop("network", network_id)


def path_of(kind: str) -> str:
    return "/bgpvpn/bgpvpns" if kind == "bgpvpn" else f"/{kind.replace('_', '-')}s"


def dump(admin: Tenant) -> dict[str, Any]:
    """All of a Neutron that DIMINET might touch, less what may differ, and less its one mark."""
    rows: dict[str, Any] = {}
    for kind in ("network", "subnet", "port", "bgpvpn", "router"):
        for row in admin.list(kind):
            if not str(row["name"]).startswith("diminet-mark-"):
                rows[f"{kind} {row['id']}"] = {k: v for k, v in row.items() if k not in VOLATILE}
    return rows


class NeutronSite:
    """A South on a region of the cloud; close it."""

    def __init__(self, cloud: Cloud, region: str, *, url: str | None = None, timeout: float = 30.0) -> None:
        self.neutron = Neutron(connect(cloud, region, url), site=region, timeout=timeout)
        self.south = NeutronSouth(self.neutron, late_s=5.0)
        self.tenant = Tenant(cloud, region)
        self.admin = Tenant(cloud, region, "admin")
        self.project = cloud.project_id("demo")

    def close(self) -> None:
        self.neutron.close()
