"""A small real cloud: Keystones, Neutrons of several regions, and their catalog.

    with Cloud(directory, environment.find()) as cloud:
        cloud.start([Region(name="A", number=1), Region(name="B", number=2)])
        cloud.keystone_url(), cloud.neutron_url("A"), cloud.token("demo")

Synchronous. Raises BadSurroundings when something does not start.
"""

import base64
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from keystoneauth1.identity import v3
from keystoneauth1.session import Session

from diminet.lab.openstack import configuration, templates
from diminet.lab.openstack.configuration import User
from diminet.lab.openstack.environment import Environment
from diminet.lab.openstack.mariadb import MariaDb
from diminet.lab.openstack.servers import Server, Servers
from diminet.lab.plan import Database
from diminet.model import Model

SHARED = "keystone"
MARIADB_THREADS = 8  # of each Neutron
DOMAIN = "default"
SERVICE_NAMES = {"identity": "keystone", "network": "neutron"}


class Region(Model):
    """host, port (0: any free one) and network namespace (None: this one) of its Neutron.
    keystone: name of the one that it asks."""

    name: str
    number: int
    host: str = "127.0.0.1"
    port: int = 0
    namespace: str | None = None
    keystone: str = SHARED


class Cloud:
    """directory: of everything that its servers write; made if it is not there, never removed here.
    database: of the Neutrons; with mariadb each serves several requests at once. Keystone has sqlite."""

    def __init__(self, directory: Path, environment: Environment, *, database: Database = "sqlite") -> None:
        self._directory = directory
        self._environment = environment
        self._templates = templates.prepare(environment)
        self._keystone_servers: dict[str, Server] = {}
        self._neutron_servers: dict[str, Server] = {}
        self._regions: dict[str, Region] = {}
        self._admins: dict[str, Session] = {}
        self._services: dict[tuple[str, str], str] = {}
        self._in_catalog: set[tuple[str, str]] = set()
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)  # it holds passwords
        self._mariadb: MariaDb | None = None
        if database == "mariadb":
            self._dump = templates.neutron_dump(environment)
            self._mariadb = MariaDb(directory / "mariadb")
        self._keystones = Servers(environment, "keystone", directory / "keystones.log")
        self._neutrons = Servers(environment, "neutron", directory / "neutrons.log")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all servers."""
        self._neutrons.close()
        self._keystones.close()
        if self._mariadb is not None:
            self._mariadb.close()

    # -- its life ----------------------------------------------------------------------------------

    def start(
        self,
        regions: Sequence[Region],
        *,
        keystone_host: str = "127.0.0.1",
        keystone_port: int = 0,
        token_lifetime: int = templates.TOKEN_LIFETIME,
    ) -> None:
        """Start the regions' Keystones and Neutrons, and register them. token_lifetime in seconds.
        keystone_port: of the shared Keystone; another one takes any free port."""
        for name in dict.fromkeys(region.keystone for region in regions):
            port = keystone_port if name == SHARED else 0
            self.start_keystone(name, host=keystone_host, port=port, token_lifetime=token_lifetime)
        servers = [self._provision(region) for region in regions]
        ports = self._neutrons.start(*servers)
        for region, server in zip(regions, servers, strict=True):
            self._regions[region.name] = region
            self._neutron_servers[region.name] = server._replace(port=ports[region.name])
            self.register("identity", region.name, self.keystone_url(region.keystone))
            self.register("network", region.name, self.neutron_url(region.name))

    def start_keystone(
        self,
        name: str = SHARED,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        token_lifetime: int = templates.TOKEN_LIFETIME,
    ) -> None:
        """A new one, or one that was stopped: where it was, with what it had."""
        server = self._keystone_servers.get(name)
        if server is None:
            directory = self._directory / name
            shutil.copytree(self._templates.keystone, directory)
            (directory / "keystone.conf").write_text(
                configuration.keystone(directory, token_lifetime=token_lifetime)
            )
            for keys in ("fernet", "receipts"):
                _new_keys(directory / keys)
            server = Server(name, directory, host, port)
        self._keystone_servers[name] = server._replace(port=self._keystones.start(server)[name])

    def stop_keystone(self, name: str = SHARED) -> None:
        self._keystones.stop(name)

    def stop_neutron(self, region: str) -> None:
        self._neutrons.stop(region)

    def start_neutron(self, region: str) -> None:
        """The one that was stopped, where it was."""
        self._neutrons.start(self._neutron_servers[region])

    def _provision(self, region: Region) -> Server:
        directory = self._directory / f"neutron-{region.name}"
        database = None
        if self._mariadb is None:
            shutil.copytree(self._templates.neutron, directory)
        else:
            directory.mkdir()
            self._mariadb.create(directory.name, self._dump)
            database = self._mariadb.url(directory.name)
        text = configuration.neutron(
            directory,
            self._environment,
            region=region.name,
            keystone_url=self.keystone_url(region.keystone),
            service=self.user("neutron"),
            base_mac=configuration.base_mac(region.number),
            database=database,
        )
        (directory / "neutron.conf").write_text(text)
        threads = 1 if database is None else MARIADB_THREADS
        return Server(region.name, directory, region.host, region.port, threads, region.namespace)

    # -- where and who -----------------------------------------------------------------------------

    def keystone_url(self, name: str = SHARED) -> str:
        """With /v3."""
        server = self._keystone_servers[name]
        return f"http://{server.host}:{server.port}/v3"

    def neutron_url(self, region: str) -> str:
        """Without /v2.0."""
        server = self._neutron_servers[region]
        return f"http://{server.host}:{server.port}"

    def pids(self) -> dict[str, int]:
        """Of the servers that run, by the name of the Keystone or region."""
        return {**self._keystones.pids, **self._neutrons.pids}

    def user(self, name: str) -> User:
        """admin, diminet and diminet-peers (the instances'), neutron, demo, demo-reader or other."""
        return self._templates.accounts.user(name)

    def session(self, user: str, *, keystone: str = SHARED) -> Session:
        """Authenticated as that user in the user's project; renews its token by itself."""
        account = self.user(user)
        return Session(
            v3.Password(
                auth_url=self.keystone_url(keystone),
                username=account.name,
                password=account.password,
                project_name=account.project,
                user_domain_id=DOMAIN,
                project_domain_id=DOMAIN,
            )
        )

    def token(self, user: str, *, keystone: str = SHARED) -> str:
        """A new one."""
        return str(self.session(user, keystone=keystone).get_token())

    def project_id(self, name: str, *, keystone: str = SHARED) -> str:
        """The same at all Keystones of one cloud."""
        url = f"{self.keystone_url(keystone)}/projects?name={name}"
        projects: list[dict[str, Any]] = self._admin(keystone).get(url).json()["projects"]
        return str(projects[0]["id"])

    def clouds_yaml(self, *users: str, keystone: str = SHARED) -> dict[str, Any]:
        """Content of a clouds.yaml with an entry for each user, under the user's name; JSON is YAML."""
        clouds = {}
        for account in map(self.user, users):
            auth = {
                "auth_url": self.keystone_url(keystone),
                "username": account.name,
                "password": account.password,
                "project_name": account.project,
                "user_domain_id": DOMAIN,
                "project_domain_id": DOMAIN,
            }
            clouds[account.name] = {"auth": auth, "identity_api_version": 3}
        return {"clouds": clouds}

    # -- the catalog -------------------------------------------------------------------------------

    def register(self, service: str, region: str, url: str, *, keystone: str | None = None) -> str:
        """A public endpoint of that service type (made if missing) in that region; its id.

        keystone: whose catalog; None: that of the region."""
        keystone = keystone or self._regions[region].keystone
        admin, base = self._admin(keystone), self.keystone_url(keystone)
        if (keystone, region) not in self._in_catalog:
            admin.put(f"{base}/regions/{region}", json={"region": {}})
            self._in_catalog.add((keystone, region))
        endpoint = {
            "interface": "public",
            "region_id": region,
            "service_id": self._service(keystone, service),
            "url": url,
        }
        made = admin.post(f"{base}/endpoints", json={"endpoint": endpoint}).json()["endpoint"]
        return str(made["id"])

    def unregister(self, endpoint_id: str, *, keystone: str = SHARED) -> None:
        self._admin(keystone).delete(f"{self.keystone_url(keystone)}/endpoints/{endpoint_id}")

    def _service(self, keystone: str, kind: str) -> str:
        if (keystone, kind) not in self._services:
            body = {"service": {"type": kind, "name": SERVICE_NAMES.get(kind, kind)}}
            made = self._admin(keystone).post(f"{self.keystone_url(keystone)}/services", json=body)
            self._services[keystone, kind] = str(made.json()["service"]["id"])
        return self._services[keystone, kind]

    def _admin(self, keystone: str) -> Session:
        if keystone not in self._admins:
            self._admins[keystone] = self.session("admin", keystone=keystone)
        return self._admins[keystone]


def _new_keys(directory: Path) -> None:
    """Keystone's Fernet keys, other than the template's: no token of one cloud is good at another."""
    for path in directory.iterdir():
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_TRUNC), "wb") as file:
            file.write(base64.urlsafe_b64encode(os.urandom(32)))
