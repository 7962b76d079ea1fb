"""The devices of a service: the tunnel of an L2 one; VRF namespace, router and veths of an L3 one.

Synchronous; run in the kernel thread. The service's id stands in the alias of the vxlan device, with a
digest of what FRR was told beside it. Errors: NetlinkError, OSError, SiteRefused.
"""

import errno
from collections.abc import Collection, Iterable, Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import NamedTuple

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from diminet.errors import SiteRefused
from diminet.south.linux import kernel, links, names, netns

VXLAN_PORT = 4789
MOUNTS = ".mounts"  # in the directory of zebra's namespaces
# Both ends of every veth between a VRF and a gateway; the routes over it are `onlink`.
VRF_END = ("169.254.0.1", "fe80::1")
GATEWAY_END = ("169.254.0.2", "fe80::2")

# What never goes through a tunnel, in either direction: router advertisements, DHCP, group memberships
# (no bridge of ours looks at them), and whatever the shared gateway says (each site has its own).
_SITE_FILTER = f"""
table bridge diminet
flush table bridge diminet
table bridge diminet {{
  chain tunnel {{
    ether saddr {names.ANYCAST_MAC} drop
    ether daddr {names.ANYCAST_MAC} drop
    icmpv6 type {{ nd-router-advert, nd-router-solicit, nd-redirect }} drop
    icmpv6 type {{ mld-listener-query, mld-listener-report, mld-listener-done, mld2-listener-report }} drop
    ip protocol igmp drop
    udp dport {{ 67, 68, 546, 547 }} drop
  }}
  chain forward {{
    type filter hook forward priority filter; policy accept;
    oifname "vx*" jump tunnel
    iifname "vx*" jump tunnel
  }}
}}
table inet diminet {{
  map vnis {{ typeof @th,96,24 : verdict; }}
  chain input {{
    type filter hook input priority filter - 10; policy accept;
    udp dport {VXLAN_PORT} @th,96,24 vmap @vnis
  }}
}}
"""


class Tunnel(NamedTuple):
    """A vxlan device. local: the VTEP's address. digest: of the FRR section (`frr_config`). mtu: bytes."""

    service_id: str
    vni: int
    local: str
    mtu: int
    digest: str


class Router(NamedTuple):
    """A service's VRF. path: its namespace. remote: the CIDRs from which packets may come."""

    path: Path
    tunnel: Tunnel
    mac: str
    remote: tuple[str, ...]


class Branch(NamedTuple):
    """A local network of an L3 service. path: its gateway's namespace. local: its CIDRs that take part.
    far: the CIDRs that it is to reach through the service. mtu: bytes."""

    path: Path
    network_id: str
    local: tuple[str, ...]
    far: tuple[str, ...]
    mtu: int


def prepare_site(directory: Path) -> None:
    """The site's own filters, and a place for its namespaces beside the links in zebra's directory; made
    again, they change nothing for services that are there."""
    (directory / MOUNTS).mkdir(parents=True, exist_ok=True)
    (directory / MOUNTS).chmod(0o755)  # whatever the umask: zebra is not root
    with_vnis = kernel.nft_exists("inet", "diminet")
    script = _SITE_FILTER
    if with_vnis:  # the table of the VNIs holds state of the services: leave it
        script = script[: script.index("table inet diminet")]
    kernel.nft(script)


def filters_stand() -> bool:
    """Are the site's own filters there? Whoever loads a firewall anew flushes them, too."""
    return {("bridge", "diminet"), ("inet", "diminet")} <= kernel.nft_tables()


# -- who may send into a VNI -----------------------------------------------------------------------


def admit(vni: int, vteps: Collection[str]) -> None:
    """Packets of that VNI are taken from these VTEPs only."""
    allowed = ", ".join(sorted(vteps))
    accept = f"add rule inet diminet vni{vni} ip saddr {{ {allowed} }} accept\n" if vteps else ""
    kernel.nft(
        f"add chain inet diminet vni{vni}\nflush chain inet diminet vni{vni}\n{accept}"
        f"add rule inet diminet vni{vni} drop\n"
        f"add element inet diminet vnis {{ {vni} : jump vni{vni} }}\n"
    )


def close(vni: int) -> None:
    """Forget whom the VNI admits."""
    if kernel.nft_exists("inet", "diminet", f"vni{vni}"):
        kernel.nft(
            f"delete element inet diminet vnis {{ {vni} : jump vni{vni} }}\n"
            f"delete chain inet diminet vni{vni}\n"
        )


# -- L2 --------------------------------------------------------------------------------------------


