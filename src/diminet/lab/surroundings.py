"""Whether this machine can carry a lab, and what of a lab the host sees."""

import ipaddress
import json
import os
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Network
from pathlib import Path

from diminet.errors import BadSurroundings
from diminet.lab import shell

PROGRAMS = {
    "ip": "iproute2",
    "nft": "nftables",
    "nsenter": "util-linux",
    "unshare": "util-linux",
    "mount": "mount",
    "ping": "iputils-ping",
    "vtysh": "frr",
}
CHOICE_TIMEOUT = 20.0  # seconds for another lab to choose its subnet
_CHOICE = "\0diminet-lab-choice"
_NAMESPACES = ("unshare", "--mount", "--pid", "--net", "--fork", "--mount-proc", "--")


def check(*, wan_delay: bool) -> None:
    """Raises BadSurroundings with what is missing and what to do about it."""
    from diminet.south.linux.frr_daemons import DAEMONS  # here: only `up` pays for its import

    if os.geteuid() != 0:
        raise BadSurroundings("a lab makes network namespaces, which only root may: use sudo")
    missing = sorted({package for program, package in PROGRAMS.items() if shutil.which(program) is None})
    if not (DAEMONS / "bgpd").exists() and "frr" not in missing:
        missing.append("frr")
    if missing:
        raise BadSurroundings(
            f"programs are missing: apt-get install {' '.join(missing)} (or run `make setup`)"
        )
    try:
        shell.run_now((*_NAMESPACES, "true"), doing="make namespaces")
    except BadSurroundings as error:
        raise BadSurroundings(
            f"this machine does not let even root make namespaces ({error.message}); in a container, "
            "run it with --privileged"
        ) from None
    for kind in ("bridge", "veth", "vxlan"):
        _check_kernel(
            f"devices of kind {kind}", ("ip", "link", "add", "probe0", "type", kind, *_EXTRA.get(kind, ()))
        )
    _check_kernel("nftables rules between bridge ports", ("nft", "add", "table", "bridge", "probe"))
    if wan_delay and not Path("/dev/net/tun").exists():
        raise BadSurroundings("the WAN delay needs /dev/net/tun, which this machine does not have")


_EXTRA = {"vxlan": ("id", "1", "dstport", "4789")}


def _check_kernel(what: str, command: tuple[str, ...]) -> None:
    try:
        shell.run_now((*_NAMESPACES, *command), doing=what)
    except BadSurroundings as error:
        raise BadSurroundings(
            f"the kernel of this machine lacks {error.message}; use another kernel"
        ) from None


def taken_subnets() -> list[IPv4Network]:
    """IPv4 networks that the host has an address in or a route to, the default route aside."""
    found: list[IPv4Network] = []
    for interface in json.loads(shell.run_now(("ip", "-j", "-4", "addr"), doing="read the host's addresses")):
        for info in interface.get("addr_info", ()):
            found.append(IPv4Network(f"{info['local']}/{info['prefixlen']}", strict=False))
    routes = shell.run_now(
        ("ip", "-j", "-4", "route", "show", "table", "all"), doing="read the host's routes"
    )
    for route in json.loads(routes):
        try:
            network = IPv4Network(str(route.get("dst")))
        except ipaddress.AddressValueError:
            continue  # `default`
        if network.prefixlen:
            found.append(network)
    return found


@contextmanager
def choosing() -> Iterator[None]:
    """One lab at a time chooses a subnet on this host. Raises BadSurroundings if another takes too long."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as claim:
        deadline = time.monotonic() + CHOICE_TIMEOUT
        while True:
            try:
                claim.bind(_CHOICE)  # abstract: gone with this process, leaves no file
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise BadSurroundings("another lab is starting on this host: try again") from None
                time.sleep(0.05)
        yield


def add_host_device(name: str, address: str, far_name: str, pid: int) -> None:
    """The lab's one device on the host; its far end goes into the network namespace of that process."""
    doing = "connect the lab to the host"
    shell.run_now(
        ("ip", "link", "add", name, "type", "veth", "peer", "name", far_name, "netns", str(pid)), doing=doing
    )
    Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6").write_text("1\n")
    shell.run_now(("ip", "addr", "add", address, "dev", name), doing=doing)
    shell.run_now(("ip", "link", "set", name, "up"), doing=doing)


def remove_host_device(name: str, *, timeout: float) -> None:
    """Wait until it has gone with its namespace; after `timeout` seconds delete it."""
    device = Path("/sys/class/net", name)
    deadline = time.monotonic() + timeout
    while device.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    if device.exists():
        shell.run_now(("ip", "link", "delete", name), doing="remove the lab's device from the host")
