"""The emulated delay of the WAN: a relay in user space, one process for all sites.

Every host's WAN device faces a packet socket, and a tap stands for it in the bridge. A frame that leaves
a host waits there for the delay; one that arrives goes through at once, so one way takes the delay once.

`python -m diminet.lab.relay --delay-ms 25 --bridge wan w1:t1 w2:t2` (this kernel has no netem).
"""

import argparse
import array
import contextlib
import fcntl
import os
import select
import socket
import struct
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

FRAME_MOST = 65_536  # bytes
QUEUE_MOST = 50_000  # frames that wait; beyond it the newest is dropped, as a router does
READ_AT_ONCE = 64  # frames of one device before the others have their turn

_TUNSETIFF = 0x400454CA
_IFF_TAP, _IFF_NO_PI = 0x0002, 0x1000
_SIOCETHTOOL = 0x8946
_ETHTOOL_STXCSUM = 0x17
_ETH_P_ALL = 0x0003
_SOL_PACKET = 263
_PACKET_IGNORE_OUTGOING = 23


class Waiting(NamedTuple):
    """due: on the monotonic clock, seconds. tap: file descriptor it goes to."""

    due: float
    tap: int
    frame: bytes


class Link:
    """One host: `device` faces it, `tap` stands for it in the bridge."""

    def __init__(self, device: str, tap: str) -> None:
        self.host = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
        self.host.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
        self.host.bind((device, _ETH_P_ALL))
        self.host.setblocking(False)
        self.tap = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(self.tap, _TUNSETIFF, struct.pack("16sH22x", tap.encode(), _IFF_TAP | _IFF_NO_PI))


class Relay:
    """All links have one delay (seconds), so one queue in the order of arrival is in the order of due."""

    def __init__(
        self, links: Sequence[Link], delay: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._delay = delay
        self._clock = clock
        self._queue: deque[Waiting] = deque()
        self._poll = select.epoll()
        self._from_host = {link.host.fileno(): link for link in links}
        self._from_wan = {link.tap: link for link in links}
        for descriptor in (*self._from_host, *self._from_wan):
            self._poll.register(descriptor, select.EPOLLIN)

    def run(self) -> None:
        while True:
            self.turn()

    def turn(self) -> None:
        """Wait for a frame or for one to be due, and handle what there is."""
        timeout = max(0.0, self._queue[0].due - self._clock()) if self._queue else None
        for descriptor, _ in self._poll.poll(timeout):
            if descriptor in self._from_host:
                self._delay_frames(self._from_host[descriptor])
            else:
                self._deliver(self._from_wan[descriptor])
        now = self._clock()
        while self._queue and self._queue[0].due <= now:
            waiting = self._queue.popleft()
            with contextlib.suppress(OSError):  # the bridge is down or full: lost, as on a wire
                os.write(waiting.tap, waiting.frame)

    def _delay_frames(self, link: Link) -> None:
        due = self._clock() + self._delay
        with contextlib.suppress(OSError):  # nothing left, or the device went down
            for _ in range(READ_AT_ONCE):
                frame = link.host.recv(FRAME_MOST)
                if len(self._queue) < QUEUE_MOST:
                    self._queue.append(Waiting(due, link.tap, frame))

    def _deliver(self, link: Link) -> None:
        with contextlib.suppress(OSError):
            for _ in range(READ_AT_ONCE):
                link.host.send(os.read(link.tap, FRAME_MOST))


def checksums_in_software(device: str) -> None:
    """A veth leaves checksums and segmentation to a card, which no packet socket has. For the end that
    is or will be inside a host; the setting stays when the device moves there."""
    value = array.array("I", (_ETHTOOL_STXCSUM, 0))
    request = struct.pack("16sP16x", device.encode(), value.buffer_info()[0])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SIOCETHTOOL, request)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="relay", description="Delay the frames of an emulated WAN.")
    parser.add_argument("--delay-ms", type=float, required=True, help="one way")
    parser.add_argument("--bridge", required=True, help="bridge that the taps join")
    parser.add_argument("link", nargs="+", help="DEVICE:TAP")
    given = parser.parse_args(arguments)
    pairs = [link.split(":") for link in given.link]
    try:
        links = [Link(device, tap) for device, tap in pairs]
    except OSError as error:
        print(f"the relay cannot open its devices: {error}", file=sys.stderr)
        return 1
    lines = [
        line for _, tap in pairs for line in (f"link set {tap} master {given.bridge}", f"link set {tap} up")
    ]
    subprocess.run(("ip", "-batch", "-"), input="\n".join(lines), text=True, check=True)
    with contextlib.suppress(KeyboardInterrupt):
        Relay(links, given.delay_ms / 1000).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
