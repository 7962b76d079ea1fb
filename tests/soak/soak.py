"""Random operations and faults on a real lab; afterwards every site is compared with what was acknowledged.

    make soak MINUTES=10 [SEED=7] [SITES=3] [SOUTH=neutron]

The seed decides what is tried, not when: real daemons have clocks of their own. It ends with 0 if all that
was acknowledged is so at every site, no address or MAC is twice in a network, instances of each service reach
one another (south linux), and nothing is left once all is deleted.
"""

import argparse
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import combinations
from pathlib import Path
from typing import Any

from faults import Faults
from seen import Scene, eventually, lab_of
from tenants import Service, Tenants

from diminet.client import ApiError

WORKERS = 3  # tenants at once
FAULT_EVERY = 8.0  # seconds from the end of one to the next, at the mean
SETTLED = 180.0  # seconds after the last fault until all sites must agree
REACHED = 60.0  # seconds until pings of a service cross
PINGED_MOST = 4  # services
NEUTRON_MINUTES_MOST = 45  # a lab's tokens are good for an hour


def run(tenants: Tenants, faults: Faults, chance: random.Random, seconds: float) -> None:
    end = time.monotonic() + seconds

    def tenant() -> None:
        while time.monotonic() < end:
            tenants.operate()

    with ThreadPoolExecutor(max_workers=WORKERS) as pool:
        working = [pool.submit(tenant) for _ in range(WORKERS)]
        while time.monotonic() < end:
            time.sleep(min(chance.expovariate(1 / FAULT_EVERY), max(0.0, end - time.monotonic())))
            faults.one(tenants.count)
        for one in working:
            one.result()


class Comparison:
    """Of what all sites say and have with what was acknowledged."""

    def __init__(self, scene: Scene, tenants: Tenants) -> None:
        self._scene = scene
        self._ledger = tenants.ledger

    def wrong(self) -> list[str]:
        """Sentences; empty when all is as it was acknowledged."""
        if not eventually(self._agreed, SETTLED):
            return [*self._ledger.bugs, *self._disagreements()]
        reached = self._unreached() if self._scene.south == "linux" else []
        return [*self._ledger.bugs, *self._doubles(), *reached]

    def _agreed(self) -> bool:
        """A site that waits for a token, which no instance keeps, is shown one: the tenant asks again."""
        for service in self._ledger.services.values():
            for site, shown in self._standing_at(service).items():
                if (shown["fault"] or {}).get("code") == "not-authorised" and shown["master"] == site:
                    with suppress(ApiError):
                        self._scene.north(site).modify(service.id, {"name": shown["name"]})
        return not self._disagreements()

    def _standing_at(self, service: Service) -> dict[str, dict[str, Any]]:
        """As each site shows it that has it, not about to go."""
        shown = {site: self._scene.show(site, service.id) for site in self._scene.sites}
        return {
            site: one for site, one in shown.items() if one and one["provisioning_status"] != "PENDING_DELETE"
        }

    def _disagreements(self) -> list[str]:
        return [said for service in self._ledger.services.values() for said in self._disagreement(service)]

    def _disagreement(self, service: Service) -> list[str]:
        standing = self._standing_at(service)
        if service.deleted:
            return [f"{service.id} was deleted, and stands at {site}" for site in standing]
        members = {
            site: tuple(sorted({entry["site"] for entry in one["resources"]}))
            for site, one in standing.items()
        }
        said = []
        if service.sure and set(members) != set(service.members):
            said.append(f"{service.id} is to be at {sorted(service.members)}, and is at {sorted(members)}")
        if service.sure and (names := {one["name"] for one in standing.values()}) != {service.name}:
            said.append(f"{service.id} is to be called {service.name}, and is called {names}")
        if len(set(members.values())) > 1:
            said.append(f"{service.id}: the sites do not agree on its members: {members}")
        if len(masters := {one["master"] for one in standing.values()}) > 1:
            said.append(f"{service.id}: the sites do not agree on its master: {masters}")
        inactive = [site for site in members if not self._scene.active(site, service.id)]
        return [*said, *(f"{service.id} is not active at {site}" for site in inactive)]

    def _doubles(self) -> list[str]:
        """Addresses and MACs that are twice in one stretched network; ports that were told and are not."""
        said = []
        ports = {site: self._scene.vim(site).found("ports") for site in self._scene.sites}
        for service in self._standing("l2"):
            networks = self._networks(service)
            of_it = [
                port
                for site, found in ports.items()
                for port in found
                if port["network_id"] in networks.get(site, ())
            ]
            macs = Counter(port["mac_address"] for port in of_it)
            ips = Counter(ip["ip_address"] for port in of_it for ip in port["fixed_ips"])
            said += [f"{service.id}: {one} is there {n} times" for one, n in (macs + ips).items() if n > 1]
        there = {
            (site, port["name"]): {ip["ip_address"] for ip in port["fixed_ips"]}
            for site, found in ports.items()
            for port in found
        }
        said += [
            f"{name} of {site} was told to have {ip}, and has {there.get((site, name))}"
            for (site, name), ip in self._ledger.instances.items()
            if ip not in there.get((site, name), ())
        ]
        return said

    def _standing(self, kind: str | None = None) -> list[Service]:
        return [
            service
            for service in self._ledger.services.values()
            if not service.deleted and service.sure and kind in (None, service.kind)
        ]

    def _networks(self, service: Service) -> dict[str, set[str]]:
        shown = self._scene.show(next(iter(service.members)), service.id)
        found: dict[str, set[str]] = {}
        for entry in shown["resources"] if shown else ():
            found.setdefault(entry["site"], set()).add(entry["resource_id"])
        return found

    def _unreached(self) -> list[str]:
        said = []
        for service in self._standing()[:PINGED_MOST]:
            ends = [
                self._scene.boot(site, sorted(networks)[0])
                for site, networks in self._networks(service).items()
            ]
            silent = self._scene.silent(list(combinations(ends, 2)), within=REACHED)
            said += [f"{service.id} ({service.kind}): {pair} is not answered" for pair in silent]
        return said


def soak(minutes: float, seed: int, sites: int, south: str, directory: Path) -> list[str]:
    """What is wrong at its end."""
    with lab_of(sites, directory, south) as scene:
        chance = random.Random(seed)
        faults, tenants = Faults(scene, chance), Tenants(scene, chance)
        before = scene.state()
        run(tenants, faults, chance, minutes * 60)
        scene.lab.heal()
        wrong = Comparison(scene, tenants).wrong()
        for name, count in sorted(tenants.ledger.counts.items()):
            print(f"{count:6} {name}")
        if wrong:
            print(*(line for site in scene.sites for line in scene.told(site)), sep="\n")
            keep = Path(tempfile.mkdtemp(prefix="soak-"))
            faults.keep(keep)
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
    parser.add_argument("--south", choices=("linux", "neutron"), default="linux")
    given = parser.parse_args()
    if given.south == "neutron" and given.minutes > NEUTRON_MINUTES_MOST:
        parser.error(
            f"with Neutron at most {NEUTRON_MINUTES_MOST} minutes: the lab's tokens last for an hour"
        )
    print(
        f"soak: {given.minutes:g} minutes, seed {given.seed}, {given.sites} sites, {given.south}", flush=True
    )
    with tempfile.TemporaryDirectory(prefix="soak-") as directory:
        wrong = soak(given.minutes, given.seed, given.sites, given.south, Path(directory) / "lab")
    print(*wrong, sep="\n")
    print("FAILED" if wrong else "all that was acknowledged is so, and nothing is left")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
