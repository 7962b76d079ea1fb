"""Runs the FRR daemons of a site, or of a route reflector, in the namespaces it is started in.

`python -m diminet.south.linux.frr_daemons --config FILE.json` stays in the foreground (systemd, the lab).
Everything of one set of daemons has its own path space (`-N`): configuration, sockets and pid files lie
under /run/frr/<pathspace>, which the user `frr` may read wherever the caller's own files are.

zebra and bgpd only work as a pair (a restarted zebra renumbers the VRFs), so when one daemon ends, all
are started anew. The services' configuration is then gone: `DataPlane.realised` says so and `connect`
brings it back.
"""

import argparse
import asyncio
import contextlib
import os
import pwd
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import structlog
from pydantic import Field, model_validator

from diminet.errors import BadSurroundings
from diminet.model import Model
from diminet.south.linux import frr_config, names

DAEMONS = Path("/usr/lib/frr")
RUN = Path("/run/frr")
OUT = "TUNNEL-OUT"
IN = "TUNNEL-IN"
PEERS = "PEERS"
FIRST_BACK_OFF = 0.2  # seconds before the daemons are started again
LONGEST_BACK_OFF = 5.0  # seconds
STEADY_AFTER = 10.0  # seconds of running after which the back-off starts from its beginning
START_TIMEOUT = 10.0  # seconds until a daemon has opened its socket
STOP_TIMEOUT = 3.0  # seconds from SIGTERM to SIGKILL
KEEP_ROUTES = 30  # seconds for which a new zebra leaves the routes of the one before it

log = structlog.get_logger()


class FrrSettings(Model):
    """What one set of daemons needs to know.

    address: of the VTEP (or of the reflector), IPv4; router-id and source of the BGP sessions.
    neighbors: the other sites or the reflectors; of a reflector, the other reflectors. listen_range: only
    of a reflector, the CIDR that its clients connect from. Times in seconds.
    """

    pathspace: str = Field(pattern=r"^[A-Za-z0-9_-]{1,40}$")
    address: str
    asn: int = Field(default=65000, ge=1, le=4294967294)
    neighbors: tuple[str, ...] = ()
    listen_range: str | None = None
    bfd: bool = False
    keepalive: int = Field(default=3, ge=1)
    hold: int = Field(default=9, ge=3)
    connect_retry: int = Field(default=1, ge=1)

    @model_validator(mode="after")
    def _someone_to_talk_to(self) -> "FrrSettings":
        if not self.neighbors and not self.listen_range:
            raise ValueError("give in `neighbors` the addresses of the other sites or of the reflectors")
        return self

    @property
    def run_dir(self) -> Path:
        return RUN / self.pathspace


def _head(settings: FrrSettings) -> list[str]:
    return [f"hostname {settings.pathspace}", "log stdout warnings", "!"]


def zebra_config(settings: FrrSettings) -> str:
    nht = ["ip nht resolve-via-default", "ipv6 nht resolve-via-default"]
    return "\n".join([*_head(settings), *nht, ""])


def bgpd_config(settings: FrrSettings) -> str:
    """The part of bgpd's configuration that no service changes.

    The route maps keep two things from ever crossing: the shared anycast gateway, and routes with one of
    FRR's automatic targets `AS:VNI` (what a VNI or VRF falls back to that has no section any more). Of
    type-5 routes only those of members come in: `frr_config.Vrf` says why. delay-timer 0: a changed list
    takes effect when `Frr` asks for a refresh, not 5 s later.
    """
    reflector = settings.listen_range is not None
    lines = [
        *_head(settings),
        f"mac access-list GATEWAY seq 5 permit {names.ANYCAST_MAC}",
        f"bgp extcommunity-list expanded AUTOMATIC seq 5 permit RT:{settings.asn}:",
        *(line for name in (OUT, IN) for line in _never(name)),
        *(f"route-map {IN} permit 30", " match evpn route-type prefix"),
        *(f" match extcommunity {frr_config.MEMBERS}", "exit"),
        *(f"route-map {IN} deny 40", " match evpn route-type prefix", "exit"),
        *(line for name in (OUT, IN) for line in (f"route-map {name} permit 100", "exit")),
        "bgp route-map delay-timer 0",
        f"router bgp {settings.asn}",
        f" bgp router-id {settings.address}",
        " no bgp default ipv4-unicast",
        f" timers bgp {settings.keepalive} {settings.hold}",
        f" neighbor {PEERS} peer-group",
        f" neighbor {PEERS} remote-as {settings.asn}",
        f" neighbor {PEERS} update-source {settings.address}",
        f" neighbor {PEERS} timers connect {settings.connect_retry}",
    ]
    lines += [f" neighbor {PEERS} bfd"] * settings.bfd
    lines += [f" neighbor {address} peer-group {PEERS}" for address in settings.neighbors]
    if reflector:
        lines += _clients(settings)
    lines += [" address-family l2vpn evpn", f"  neighbor {PEERS} activate"]
    if reflector:
        lines += ["  neighbor CLIENTS activate", "  neighbor CLIENTS route-reflector-client"]
    else:
        lines += [f"  neighbor {PEERS} route-map {IN} in", f"  neighbor {PEERS} route-map {OUT} out"]
        lines += ["  advertise-all-vni"]
    return "\n".join([*lines, " exit-address-family", "exit", ""])


