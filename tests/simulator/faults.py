"""What goes wrong: faults of many kinds, of which each seed has some (swarm testing), at random moments."""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from diminet.model import Target
from simulator.forgery import Forger
from simulator.network import Weather

if TYPE_CHECKING:
    from simulator.site import Site
    from simulator.workload import Workload
    from simulator.world import World


class Faults:
    """kinds: those of this seed. pace: mean seconds between two faults."""

    def __init__(self, world: "World", workload: "Workload", kinds: frozenset[str] | None = None) -> None:
        self.world, self.workload, self.rng = world, workload, world.rng
        self.images: dict[str, bytes] = {}
        self.forger = Forger(world)
        self.works: dict[str, Callable[[], None]] = {
            "crash": self.crash,
            "crash at a step": self.crash_at_a_step,
            "cut": self.cut,
            "one-way cut": self.one_way_cut,
            "isolation": self.isolation,
            "slow site": self.slow_site,
            "weather": self.weather,
            "vim errors": self.vim_errors,
            "vim changes": self.vim_changes,
            "clock": self.clock,
            "storage": self.storage,
            "forgery": self.forgery,
            "restored": self.restored,
        }
        self.kinds = self._some() if kinds is None else kinds
        self.pace = self.rng.choice([0.5, 1.0, 2.0, 5.0])
        self.open = True

    def _some(self) -> frozenset[str]:
        """Each kind in half of the seeds; one seed in ten has none at all."""
        if self.rng.random() < 0.1:
            return frozenset()
        return frozenset(k for k in self.works if self.rng.random() < 0.5)

    async def run(self) -> None:
        kinds = [kind for kind in self.works if kind in self.kinds]
        while self.open and kinds:
            await asyncio.sleep(self.rng.expovariate(1.0) * self.pace)
            if self.open:
                kind = self.rng.choice(kinds)
                self.world.count("fault", kind)
                self.works[kind]()

    def end(self) -> None:
        """Everything is healed, who was down is started again; clocks stay as wrong as they are."""
        self.open = False
        self.world.network.heal()
        for site in self.world.sites.values():
            site.vim_faults.clear()
            site.storage_faults, site.crash_at, site.pace = 0, None, 0.002
            if not site.up:
                site.start()

    def _later(self, low: float, high: float, work: Callable[[], None]) -> None:
        self.world.loop.call_later(self.rng.uniform(low, high), work, context=self.world.context)

    def _site(self) -> "Site":
        return self.rng.choice(list(self.world.sites.values()))

    def _step(self, where: str, told: str) -> None:
        self.world.step("fault", where, lambda: told)

    # -- instances -------------------------------------------------------------------------------------

    def crash(self) -> None:
        site = self._site()
        site.crash("now")
        self._restart(site)

    def _restart(self, site: "Site") -> None:
        def start() -> None:
            if not site.up:
                self._step(site.name, "starts again")
                site.start()

        self._later(0.0, self.rng.choice([1.0, 5.0, 30.0]), start)

    def crash_at_a_step(self) -> None:
        """Before or behind one of its next steps: each has a moment on either side."""
        site = self._site()
        if site.up:
            steps = self.rng.randrange(self.rng.choice([6, 60]))
            site.crash_at = (steps, False)
            self._step(site.name, f"will crash in {steps} moments")
            self._later(5.0, 20.0, lambda: self._surely_up(site))

    def _surely_up(self, site: "Site") -> None:
        site.crash_at = None
        if not site.up:
            self._step(site.name, "starts again")
            site.start()

    def clock(self) -> None:
        site = self._site()
        jump = self.rng.choice([-1.0, 1.0]) * self.rng.choice([0.5, 5.0, 45.0, 600.0, 40_000.0])
        site.clock.offset += jump
        site.clock.rate = self.rng.choice([1.0, 1.0, 0.99, 1.01])
        self._step(site.name, f"clock jumps by {jump}")

    def storage(self) -> None:
        site = self._site()
        site.storage_faults = self.rng.choice([1, 1, 3, 10])
        self._step(site.name, f"disk full for {site.storage_faults} writes")

    def restored(self) -> None:
        """An older copy of a database is brought back; not of two sites at once, which would know no more
        than what is left of both."""
        site = self._site()
        whole = not any(s.disk.look(lambda tx: tx.fences()) for s in self.world.sites.values())
        if site.name in self.images and whole and self.rng.random() < 0.5:
            site.crash("to be restored")
            site.disk.bring_back(self.images.pop(site.name), self.world.uuid())
            self.world.checks.restored(site)
            self.workload.forgotten(site.name)
            self._step(site.name, "database restored")
            self._restart(site)
        else:
            self.images[site.name] = site.disk.copy()
            self._step(site.name, "database copied")

    # -- the network -----------------------------------------------------------------------------------

    def _cut(self, ways: list[tuple[str, str]], told: str) -> None:
        cuts = self.world.network.cuts
        cuts.update(ways)
        self._step("net", told)

        def heal() -> None:
            for way in ways:
                cuts.discard(way)
            self._step("net", f"healed: {told}")

        self._later(0.5, self.rng.choice([2.0, 10.0, 40.0]), heal)

    def _two(self) -> tuple[str, str]:
        one, other = self.rng.sample(list(self.world.sites), 2)
        return one, other

    def cut(self) -> None:
        one, other = self._two()
        self._cut([(one, other), (other, one)], f"cut {one} {other}")

    def one_way_cut(self) -> None:
        one, other = self._two()
        self._cut([(one, other)], f"cut {one} to {other}")

    def isolation(self) -> None:
        """Of one site, or of a group of them from the others."""
        names = list(self.world.sites)
        group = self.rng.sample(names, self.rng.randint(1, max(1, len(names) // 2)))
        ways = [(a, b) for a in names for b in names if (a in group) != (b in group)]
        self._cut(ways, f"isolate {','.join(group)}")

    def slow_site(self) -> None:
        site, seconds = self._site(), self.rng.choice([0.3, 2.0, 6.0])
        self.world.network.slow[site.name] = seconds
        site.pace = self.rng.choice([0.02, 0.3])
        self._step(site.name, f"slow by {seconds}")

        def heal() -> None:
            self.world.network.slow.pop(site.name, None)
            site.pace = 0.002

        self._later(2.0, 20.0, heal)

    def weather(self) -> None:
        share = [0.0, 0.02, 0.1, 0.3]
        weather = Weather(
            loss=self.rng.choice(share),
            doubling=self.rng.choice(share),
            holding_up=self.rng.choice(share),
            latency=self.rng.choice([0.001, 0.02, 0.2]),
            jitter=self.rng.choice([0.001, 0.05, 1.0]),
        )
        self.world.network.weather = weather
        self._step("net", str(weather))

    # -- the VIM ---------------------------------------------------------------------------------------

    def vim_errors(self) -> None:
        site = self._site()
        site.vim_faults = [
            self.rng.choice(["", "before", "behind", "away"]) for _ in range(self.rng.randint(1, 12))
        ]
        self._step(site.name, f"the VIM will fail: {site.vim_faults}")

    def vim_changes(self) -> None:
        """Behind our back: the data plane of a service goes, one appears that nobody made, a tenant deletes
        a network or adds a subnet."""
        self.rng.choice([self._lose_target, self._stranger, self._lose_network, self._new_subnet])(
            self._site()
        )

    def _lose_target(self, site: "Site") -> None:
        if site.vim.targets:
            service_id = self.rng.choice(list(site.vim.targets))
            del site.vim.targets[service_id]
            self._step(site.name, f"the data plane of {service_id[:8]} is gone")

    def _stranger(self, site: "Site") -> None:
        stray = self.world.uuid()
        site.vim.targets[stray] = Target(
            service_id=stray,
            project_id="demo",
            layer="l3",
            vni=1,
            export_target="1:1",
            import_targets=(),
            networks=(),
        )
        self._step(site.name, f"a data plane {stray[:8]} that nobody made")

    def _lose_network(self, site: "Site") -> None:
        empty = [n for n, ports in site.vim.port_rows.items() if not ports]
        if empty:
            network_id = self.rng.choice(empty)
            site.vim.delete_network(network_id)
            self.workload.damaged.add(network_id)
            self._step(site.name, f"its tenant deletes network {network_id[:8]}")

    def _new_subnet(self, site: "Site") -> None:
        """On a routed network, with addresses that overlap another one's."""
        routed = [n for n in site.vim.networks.values() if n.subnets and n.subnets[0].cidr.startswith("10.")]
        if routed:
            network = self.rng.choice(routed)
            cidr = f"10.{self.rng.randrange(6)}.0.128/25"
            if all(s.cidr != cidr for s in network.subnets):
                site.vim.add_subnet(network.network_id, cidr)
                self.workload.births[site.name][network.network_id] = self.workload.shapes(
                    site, network.network_id
                )
                self._step(site.name, f"its tenant adds {cidr} to network {network.network_id[:8]}")

    # -- peers -----------------------------------------------------------------------------------------

    def forgery(self) -> None:
        self.forger.forge()
