"""Sites on the regions of the session's real cloud: the production engine, logic, store and South; only the
network between the instances is simulated (`simulated_cloud.Wire`)."""

import asyncio
from typing import Any

from pydantic import SecretStr

from diminet.clock import SystemClock
from diminet.engine.engine import Engine
from diminet.engine.instance import Instance, Limits
from diminet.engine.ports import Identity
from diminet.errors import NotAuthorised
from diminet.lab.openstack.cloud import Cloud as OpenStack
from diminet.logic.types import TYPES
from diminet.messages import Caller, Change, Context
from diminet.store.store import SqlStore
from neutron_site import NeutronSite, Tenant, dump
from simulated_cloud import Cloud, Life, Link, Mortal, Names, Quiet, Wire

LIMITS = Limits(  # a machine that runs three Neutrons and the tests answers when it can
    request_timeout=60.0,
    reservation_lifetime=90.0,
    sync_interval=1.0,
    reconcile_interval=1.0,
    audit_interval=1.0,
    deliver_interval=0.5,
    backoff_first=0.2,
    backoff_most=1.0,
    confirm_delay=0.2,
    settle_interval=0.2,
    watermark=30,
    pool_step=4,
)


class Vouched:
    """Identity: every site vouches for the project of the tenant."""

    def __init__(self, project: str) -> None:
        self.project = project

    async def authenticate(self, token: str) -> Caller:
        raise NotImplementedError

    async def authorise(self, ctx: Context, project_id: str) -> SecretStr | None:
        if ctx.initiator.project_id != project_id or (ctx.sender and project_id != self.project):
            raise NotAuthorised("not vouched for")
        return None


class Regions(Cloud):
    """urls: of proxies before the Neutrons, by region. timeout: of one call to a Neutron, seconds.
    identities: by region; otherwise every site vouches for the tenant's project."""

    def __init__(
        self,
        openstack: OpenStack,
        *names: str,
        limits: Limits = LIMITS,
        urls: dict[str, str] | None = None,
        timeout: float = 60.0,
        identities: dict[str, Identity] | None = None,
    ) -> None:
        self.wire = Wire()
        self.names = Names(list(names))
        self.limits = limits
        self.loops = []
        self.project = openstack.project_id("demo")
        self.identities: dict[str, Identity] = identities or {name: Vouched(self.project) for name in names}
        self.sites = {
            name: NeutronSite(openstack, name, url=(urls or {}).get(name), timeout=timeout) for name in names
        }
        self.tenants = {name: site.tenant for name, site in self.sites.items()}
        self.admins = {name: Tenant(openstack, name, "admin") for name in names}
        self.stores = {name: SqlStore("sqlite://", threaded=False) for name in names}
        for number, name in enumerate(names, 1):
            self._unmark(name)
            self.start(name, number)

    def _unmark(self, name: str) -> None:
        """Each test has databases of its own, and the mark of the one before stands against them."""
        for vpn in self.admins[name].list("bgpvpn"):
            if vpn["name"].startswith("diminet-mark-database="):
                self.admins[name].drop("bgpvpn", vpn["id"])

    def start(self, name: str, number: int, life: Life | None = None) -> None:
        life = life or Life()
        here = Instance(
            name=name,
            number=number,
            store=Mortal(self.stores[name], life),
            peers=Mortal(Link(self.wire, name), life),
            south=Mortal(self.sites[name].south, life),
            directory=self.names,
            identity=self.identities[name],
            clock=SystemClock(),
            types=TYPES,
            asn=64999,
            meter=Quiet(),
            limits=self.limits,
        )
        self.wire.engines[name] = Engine(here)

    def caller(self, project: str = "", *roles: str) -> Caller:
        return super().caller(project or self.project, *roles)

    def ctx(self, site: str, project: str = "") -> Context:
        return super().ctx(site, project or self.project)

    async def close(self) -> None:
        await super().close()
        for site in self.sites.values():
            site.close()

    def dumps(self) -> dict[str, Any]:
        return {name: dump(admin) for name, admin in self.admins.items()}

    async def delete(self, at: str, service_id: str) -> None:
        """All sites are clean then."""
        change = Change(operation="delete")
        found = await self[at].requests.change(self.caller(), self.ctx(at), service_id, change)
        assert found == (None, ()), found

    async def boot(self, region: str, network_id: str) -> str:
        """A port's address. Raises keystoneauth's Conflict when Neutron has none."""
        port = await asyncio.to_thread(self.tenants[region].boot, network_id)
        return str(port["fixed_ips"][0]["ip_address"])
