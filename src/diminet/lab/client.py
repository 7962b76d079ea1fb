"""What the command line, the demo and the tests use of a lab.

    lab = Lab(Path("/run/diminet-lab"))
    lab.up(3)
    web = lab.network_create("A", "web", ["10.1.0.0/24"])
    lab.boot("A", web["network_id"], name="vm1")
    lab.isolate("C"); lab.heal(); lab.down()

Synchronous. Every method raises DiminetError with a sentence for people.
"""

import json
import os
import re
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from diminet.errors import BadSurroundings, InvalidRequest, SiteRefused
from diminet.lab import plan, state
from diminet.lab.control import Connection, Progress
from diminet.lab.state import DEFAULT_STATE
from diminet.lab.vim import Vim, address_of

RESTART_TIMEOUT = 180.0  # seconds until an instance is ready again
PING_TIMEOUT = 30.0  # seconds beyond what the pings take
PING_COUNT = 3
PING_INTERVAL = 0.2  # seconds
PING_COUNT_MOST = 1_000_000
NAMES_MOST = 10_000  # names tried for an instance without one


class Lab:
    """The lab with that state directory, running or not."""

    def __init__(self, state_dir: Path = DEFAULT_STATE) -> None:
        self.state_dir = state.resolve(state_dir)
        self._process: subprocess.Popen[bytes] | None = None

    # -- its life ----------------------------------------------------------------------------------

    def up(
        self,
        sites: int,
        *,
        wan_delay_ms: float = 0.0,
        progress: Progress | None = None,
        instance_command: Sequence[str] | None = None,
        ready_path: str | None = "/readyz",
        south: plan.Kind = "linux",
        database: plan.Database = "sqlite",
    ) -> dict[str, Any]:
        """Start it and wait until all sites are ready; the content of lab.json. wan_delay_ms: one way.

        instance_command and ready_path: another program in the place of `diminet serve`.
        """
        from diminet.lab import launch  # here: the other commands need not wait for its import

        running = launch.up(
            self.state_dir,
            sites,
            wan_delay_ms=wan_delay_ms,
            progress=progress,
            instance_command=instance_command,
            ready_path=ready_path,
            south=south,
            database=database,
        )
        self._process = running.process
        return running.content

    def hold(self) -> None:
        """Until the lab ends; it ends with this process."""
        with Connection(self.state_dir) as connection, suppress(BadSurroundings):
            connection.call("hold", timeout=float(10**9))

    def down(self) -> bool:
        """End it and remove everything of it; False if there was none."""
        from diminet.lab import launch

        ended = launch.down(self.state_dir)
        if self._process is not None:
            self._process.wait()
        return ended

    def content(self) -> dict[str, Any]:
        """lab.json."""
        path = self.state_dir / state.LAB_FILE
        try:
            content: dict[str, Any] = json.loads(path.read_text())
        except FileNotFoundError:
            raise BadSurroundings(
                f"no lab runs at {self.state_dir}: start one with `diminet lab up`, or name its directory "
                "with --state"
            ) from None
        except PermissionError:
            raise BadSurroundings(f"{path} is readable by root only: use sudo") from None
        return content

    def site(self, name: str) -> dict[str, Any]:
        """Its entry of lab.json. Raises SiteUnknown."""
        sites: list[dict[str, Any]] = self.content()["sites"]
        plan.check_known(name, [site["name"] for site in sites])
        return next(site for site in sites if site["name"] == name)

    def status(self) -> dict[str, Any]:
        """Sites, reflectors, cuts. `pids` are process ids as seen from here."""
        with Connection(self.state_dir) as connection:
            supervisor = connection.supervisor_pid()
            status: dict[str, Any] = connection.call("status")
        here = _pids_here(supervisor)
        for host in (*status["sites"], *status["reflectors"]):
            host["pids"] = {name: here[pid] for name, pid in host["pids"].items() if pid in here}
        return status

    # -- its WAN and its instances -----------------------------------------------------------------

    def cut(self, one: str, other: str) -> dict[str, Any]:
        """Nothing passes between these two sites any more; the cuts there are now."""
        return self._call("cut", one=one, other=other)

    def isolate(self, site: str, plane: plan.Plane = "all") -> dict[str, Any]:
        """Nothing passes between it and any other site or reflector; or nothing of the control plane (BGP
        and the instances), or of the data plane (VXLAN)."""
        return self._call("isolate", site=site, plane=plane)

    def heal(self, one: str | None = None, other: str | None = None) -> dict[str, Any]:
        """End the cut between those two, or without names everything that `cut` and `isolate` did."""
        return self._call("heal", one=one, other=other)

    def crash(self, site: str) -> dict[str, Any]:
        """kill -9 of the site's DIMINET instance; it stays down until `restart`."""
        return self._call("crash", site=site)

    def restart(self, site: str) -> dict[str, Any]:
        """Start the site's instance again and wait until it is ready."""
        return self._call("restart", timeout=RESTART_TIMEOUT, site=site)

    # -- its tenants' side -------------------------------------------------------------------------

    def vim(self, site: str, *, token: str | None = None) -> Vim:
        """Client of that site's networking service; token: the lab's tenant's if not given."""
        entry = self.site(site)
        return Vim(site, entry["south"], token or entry["token"])

    def network_create(
        self, site: str, name: str, cidrs: Sequence[str], *, token: str | None = None
    ) -> dict[str, Any]:
        """`network_id`, `subnet_id`, `cidr`."""
        return self.vim(site, token=token).create_network(name, cidrs)

    def boot(
        self, site: str, network_id: str, name: str | None = None, *, token: str | None = None
    ) -> dict[str, Any]:
        """`name`, `ip`, `mac`, `network_id` of a new instance; named vm1, vm2, … if no name is given."""
        vim = self.vim(site, token=token)
        if name is None:
            everyone = self.vim(site, token=self.site(site)["admin_token"])
            taken = (self._call("name", site=site)["name"] for _ in range(NAMES_MOST))
            name = next(free for free in taken if not everyone.has_port(free))
        elif vim.has_port(name):
            raise InvalidRequest(f"site {site} has an instance {name!r} already: choose another name")
        return vim.boot(network_id, name)

    def ping(
        self, source: str, target: str, *, count: int = PING_COUNT, interval: float = PING_INTERVAL
    ) -> dict[str, Any]:
        """From `A/vm1` to the address of `B/vm2`: `sent`, `received`, `rtt_ms` (mean, None without any
        answer). interval in seconds."""
        if not 1 <= count <= PING_COUNT_MOST:
            raise InvalidRequest(f"a ping is sent 1 to {PING_COUNT_MOST} times, not {count}")
        if not 0.002 <= interval <= 3600:
            raise InvalidRequest(f"the interval is 0.002 to 3600 seconds, not {interval}")
        start, end = plan.endpoint(source), plan.endpoint(target)
        if "openstack" in self.content():
            raise SiteRefused(
                "there is no data plane to ping over: the BGP VPN provider of this lab's Neutrons is the "
                "Dummy one; use `lab up --south linux` to see packets",
                sites=[start.site, end.site],
            )
        port = self._port(start)
        namespace = port.get("binding:vif_details", {}).get("namespace")
        if not namespace:
            raise InvalidRequest(f"{source} is a port without an instance: ping from one that was booted")
        return self._call(
            "ping",
            timeout=count * max(interval, 2.0) + PING_TIMEOUT,
            site=start.site,
            namespace=namespace,
            address=address_of(self._port(end), end.site),
            count=count,
            interval=interval,
        )

    def _port(self, at: plan.Endpoint) -> dict[str, Any]:
        """Whatever project it is of."""
        return self.vim(at.site, token=self.site(at.site)["admin_token"]).port(at.instance)

    def _call(self, op: str, *, timeout: float | None = None, **given: Any) -> dict[str, Any]:
        with Connection(self.state_dir) as connection:
            answer: dict[str, Any] = connection.call(op, timeout=timeout, **given)
        return answer


def _pids_here(supervisor: int) -> dict[int, int]:
    """Process ids inside the lab's PID namespace -> as seen from here."""
    found: dict[int, int] = {}
    namespace = _pid_namespace(supervisor)
    for name in os.listdir("/proc"):
        if name.isdigit() and namespace is not None and _pid_namespace(int(name)) == namespace:
            with suppress(OSError):
                ids = re.search(r"^NSpid:\s+(.*)$", Path(f"/proc/{name}/status").read_text(), re.MULTILINE)
                if ids:
                    found[int(ids[1].split()[-1])] = int(name)
    return found


def _pid_namespace(pid: int) -> str | None:
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")
    except OSError:
        return None
