"""Random operations and faults on a real lab; afterwards every site is compared with what was acknowledged.

    make soak MINUTES=10 [SEED=7] [SITES=3]

The seed decides what is tried, not when: real daemons have clocks of their own. It ends with 0 if all that
was acknowledged is so at every site, no address or MAC is twice in a network, instances of each service reach
one another, and nothing is left once all is deleted.
"""

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

from seen import Scene, eventually, lab_of

from diminet.client import ApiError
from diminet.errors import DiminetError

WORKERS = 3  # tenants at once
FAULT_EVERY = 12.0  # seconds, at the mean
FAULT_LASTS = 10.0  # seconds at most
SERVICES_MOST = 8
INSTANCES_MOST = 24
SETTLED = 180.0  # seconds after the last fault until all sites must agree
REACHED = 60.0  # seconds until pings of a service cross
PINGED_MOST = 4  # services
BUGS = ("internal-error",)


@dataclass
class Service:
    """What its tenants were told. sure: whether the last answer came; members: by site, network."""

    id: str
    kind: str
    members: dict[str, str]
    sure: bool = True
    deleted: bool = False


@dataclass
class Ledger:
    """All that was acknowledged."""

    services: dict[str, Service] = field(default_factory=dict)
    instances: list[tuple[str, str]] = field(default_factory=list)  # (site, name)
    counts: Counter[str] = field(default_factory=Counter)
    bugs: list[str] = field(default_factory=list)