def _vxlan(ip: IPRoute, tunnel: Tunnel, alias: names.Alias) -> links.Link | None:
    """The service's vxlan device in this namespace; one without alias is what a crash left."""
    link = links.find(ip, names.vxlan(tunnel.vni))
    if link is not None and link.alias is None:
        ip.link("del", index=link.ifindex)
        return None
    return None if link is None else links.owned(link, alias)


def add_vxlan(ip: IPRoute, tunnel: Tunnel, namespace: int | None = None) -> None:
    """Its packets go out of this namespace, also when the device is moved into another at once."""
    wanted = {
        "ifname": names.vxlan(tunnel.vni),
        "kind": "vxlan",
        "vxlan_id": tunnel.vni,
        "vxlan_local": tunnel.local,
        "vxlan_port": VXLAN_PORT,
        "vxlan_learning": 0,
        "mtu": tunnel.mtu,
    }
    if namespace is not None:
        wanted["net_ns_fd"] = namespace
    try:
        ip.link("add", **wanted)
    except NetlinkError as error:
        if error.code == errno.EEXIST:
            raise SiteRefused(f"another tunnel of this host has the VNI {tunnel.vni}: remove it") from None
        raise


def _enslave(ip: IPRoute, tunnel: Tunnel, alias: names.Alias, bridge: int) -> None:
    link = links.need(ip, names.vxlan(tunnel.vni))
    if link.master != bridge:
        ip.link("set", index=link.ifindex, master=bridge)
        link = link._replace(master=bridge)
    ip.brport("set", index=link.ifindex, learning=0, neigh_suppress=1)
    links.update(ip, link, mtu=tunnel.mtu, ifalias=alias.text())


def make_tunnel(tunnel: Tunnel, network_id: str) -> None:
    """The L2 service's tunnel is a port of the network's bridge. FRR's section must be there before."""
    alias = names.Alias("l2", tunnel.service_id, tunnel.digest)
    with IPRoute() as ip:
        bridge = links.owned(links.need(ip, names.bridge(network_id)), names.Alias("network", network_id))
        links.update(ip, bridge)
        if _vxlan(ip, tunnel, alias) is None:
            add_vxlan(ip, tunnel)
            links.quiet(names.vxlan(tunnel.vni))
        _enslave(ip, tunnel, alias, bridge.ifindex)


def drop_unnamed() -> None:
    """Tunnels at whose making we were killed before they got their alias; nobody may ask for them again."""
    with IPRoute() as ip:
        for link in links.all_links(ip):
            if link.kind == "vxlan" and link.alias is None and link.name[2:].isdecimal():
                ip.link("del", index=link.ifindex)


def tunnels_of(service_id: str) -> list[tuple[int, str | None]]:
    """(VNI, network id) of the service's L2 tunnels."""
    with IPRoute() as ip:
        every = links.all_links(ip)
    networks = {
        link.ifindex: link.alias.identifier for link in every if link.alias and link.alias.kind == "network"
    }
    return [
        (int(link.name.removeprefix("vx")), networks.get(link.master or 0))
        for link in every
        if link.alias and link.alias[:2] == ("l2", service_id)
    ]


def drop_tunnel(service_id: str, vni: int) -> None:
    with IPRoute() as ip:
        links.delete(ip, names.vxlan(vni), names.Alias("l2", service_id))
    close(vni)


# -- L3 --------------------------------------------------------------------------------------------


def _mounted(path: Path) -> Path:
    """Where the namespace of that path is mounted; zebra passes over directories."""
    return path.parent / MOUNTS / path.name


def make_vrf(path: Path) -> None:
    """The service's namespace, a router with nothing in it yet.

    zebra looks at a new entry of its directory at once, and again only a second later; a mount comes after
    its file. So the entry is a link to a namespace that is ready.
    """
    if netns.exists(path):
        return
    netns.create(_mounted(path), _prepare_vrf)
    path.unlink(missing_ok=True)  # of a namespace that is gone: zebra must see that this is another
    path.symlink_to(_mounted(path))


def _prepare_vrf() -> None:
    kernel.router_sysctls()
    netns.sysctl("ipv6/conf/default/addr_gen_mode", 1)
    with IPRoute() as ip:
        ip.link("set", index=1, state="up")


def make_router(router: Router) -> None:
    """The L3 VNI's bridge and vxlan inside the VRF. zebra must have read the namespace before."""
    tunnel = router.tunnel
    name, alias = names.vrf_bridge(tunnel.vni), names.Alias("l3", tunnel.service_id, tunnel.digest)
    with netns.entered(router.path), IPRoute() as ip:
        kernel.nft(_vrf_filter(tunnel.vni, router.remote))
        bridge = links.find(ip, name)
        if bridge is None:
            ip.link("add", ifname=name, kind="bridge", br_mcast_snooping=0, address=router.mac)
            bridge = links.need(ip, name)
        links.update(ip, bridge, address=router.mac, mtu=tunnel.mtu)
        there = _vxlan(ip, tunnel, alias) is not None
    if not there:
        with IPRoute() as ip, router.path.open("rb") as namespace:
            add_vxlan(ip, tunnel, namespace.fileno())
    with netns.entered(router.path), IPRoute() as ip:
        _enslave(ip, tunnel, alias, bridge.ifindex)


