"""Small repeatable steps on the devices of the namespace that the thread is in, over pyroute2.

Every function may be called again with the same effect. Errors: pyroute2's NetlinkError.
"""

import errno
from collections.abc import Iterable
from ipaddress import ip_address, ip_network
from typing import Any, NamedTuple

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from diminet.errors import SiteRefused
from diminet.south.linux import names, netns

NUD_NOARP = 0x40
NUD_PERMANENT = 0x80
NTF_SELF = 0x02
NTF_MASTER = 0x04
NTF_EXT_LEARNED = 0x10
RT_TABLE_MAIN = 254
RTPROT_BGP = 186
RTPROT_OURS = 68  # marks our routes; not one of those that zebra takes for its own
ANYWHERE = {2: "0.0.0.0/0", 10: "::/0"}  # by address family: AF_INET, AF_INET6

Address = tuple[str, int]  # an address and the length of its prefix


def family(address: str) -> int:
    """AF_INET or AF_INET6."""
    return 2 if ip_address(address).version == 4 else 10


class Via(NamedTuple):
    """A device and the next hops that are on it. metric: of the routes, where several devices lead to one
    destination; the lowest goes first."""

    ifindex: int
    v4: str
    v6: str
    metric: int


class Link(NamedTuple):
    """What is read back of a device. alias: None if it is not one of ours."""

    ifindex: int
    name: str
    alias: names.Alias | None
    mac: str
    mtu: int
    up: bool
    master: int | None
    kind: str | None


def _link(message: Any) -> Link:
    info = message.get_attr("IFLA_LINKINFO")
    return Link(
        message["index"],
        message.get_attr("IFLA_IFNAME"),
        names.parse_alias(message.get_attr("IFLA_IFALIAS")),
        message.get_attr("IFLA_ADDRESS") or "",
        message.get_attr("IFLA_MTU") or 0,
        bool(message["flags"] & 1),
        message.get_attr("IFLA_MASTER"),
        info.get_attr("IFLA_INFO_KIND") if info else None,
    )


def all_links(ip: IPRoute) -> list[Link]:
    return [_link(message) for message in ip.get_links()]


def find(ip: IPRoute, name: str) -> Link | None:
    return _get(ip, ifname=name)


def find_index(ip: IPRoute, index: int) -> Link | None:
    return _get(ip, index=index)


def _get(ip: IPRoute, **which: Any) -> Link | None:
    try:
        return _link(ip.link("get", **which)[0])
    except NetlinkError as error:
        if error.code == errno.ENODEV:
            return None
        raise


def need(ip: IPRoute, name: str) -> Link:
    link = find(ip, name)
    if link is None:
        raise SiteRefused(f"the kernel has no device {name}: make the network or its gateway again")
    return link


def owned(link: Link, alias: names.Alias) -> Link:
    """The link itself, if it is of that kind and id; two ids may share a short name."""
    if link.alias is None or link.alias[:2] != alias[:2]:
        raise SiteRefused(
            f"the device {link.name} is there already and is not {alias.kind} {alias.identifier}: remove it"
        )
    return link


def quiet(name: str, *, ipv6: bool = False) -> None:
    """No automatic IPv6 address and no router advertisement on a device that only forwards frames."""
    netns.sysctl(f"ipv6/conf/{name}/addr_gen_mode", 1)
    netns.sysctl(f"ipv6/conf/{name}/accept_ra", 0)
    if not ipv6:
        netns.sysctl(f"ipv6/conf/{name}/disable_ipv6", 1)


def update(ip: IPRoute, link: Link, **wanted: Any) -> None:
    """Set what differs of mtu, address, master, ifalias and bring it up."""
    now = {
        "mtu": link.mtu,
        "address": link.mac,
        "master": link.master or 0,
        "ifalias": link.alias.text() if link.alias else "",
    }
    change = {key: value for key, value in wanted.items() if now[key] != value}
    if change or not link.up:
        ip.link("set", index=link.ifindex, state="up", **change)


def delete(ip: IPRoute, name: str, alias: names.Alias) -> None:
    link = find(ip, name)
    if link is None:
        return
    try:
        ip.link("del", index=owned(link, alias).ifindex)
    except NetlinkError as error:
        if error.code != errno.ENODEV:
            raise


def addresses(ip: IPRoute, index: int) -> set[Address]:
    """Of the device, without automatic link-local ones."""
    return {
        (str(ip_address(m.get_attr("IFA_LOCAL") or m.get_attr("IFA_ADDRESS"))), m["prefixlen"])
        for m in ip.get_addr(index=index)
        if not ip_address(m.get_attr("IFA_ADDRESS")).is_link_local
    }


def set_addresses(ip: IPRoute, index: int, wanted: Iterable[Address]) -> None:
    """Exactly these on the device; automatic link-local ones stay. No duplicate address detection."""
    want = {(str(ip_address(address)), length) for address, length in wanted}
    have = addresses(ip, index)
    for address, length in have - want:
        ip.addr("del", index=index, address=address, prefixlen=length)
    for address, length in want - have:
        add_address(ip, index, address, length)


def add_address(ip: IPRoute, index: int, address: str, length: int) -> None:
    extra = {"flags": 0x02} if ip_address(address).version == 6 else {}  # IFA_F_NODAD
    try:
        ip.addr("add", index=index, address=address, prefixlen=length, **extra)
    except NetlinkError as error:
        if error.code != errno.EEXIST:
            raise


