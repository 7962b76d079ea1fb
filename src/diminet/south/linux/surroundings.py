"""What a linux site needs of its machine, looked at before anything is made or changed."""

import shutil
import socket
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from diminet.errors import BadSurroundings
from diminet.south.linux import netns

CAPABILITIES = {"CAP_NET_ADMIN": 12, "CAP_SYS_ADMIN": 21}  # name -> bit, capabilities(7)
PROGRAMS = {"vtysh": "frr", "nft": "nftables"}  # -> Debian package
STATUS = Path("/proc/self/status")

Which = Callable[[str], str | None]


def check(vtep_ip: str, *, which: Which = shutil.which, status: Path = STATUS) -> None:
    """vtep_ip: address that ends this site's tunnels. Raises BadSurroundings that says what to do."""
    _check_capabilities(status.read_text())
    _check_programs(which)
    _check_namespaces()
    _check_address(vtep_ip)


def _check_capabilities(status: str) -> None:
    held = next(int(line.split()[1], 16) for line in status.splitlines() if line.startswith("CapEff:"))
    missing = [name for name, bit in CAPABILITIES.items() if not held >> bit & 1]
    if missing:
        raise BadSurroundings(
            "a linux site makes network devices and namespaces, which only root may (missing: "
            f"{', '.join(missing)}); start it as root, or by its systemd unit"
        )


def _check_programs(which: Which) -> None:
    missing: Iterable[str] = sorted({package for name, package in PROGRAMS.items() if which(name) is None})
    if missing:
        raise BadSurroundings(
            f"programs are missing: apt-get install {' '.join(missing)} (or run `make setup`)"
        )


def _check_namespaces() -> None:
    """In a thread of its own, whose namespace goes with it."""
    with ThreadPoolExecutor(max_workers=1) as thread:
        try:
            thread.submit(netns.leave).result()
        except OSError as error:
            raise BadSurroundings(
                f"this machine does not let even root make network namespaces ({error.strerror}); in a "
                "container, run it with --privileged"
            ) from None


def _check_address(vtep_ip: str) -> None:
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            vtep_ip, 0, type=socket.SOCK_DGRAM, flags=socket.AI_NUMERICHOST
        )[0]
        with socket.socket(family, kind) as probe:
            probe.bind(address)
    except OSError:
        raise BadSurroundings(
            f"no interface of this machine has the address {vtep_ip}; correct south.vtep_ip, or set the "
            "address first"
        ) from None