def _vrf_filter(vni: int, remote: Iterable[str]) -> str:
    """Packets from the tunnel come from the service's remote CIDRs, whatever routes a peer announces."""
    by_version: Mapping[int, list[str]] = {4: [], 6: []}
    for cidr in remote:
        by_version[ip_network(cidr).version].append(cidr)
    rules = "\n".join(
        f"iifname {names.vrf_bridge(vni)} {family} saddr {{ {', '.join(cidrs)} }} accept"
        for family, cidrs in (("ip", by_version[4]), ("ip6", by_version[6]))
        if cidrs
    )
    return (
        "table inet diminet\ndelete table inet diminet\ntable inet diminet {\nchain forward {\n"
        "type filter hook forward priority filter; policy accept;\n"
        f"{rules}\niifname {names.vrf_bridge(vni)} drop\n}}\n}}\n"
    )


def take_down(router: Router) -> None:
    """zebra and bgpd then take back all that they have learnt through it."""
    with netns.entered(router.path), IPRoute() as ip:
        for name in (names.vxlan(router.tunnel.vni), names.vrf_bridge(router.tunnel.vni)):
            ip.link("set", index=links.need(ip, name).ifindex, state="down")


def learnt(router: Router) -> bool:
    """Whether the VRF still has routes of BGP."""
    with netns.entered(router.path), IPRoute() as ip:
        return any(m["proto"] == links.RTPROT_BGP for m in ip.get_routes(table=links.RT_TABLE_MAIN))


def set_branches(router: Router, branches: Collection[Branch]) -> None:
    """Exactly these networks hang on the VRF, with their routes on both sides."""
    wanted = {names.network_port(branch.network_id) for branch in branches}
    with netns.entered(router.path), IPRoute() as ip:
        for link in links.all_links(ip):
            if link.alias and link.alias.kind == "branch" and link.name not in wanted:
                ip.link("del", index=link.ifindex)
    for branch in branches:
        _make_branch(router, branch)


def _make_branch(router: Router, branch: Branch) -> None:
    service_id = router.tunnel.service_id
    outer, inner = names.service_port(service_id), names.network_port(branch.network_id)
    if not netns.exists(branch.path):
        raise SiteRefused(f"the network {branch.network_id} has no gateway: give its subnets a gateway_ip")
    with netns.entered(branch.path), IPRoute() as ip:
        link = links.find(ip, outer)
        if link is None:
            kernel.veth_into(ip, outer, router.path, inner, branch.mtu)
        _shape_end(ip, outer, names.Alias("service", service_id), branch.mtu, GATEWAY_END)
    with netns.entered(router.path), IPRoute() as ip:
        end = _shape_end(ip, inner, names.Alias("branch", branch.network_id), branch.mtu, VRF_END)
        links.set_routes(ip, links.Via(end, *GATEWAY_END, router.tunnel.vni), branch.local)
    with netns.entered(branch.path), IPRoute() as ip:
        end = links.need(ip, outer).ifindex
        # Two services may join the same two networks: all sites then use the one with the lower VNI.
        links.set_routes(ip, links.Via(end, *VRF_END, router.tunnel.vni), branch.far)


def _shape_end(ip: IPRoute, name: str, alias: names.Alias, mtu: int, ends: tuple[str, str]) -> int:
    link = links.need(ip, name)
    if link.alias is not None:
        links.owned(link, alias)
    links.update(ip, link, mtu=mtu, ifalias=alias.text())
    links.add_address(ip, link.ifindex, ends[0], 32)
    links.add_address(ip, link.ifindex, ends[1], 64)
    return link.ifindex


def drop_vrf(path: Path) -> None:
    """Remove all devices of the service, at once and not when the kernel gets to it, and the namespace."""
    vnis = []
    mounted = _mounted(path)
    where = mounted if netns.exists(mounted) else path  # versions before 0.1.0 mounted it there
    if netns.exists(where):
        with netns.entered(where), IPRoute() as ip:
            for link in links.all_links(ip):
                if link.kind in ("veth", "vxlan", "bridge"):
                    ip.link("del", index=link.ifindex)
                if link.kind == "vxlan":
                    vnis.append(int(link.name.removeprefix("vx")))
    if path.is_symlink():
        path.unlink()
    netns.remove(path)
    netns.remove(mounted)
    for vni in vnis:
        close(vni)
