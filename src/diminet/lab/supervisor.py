"""The one process that runs a lab: `python -m diminet.lab.supervisor --plan FILE`, started by `launch`.

It is the child of process 1 of a PID namespace of its own, with mount and network namespaces of its own
too. When it ends, however it ends, process 1 ends, and the kernel ends everything else: processes,
namespaces, devices, mounts, rules. It waits for `start` from the launcher and gives up without.
"""

import argparse
import asyncio
import contextlib
import os
import re
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diminet.errors import BadSurroundings, InvalidRequest
from diminet.lab import control, plan, provision, shell, wan
from diminet.lab.control import Progress
from diminet.lab.daemon import Daemon, State, tail
from diminet.lab.hosts import Host, SiteHost, frr_of_reflector, frr_of_site
from diminet.lab.neutron import LabCloud
from diminet.lab.plan import LabPlan, Pair, Plane

LAUNCHER_TIMEOUT = 30.0  # seconds until the launcher must have said `start`
RELAY_TIMEOUT = 10.0  # seconds
STARTS_AT_ONCE = 4  # hosts; more only fight for the processors
PING_GRACE = 5.0  # seconds beyond what the pings take
PING_WAIT = 2  # seconds for the last answer


class Supervisor:
    """Everything of one lab. Each public coroutine is an operation of the control socket."""

    def __init__(self, lab: LabPlan) -> None:
        self._plan = lab
        self._hosts = {site.name: SiteHost(lab, site) for site in lab.sites}
        self._reflectors = {one.name: Host(one.name, lab.directory(one.name)) for one in lab.reflectors}
        self._relay: Daemon | None = None
        self._cloud: LabCloud | None = None
        self._cuts: set[Pair] = set()
        self._isolated: dict[str, Plane] = {}
        self._cutting = asyncio.Lock()
        self._names: dict[str, int] = {}
        self._content: dict[str, Any] | None = None
        self._begun = asyncio.Event()
        self._over = asyncio.Event()

    async def run(self) -> None:
        """Until `down`, a signal, or the loss of who started the lab."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, self._over.set)
        server = await control.serve(self._plan.state_dir, self._handle)
        give_up = loop.call_later(LAUNCHER_TIMEOUT, self._give_up)
        await self._over.wait()
        give_up.cancel()
        server.close()
        if self._content is not None:  # else it is only half made: the kernel ends it
            await asyncio.gather(*(host.instance.stop() for host in self._hosts.values()))
            if self._cloud is not None:
                self._cloud.close()

    def _give_up(self) -> None:
        if not self._begun.is_set():
            self._over.set()  # first: the disk that the log is on may be full
            print("nobody said `start`", file=sys.stderr, flush=True)

    async def _handle(self, request: dict[str, Any], progress: Progress) -> Any:
        operations = {
            "start": self.start,
            "hold": self.hold,
            "down": self.down,
            "status": self.status,
            "cut": self.cut,
            "isolate": self.isolate,
            "heal": self.heal,
            "crash": self.crash,
            "restart": self.restart,
            "name": self.name,
            "ping": self.ping,
        }
        op = request.pop("op", None)
        if op not in operations:
            raise InvalidRequest(f"this lab does not know the operation {op!r}")
        if op == "start":
            return await self.start(progress)
        if self._content is None and op not in ("down", "hold"):
            raise BadSurroundings("this lab is still starting: wait for `lab up` to end")
        return await operations[op](**request)  # type: ignore[operator]

    # -- the lab's life ----------------------------------------------------------------------------

    async def start(self, progress: Progress) -> dict[str, Any]:
        """Build everything; the content of lab.json when all sites are ready. If it fails, or the caller
        goes away, the lab ends."""
        self._begun.set()
        try:
            self._content = await self._build(progress)
        finally:
            if self._content is None:
                self._over.set()
        return self._content

    async def hold(self) -> None:
        """The lab ends with this request (`lab up` in the foreground)."""
        try:
            await self._over.wait()
        finally:
            self._over.set()

    async def down(self) -> dict[str, Any]:
        """The answer comes first; who asked waits for the end of this process."""
        asyncio.get_running_loop().call_later(0.05, self._over.set)
        return {"down": True}

    async def _build(self, progress: Progress) -> dict[str, Any]:
        lab, delayed = self._plan, self._plan.wan_delay_ms > 0
        await wan.make_bridges(lab)
        await wan.attach_host()
        if lab.south == "neutron":
            self._cloud = await asyncio.to_thread(LabCloud, lab)
        provision.make_authority(lab)
        tokens = provision.new_tokens() if self._cloud is None else None
        for site in lab.sites:
            provision.provision(lab, site, tokens)
        await asyncio.gather(*(host.open() for host in (*self._hosts.values(), *self._reflectors.values())))
        for site in lab.sites:
            host = self._hosts[site.name]
            await wan.attach_site(site, lab.prefix, host.holder, host.enter, delayed=delayed)
        for reflector in lab.reflectors:
            machine = self._reflectors[reflector.name]
            await wan.attach_reflector(reflector, machine.holder, machine.enter, delayed=delayed)
        if delayed:
            await self._start_relay()
        progress("network is there")
        more: dict[str, Any] = {}
        if self._cloud is not None:
            holders = {name: host.holder for name, host in self._hosts.items()}
            await asyncio.to_thread(self._cloud.start, holders)
            tokens, more = await asyncio.to_thread(self._cloud.tokens), self._cloud.content()
            progress("Keystone and the Neutrons are there")
        await self._start_all(progress)
        assert tokens is not None
        return provision.write_lab_file(lab, tokens, more)

    async def _start_all(self, progress: Progress) -> None:
        slots = asyncio.Semaphore(STARTS_AT_ONCE)

        async def start_reflector(reflector: plan.Reflector) -> None:
            async with slots:
                settings = frr_of_reflector(self._plan, reflector)
                await self._reflectors[reflector.name].start_frr(settings)

        async def start_site(host: SiteHost) -> None:
            async with slots:
                if self._plan.south == "linux":
                    await host.start_frr(frr_of_site(host.site))
                await host.start_instance()
            progress(f"site {host.name} is ready")

        async with _first_failure(), asyncio.TaskGroup() as group:
            for reflector in self._plan.reflectors:
                group.create_task(start_reflector(reflector))
            for host in self._hosts.values():
                group.create_task(start_site(host))

    async def _start_relay(self) -> None:
        lab = self._plan
        links = [f"{site.port}:{site.relay_tap}" for site in lab.sites]
        links += [f"{reflector.port}:{reflector.relay_tap}" for reflector in lab.reflectors]
        log = lab.state_dir / "relay.log"
        command = [sys.executable, "-m", "diminet.lab.relay", "--delay-ms", str(lab.wan_delay_ms)]
        self._relay = Daemon([*command, "--bridge", wan.WAN_BRIDGE, *links], log)
        await self._relay.start()
        for _ in range(int(RELAY_TIMEOUT / 0.05)):
            if wan.joined() == len(links):
                return
            await asyncio.sleep(0.05)
        raise BadSurroundings(f"the relay of the WAN delay did not start; the end of {log}:\n{tail(log)}")

    async def status(self) -> dict[str, Any]:
        """Process ids are of this PID namespace; the client translates them."""
        checks = await asyncio.gather(*(host.ready() for host in self._hosts.values()))
        sites = [
            {
                "name": host.name,
                "number": host.site.number,
                "instance": str(host.instance.state),
                "ready": ready,
                "north": host.site.north,
                "wan_ip": host.site.wan_ip,
                "reflectors": list(host.site.reflectors),
                "pids": self._pids(host),
            }
            for host, (ready, _) in zip(self._hosts.values(), checks, strict=True)
        ]
        return {
            "state_dir": str(self._plan.state_dir),
            "south": self._plan.south,
            "wan_delay_ms": self._plan.wan_delay_ms,
            "relay": str(self._relay.state) if self._relay else None,
            "sites": sites,
            "reflectors": [
                {"name": one.name, "wan_ip": one.wan_ip, "pids": self._reflectors[one.name].frr_pids()}
                for one in self._plan.reflectors
            ],
            **self._cut_state(),
        }

    def _pids(self, host: SiteHost) -> dict[str, int]:
        found = host.frr_pids()
        if host.instance.pid is not None:
            found["instance"] = host.instance.pid
        if self._cloud is not None and host.name in self._cloud.pids():
            found["neutron"] = self._cloud.pids()[host.name]
        return found

    # -- the WAN -----------------------------------------------------------------------------------

    async def cut(self, one: str, other: str) -> dict[str, Any]:
        return await self._set_cuts(self._cuts | {self._pair(one, other)}, self._isolated)

    async def isolate(self, site: str, plane: Plane = "all") -> dict[str, Any]:
        return await self._set_cuts(self._cuts, {**self._isolated, self._plan.site(site).name: plane})

    async def heal(self, one: str | None = None, other: str | None = None) -> dict[str, Any]:
        """Everything, or the cut between those two."""
        if one is None or other is None:
            return await self._set_cuts(set(), {})
        return await self._set_cuts(self._cuts - {self._pair(one, other)}, self._isolated)

    def _pair(self, one: str, other: str) -> Pair:
        return plan.pair(self._plan.site(one).name, self._plan.site(other).name)

    async def _set_cuts(self, cuts: set[Pair], isolated: dict[str, Plane]) -> dict[str, Any]:
        async with self._cutting:
            await wan.apply_cuts(self._plan, sorted(cuts), isolated)
            self._cuts, self._isolated = cuts, isolated
            return self._cut_state()

    def _cut_state(self) -> dict[str, Any]:
        return {"cuts": [list(cut) for cut in sorted(self._cuts)], "isolated": sorted(self._isolated)}

    # -- instances ---------------------------------------------------------------------------------

    async def crash(self, site: str) -> dict[str, Any]:
        """kill -9 of its DIMINET instance; it stays down until `restart`."""
        host = self._host(site)
        await host.instance.kill()
        return {"site": host.name, "instance": str(host.instance.state)}

    async def restart(self, site: str) -> dict[str, Any]:
        """Start it again (after stopping it, if it runs) and wait until it is ready."""
        host = self._host(site)
        if host.instance.state is not State.CRASHED:
            await host.instance.stop()
        await host.start_instance()
        return {"site": host.name, "instance": str(host.instance.state)}

    def _host(self, name: str) -> SiteHost:
        return self._hosts[self._plan.site(name).name]

    async def name(self, site: str) -> dict[str, Any]:
        """A name for an instance of that site that was not given before."""
        name = self._plan.site(site).name
        self._names[name] = self._names.get(name, 0) + 1
        return {"name": f"vm{self._names[name]}"}

    async def ping(
        self, site: str, namespace: str, address: str, count: int, interval: float
    ) -> dict[str, Any]:
        """From the namespace at that path on the site's machine. rtt_ms: mean, None without an answer."""
        host = self._host(site)
        process = await asyncio.create_subprocess_exec(
            *host.enter,
            *("nsenter", f"--net={namespace}", "--"),
            *("ping", "-n", "-q", "-c", str(count), "-i", str(interval), "-W", str(PING_WAIT), "--", address),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            limit = count * max(interval, PING_WAIT) + PING_GRACE
            out, _ = await asyncio.wait_for(process.communicate(), limit)
        except TimeoutError:
            raise BadSurroundings(f"ping to {address} did not end in {limit:.0f} s") from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        return parse_ping(out.decode(errors="replace"))


def parse_ping(text: str) -> dict[str, Any]:
    """What `ping -q` said (iputils). Raises BadSurroundings if it did not even send."""
    counts = re.search(r"(\d+) packets transmitted, (\d+) received", text)
    if counts is None:
        if "unreachable" in text:
            return {"sent": 0, "received": 0, "rtt_ms": None}
        raise BadSurroundings(f"ping could not be run: {text.strip()[-300:]}")
    times = re.search(r"rtt min/avg/max/mdev = [\d.]+/([\d.]+)/", text)
    return {
        "sent": int(counts[1]),
        "received": int(counts[2]),
        "rtt_ms": float(times[1]) if times else None,
    }


@contextlib.asynccontextmanager
async def _first_failure() -> Any:
    """Of several tasks that failed, the first failure alone."""
    try:
        yield
    except* BadSurroundings as failures:
        raise failures.exceptions[0] from None


# -- becoming a supervisor -------------------------------------------------------------------------


def become_init() -> None:
    """Process 1 stays behind to bury orphans; its child goes on. Process 1 ends when the child does."""
    child = os.fork()
    if child == 0:
        return
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda sent, _: os.kill(child, sent))
    while True:
        pid, status = os.wait()
        if pid == child:
            os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