def _never(name: str) -> list[str]:
    """The beginning of a route map: what crosses in neither direction."""
    automatic = [f"route-map {name} deny 10", " match extcommunity AUTOMATIC", "exit"]
    return [*automatic, f"route-map {name} deny 20", " match mac address GATEWAY", "exit"]


def _clients(settings: FrrSettings) -> list[str]:
    lines = [
        f" bgp cluster-id {settings.address}",
        " neighbor CLIENTS peer-group",
        f" neighbor CLIENTS remote-as {settings.asn}",
        f" neighbor CLIENTS update-source {settings.address}",
        " bgp listen limit 5000",
        f" bgp listen range {settings.listen_range} peer-group CLIENTS",
    ]
    return lines + [" neighbor CLIENTS bfd"] * settings.bfd


class FrrDaemons:
    """zebra, bgpd and (with `bfd`) bfdd of one path space, kept running until cancelled.

    prefix: command that starts them elsewhere (`nsenter … --`); it must share /run/frr with the caller
    and become the daemon. output: file descriptor of their log; None: the caller's own.
    """

    def __init__(
        self,
        settings: FrrSettings,
        *,
        daemons: Path = DAEMONS,
        prefix: Sequence[str] = (),
        output: int | None = None,
    ) -> None:
        self._settings = settings
        self._binaries = daemons
        self._prefix = tuple(prefix)
        self._output = output

    async def run(self) -> None:
        """Start the daemons and start all again whenever one ends; stops them when cancelled.

        Raises BadSurroundings where they cannot be started at all (no FRR, not root).
        """
        self._prepare()
        back_off = FIRST_BACK_OFF
        clock = asyncio.get_running_loop().time
        while True:
            began = clock()
            ended = await self._run_once()
            if clock() - began > STEADY_AFTER:
                back_off = FIRST_BACK_OFF
            log.warning("frr-restart", pathspace=self._settings.pathspace, ended=ended, seconds=back_off)
            await asyncio.sleep(back_off)
            back_off = min(2 * back_off, LONGEST_BACK_OFF)

    def _prepare(self) -> None:
        if not (self._binaries / "zebra").exists():
            raise BadSurroundings(f"there is no FRR in {self._binaries}: install the Debian package frr")
        if os.geteuid() != 0:
            raise BadSurroundings("FRR can only be started by root: use sudo")
        try:
            user = pwd.getpwnam("frr")
        except KeyError:
            raise BadSurroundings("there is no user frr: install the Debian package frr") from None
        for directory in (RUN, self._settings.run_dir):
            directory.mkdir(mode=0o755, exist_ok=True)
            os.chown(directory, user.pw_uid, user.pw_gid)
        for name, text in self._files().items():
            path = self._settings.run_dir / name
            path.write_text(text)
            os.chown(path, user.pw_uid, user.pw_gid)

    def _files(self) -> dict[str, str]:
        settings = self._settings
        return {
            "zebra.conf": zebra_config(settings),
            "bgpd.conf": bgpd_config(settings),
            "bfdd.conf": "\n".join([*_head(settings), ""]),
            "vtysh.conf": "no service integrated-vtysh-config\n",
        }

    def _commands(self) -> dict[str, list[str]]:
        """In the order in which they start. `-n`: a network namespace is a VRF; `-P 0`: no TCP console."""
        reflector = self._settings.listen_range is not None
        commands = {
            "zebra": [] if reflector else ["-n", "-K", str(KEEP_ROUTES)],
            "bgpd": ["-l", self._settings.address],
        }
        if self._settings.bfd:
            commands["bfdd"] = []
        return {
            name: [
                str(self._binaries / name),
                *("-N", self._settings.pathspace, "-P", "0"),
                *("-f", str(self._settings.run_dir / f"{name}.conf")),
                *extra,
            ]
            for name, extra in commands.items()
        }

    async def _run_once(self) -> str:
        """Start all, wait for the first that ends, stop the others. Returns the name of the first."""
        for name in self._commands():
            await self._stop_left_over(name)
        running: dict[str, asyncio.subprocess.Process] = {}
        try:
            for name, command in self._commands().items():
                (self._settings.run_dir / f"{name}.vty").unlink(missing_ok=True)
                running[name] = await asyncio.create_subprocess_exec(
                    *self._prefix,
                    *command,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=self._output,
                    stderr=self._output,
                    start_new_session=True,
                )
                if not await self._answers(name, running[name]):
                    return name
            log.info("frr-running", pathspace=self._settings.pathspace)
            return await _first_to_end(running)
        finally:
            for name in reversed(running):
                # zebra -n crashes when it is asked to stop, and would take its routes along.
                await asyncio.shield(_stop(running[name], at_once=name == "zebra"))

    async def _answers(self, name: str, process: asyncio.subprocess.Process) -> bool:
        """Whether the daemon has opened its console in time."""
        socket = self._settings.run_dir / f"{name}.vty"
        for _ in range(int(START_TIMEOUT / 0.02)):
            if process.returncode is not None:
                return False
            if socket.exists():
                return True
            await asyncio.sleep(0.02)
        return False

    async def _stop_left_over(self, name: str) -> None:
        """End the daemon that an earlier, killed supervisor of this path space left running."""
        pid_file = self._settings.run_dir / f"{name}.pid"
        with contextlib.suppress(FileNotFoundError, ValueError):
            pid = int(pid_file.read_text())
            for sent in (signal.SIGTERM, signal.SIGKILL):
                for _ in range(int(STOP_TIMEOUT / 0.05)):
                    if not self._is_ours(pid, name):
                        return
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, sent)
                    await asyncio.sleep(0.05)

    def _is_ours(self, pid: int, name: str) -> bool:
        """Whether that process is this daemon of this path space (process ids are used again)."""
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError):
            return False
        return words[0].endswith(name.encode()) and self._settings.pathspace.encode() in words


