"""What goes wrong in a soak: kills, cuts, full disks, an FRR or a Neutron that is away."""

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from seen import Scene

FAULT_LASTS = 10.0  # seconds at most
DISK = 48  # MiB for a site's databases

Fault = tuple[str, Callable[[], Any], Callable[[], Any]]  # what it is called, its begin and its end


class Faults:
    def __init__(self, scene: Scene, chance: random.Random) -> None:
        self._scene = scene
        self._chance = chance
        for site in scene.sites:
            self._own_disk(site)

    def one(self, tell: Callable[[str], None]) -> None:
        """Begin one, wait, end it."""
        name, begin, end = self._chance.choice(self._possible())
        tell(f"fault: {name}")
        begin()
        try:
            time.sleep(self._chance.uniform(1.0, FAULT_LASTS))
        finally:
            end()

    def _possible(self) -> list[Fault]:
        site, other = self._chance.sample(self._scene.sites, 2)
        lab = self._scene.lab
        anywhere: list[Fault] = [
            ("kill -9", lambda: lab.crash(site), lambda: lab.restart(site)),
            ("cut", lambda: lab.cut(site, other), lab.heal),
            ("isolate", lambda: lab.isolate(site), lab.heal),
            ("disk full", lambda: self._fill(site), lambda: self._free(site)),
        ]
        if self._scene.south == "neutron":
            return [
                *anywhere,
                (
                    "Neutron hangs",
                    lambda: self._signal(site, "neutron", signal.SIGSTOP),
                    lambda: self._signal(site, "neutron", signal.SIGCONT),
                ),
            ]
        return [
            *anywhere,
            ("isolate control", lambda: lab.isolate(site, "control"), lab.heal),
            ("isolate data", lambda: lab.isolate(site, "data"), lab.heal),
            ("kill bgpd", lambda: self._signal(site, "bgpd", signal.SIGKILL), lambda: None),
            ("kill zebra", lambda: self._signal(site, "zebra", signal.SIGKILL), lambda: None),
        ]

    def _signal(self, site: str, program: str, number: signal.Signals) -> None:
        """FRR's supervisor starts a killed daemon again."""
        status = next(one for one in self._scene.lab.status()["sites"] if one["name"] == site)
        if program in status["pids"]:
            os.kill(status["pids"][program], number)

    # -- a disk that can be filled --------------------------------------------------------------------

    def _data(self, site: str) -> Path:
        return self._scene.lab.state_dir / site / "data"

    def _own_disk(self, site: str) -> None:
        """The site's databases move to a small file system of their own, in its mount namespace."""
        self._scene.lab.crash(site)
        data = self._data(site)
        self._scene.on_site(
            site,
            "sh",
            "-ec",
            f"mkdir {data}.full && mount -n -t tmpfs -o size={DISK}m,mode=700 soak {data}.full"
            f" && cp -a {data}/. {data}.full && mount -n --move {data}.full {data} && rmdir {data}.full",
        )
        self._scene.lab.restart(site)

    def _fill(self, site: str) -> None:
        self._scene.on_site(site, "sh", "-c", f"cat /dev/zero >{self._data(site)}/filler 2>/dev/null; true")

    def _free(self, site: str) -> None:
        self._scene.on_site(site, "rm", "-f", f"{self._data(site)}/filler")

    def keep(self, directory: Path) -> None:
        """Copy the sites' databases there, to be looked into."""
        for site in self._scene.sites:
            (directory / site).mkdir(parents=True)
            self._scene.on_site(site, "cp", "-a", f"{self._data(site)}/.", str(directory / site))
