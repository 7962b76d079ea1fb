"""The machines of a lab: one network and mount namespace for each site and each reflector.

A holder process keeps the namespaces; FRR and the instance are started into them with nsenter. Every host
has its own /run/netns (or `zebra -n` would adopt the namespaces of the others), /run/diminet and /sys;
/run/frr is the lab's, one path space for each host.
"""

import asyncio
import contextlib
import os
import urllib.parse
from collections.abc import Mapping
from pathlib import Path

from diminet.errors import BadSurroundings
from diminet.lab import provision
from diminet.lab.daemon import Daemon, State, tail
from diminet.lab.plan import ASN, WAN, LabPlan, Reflector, SitePlan
from diminet.south.linux import frr_daemons
from diminet.south.linux.frr_daemons import FrrDaemons, FrrSettings
from diminet.south.linux.overlay import MOUNTS

HOLDER_TIMEOUT = 10.0  # seconds until a host's namespaces are there
FRR_TIMEOUT = 40.0  # seconds until its daemons answer
READY_TIMEOUT = 120.0  # seconds until an instance is ready; fourteen start at once on two cores
READY_POLL = 0.1  # seconds
PROBE_TIMEOUT = 5.0  # seconds for one look
FAILURES_MOST = 3  # of an instance that is starting: more is given up
KEEPALIVE, HOLD = 3, 9  # seconds, BGP

_HOLDER = (
    "mkdir -p /run/netns /run/diminet"
    " && mount -n -t tmpfs -o mode=755 netns /run/netns"
    f" && mkdir /run/netns/{MOUNTS}"  # before zebra takes it for a namespace that is late
    " && mount -n -t tmpfs -o mode=755 diminet /run/diminet"
    " && mount -n -t sysfs sysfs /sys"
    " && echo ready && exec sleep infinity >/dev/null 2>&1"
)


