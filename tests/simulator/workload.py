"""What users do: a random stream of requests at random sites, some of them in each other's way."""

import asyncio
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from diminet.engine.ports import ServiceFilter, ServiceRow
from diminet.errors import DiminetError, NotFound, ResourceBusy
from diminet.messages import Caller, Change, Context, CreateRequest
from diminet.model import Entry, Initiator, ProvisioningStatus, SubnetShape
from simulator.checks import live
from simulator.emphasis import EMPHASES, Emphasis
from simulator.loop import Crash

if TYPE_CHECKING:
    from simulator.site import Site
    from simulator.world import World

ROUTED = [f"10.{n}.0.0/24" for n in range(6)] + ["10.2.0.0/16"]  # some overlap
STRETCHED = ["192.168.0.0/28", "192.168.0.0/27", "192.168.1.0/28"]


class Circle:
    """Requests in a circle that meet at every site; outcomes by site."""

    def __init__(self, sites: list[str]) -> None:
        self.sites = sites
        self.outcomes: dict[str, str] = {}


class Workload:
    """births: how the tenants' own networks were when they were made, to be found like that again.
    accepted: deletions that were not refused, (service, site that was asked)."""

    def __init__(self, world: "World", emphasis: Emphasis = EMPHASES[""]) -> None:
        self.world = world
        self.emphasis = emphasis
        self.rng = world.rng
        self.births: dict[str, dict[str, tuple[SubnetShape, ...]]] = {name: {} for name in world.sites}
        self.acknowledged: dict[str, None] = {}
        self.to_delete: set[str] = set()
        self.accepted: dict[tuple[str, str], None] = {}
        self.damaged: set[str] = set()  # networks that went, or were changed, behind our back
        self.circles: list[Circle] = []
        self.running = 0
        self.pace = 1.0  # mean seconds between requests
        self.open = True

    def forgotten(self, site: str) -> None:
        """An older copy of its database was brought back: what only the newer one knew is not promised."""
        self.accepted = {key: None for key in self.accepted if key[1] != site}
        known = self.world.checks.only_at
        self.acknowledged = {i: None for i in self.acknowledged if not known(site, i)}

    # -- networks --------------------------------------------------------------------------------------

    def add_network(self, site: "Site", cidr: str, project: str = "demo") -> str:
        network_id = site.vim.add_network(cidr, project=project)
        self.births[site.name][network_id] = self.shapes(site, network_id)
        return network_id

    @staticmethod
    def shapes(site: "Site", network_id: str) -> tuple[SubnetShape, ...]:
        return tuple(
            SubnetShape(cidr=s.cidr, ip_version=s.ip_version, gateway_ip=s.gateway_ip, pools=s.pools)
            for s in sorted(site.vim.networks[network_id].subnets, key=lambda s: s.cidr)
        )

    def begin(self) -> None:
        for site in self.world.sites.values():
            for _ in range(2):
                self.add_network(site, self.rng.choice(ROUTED))
            for _ in range(2):
                self.add_network(site, self.rng.choice(STRETCHED))
            self.add_network(site, self.rng.choice(ROUTED), "other")

    # -- the stream ------------------------------------------------------------------------------------

    async def run(self) -> None:
        works = [getattr(self, name) for name in self.emphasis.weights]
        weights = list(self.emphasis.weights.values())
        while self.open:
            await asyncio.sleep(self.rng.expovariate(1.0) * self.pace)
            if self.open and any(site.up for site in self.world.sites.values()):
                self.rng.choices(works, weights)[0]()

    def _up(self) -> list["Site"]:
        return [site for site in self.world.sites.values() if site.up]

    def _others(self, site: "Site", most: int) -> list["Site"]:
        others = [s for s in self.world.sites.values() if s is not site]
        return self.rng.sample(others, self.rng.randint(1, min(most, len(others))))

    def _network(self, site: "Site", kind: str, cidr: str | None = None) -> str | None:
        """One of the tenant's, of the sort that the type of service wants; new ones now and then."""
        fitting = ROUTED if kind == "l3" else STRETCHED
        if self.rng.random() < 0.15:
            return self.add_network(site, cidr or self.rng.choice(fitting))
        known = [
            n.network_id
            for n in site.vim.networks.values()
            if n.project_id == "demo" and n.ours is None and n.subnets and n.subnets[0].cidr in fitting
        ]
        return self.rng.choice(known) if known else None

    def _entry(self, site: "Site", network_id: str | None) -> Entry:
        return Entry(site=site.name, resource_id=network_id)

    def _service(self, kind: str | None = None) -> tuple["Site", ServiceRow] | None:
        """A live service, and one of the sites (up) that know it."""
        known = [
            (site, row)
            for site in self._up()
            for row in self.world.checks.rows[site.name].values()
            if live(row) and kind in (None, row.document.type)
        ]
        return self.rng.choice(known) if known else None

    # -- requests --------------------------------------------------------------------------------------

    def _ask(
        self, site: "Site", what: str, sites: list[str], work: Any, service_id: str | None = None
    ) -> None:
        """Run a request at a site; it ends with the instance if that crashes."""
        ctx = self.context(site)
        self.world.checks.named(ctx.request_id, sites, service_id)
        self.world.count("operation", what)
        told = f"{what} {(service_id or '')[:8]} of {','.join(sites)} ({ctx.request_id[4:12]})"
        self.world.step("asked", site.name, lambda: told)
        self.running += 1
        site.spawn(self._carry_out(site, what, told, work(ctx)))

    def context(self, site: "Site", project: str = "demo") -> Context:
        initiator = Initiator(user_id="alice", project_id=project, site=site.name)
        return Context(request_id=f"req-{self.world.uuid()}", initiator=initiator)

    @staticmethod
    def caller(project: str = "demo") -> Caller:
        return Caller(user_id="alice", project_id=project, roles=frozenset({"member"}), token="secret")

    @staticmethod
    def operator() -> Caller:
        return Caller(user_id="root", project_id="admin", roles=frozenset({"admin"}), token="secret")

    async def _carry_out(self, site: "Site", what: str, told: str, work: Coroutine[Any, Any, Any]) -> None:
        outcome = "ok"
        try:
            await work
        except DiminetError as error:
            outcome = error.code
            told += f": {error.message[:100]}"
        except (Crash, asyncio.CancelledError):
            outcome = "lost"
            raise
        except Exception as error:
            self.world.bug(site.name, told, error)
        finally:
            self.running -= 1
            self.world.count("outcome", f"{what} {outcome}")
        self.world.step("answered", site.name, lambda: f"{outcome}: {told}")

    async def _create(self, site: "Site", ctx: Context, request: CreateRequest, *, wait: bool = True) -> None:
        view, active = await site.engine.requests.create(
            self.caller(), ctx, request, wait=wait, idempotency=None
        )
        if active:
            self.acknowledged[view.document.service_id] = None

    def create_l3(self) -> None:
        site = self.rng.choice(self._up())
        some = [site, *self._others(site, 3)]
        entries = [(s, self._network(s, "l3")) for s in some]
        self._begin_create("l3", site, [self._entry(s, n) for s, n in entries if n], {})

    def create_l2(self) -> None:
        site = self.rng.choice(self._up())
        origin = self._network(site, "l2")
        if origin is None:
            return
        cidr = site.vim.networks[origin].subnets[0].cidr
        entries = [self._entry(site, origin)]
        for other in self._others(site, 3):
            given = self._network(other, "l2", cidr) if self.rng.random() < 0.4 else None
            entries.append(self._entry(other, given))
        params = {"gateway": self.rng.choice(["local", "local", "shared", "none"])}
        if self.rng.random() < 0.7:
            params["block_size"] = self.rng.choice([1, 2, 4])
        self._begin_create("l2", site, entries, params)

    def _begin_create(self, kind: str, site: "Site", entries: list[Entry], params: dict[str, Any]) -> None:
        if len(entries) < 2:
            return
        request = CreateRequest(
            type=kind,
            name=f"n{self.rng.randrange(100)}",
            on_unreachable=self.rng.choice(self.emphasis.policies),
            resources=tuple(entries),
            params=params,
        )
        wait = self.rng.random() < 0.8
        self._ask(
            site,
            f"create-{kind}",
            [e.site for e in entries],
            lambda ctx: self._create(site, ctx, request, wait=wait),
        )

    def _change(self, site: "Site", row: ServiceRow, change: Change, sites: list[str]) -> None:
        service_id = row.document.service_id

        async def work(ctx: Context) -> None:
            view, waiting = await site.engine.requests.change(self.caller(), ctx, service_id, change)
            if change.operation == "delete":
                self.accepted[service_id, site.name] = None
                if view is None and not waiting:
                    self.world.checks.deleted.add(service_id)

        if change.operation == "delete":
            self.to_delete.add(service_id)
        self._ask(site, change.operation, sites, work, service_id)

    def join(self) -> None:
        found = self._service()
        if found is None:
            return
        site, row = found
        document = row.document
        newcomer = self.rng.choice(list(self.world.sites.values()))
        cidr = document.resources[0].subnets[0].cidr if document.resources else None
        given = self._network(newcomer, document.type, cidr if document.type == "l2" else None)
        if document.type == "l2" and self.rng.random() < 0.6:
            given = None
        elif given is None:
            return
        entry = self._entry(newcomer, given)
        via = None
        if newcomer.up and document.member(newcomer.name) is None and self.rng.random() < 0.4:
            via, site = site.name, newcomer
        sites = [newcomer.name] if via is None else [newcomer.name, via]
        self._change(site, row, Change(operation="join", entry=entry, via=via), sites)

    def leave(self) -> None:
        if found := self._service():
            site, row = found
            if row.document.resources:
                resource = self.rng.choice(row.document.resources)
                entry = Entry(site=resource.site, resource_id=self.rng.choice([None, resource.resource_id]))
                self._change(site, row, Change(operation="leave", entry=entry), [])

    def again(self) -> None:
        """A network leaves, and is joined again at once."""
        found = self._service()
        if found is None:
            return
        site, row = found
        service_id, document = row.document.service_id, row.document
        away = [r for r in document.resources if r.site != document.master]
        if not away:
            return
        resource = self.rng.choice(away)
        entry = Entry(site=resource.site, resource_id=resource.resource_id)

        async def work(ctx: Context) -> None:
            for operation in ("leave", "join"):
                change = Change.model_validate({"operation": operation, "entry": entry})
                await site.engine.requests.change(self.caller(), ctx, service_id, change)

        self._ask(site, "again", [resource.site], work, service_id)

    def rivals(self) -> None:
        """Two services that share a network are asked at once to take in networks that overlap."""
        rows = {
            row.document.service_id: (site, row)
            for site in self._up()
            for row in self.world.checks.rows[site.name].values()
            if live(row) and row.document.type == "l3" and row.document.epoch.site == site.number
        }
        pairs = [
            (one, other)
            for one in rows.values()
            for other in rows.values()
            if one[1].document.service_id < other[1].document.service_id
            and {r.resource_id for r in one[1].document.resources}
            & {r.resource_id for r in other[1].document.resources}
        ]
        if not pairs:
            return
        cidr = f"10.{self.rng.randrange(20, 200)}.0.0/24"
        for site, row in self.rng.choice(pairs):
            newcomer = self.rng.choice(list(self.world.sites.values()))
            entry = self._entry(newcomer, self.add_network(newcomer, cidr))
            self._change(site, row, Change(operation="join", entry=entry), [newcomer.name])

    def modify(self) -> None:
        if found := self._service():
            site, row = found
            etag = row.document.pair.etag() if self.rng.random() < 0.5 else None
            policy = self.rng.choice([None, "defer", "revoke"])
            name = f"m{self.rng.randrange(100)}"
            change = Change(operation="modify", name=name, if_match=etag, on_unreachable=policy)
            self._change(site, row, change, [])

    def delete(self) -> None:
        if found := self._service():
            site, row = found
            self._change(site, row, Change(operation="delete"), [])

    def takeover(self) -> None:
        """Planned, or forced; an operator now and then declares gone who is only away."""
        if found := self._service():
            site, row = found
            service_id = row.document.service_id
            others = {m.site for m in row.document.members} - {site.name}
            away = sorted(name for name in others if not self._reached(site.name, name))
            gone = frozenset(away) if away and self.rng.random() < 0.5 else frozenset()
            self._ask(
                site,
                "takeover",
                [],
                lambda ctx: site.engine.requests.takeover(self.operator(), ctx, service_id, gone),
                service_id,
            )

    def both_halves(self) -> None:
        """A member that is cut off from its master takes over, and the master goes on changing."""
        cut = [
            (site, row)
            for site in self._up()
            for row in self.world.checks.rows[site.name].values()
            if live(row) and row.document.master != site.name and self.world.sites[row.document.master].up
            if not self._reached(site.name, row.document.master)
        ]
        if not cut:
            return
        site, row = self.rng.choice(cut)
        service_id, old = row.document.service_id, self.world.sites[row.document.master]
        self._ask(
            site,
            "takeover",
            [],
            lambda ctx: site.engine.requests.takeover(self.operator(), ctx, service_id, frozenset()),
            service_id,
        )
        for _ in range(2):
            self._change(old, row, Change(operation="modify", name=f"m{self.rng.randrange(100)}"), [])

    def forget(self) -> None:
        """An operator's word, which is true here: only of a site whose database knows nothing."""
        if found := self._service():
            site, row = found
            service_id, names = row.document.service_id, sorted(self.world.sites)
            lost = [name for name in names if service_id not in self.world.checks.rows[name]]
            if lost:
                name = self.rng.choice(lost)
                self._ask(
                    site,
                    "forget",
                    [],
                    lambda ctx: site.engine.requests.forget(self.operator(), ctx, service_id, name),
                    service_id,
                )

    def leave_alone(self) -> None:
        """A site takes itself out, whether its master can be reached or not."""
        if found := self._service():
            site, row = found
            change = Change(operation="leave", entry=Entry(site=site.name))
            self._change(site, row, change, [])

    def _reached(self, one: str, other: str) -> bool:
        cuts = self.world.network.cuts
        return self.world.sites[other].up and (one, other) not in cuts and (other, one) not in cuts

    def more_room(self) -> None:
        if found := self._service("l2"):
            site, row = found
            service_id = row.document.service_id
            self._ask(
                site,
                "more-room",
                [],
                lambda ctx: site.engine.requests.more_room(self.caller(), ctx, service_id),
                service_id,
            )

    def read(self) -> None:
        """Invariant 7: reads are served, whoever is away."""
        site = self.rng.choice(self._up())

        async def work(ctx: Context) -> None:
            try:
                views = await site.engine.requests.list(self.caller(), ServiceFilter())
            except DiminetError as error:
                self.world.fail("7", f"{site.name} does not list its services: {error.message}")
                return
            for view in views:
                if view.provisioning_status == ProvisioningStatus.ACTIVE:
                    self.acknowledged[view.document.service_id] = None

        self._ask(site, "list", [], work)

    def not_theirs(self) -> None:
        """Invariant 8: a tenant names a network of another project."""
        site = self.rng.choice(self._up())
        other = self._others(site, 1)[0]
        mine = self._network(site, "l3")
        foreign = [n.network_id for n in other.vim.networks.values() if n.project_id == "other"]
        if mine and foreign:
            entries = [self._entry(site, mine), self._entry(other, self.rng.choice(foreign))]
            self._begin_create("l3", site, entries, {})

    # -- instances -------------------------------------------------------------------------------------

    def boot(self) -> None:
        """A few instances on one stretched network, as a rule on one that is short already."""
        stretched = [
            (site, target.networks[0])
            for site in self._up()
            for target in site.vim.targets.values()
            if target.layer == "l2" and target.networks[0] in site.vim.networks
        ]
        if stretched:
            site, network_id = self.rng.choice(stretched)
            for _ in range(self.rng.randint(1, 4)):
                self._ask(site, "boot", [], lambda ctx: self._boot(site, network_id))

    def crowd(self) -> None:
        """Instances at one site of a service only, which soon lives on the others' addresses."""
        first = {
            service_id: (site, target.networks[0])
            for site in reversed(self._up())
            for service_id, target in site.vim.targets.items()
            if target.layer == "l2" and target.networks[0] in site.vim.networks
        }
        if first:
            site, network_id = self.rng.choice(list(first.values()))
            self._ask(site, "boot", [], lambda ctx: self._boot(site, network_id))

    async def _boot(self, site: "Site", network_id: str) -> None:
        before = self._spare(site, network_id)
        try:
            await site.vim.boot(network_id)
        except RuntimeError:
            spare = before & self._spare(site, network_id)
            if spare:
                self.world.fail(
                    "7", f"{site.name} gives out no address although {spare} are its own and spare"
                )
            raise ResourceBusy("no address") from None
        except KeyError:
            raise NotFound("the network has gone meanwhile") from None

    def _spare(self, site: "Site", network_id: str) -> set[str]:
        """Blocks of the site, not in its pool nor just being given, of the service that the network is in."""
        found = site.disk.look(lambda tx: tx.services_of_network(site.name, network_id))
        return {
            f"{h.block.cidr} {h.block.index} v{h.block.version}"
            for service_id in (row.document.service_id for row in found)
            if not site.disk.look(lambda tx, i=service_id: tx.fenced(i))
            for h in site.disk.look(lambda tx, i=service_id: tx.blocks(i))
            if h.block.owner == site.name and not h.pooled
            if h.block not in site.engine.pools.leaving.get(service_id, ())
        }

    def unboot(self) -> None:
        rows = [(s, n, ip) for s in self._up() for n, ports in s.vim.port_rows.items() for ip in ports]
        if rows:
            site, network_id, ip = self.rng.choice(rows)
            site.vim.delete_port(network_id, ip)
            self.world.step("operation", site.name, lambda: f"port {ip} of {network_id[:8]} deleted")

    # -- in a circle -----------------------------------------------------------------------------------

    def circle(self) -> None:
        """Two or three sites, each asked at once to stretch its network to the next one's."""
        up = self._up()
        if len(up) < 2:
            return
        some = self.rng.sample(up, min(len(up), self.rng.choice([2, 3])))
        nets = {site.name: self.add_network(site, "192.168.9.0/28") for site in some}
        circle = Circle([site.name for site in some])
        self.circles.append(circle)
        for site, following in zip(some, [*some[1:], some[0]], strict=True):
            request = CreateRequest(
                type="l2",
                name="circle",
                resources=tuple(Entry(site=s.name, resource_id=nets[s.name]) for s in (site, following)),
            )
            self._ask(
                site,
                "create-circle",
                [site.name, following.name],
                lambda ctx, site=site, request=request: self._one_of(circle, site, ctx, request),
            )

    async def _one_of(self, circle: Circle, site: "Site", ctx: Context, request: CreateRequest) -> None:
        circle.outcomes[site.name] = "lost"
        try:
            await self._create(site, ctx, request)
            circle.outcomes[site.name] = "ok"
        except DiminetError as error:
            circle.outcomes[site.name] = error.code
            raise