async def _first_to_end(running: dict[str, asyncio.subprocess.Process]) -> str:
    waits = {asyncio.ensure_future(process.wait()): name for name, process in running.items()}
    try:
        done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        return waits[done.pop()]
    finally:
        for wait in waits:
            wait.cancel()


async def _stop(process: asyncio.subprocess.Process, *, at_once: bool) -> None:
    """End it and see it end; how it ends does not matter."""
    if process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGKILL if at_once else signal.SIGTERM)
    try:
        await asyncio.wait_for(process.wait(), STOP_TIMEOUT)
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def _supervise(settings: FrrSettings) -> None:
    task = asyncio.ensure_future(FrrDaemons(settings).run())
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await task


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 stopped by a signal, 1 could not start, 2 misuse."""
    parser = argparse.ArgumentParser(prog="frr_daemons", description="Run the FRR daemons of a site.")
    parser.add_argument("--config", type=Path, required=True, help="JSON file with the settings")
    path = parser.parse_args(arguments).config
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    try:
        settings = FrrSettings.model_validate_json(path.read_bytes())
        asyncio.run(_supervise(settings))
    except (OSError, ValueError) as error:
        print(f"the configuration {path} cannot be used: {error}", file=sys.stderr)
        return 2
    except BadSurroundings as error:
        print(error.message, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
