"""Networks, instances and gateways of a linux site in the kernel: bridges, veths, namespaces.

Stateless: names come from ids, the rest is read back, so that a killed process finds everything again.
All methods may be repeated with the same effect. Errors: SiteRefused with what the kernel said.
"""

import asyncio
import json
import subprocess
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from diminet.errors import SiteRefused
from diminet.south.linux import links, names, netns
from diminet.south.linux.links import Address

T = TypeVar("T")

# Partners of different services of one network must not reach each other through its gateway.
_GATEWAY_FILTER = """
table inet diminet {
  chain forward {
    type filter hook forward priority filter; policy accept;
    iifname "s-*" oifname "s-*" drop
  }
}
"""


class Wire(NamedTuple):
    """A veth between a network's bridge and a namespace. name, inside: its ends; path: the namespace."""

    path: Path
    network_id: str
    name: str
    inside: str
    alias: names.Alias


class Shape(NamedTuple):
    """How the far end of a wire is to be. mtu: bytes."""

    mac: str
    addresses: tuple[Address, ...]
    mtu: int


def router_sysctls() -> None:
    """Make the namespace that the thread is in a router; devices made later follow `default`."""
    for where in ("all", "default"):
        netns.sysctl(f"ipv4/conf/{where}/rp_filter", 0)
        netns.sysctl(f"ipv4/conf/{where}/send_redirects", 0)
        netns.sysctl(f"ipv6/conf/{where}/accept_ra", 0)
        netns.sysctl(f"ipv6/conf/{where}/accept_dad", 0)
    netns.sysctl("ipv4/ip_forward", 1)
    netns.sysctl("ipv6/conf/all/forwarding", 1)


def _prepare_gateway() -> None:
    router_sysctls()
    nft(_GATEWAY_FILTER)


def _host_sysctls() -> None:
    """Addresses of an instance work at once, and come from us alone."""
    for where in ("all", "default"):
        netns.sysctl(f"ipv6/conf/{where}/accept_dad", 0)
        netns.sysctl(f"ipv6/conf/{where}/accept_ra", 0)


def nft(script: str) -> None:
    """Apply rules as one transaction in the namespace that the thread is in."""
    done = subprocess.run(["nft", "-f", "-"], input=script, text=True, capture_output=True, check=False)
    if done.returncode != 0:
        raise SiteRefused(f"nftables refused our rules: {done.stderr.strip()[:500]}")


def _guarded(doing: str, work: Callable[[], T]) -> T:
    try:
        return work()
    except NetlinkError as error:
        raise SiteRefused(f"{doing}: the kernel refused: {error}") from error
    except OSError as error:
        raise SiteRefused(f"{doing}: {error}") from error


def nft_exists(*what: str) -> bool:
    """Whether there is that table (family, name) or chain (family, table, name) of nftables here."""
    kind = "chain" if len(what) == 3 else "table"
    done = subprocess.run(["nft", "list", kind, *what], capture_output=True, check=False)
    return done.returncode == 0


def nft_tables() -> set[tuple[str, str]]:
    """(family, name) of every table of nftables here."""
    done = subprocess.run(["nft", "-j", "list", "tables"], capture_output=True, check=False)
    found = json.loads(done.stdout)["nftables"] if done.returncode == 0 else []
    return {(entry["table"]["family"], entry["table"]["name"]) for entry in found if "table" in entry}


def nft_json(family: str, table: str) -> list[dict[str, Any]]:
    """All that is in that table of nftables here (libnftables-json(5)); nothing if there is none."""
    done = subprocess.run(["nft", "-j", "list", "table", family, table], capture_output=True, check=False)
    return list(json.loads(done.stdout)["nftables"]) if done.returncode == 0 else []


