"""A site's FRR: writes what `frr_config` says through vtysh and reads back whether it is so (`vty`).

Errors: SiteRefused, whose message begins with FRR.
"""

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

from diminet.errors import SiteRefused
from diminet.south.linux import frr_config, vty
from diminet.south.linux.frr_config import Running, Vni, Vrf

VTYSH_TIMEOUT = 10.0  # seconds
VRF_TIMEOUT = 8.0  # seconds until zebra has read a new namespace
VRF_POLL = 0.04  # seconds
IDLE_TIMEOUT = 5.0  # seconds for bgpd to hear that an L3 VNI is off
IDLE_POLL = 0.05  # seconds
_NO_VTYSH = "FRR is gone, there is no program vtysh: install the package frr"
# What `write memory` says of itself.
_SAVED = ("Note: this version of vtysh", "Configuration saved to", "Building Configuration...", "Warning: ")


class Frr:
    """directory: where the daemons have their sockets (/run/frr/<pathspace>). asn: the site's BGP AS."""

    def __init__(self, directory: Path, asn: int, *, timeout: float = VTYSH_TIMEOUT) -> None:
        self._directory = directory
        self._asn = asn
        self._timeout = timeout
        self._lock = asyncio.Lock()

    async def _vtysh(self, commands: list[str]) -> str:
        """One call of vtysh, whatever the number of commands; it stops at the first that fails."""
        arguments = ["--vty_socket", str(self._directory), "--config_dir", str(self._directory)]
        for command in commands:
            arguments += ["-c", command]
        try:
            process = await asyncio.create_subprocess_exec(
                "vtysh", *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
            )
        except FileNotFoundError:
            raise SiteRefused(_NO_VTYSH) from None
        try:
            out, err = await asyncio.wait_for(process.communicate(), self._timeout)
        except TimeoutError:
            raise SiteRefused(f"FRR does not answer within {self._timeout:.0f} s: restart it") from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        text = out.decode(errors="replace")
        if process.returncode != 0:
            reason = (text or err.decode(errors="replace")).strip()[-300:]
            raise SiteRefused(f"FRR refused or does not run: {reason}")
        return text

    async def _configure(self, commands: list[str], *, refresh: bool = False) -> Running:
        """Apply, keep over a restart of the daemons, and read back, in one call.

        refresh: ask the reflectors for their routes again, for what the lists now let in. Any output of
        a configuration command is a complaint.
        """
        after = [frr_config.REFRESH] if refresh else []
        output = await self._vtysh(
            ["configure terminal", *commands, "end", *after, "write memory", "show running-config"]
        )
        said, _, text = output.partition("Building configuration...")
        complaints = [line for line in said.splitlines() if not line.startswith(_SAVED) and line.strip()]
        if complaints:
            raise SiteRefused(f"FRR refused: {' '.join(complaints)[:300]}")
        return frr_config.parse_running(text)

    async def _ask(self, daemon: str, command: str) -> str:
        return await vty.ask(self._directory, daemon, command, self._timeout)

    async def _show_json(self, daemon: str, command: str) -> dict[str, Any]:
        text = await self._ask(daemon, command)
        try:
            found = json.loads(text or "{}")
        except ValueError:
            raise SiteRefused(f"FRR answered {text.strip()[:100]!r} to {command!r}") from None
        return found if isinstance(found, dict) else {}

    async def running(self) -> Running:
        """What is configured of services. SiteRefused if a daemon does not answer."""
        parts = [await self._ask(daemon, "show running-config") for daemon in ("zebra", "bgpd")]
        running = frr_config.parse_running("".join(parts))
        if not running.bgp:
            raise SiteRefused("FRR: bgpd does not run or has no configuration: restart FRR")
        return running

    async def set_vni(self, vni: int, want: Vni) -> None:
        """The section of an L2 VNI is as wanted, seen by reading it back."""
        async with self._lock:
            have = (await self.running()).vnis.get(vni)
            commands = frr_config.vni_commands(self._asn, vni, have, want)
            if commands and (await self._configure(commands)).vnis.get(vni) != want:
                raise SiteRefused(f"FRR did not take the section of VNI {vni} as written")

    async def drop_vni(self, vni: int) -> None:
        async with self._lock:
            if vni not in (await self.running()).vnis:
                return
            if vni in (await self._configure(frr_config.drop_vni_commands(self._asn, vni))).vnis:
                raise SiteRefused(f"FRR did not remove the section of VNI {vni}")

    async def set_vrf(self, name: str, want: Vrf) -> None:
        """The VRF's BGP instance and L3 VNI are as wanted; its namespace must be known (`vrf_known`)."""
        async with self._lock:
            running = await self.running()
            have, given = running.vrfs.get(name), running.given.get(name, frozenset())
            commands = frr_config.vrf_commands(self._asn, name, have, given, want)
            own = frozenset() if have is None else have.imports
            members = frr_config.member_commands(own | (running.members & want.imports), want.imports)
            if not commands and not members:
                return
            running = await self._configure([*commands, *members], refresh=bool(members))
            if running.vrfs.get(name) != want:
                raise SiteRefused(f"FRR did not take the VRF {name} as written")

    async def lacks_room(self, name: str, want: Vrf) -> bool:
        """Whether a working VRF must be given more import targets before it can be as wanted."""
        running = await self.running()
        return name in running.vrfs and not want.imports <= running.given[name]

    async def drop_members(self, targets: frozenset[str]) -> None:
        """Take targets off the list of those whose type-5 routes are let in."""
        async with self._lock:
            await self._configure(frr_config.member_commands(targets, frozenset()), refresh=True)

    async def drop_vrf(self, name: str) -> None:
        """Remove the VRF's L3 VNI and BGP instance."""
        async with self._lock:
            have = (await self.running()).vrfs.get(name)
            if commands := frr_config.drop_router_commands(name, have):
                await self._configure(commands)
            commands = frr_config.drop_vrf_commands(self._asn, name, have)
            if commands and name in (await self._configure_when_idle(commands)).vrfs:
                raise SiteRefused(f"FRR did not remove the VRF {name}")

    async def _configure_when_idle(self, commands: list[str]) -> Running:
        """bgpd hears from zebra, a little later, that an L3 VNI is off."""
        for _ in range(int(IDLE_TIMEOUT / IDLE_POLL)):
            try:
                return await self._configure(commands)
            except SiteRefused as error:
                if frr_config.BUSY not in error.message:
                    raise
            await asyncio.sleep(IDLE_POLL)
        return await self._configure(commands)

    async def forget_vrf(self, name: str) -> None:
        """Remove the name itself, once zebra has seen that the namespace is gone."""
        if not await self._wait_for_vrf(name, active=False):
            raise SiteRefused(f"FRR holds on to the VRF {name}, whose namespace is gone: restart FRR")
        async with self._lock:
            if name in frr_config.parse_vrfs(await self._ask("zebra", "show vrf")):
                await self._configure([f"no vrf {name}"])

    async def vrf_known(self, name: str) -> None:
        """Wait until zebra has read the namespace."""
        if not await self._wait_for_vrf(name, active=True):
            raise SiteRefused(
                f"FRR does not see the namespace {name}: start zebra with -n where /run/netns is the site's"
            )

    async def _wait_for_vrf(self, name: str, *, active: bool) -> bool:
        for _ in range(int(VRF_TIMEOUT / VRF_POLL)):
            if frr_config.parse_vrfs(await self._ask("zebra", "show vrf")).get(name, False) == active:
                return True
            await asyncio.sleep(VRF_POLL)
        return False

    async def l3_vni_up(self, vni: int) -> bool:
        facts = await self._show_json("zebra", f"show evpn vni {vni} json")
        return str(facts.get("state", "")).lower() == "up"

    async def l3_vnis_up(self) -> frozenset[int]:
        """The L3 VNIs that work."""
        found = (await self._show_json("zebra", "show vrf vni json")).get("vrfs") or []
        return frozenset(int(vrf["vni"]) for vrf in found if str(vrf.get("state")).lower() == "up")

    async def remote(self, vni: int) -> tuple[set[str], set[str]]:
        """MACs and VTEPs of other sites that zebra knows in an L2 VNI."""
        facts = await self._show_json("zebra", f"show evpn mac vni {vni} json")
        macs = {mac for mac, entry in (facts.get("macs") or {}).items() if entry.get("type") == "remote"}
        facts = await self._show_json("zebra", f"show evpn vni {vni} json")
        far = facts.get("remoteVteps") or []
        return macs, {entry["ip"] if isinstance(entry, dict) else str(entry) for entry in far}

    def require_vtysh(self) -> None:
        """Raises SiteRefused: nothing could be configured."""
        if shutil.which("vtysh") is None:
            raise SiteRefused(_NO_VTYSH)

    async def generation(self) -> str:
        """Differs when the daemons have been started anew."""
        try:
            return (self._directory / "zebra.pid").read_text()
        except OSError:
            raise SiteRefused("FRR: zebra does not run: restart FRR") from None

    async def sessions(self) -> dict[str, str]:
        """Neighbour -> state of its EVPN session (`Established` is the good one)."""
        facts = await self._show_json("bgpd", "show bgp l2vpn evpn summary json")
        return {peer: str(entry.get("state")) for peer, entry in (facts.get("peers") or {}).items()}