class Soak:
    def __init__(self, scene: Scene, seed: int) -> None:
        self.scene = scene
        self.chance = random.Random(seed)
        self.ledger = Ledger()
        self.lock = threading.Lock()  # of the ledger and the chance
        self.busy = set[str]()  # services that somebody is changing
        self.nets = 0

    # -- what tenants do -----------------------------------------------------------------------------

    def operate(self) -> None:
        """One random operation; what is refused is refused."""
        with self.lock:
            name, work = self.chance.choice(self._possible())
        try:
            work()
            outcome = "ok"
        except ApiError as error:
            outcome = error.word
            if error.word in BUGS:
                self.ledger.bugs.append(f"{name}: {error.status} {error.message}")
        except DiminetError as error:
            outcome = error.code
        with self.lock:
            self.ledger.counts[f"{name}: {outcome}"] += 1

    def _possible(self) -> list[tuple[str, Callable[[], None]]]:
        free = [s for s in self.ledger.services.values() if not s.deleted and s.id not in self.busy]
        works: list[tuple[str, Callable[[], None]]] = []
        if len(self.ledger.services) - self._deleted() < SERVICES_MOST:
            works += [("create l3", lambda: self.create("l3")), ("create l2", lambda: self.create("l2"))] * 2
        if free:
            one = self.chance.choice(free)
            works += [("delete", lambda: self.delete(one)), ("add", lambda: self.add(one))]
            works += [("remove", lambda: self.remove(one))]
            if len(self.ledger.instances) < INSTANCES_MOST:
                works += [("boot", lambda: self.boot(one))] * 4
        return works or [("wait", lambda: time.sleep(1.0))]

    def _deleted(self) -> int:
        return sum(service.deleted for service in self.ledger.services.values())

    @contextmanager
    def changing(self, service: Service) -> Iterator[None]:
        """Its outcome is not sure until the answer is there."""
        with self.lock:
            self.busy.add(service.id)
            sure, service.sure = service.sure, False
        try:
            yield
            service.sure = sure
        except ApiError as error:
            service.sure = sure and error.status < 500
            raise
        finally:
            with self.lock:
                self.busy.discard(service.id)

    def network(self, site: str) -> str:
        with self.lock:
            self.nets += 1
            number = self.nets
        return self.scene.network(site, f"10.{number // 250}.{number % 250}.0/24")

    def create(self, kind: str) -> None:
        with self.lock:
            sites = self.chance.sample(self.scene.sites, self.chance.randint(2, len(self.scene.sites)))
            policy = self.chance.choice(("revoke", "revoke", "defer"))
        entries: dict[str, str | None] = dict.fromkeys(sites)
        for site in sites if kind == "l3" else sites[:1]:
            entries[site] = self.network(site)
        made = self.scene.create(kind, entries, at=sites[0], on_unreachable=policy).service
        members = {entry["site"]: entry["resource_id"] for entry in made["resources"]}
        with self.lock:
            self.ledger.services[made["id"]] = Service(made["id"], kind, dict.fromkeys(sites, "") | members)

    def add(self, service: Service) -> None:
        missing = [site for site in self.scene.sites if site not in service.members]
        if not missing:
            return
        entry = {"site": missing[0]}
        if service.kind == "l3":
            entry["resource_id"] = self.network(missing[0])
        with self.changing(service):
            self.scene.north(next(iter(service.members))).add(service.id, entry)
            service.members[missing[0]] = entry.get("resource_id", "")

    def remove(self, service: Service) -> None:
        if len(service.members) < 3:
            return
        site = list(service.members)[-1]
        with self.changing(service):
            self.scene.north(next(iter(service.members))).remove(service.id, site)
            del service.members[site]

    def delete(self, service: Service) -> None:
        at = list(service.members)[-1]
        with self.changing(service):
            self.scene.delete(service.id, at=at)
            service.deleted = True

    def boot(self, service: Service) -> None:
        places = [(site, network) for site, network in service.members.items() if network]
        if places:
            with self.lock:
                site, network = self.chance.choice(places)
            made = self.scene.boot(site, network)
            with self.lock:
                self.ledger.instances.append((site, made.name))

    # -- what goes wrong -----------------------------------------------------------------------------

    def fault(self) -> None:
        site, other = self.chance.sample(self.scene.sites, 2)
        lab, lasts = self.scene.lab, self.chance.uniform(1.0, FAULT_LASTS)
        name, begin, end = self.chance.choice(
            (
                ("kill -9", lambda: lab.crash(site), lambda: lab.restart(site)),
                ("cut", lambda: lab.cut(site, other), lab.heal),
                ("isolate", lambda: lab.isolate(site), lab.heal),
                ("isolate control", lambda: lab.isolate(site, "control"), lab.heal),
                ("isolate data", lambda: lab.isolate(site, "data"), lab.heal),
                ("kill bgpd", lambda: self.kill(site, "bgpd"), lambda: None),
                ("kill zebra", lambda: self.kill(site, "zebra"), lambda: None),
            )
        )
        self.ledger.counts[f"fault: {name}"] += 1
        begin()
        try:
            time.sleep(lasts)
        finally:
            end()

    def kill(self, site: str, daemon: str) -> None:
        """Its supervisor starts it again."""
        status = next(one for one in self.scene.lab.status()["sites"] if one["name"] == site)
        if daemon in status["pids"]:
            os.kill(status["pids"][daemon], signal.SIGKILL)

    def run(self, seconds: float) -> None:
        end = time.monotonic() + seconds

        def tenant() -> None:
            while time.monotonic() < end:
                self.operate()

        with ThreadPoolExecutor(max_workers=WORKERS) as pool:
            tenants = [pool.submit(tenant) for _ in range(WORKERS)]
            while time.monotonic() < end:
                time.sleep(min(self.chance.expovariate(1 / FAULT_EVERY), max(0.0, end - time.monotonic())))
                self.fault()
            for one in tenants:
                one.result()

    # -- what must be so afterwards ------------------------------------------------------------------

    def wrong(self) -> list[str]:
        """Sentences; empty when all is as it was acknowledged."""
        if not eventually(lambda: not self._disagreements(), SETTLED):
            return [*self.ledger.bugs, *self._disagreements()]
        return [*self.ledger.bugs, *self._doubles(), *self._unreached()]

    def _disagreements(self) -> list[str]:
        said = []
        for service in self.ledger.services.values():
            shown = {site: self.scene.show(site, service.id) for site in self.scene.sites}
            standing = {
                site: one
                for site, one in shown.items()
                if one and one["provisioning_status"] != "PENDING_DELETE"
            }
            if service.deleted:
                said += [f"{service.id} was deleted, and stands at {site}" for site in standing]
                continue
            told = {
                site: tuple(sorted({e["site"] for e in one["resources"]})) for site, one in standing.items()
            }
            if service.sure and set(told) != set(service.members):
                said.append(f"{service.id} is to be at {sorted(service.members)}, and is at {sorted(told)}")
            if len(set(told.values())) > 1:
                said.append(f"{service.id}: the sites do not agree on its members: {told}")
            said += [
                f"{service.id} is not active at {site}"
                for site in told
                if not self.scene.active(site, service.id)
            ]
        return said

    def _doubles(self) -> list[str]:
        """Addresses and MACs that are twice in one stretched network; ports that were told and are not."""
        said = []
        ports = {site: self.scene.vim(site).found("ports") for site in self.scene.sites}
        for service in self._standing("l2"):
            of_it = [
                port
                for site, found in ports.items()
                for port in found
                if port["network_id"] in self._networks(service).get(site, ())
            ]
            macs = Counter(port["mac_address"] for port in of_it)
            ips = Counter(ip["ip_address"] for port in of_it for ip in port["fixed_ips"])
            said += [f"{service.id}: {one} is there {n} times" for one, n in (macs + ips).items() if n > 1]
        known = {(site, port["name"]) for site, found in ports.items() for port in found}
        said += [
            f"{name} of {site} was told and is not there" for site, name in set(self.ledger.instances) - known
        ]
        return said

    def _standing(self, kind: str | None = None) -> list[Service]:
        return [
            s for s in self.ledger.services.values() if not s.deleted and s.sure and kind in (None, s.kind)
        ]

    def _networks(self, service: Service) -> dict[str, set[str]]:
        shown = self.scene.show(next(iter(service.members)), service.id)
        found: dict[str, set[str]] = {}
        for entry in shown["resources"] if shown else ():
            found.setdefault(entry["site"], set()).add(entry["resource_id"])
        return found

    def _unreached(self) -> list[str]:
        said = []
        for service in self._standing()[:PINGED_MOST]:
            ends = [
                self.scene.boot(site, sorted(networks)[0])
                for site, networks in self._networks(service).items()
            ]
            silent = self.scene.silent(list(combinations(ends, 2)), within=REACHED)
            said += [f"{service.id} ({service.kind}): {pair} is not answered" for pair in silent]
        return said