def routes(ip: IPRoute, index: int) -> set[str]:
    """Destinations of our own routes through the device."""
    found = set()
    for message in ip.get_routes(oif=index, table=RT_TABLE_MAIN):
        if message["proto"] != RTPROT_OURS or message.get_attr("RTA_OIF") != index:
            continue
        destination = message.get_attr("RTA_DST") or ANYWHERE[message["family"]].split("/")[0]
        found.add(str(ip_network(f"{destination}/{message['dst_len']}")))
    return found


def set_routes(ip: IPRoute, via: Via, wanted: Iterable[str]) -> None:
    """Exactly these destinations through the device, by a next hop that is on it by definition."""
    want, have = {str(ip_network(cidr)) for cidr in wanted}, routes(ip, via.ifindex)
    for cidr in sorted(have - want):
        _route(ip, "del", cidr, via)
    for cidr in sorted(want - have):
        _route(ip, "add", cidr, via)


def _route(ip: IPRoute, action: str, cidr: str, via: Via) -> None:
    gateway = via.v4 if ip_network(cidr).version == 4 else via.v6
    way = {"oif": via.ifindex, "gateway": gateway, "flags": ["onlink"], "priority": via.metric}
    ip.route(action, dst=cidr, proto=RTPROT_OURS, **way)


def set_default_routes(ip: IPRoute, index: int, gateways: Iterable[str]) -> None:
    """One default route per IP version through the device; versions without a gateway lose theirs."""
    by_family = {family(gateway): gateway for gateway in gateways}
    have = routes(ip, index)
    for inet, anywhere in ANYWHERE.items():
        gateway = by_family.get(inet)
        if gateway:
            ip.route("replace", dst=anywhere, oif=index, gateway=gateway, flags=["onlink"], proto=RTPROT_OURS)
        elif anywhere in have:
            ip.route("del", dst=anywhere, oif=index, proto=RTPROT_OURS)


def neighbours(ip: IPRoute, index: int) -> set[tuple[str, str]]:
    """(address, MAC) of the permanent entries of a bridge: those that we made, of local ports."""
    return {
        (str(ip_address(m.get_attr("NDA_DST"))), m.get_attr("NDA_LLADDR"))
        for inet in ANYWHERE
        for m in ip.get_neighbours(family=inet, ifindex=index)
        if m["ifindex"] == index
        and m["state"] == NUD_PERMANENT
        and not m["flags"] & NTF_EXT_LEARNED
        and m.get_attr("NDA_LLADDR")
    }


def bgp_hops(ip: IPRoute, index: int) -> set[str]:
    """Next hops of BGP's routes through the device."""
    return {
        str(ip_address(m.get_attr("RTA_GATEWAY")))
        for m in ip.get_routes(oif=index, table=RT_TABLE_MAIN)
        if m["proto"] == RTPROT_BGP and m.get_attr("RTA_GATEWAY")
    }


def unresolved(ip: IPRoute, index: int) -> set[str]:
    """Next hops of BGP's routes through the device for which there is no neighbour entry."""
    hops = bgp_hops(ip, index)
    if not hops:
        return hops
    return hops - {
        str(ip_address(m.get_attr("NDA_DST")))
        for inet in ANYWHERE
        for m in ip.get_neighbours(family=inet, ifindex=index)
        if m["ifindex"] == index and m.get_attr("NDA_LLADDR")
    }


def announce(ip: IPRoute, bridge: int, port: int, mac: str, addresses: Iterable[str]) -> None:
    """Tell bridge and zebra that this MAC and these addresses are behind that port.

    The static forwarding entry makes zebra advertise the MAC at once and for as long as the port is
    there; the neighbour entries of the bridge make it answer ARP/ND for remote ones and keep requests
    for local ones off the tunnel.
    """
    ip.fdb("replace", ifindex=port, lladdr=mac, state=NUD_NOARP, flags=NTF_MASTER)
    wanted = {(str(ip_address(address)), mac) for address in addresses}
    have = {entry for entry in neighbours(ip, bridge) if entry[1] == mac}
    for address, lladdr in have - wanted:
        _drop_neighbour(ip, bridge, address, lladdr)
    for address, lladdr in wanted:
        entry = {"family": family(address), "dst": address, "lladdr": lladdr, "ifindex": bridge}
        ip.neigh("replace", **entry, state=NUD_PERMANENT)


def withdraw(ip: IPRoute, bridge: int, mac: str) -> None:
    """Forget the neighbour entries of a MAC; its forwarding entry goes with the port."""
    for address, lladdr in neighbours(ip, bridge):
        if lladdr == mac:
            _drop_neighbour(ip, bridge, address, lladdr)


def _drop_neighbour(ip: IPRoute, bridge: int, address: str, mac: str) -> None:
    try:
        ip.neigh("del", family=family(address), dst=address, lladdr=mac, ifindex=bridge)
    except NetlinkError as error:
        if error.code != errno.ENOENT:
            raise


def forget_mac(ip: IPRoute, port: int, mac: str) -> None:
    """Remove a static forwarding entry of a bridge port."""
    try:
        ip.fdb("del", ifindex=port, lladdr=mac, flags=NTF_MASTER)
    except NetlinkError as error:
        if error.code != errno.ENOENT:
            raise