def private_run(state_dir: Path) -> None:
    """An empty /run for the lab, with the state directory where it was; the host's FRR, namespaces and
    sockets cannot be seen or touched from here, and nothing is left in the host's. /sys shows the
    lab's own devices."""
    fresh = state_dir / "run"
    fresh.mkdir(exist_ok=True)
    doing = "make a /run for the lab"
    shell.run_now(("mount", "-n", "-t", "tmpfs", "-o", "mode=755", "diminet-lab", str(fresh)), doing=doing)
    if state_dir.is_relative_to("/run"):
        kept = fresh / state_dir.relative_to("/run")
        kept.mkdir(parents=True)
        shell.run_now(("mount", "-n", "--bind", str(state_dir), str(kept)), doing=doing)
    shell.run_now(("mount", "-n", "--move", str(fresh), "/run"), doing=doing)
    shell.run_now(("mount", "-n", "-t", "sysfs", "sysfs", "/sys"), doing="show the lab's own devices in /sys")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="supervisor", description="Run a lab (started by `diminet lab up`)."
    )
    parser.add_argument("--plan", type=Path, required=True, help="JSON file with the plan")
    lab = LabPlan.model_validate_json(parser.parse_args(arguments).plan.read_bytes())
    if os.getpid() != 1:
        print("this is started by `diminet lab up`, in namespaces of its own", file=sys.stderr)
        return 2
    become_init()
    try:
        private_run(lab.state_dir)
        asyncio.run(Supervisor(lab).run())
    except BadSurroundings as error:
        print(error.message, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