def soak(minutes: float, seed: int, sites: int, directory: Path) -> list[str]:
    with lab_of(sites, directory) as scene:
        before = scene.state()
        work = Soak(scene, seed)
        work.run(minutes * 60)
        scene.lab.heal()
        wrong = work.wrong()
        for name, count in sorted(work.ledger.counts.items()):
            print(f"{count:6} {name}")
        if wrong:
            print(*(line for site in scene.sites for line in scene.told(site)), sep="\n")
            keep = Path(tempfile.mkdtemp(prefix="soak-"))
            shutil.copytree(
                directory, keep / "lab", ignore=shutil.ignore_patterns("*.sock"), dirs_exist_ok=True
            )
            print(f"logs and databases: {keep}")
            return wrong
        scene.wipe()
        return scene.differences(before)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=random.randrange(2**31))
    parser.add_argument("--sites", type=int, default=3)
    given = parser.parse_args()
    print(f"soak: {given.minutes:g} minutes, seed {given.seed}, {given.sites} sites", flush=True)
    with tempfile.TemporaryDirectory(prefix="soak-") as directory:
        wrong = soak(given.minutes, given.seed, given.sites, Path(directory) / "lab")
    print(*wrong, sep="\n")
    print("FAILED" if wrong else "all that was acknowledged is so, and nothing is left")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