class Kernel:
    """The site's own namespace (the process's) and the namespaces under `run_dir`/ns.

    Everything runs in one thread of its own: entering a namespace is a thread's matter, and changes
    of one site to one kernel gain nothing from being made at once.
    """

    def __init__(self, run_dir: Path) -> None:
        self._namespaces = run_dir / "ns"
        self.probe_path = run_dir / "probe"  # of the namespace of the probes; not one that repair sweeps
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="kernel")

    def close(self) -> None:
        self._thread.shutdown()

    async def run(self, doing: str, work: Callable[[], T]) -> T:
        """Run `work` in the kernel thread; `doing` begins the sentence of the error."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, _guarded, doing, work)

    def instance_path(self, ns_name: str) -> Path:
        """Where the namespace of an instance is mounted (for `nsenter --net=`)."""
        return self._namespaces / ns_name

    def gateway_path(self, network_id: str) -> Path:
        return self._namespaces / names.gateway_namespace(network_id)

    # -- bridges -----------------------------------------------------------------------------------

    async def make_bridge(self, network_id: str, mtu: int) -> None:
        """The network's bridge is there, up, with that MTU (bytes) on it and on all that is in it."""
        await self.run(f"make the bridge of network {network_id}", partial(_make_bridge, network_id, mtu))

    async def delete_bridge(self, network_id: str) -> None:
        """Its gateway and ports must be gone before; nothing if there is no such bridge."""
        await self.run(f"delete the bridge of network {network_id}", partial(_delete_bridge, network_id))

    async def bridges(self) -> dict[str, int]:
        """Network id -> MTU of every bridge of ours."""
        return await self.run("list the bridges", _bridges)

    # -- instances ---------------------------------------------------------------------------------

    async def plug(
        self,
        network_id: str,
        port_id: str,
        ns_name: str,
        *,
        mac: str,
        addresses: Iterable[Address],
        gateways: Iterable[str],
        mtu: int,
    ) -> None:
        """An instance's namespace with the port in it, its addresses and default routes (one gateway
        per IP version). Called again with other addresses, it changes them."""
        if "/" in ns_name or ns_name.startswith((".", "gw-")):
            raise SiteRefused(f"an instance cannot be named {ns_name!r}: choose another name")
        alias = names.Alias("port", port_id, mac)
        wire = Wire(
            self.instance_path(ns_name), network_id, names.port(port_id), names.port_inside(port_id), alias
        )
        shape = Shape(mac, tuple(addresses), mtu)
        await self.run(f"plug port {port_id}", partial(_plug, wire, shape, tuple(gateways)))

    async def unplug(self, port_id: str, ns_name: str) -> None:
        """Remove the port, and the instance's namespace with its last one."""
        await self.run(f"unplug port {port_id}", partial(_unplug, self.instance_path(ns_name), port_id))

    async def ports(self) -> set[str]:
        """Ids of all plugged ports."""
        return await self.run("list the ports", partial(_aliased, "port"))

    # -- gateways ----------------------------------------------------------------------------------

    async def set_gateway(self, network_id: str, addresses: Iterable[Address], *, mac: str, mtu: int) -> None:
        """The network's gateway has these addresses and that MAC (or, while a service has made it the
        shared one, the anycast MAC)."""
        shape = Shape(mac, tuple(addresses), mtu)
        path = self.gateway_path(network_id)
        await self.run(
            f"set the gateway of network {network_id}", partial(_set_gateway, path, network_id, shape)
        )

    async def remove_gateway(self, network_id: str) -> None:
        path = self.gateway_path(network_id)
        await self.run(
            f"remove the gateway of network {network_id}", partial(_remove_gateway, path, network_id)
        )

    async def set_gateway_mac(self, network_id: str, mac: str, *, anycast: bool) -> None:
        """Give the gateway another MAC, keeping its addresses; `anycast` is remembered in the kernel."""
        path = self.gateway_path(network_id)
        await self.run(
            f"set the MAC of the gateway of network {network_id}",
            partial(_set_gateway_mac, gateway_wire(path, network_id, anycast=anycast), mac),
        )

    async def gateways(self) -> set[str]:
        """Ids of all networks with a gateway."""
        return await self.run("list the gateways", partial(_aliased, "gateway"))


def _make_bridge(network_id: str, mtu: int) -> None:
    name, alias = names.bridge(network_id), names.Alias("network", network_id)
    with IPRoute() as ip:
        link = links.find(ip, name)
        if link is None:
            mac = names.bridge_mac(network_id)
            ip.link("add", ifname=name, kind="bridge", br_mcast_snooping=0, address=mac)
            # IPv6 stays enabled, without an address: the bridge must hold neighbour entries.
            links.quiet(name, ipv6=True)
            link = links.need(ip, name)
        if link.alias is None:
            ip.link("set", index=link.ifindex, ifalias=alias.text())
            link = links.need(ip, name)
        links.update(ip, links.owned(link, alias), mtu=mtu)
        for member in links.all_links(ip):
            if member.master == link.ifindex:
                links.update(ip, member, mtu=mtu)


def _delete_bridge(network_id: str) -> None:
    with IPRoute() as ip:
        links.delete(ip, names.bridge(network_id), names.Alias("network", network_id))


def _bridges() -> dict[str, int]:
    with IPRoute() as ip:
        return {
            link.alias.identifier: link.mtu
            for link in links.all_links(ip)
            if link.alias and link.alias.kind == "network"
        }


def _aliased(kind: str) -> set[str]:
    with IPRoute() as ip:
        return {
            link.alias.identifier for link in links.all_links(ip) if link.alias and link.alias.kind == kind
        }