class Host:
    """The namespaces of one machine, and FRR in them."""

    def __init__(self, name: str, logs: Path) -> None:
        self.name = name
        self._logs = logs
        self._holder: asyncio.subprocess.Process | None = None
        self._frr: asyncio.Task[None] | None = None
        self._pathspace = ""

    @property
    def holder(self) -> int:
        """Process id in whose namespaces everything of this host runs. `open` comes first."""
        if self._holder is None:
            raise BadSurroundings(f"{self.name} has not been opened")
        return self._holder.pid

    @property
    def enter(self) -> tuple[str, ...]:
        """Prefix of a command that is to run on this host."""
        namespaces = f"/proc/{self.holder}/ns"
        return ("nsenter", f"--net={namespaces}/net", f"--mount={namespaces}/mnt", "--")

    async def open(self) -> None:
        """Make the namespaces. Raises BadSurroundings."""
        self._logs.mkdir(parents=True, exist_ok=True)
        self._holder = await asyncio.create_subprocess_exec(
            *("unshare", "--net", "--mount", "--propagation", "private", "sh", "-c", _HOLDER),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        out, err = self._holder.stdout, self._holder.stderr
        try:
            line = await asyncio.wait_for(out.readline() if out else _nothing(), HOLDER_TIMEOUT)
        except TimeoutError:
            line = b""
        if line != b"ready\n":
            with contextlib.suppress(ProcessLookupError):
                self._holder.kill()
            said = await err.read() if err else b""
            raise BadSurroundings(
                f"the namespaces of {self.name} cannot be made: {said.decode(errors='replace').strip()}"
            )

    async def start_frr(self, settings: FrrSettings) -> None:
        """Until its daemons answer. Raises BadSurroundings with the end of their log."""
        log = self._logs / "frr.log"
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        self._pathspace = settings.pathspace
        self._frr = asyncio.create_task(FrrDaemons(settings, prefix=self.enter, output=output).run())
        self._frr.add_done_callback(lambda _: os.close(output))
        console = settings.run_dir / "bgpd.vty"
        for _ in range(int(FRR_TIMEOUT / READY_POLL)):
            if self._frr.done():
                self._frr.result()
            if console.exists():
                return
            await asyncio.sleep(READY_POLL)
        raise BadSurroundings(
            f"FRR of {self.name} did not start in {FRR_TIMEOUT:.0f} s; the end of {log}:\n{tail(log)}",
            sites=[self.name],
        )

    def frr_pids(self) -> dict[str, int]:
        """Process ids of its FRR daemons by name, of those that have one."""
        found: dict[str, int] = {}
        for name in ("zebra", "bgpd", "bfdd"):
            with contextlib.suppress(OSError, ValueError):
                pid = int((frr_daemons.RUN / self._pathspace / f"{name}.pid").read_text())
                if Path(f"/proc/{pid}/comm").read_text().strip() == name:
                    found[name] = pid
        return found


async def _nothing() -> bytes:
    return b""


def frr_of_site(site: SitePlan) -> FrrSettings:
    return FrrSettings(
        pathspace=provision.pathspace(site),
        address=site.wan_ip,
        asn=ASN,
        neighbors=site.reflectors,
        keepalive=KEEPALIVE,
        hold=HOLD,
    )


def frr_of_reflector(plan: LabPlan, reflector: Reflector) -> FrrSettings:
    return FrrSettings(
        pathspace=reflector.name,
        address=reflector.wan_ip,
        asn=ASN,
        neighbors=tuple(other.wan_ip for other in plan.reflectors if other != reflector),
        listen_range=str(WAN),
        keepalive=KEEPALIVE,
        hold=HOLD,
    )


class SiteHost(Host):
    """A site's machine: FRR and its DIMINET instance."""

    def __init__(self, plan: LabPlan, site: SitePlan) -> None:
        super().__init__(site.name, plan.directory(site.name))
        self._plan = plan
        self.site = site
        self._instance: Daemon | None = None

    @property
    def instance(self) -> Daemon:
        """`prepare` comes first."""
        if self._instance is None:
            config = self._logs / provision.CONFIG_FILE
            command = [word.replace("{config}", str(config)) for word in self._plan.instance_command]
            self._instance = Daemon([*self.enter, *command], self.log, environment=_environment(os.environ))
        return self._instance

    @property
    def log(self) -> Path:
        return self._logs / "instance.log"

    async def start_instance(self) -> None:
        """Until it is ready. Raises BadSurroundings with the end of its log if it ends or takes too long."""
        await self.instance.start()
        deadline = asyncio.get_running_loop().time() + READY_TIMEOUT
        answer = "no answer"
        while asyncio.get_running_loop().time() < deadline:
            if self.instance.state in (State.ENDED, State.CRASHED, State.STOPPED):
                raise self._not_started(f"ended ({self.instance.state})")
            if self.instance.failures >= FAILURES_MOST:
                raise self._not_started(f"failed {self.instance.failures} times")
            ready, answer = await self.ready()
            if ready:
                return
            await asyncio.sleep(READY_POLL)
        raise self._not_started(f"is not ready after {READY_TIMEOUT:.0f} s ({answer})")

    def _not_started(self, how: str) -> BadSurroundings:
        return BadSurroundings(
            f"the instance of site {self.name} {how}; the end of {self.log}:\n{tail(self.log)}",
            sites=[self.name],
        )

    async def ready(self) -> tuple[bool, str]:
        """Whether it says so itself, and what it said."""
        if self._plan.ready_path is None:
            return self.instance.pid is not None, "running" if self.instance.pid else "not running"
        try:
            status, body = await asyncio.wait_for(
                _get(self.site.north + self._plan.ready_path), PROBE_TIMEOUT
            )
        except (OSError, ValueError, TimeoutError) as error:
            return False, f"no answer: {error}"
        return status == 200, f"{status}: {body[:300]}"


def _environment(own: Mapping[str, str]) -> dict[str, str]:
    """DIMINET_… of who started the lab is meant for its commands, not for every instance."""
    return {name: value for name, value in own.items() if not name.startswith("DIMINET_")}


async def _get(url: str) -> tuple[int, str]:
    """Status and body. Raises OSError, ValueError (not HTTP)."""
    parts = urllib.parse.urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        writer.write(f"GET {parts.path} HTTP/1.0\r\nHost: {parts.netloc}\r\n\r\n".encode())
        answer = (await reader.read(64 * 1024)).decode(errors="replace")
    finally:
        writer.close()
    head, _, body = answer.partition("\r\n\r\n")
    words = head.split()
    if len(words) < 2:
        raise ValueError("an empty answer")
    return int(words[1]), body
