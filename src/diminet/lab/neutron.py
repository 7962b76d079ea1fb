"""The OpenStack of a lab whose sites are of kind neutron: one Keystone for all of them, and in the network
namespace of each site the Neutron of its region.

Ports have no instance and networks no data plane: the BGP VPN provider of these Neutrons is the Dummy one.
"""

import importlib.util
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diminet.errors import BadSurroundings
from diminet.lab.openstack import environment, mariadb
from diminet.lab.openstack.templates import PEERS_USER, SERVICE_USER
from diminet.lab.plan import KEYSTONE_PORT, SOUTH_PORT, Database, LabPlan
from diminet.lab.provision import CLOUDS_FILE, Tokens

if TYPE_CHECKING:
    pass

DIRECTORY = "openstack"
TENANT, OTHER_TENANT, OPERATOR = "demo", "other", "admin"


def check(database: Database) -> None:
    """Raises BadSurroundings if this machine lacks OpenStack, its database, or DIMINET's extra for it."""
    if database == "mariadb":
        mariadb.check()
    environment.find()
    if importlib.util.find_spec("openstack") is None:
        raise BadSurroundings("openstacksdk is not installed: run `make setup`")


class LabCloud:
    """Its servers load while the rest of the lab is made. Synchronous; raises BadSurroundings."""

    def __init__(self, plan: LabPlan) -> None:
        from diminet.lab.openstack.cloud import Cloud  # needs the extra `openstack`

        self._plan = plan
        self._cloud: Cloud = Cloud(plan.state_dir / DIRECTORY, environment.find(), database=plan.database)

    def start(self, holders: Mapping[str, int]) -> None:
        """Keystone, Neutrons and endpoints. holders: by site, a process in whose network namespace its
        Neutron listens."""
        from diminet.lab.openstack.cloud import Region

        regions = [
            Region(
                name=site.name,
                number=site.number,
                host=site.management_ip,
                port=SOUTH_PORT,
                namespace=f"/proc/{holders[site.name]}/ns/net",
            )
            for site in self._plan.sites
        ]
        self._cloud.start(regions, keystone_host=self._plan.supervisor_ip, keystone_port=KEYSTONE_PORT)
        for site in self._plan.sites:
            self._cloud.register("intersite", site.name, site.north)
            number = f"/?number={site.number}"
            self._cloud.register("intersite-horizontal", site.name, site.east_west_wan + number)
            _write_private(
                self._plan.directory(site.name) / CLOUDS_FILE,
                self._cloud.clouds_yaml(SERVICE_USER, PEERS_USER),
            )
        _write_private(
            self._plan.state_dir / CLOUDS_FILE, self._cloud.clouds_yaml(TENANT, OTHER_TENANT, OPERATOR)
        )

    def tokens(self) -> Tokens:
        return Tokens(
            token=self._cloud.token(TENANT),
            other_token=self._cloud.token(OTHER_TENANT),
            admin_token=self._cloud.token(OPERATOR),
        )

    def content(self) -> dict[str, Any]:
        """For lab.json: Keystone's URL, the tenant's credentials, and a clouds.yaml with the entries demo,
        other and admin."""
        entry = self._cloud.clouds_yaml(TENANT)["clouds"][TENANT]["auth"]
        return {"openstack": {**entry, "clouds_yaml": str(self._plan.state_dir / CLOUDS_FILE)}}

    def pids(self) -> dict[str, int]:
        """Of Keystone and, by site, of the Neutrons."""
        return self._cloud.pids()

    def close(self) -> None:
        self._cloud.close()


def _write_private(path: Path, content: Mapping[str, Any]) -> None:
    """JSON, which is YAML; it holds passwords."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump(content, file, indent=2)