def veth_into(ip: IPRoute, name: str, path: Path, inside: str, mtu: int) -> None:
    """A veth whose other end, called `inside`, is made in the namespace at `path`."""
    with path.open("rb") as namespace:
        peer = {"ifname": inside, "net_ns_fd": namespace.fileno(), "mtu": mtu}
        ip.link("add", ifname=name, kind="veth", mtu=mtu, peer=peer)


def _attach(wire: Wire, mtu: int) -> tuple[int, int]:
    """Make the veth of the wire. Returns the indexes of bridge and port.

    The alias is written last: a device without one is what a crash left and is made again.
    """
    of_network = names.Alias("network", wire.network_id)
    with IPRoute() as ip:
        bridge = links.owned(links.need(ip, names.bridge(wire.network_id)), of_network).ifindex
        link = links.find(ip, wire.name)
        if link is not None and link.alias is None:
            ip.link("del", index=link.ifindex)
            link = None
        if link is None:
            veth_into(ip, wire.name, wire.path, wire.inside, mtu)
            links.quiet(wire.name)
            link = links.need(ip, wire.name)
            ip.link("set", index=link.ifindex, master=bridge, ifalias=wire.alias.text(), state="up")
            link = links.need(ip, wire.name)
        owned = links.owned(link, wire.alias)
        links.update(ip, owned, mtu=mtu, master=bridge, ifalias=wire.alias.text())
        return bridge, link.ifindex


def connect_wire(wire: Wire, shape: Shape) -> None:
    """The wire is there, its far end has that shape, and the bridge knows what is behind it."""
    with netns.entered(wire.path), IPRoute() as ip:
        before = links.find(ip, wire.inside)
    bridge, port = _attach(wire, shape.mtu)
    with netns.entered(wire.path), IPRoute() as ip:
        ip.link("set", index=1, state="up")
        inside = links.need(ip, wire.inside)
        links.update(ip, inside, mtu=shape.mtu, address=shape.mac)
        links.set_addresses(ip, inside.ifindex, shape.addresses)
    with IPRoute() as ip:
        if before is not None and before.mac != shape.mac:
            links.withdraw(ip, bridge, before.mac)
            links.forget_mac(ip, port, before.mac)
        links.announce(ip, bridge, port, shape.mac, [address for address, _ in shape.addresses])


def _plug(wire: Wire, shape: Shape, gateways: Sequence[str]) -> None:
    netns.create(wire.path, _host_sysctls)
    connect_wire(wire, shape)
    with netns.entered(wire.path), IPRoute() as ip:
        links.set_default_routes(ip, links.need(ip, wire.inside).ifindex, gateways)


def _unplug(path: Path, port_id: str) -> None:
    name, alias = names.port(port_id), names.Alias("port", port_id)
    with IPRoute() as ip:
        link = links.find(ip, name)
        if link is not None:
            owned = links.owned(link, alias)
            if owned.master and owned.alias:
                links.withdraw(ip, owned.master, owned.alias.detail)
            links.delete(ip, name, alias)
    if not netns.exists(path):
        netns.remove(path)
        return
    with netns.entered(path), IPRoute() as ip:
        empty = all(not found.name.startswith("e-") for found in links.all_links(ip))
    if empty:
        netns.remove(path)


def gateway_wire(path: Path, network_id: str, *, anycast: bool) -> Wire:
    alias = names.Alias("gateway", network_id, "anycast" if anycast else "")
    return Wire(path, network_id, names.gateway_port(network_id), names.LAN, alias)


def _set_gateway(path: Path, network_id: str, shape: Shape) -> None:
    with IPRoute() as ip:
        link = links.find(ip, names.gateway_port(network_id))
    anycast = bool(link and link.alias and link.alias.detail)
    netns.create(path, _prepare_gateway)
    mac = names.ANYCAST_MAC if anycast else shape.mac
    connect_wire(gateway_wire(path, network_id, anycast=anycast), shape._replace(mac=mac))


def _set_gateway_mac(wire: Wire, mac: str) -> None:
    if not netns.exists(wire.path):
        return  # a network without a gateway
    with netns.entered(wire.path), IPRoute() as ip:
        lan = links.need(ip, wire.inside)
        shape = Shape(mac, tuple(sorted(links.addresses(ip, lan.ifindex))), lan.mtu)
    connect_wire(wire, shape)


def _remove_gateway(path: Path, network_id: str) -> None:
    name, alias = names.gateway_port(network_id), names.Alias("gateway", network_id)
    with IPRoute() as ip:
        link = links.find(ip, name)
        if link is not None and link.master and netns.exists(path):
            with netns.entered(path), IPRoute() as inner:
                lan = links.find(inner, names.LAN)
            if lan is not None:
                links.withdraw(ip, link.master, lan.mac)
        links.delete(ip, name, alias)
    netns.remove(path)
