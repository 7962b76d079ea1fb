"""Tells the hosts of a network of every new binding of an address to a MAC, as soon as its bridge has it.

Hosts keep bindings for up to a minute while they send, and a bridge with neigh_suppress keeps gratuitous ARP
off the tunnel, so nobody else tells them that an address is at another site now. The bridge hears it from
FRR (EVPN type 2, RFC 7432 section 10) or from us; its hosts hear it from here, by a gratuitous ARP request
(RFC 5227 section 3) or an unsolicited neighbor advertisement (RFC 4861 section 7.2.6). Frames of the bridge
itself that say such things do not enter a tunnel either.
"""

import asyncio
import errno
import socket
import struct
from collections.abc import Iterable, Iterator
from functools import lru_cache, partial
from ipaddress import IPv6Address, ip_address
from typing import Any

import structlog
from pyroute2 import IPRoute
from pyroute2.netlink.rtnl import RTMGRP_NEIGH
from pyroute2.netlink.rtnl.marshal import MarshalRtnl

from diminet.south.linux import links
from diminet.south.linux.kernel import Kernel

_EVERYBODY = b"\xff" * 6
_ALL_NODES = IPv6Address("ff02::1")
_ALL_NODES_MAC = bytes.fromhex("333300000001")
_ETH_ARP, _ETH_IPV6 = 0x0806, 0x86DD
_ICMPV6, _ADVERTISEMENT = 58, 136
_OVERRIDE = 0x20000000  # RFC 4861 section 4.4
_MOST = 64 * 1024  # bytes read at once
_BRIDGES = 4096  # whose names are remembered

log = structlog.get_logger(__name__)


def frame(mac: str, address: str) -> bytes:
    """The Ethernet frame that says that the address is at that MAC."""
    source, ip = bytes.fromhex(mac.replace(":", "")), ip_address(address)
    if isinstance(ip, IPv6Address):
        return _ALL_NODES_MAC + source + struct.pack("!H", _ETH_IPV6) + _advertisement(source, ip)
    request = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1) + source + ip.packed + bytes(6) + ip.packed
    return _EVERYBODY + source + struct.pack("!H", _ETH_ARP) + request


def _advertisement(mac: bytes, address: IPv6Address) -> bytes:
    body = struct.pack("!I", _OVERRIDE) + address.packed + b"\x02\x01" + mac
    length = 4 + len(body)
    ends = address.packed + _ALL_NODES.packed
    summed = ends + struct.pack("!II", length, _ICMPV6) + struct.pack("!BBH", _ADVERTISEMENT, 0, 0) + body
    total = sum(struct.unpack(f"!{len(summed) // 2}H", summed))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    header = struct.pack("!IHBB", 6 << 28, length, _ICMPV6, 255) + ends
    return header + struct.pack("!BBH", _ADVERTISEMENT, 0, ~total & 0xFFFF) + body


class Announcer:
    """Watches the neighbour tables of the namespace that it is started in. Errors of start: OSError."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._events = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK)
        self._frames = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK)
        self._bridge = lru_cache(maxsize=_BRIDGES)(_bridge)  # the kernel gives no index twice
        self._telling = set[asyncio.Task[None]]()

    def start(self) -> None:
        self._events.bind((0, RTMGRP_NEIGH))
        asyncio.get_running_loop().add_reader(self._events.fileno(), self._heard)

    async def close(self) -> None:
        """After it no host is told of anything."""
        asyncio.get_running_loop().remove_reader(self._events.fileno())
        await asyncio.gather(*self._telling)
        self._events.close()
        self._frames.close()

    def _heard(self) -> None:
        try:
            data = self._events.recv(_MOST)
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            log.warning("neighbour-events-lost", doing="all hosts are told of all bindings")
            data = None
        task = asyncio.create_task(self._kernel.run("tell the hosts", partial(self._tell, data)))
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)

    def _tell(self, data: bytes | None) -> None:
        """data: what the kernel said; None: look at everything."""
        for ifindex, mac, address in _bindings(_dumped() if data is None else _parsed(data)):
            bridge = self._bridge(ifindex)
            if bridge is not None:
                self._send(bridge, frame(mac, address))

    def _send(self, bridge: str, data: bytes) -> None:
        try:
            self._frames.sendto(data, (bridge, 0))
        except OSError as error:  # gone, down or full: the hosts will ask by themselves
            log.debug("hosts-not-told", bridge=bridge, error=str(error))


def _parsed(data: bytes) -> Iterator[Any]:
    return (message for message in MarshalRtnl().parse(data) if message["event"] == "RTM_NEWNEIGH")


def _dumped() -> Iterator[Any]:
    with IPRoute() as ip:
        for inet in links.ANYWHERE:
            yield from ip.get_neighbours(family=inet)


def _bindings(messages: Iterable[Any]) -> Iterator[tuple[int, str, str]]:
    """(index of the device, MAC, address) of the entries that FRR or we have made."""
    for message in messages:
        if message["family"] in links.ANYWHERE:
            sure = message["state"] == links.NUD_PERMANENT or message["flags"] & links.NTF_EXT_LEARNED
            mac, address = message.get_attr("NDA_LLADDR"), message.get_attr("NDA_DST")
            if sure and mac and not ip_address(address).is_multicast:
                yield message["ifindex"], mac, address


def _bridge(ifindex: int) -> str | None:
    """The name of the device if it is the bridge of a network of ours."""
    with IPRoute() as ip:
        link = links.find_index(ip, ifindex)
    return link.name if link and link.alias and link.alias.kind == "network" else None
