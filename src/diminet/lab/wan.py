"""The WAN and the management network, in the supervisor's own network namespace.

WAN: a bridge; cuts are nftables rules of the bridge family. Management: a bridge whose ports are isolated
from one another (but not from the host), so that the sites meet on the WAN only.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from diminet.lab import relay, shell
from diminet.lab.plan import EAST_WEST_PORT, WAN, LabPlan, Pair, Plane, Reflector, SitePlan
from diminet.south.linux.overlay import VXLAN_PORT

WAN_BRIDGE = "wan"
MANAGEMENT_BRIDGE = "mgmt"
HOST_LINK = "host0"  # the far end of the host's veth
SITE_WAN = "wan0"
SITE_MANAGEMENT = "mgmt0"
_TABLE = "lab"
_BGP_PORT = 179
# Of the frames of an isolated site, those that are dropped.
_PLANES: Mapping[Plane, tuple[str, ...]] = {
    "all": ("",),
    "control": tuple(f"tcp {end} {{ {_BGP_PORT}, {EAST_WEST_PORT} }} " for end in ("sport", "dport")),
    "data": (f"udp dport {VXLAN_PORT} ",),
}

_SYSCTLS = {
    "net/ipv4/ip_forward": 0,  # inherited from the host otherwise
    "net/ipv6/conf/all/disable_ipv6": 1,  # no chatter of the bridges' own
    "net/ipv6/conf/default/disable_ipv6": 1,
}


def batch(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


async def make_bridges(plan: LabPlan) -> None:
    """Raises BadSurroundings where this kernel cannot do it."""
    _set_sysctls()
    await shell.run(
        ("ip", "-batch", "-"),
        doing="make the bridges of the WAN",
        stdin=batch(
            (
                "link set lo up",
                f"link add {WAN_BRIDGE} type bridge mcast_snooping 0",
                f"link set {WAN_BRIDGE} up",
                f"link add {MANAGEMENT_BRIDGE} type bridge mcast_snooping 0",
                f"link set {MANAGEMENT_BRIDGE} up",
                f"addr add {plan.supervisor_ip}/{plan.prefix} dev {MANAGEMENT_BRIDGE}",
            )
        ),
    )
    await apply_cuts(plan, (), {})


def _set_sysctls() -> None:
    for name, value in _SYSCTLS.items():
        Path("/proc/sys", name).write_text(f"{value}\n")


def joined() -> int:
    """How many devices are in the WAN's bridge."""
    return len(list(Path("/sys/class/net", WAN_BRIDGE, "brif").iterdir()))


async def attach_host() -> None:
    """Take up the host's veth, which the launcher has put into this namespace."""
    await shell.run(
        ("ip", "-batch", "-"),
        doing="connect the lab to the host",
        stdin=batch((f"link set {HOST_LINK} master {MANAGEMENT_BRIDGE}", f"link set {HOST_LINK} up")),
    )


async def attach_site(
    site: SitePlan, prefix: int, holder: int, enter: Sequence[str], *, delayed: bool
) -> None:
    """Its wan0 and mgmt0 with their addresses. holder: process id in whose network namespace they go."""
    await _attach_wan(site, holder, delayed=delayed)
    await shell.run(
        ("ip", "-batch", "-"),
        doing=f"make the management device of site {site.name}",
        stdin=batch(
            (
                f"link add {site.management_port} type veth peer name {SITE_MANAGEMENT} netns {holder}",
                f"link set {site.management_port} master {MANAGEMENT_BRIDGE}",
                f"link set {site.management_port} type bridge_slave isolated on",
                f"link set {site.management_port} up",
            )
        ),
    )
    addresses = {
        SITE_WAN: f"{site.wan_ip}/{WAN.prefixlen}",
        SITE_MANAGEMENT: f"{site.management_ip}/{prefix}",
    }
    await _inside(site.name, enter, addresses)


async def attach_reflector(reflector: Reflector, holder: int, enter: Sequence[str], *, delayed: bool) -> None:
    await _attach_wan(reflector, holder, delayed=delayed)
    await _inside(reflector.name, enter, {SITE_WAN: f"{reflector.wan_ip}/{WAN.prefixlen}"})


async def _attach_wan(host: SitePlan | Reflector, holder: int, *, delayed: bool) -> None:
    """With a delay the relay stands between this device and the bridge."""
    doing = f"make the WAN device of {host.name}"
    inside = f"{host.port}i"
    await shell.run(("ip", "link", "add", host.port, "type", "veth", "peer", "name", inside), doing=doing)
    if delayed:
        relay.checksums_in_software(inside)
    lines = [] if delayed else [f"link set {host.port} master {WAN_BRIDGE}"]
    lines += [f"link set {inside} netns {holder} name {SITE_WAN}", f"link set {host.port} up"]
    await shell.run(("ip", "-batch", "-"), doing=doing, stdin=batch(lines))


async def _inside(name: str, enter: Sequence[str], devices: dict[str, str]) -> None:
    lines = ["link set lo up"]
    for device, address in devices.items():
        lines += [f"addr add {address} dev {device}", f"link set {device} up"]
    quiet = "; ".join(f"echo 1 >/proc/sys/net/ipv6/conf/{device}/disable_ipv6" for device in devices)
    await shell.run(
        (*enter, "sh", "-ec", f"{quiet}; exec ip -batch -"),
        doing=f"set the addresses of {name}",
        stdin=batch(lines),
    )


async def apply_cuts(plan: LabPlan, cuts: Iterable[Pair], isolated: Mapping[str, Plane]) -> None:
    """Exactly these are cut from now on, in one transaction."""
    port = {site.name: site.relay_tap if plan.wan_delay_ms else site.port for site in plan.sites}
    drops = [f"iifname {port[a]} oifname {port[b]} drop" for cut in cuts for a, b in (cut, cut[::-1])]
    drops += [
        f"{side} {port[name]} {frames}drop"
        for name, plane in sorted(isolated.items())
        for side in ("iifname", "oifname")
        for frames in _PLANES[plane]
    ]
    rules = "\n".join(f"    {drop}" for drop in drops)
    await shell.run(
        ("nft", "-f", "-"),
        doing="set the cuts of the WAN",
        stdin=f"table bridge {_TABLE}\ndelete table bridge {_TABLE}\ntable bridge {_TABLE} {{\n"
        "  chain forward {\n    type filter hook forward priority 0; policy accept;\n"
        f"{rules}\n  }}\n}}\n",
    )
