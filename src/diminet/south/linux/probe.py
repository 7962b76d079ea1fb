"""Probes of the data plane: whether packets reach the other sites' tunnel endpoints (VTEPs), and come back.

BGP does not notice when only UDP 4789 is cut. Each site has a tunnel of its own for this, with a VNI that no
service gets (theirs begin at 4096), in a namespace with nothing else in it: FRR does not see it, and
nobody who sends into it reaches anything. The kernel answers the ICMPv6 echoes in it, also while DIMINET is
down. Addresses and MACs are worked out from the VTEPs, so nothing has to be told or learnt.
"""

import asyncio
import os
import socket
import struct
from collections.abc import Iterable
from functools import partial
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from pyroute2 import IPRoute

from diminet.south.linux import links, names, netns, overlay
from diminet.south.linux.kernel import Kernel

VNI = 4095
DEVICE = names.vxlan(VNI)
MTU_LEAST = 1280  # bytes, of a device with IPv6 (RFC 8200 section 5)
ANSWER_TIMEOUT = 0.5  # seconds for the echo replies; then those that are missing are asked again
TRIES = 3
_REQUEST, _REPLY = 128, 129  # RFC 4443 section 4
_MOST = 65536  # bytes


def address(vtep: str) -> str:
    """The link-local address of that VTEP's site in the probes' tunnel."""
    return str(IPv6Address(b"\xfe\x80" + bytes(10) + IPv4Address(vtep).packed))


def mac(vtep: str) -> str:
    return (b"\x0e\x00" + IPv4Address(vtep).packed).hex(":")


class Prober:
    """vtep: this site's. path: of the probes' namespace. mtu: bytes that a tunnel carries; probes are as
    long."""

    def __init__(self, kernel: Kernel, *, vtep: str, path: Path, mtu: int) -> None:
        self._kernel = kernel
        self._vtep = vtep
        self._path = path
        self._mtu = mtu
        self._known = set[str]()
        self._socket: socket.socket | None = None
        self._round = 0

    async def start(self) -> None:
        """Errors: SiteRefused. Repeatable."""
        self.close()
        self._socket = await self._kernel.run("make the tunnel of the probes", self._open)

    def close(self) -> None:
        """The tunnel stays and answers."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    async def aim(self, vteps: Iterable[str]) -> None:
        """From now on these are answered when they probe. Errors: SiteRefused. Nothing if start() failed."""
        if self._socket is not None and (new := set(vteps) - self._known):
            await self._kernel.run("prepare the probes", partial(self._aim, new))

    async def silent(self, vteps: Iterable[str]) -> frozenset[str]:
        """Those of these VTEPs from which nothing comes back. Raises SiteRefused if none can be asked."""
        missing = set(vteps)
        if not missing:
            return frozenset()
        if self._socket is None:
            await self.start()
        await self.aim(missing)
        for _ in range(TRIES):
            missing = await self._ask(missing)
            if not missing:
                break
        return frozenset(missing)

    # -- the tunnel --------------------------------------------------------------------------------

    def _open(self) -> socket.socket:
        self._known.clear()
        netns.create(self._path, _prepare)
        with netns.entered(self._path), IPRoute() as ip:
            there = links.find(ip, DEVICE)
        if there is None:
            tunnel = overlay.Tunnel("", VNI, self._vtep, max(self._mtu, MTU_LEAST), "")
            with IPRoute() as ip, self._path.open("rb") as namespace:
                overlay.add_vxlan(ip, tunnel, namespace.fileno())
        with netns.entered(self._path), IPRoute() as ip:
            link = links.need(ip, DEVICE)
            links.update(ip, link, mtu=max(self._mtu, MTU_LEAST), address=mac(self._vtep))
            links.add_address(ip, link.ifindex, address(self._vtep), 64)
            asking = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
        asking.setblocking(False)
        return asking

    def _aim(self, vteps: set[str]) -> None:
        with netns.entered(self._path), IPRoute() as ip:
            link = links.need(ip, DEVICE).ifindex
            for vtep in vteps:
                ip.fdb("replace", ifindex=link, lladdr=mac(vtep), dst=vtep, flags=links.NTF_SELF)
                entry = {"family": socket.AF_INET6, "dst": address(vtep), "lladdr": mac(vtep)}
                ip.neigh("replace", **entry, ifindex=link, state=links.NUD_PERMANENT)
            self._scope = link
        self._known |= vteps

    # -- the echoes --------------------------------------------------------------------------------

    async def _ask(self, vteps: set[str]) -> set[str]:
        """Those that have not answered in time."""
        assert self._socket is not None
        self._round = self._round + 1 & 0xFFFF
        mark = struct.pack("!HH", os.getpid() & 0xFFFF, self._round)
        filling = bytes(self._mtu - 48)  # the headers of IPv6 and ICMPv6
        request = struct.pack("!BBH", _REQUEST, 0, 0) + mark + filling
        missing = {address(vtep): vtep for vtep in vteps}
        for to in missing:
            try:
                self._socket.sendto(request, (to, 0, 0, self._scope))
            except OSError:  # no way there: nothing will come back
                continue
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT):
                while missing:
                    data, sender = await loop.sock_recvfrom(self._socket, _MOST)
                    if data[0] == _REPLY and data[4:8] == mark:
                        missing.pop(sender[0].split("%")[0], None)
        except TimeoutError:
            pass
        return set(missing.values())


def _prepare() -> None:
    for where in ("all", "default"):
        netns.sysctl(f"ipv6/conf/{where}/disable_ipv6", 0)
        netns.sysctl(f"ipv6/conf/{where}/accept_ra", 0)
        netns.sysctl(f"ipv6/conf/{where}/accept_dad", 0)
    netns.sysctl("ipv6/conf/default/addr_gen_mode", 1)
