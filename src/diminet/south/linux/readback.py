"""What there is of the services' devices (`overlay`), as the kernel has it now. Synchronous; run in the
kernel thread. Errors: NetlinkError, OSError, SiteRefused.
"""

from collections.abc import Collection, Iterable
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple

from pyroute2 import IPRoute

from diminet.south.linux import kernel, links, names, netns
from diminet.south.linux.overlay import MOUNTS

FLOOD_MAC = "00:00:00:00:00:00"  # the entries for broadcast and unknown frames


class Found(NamedTuple):
    """A service's devices as read back. vni 0: there is no vxlan device. local: CIDRs of an L3 service
    that its VRF can reach. heard: VTEPs of which BGP has told."""

    service_id: str
    layer: str
    vni: int
    digest: str
    problems: tuple[str, ...]
    local: frozenset[str] = frozenset()
    heard: frozenset[str] = frozenset()


def admitted() -> dict[int, frozenset[str]]:
    """VNI -> VTEPs that it admits (`overlay.admit`): the service's other sites. One that is not there admits
    everybody."""
    found: dict[int, frozenset[str]] = {}
    for entry in kernel.nft_json("inet", "diminet"):
        chain = entry.get("chain", {}).get("name", "")
        if chain.startswith("vni"):
            found.setdefault(int(chain.removeprefix("vni")), frozenset())
        rule = entry.get("rule", {})
        if not rule.get("chain", "").startswith("vni"):
            continue
        for match in (e["match"] for e in rule["expr"] if "match" in e):
            right = match["right"]
            vteps = right["set"] if isinstance(right, dict) else [right]
            found[int(rule["chain"].removeprefix("vni"))] = frozenset(vteps)
    return found


def find_tunnels() -> list[Found]:
    """All L2 services of this site."""
    with IPRoute() as ip:
        every = links.all_links(ip)
    bridges = {link.ifindex: link for link in every if link.alias and link.alias.kind == "network"}
    found = []
    for link in every:
        if link.alias is None or link.alias.kind != "l2":
            continue
        problems = []
        if not link.up:
            problems.append(f"the tunnel {link.name} is down")
        bridge = bridges.get(link.master or 0)
        if bridge is None:
            problems.append(f"the tunnel {link.name} is not in a network's bridge")
        elif not bridge.up:
            problems.append(f"the bridge {bridge.name} is down")
        vni = int(link.name.removeprefix("vx"))
        made = Found(link.alias.identifier, "l2", vni, link.alias.detail, tuple(problems))
        found.append(made._replace(heard=_flooded(link.ifindex)))
    return found


def _flooded(vxlan: int) -> frozenset[str]:
    """VTEPs that get a copy of every broadcast: those whose type-3 route FRR has."""
    with IPRoute() as ip:
        entries = [e for e in ip.fdb("dump", ifindex=vxlan) if e.get_attr("NDA_LLADDR") == FLOOD_MAC]
    return frozenset(entry.get_attr("NDA_DST") for entry in entries if entry.get_attr("NDA_DST"))


def unresolved(path: Path, vni: int) -> set[str]:
    """VTEPs that the VRF has routes to but no neighbour for: zebra 8.4 loses one when BGP takes a route
    back and announces it again at once."""
    with netns.entered(path), IPRoute() as ip:
        bridge = links.find(ip, names.vrf_bridge(vni))
        return links.unresolved(ip, bridge.ifindex) if bridge else set()


def find_vrfs(directory: Path) -> list[Found]:
    """All L3 services of this site, from the namespaces in `directory`."""
    found = []
    entries = {entry.name for where in (directory, directory / MOUNTS) for entry in where.glob("v*")}
    for name in sorted(entries):
        service_id = names.service_of_vrf(name)
        if service_id is not None:
            found.append(_find_vrf(directory / name, service_id))
    return found


def _find_vrf(path: Path, service_id: str) -> Found:
    if not netns.exists(path):
        return Found(service_id, "l3", 0, "", ("its namespace is gone",))
    with netns.entered(path), IPRoute() as ip:
        every = links.all_links(ip)
        branches = [link for link in every if link.alias and link.alias.kind == "branch"]
        local = frozenset(cidr for link in branches for cidr in links.routes(ip, link.ifindex))
        hops = {hop for link in every if link.kind == "bridge" for hop in links.bgp_hops(ip, link.ifindex)}
    problems = [f"{link.name} is down" for link in every if not link.up]
    for link in every:
        if link.kind == "vxlan" and link.alias is not None:
            vni = int(link.name.removeprefix("vx"))
            problems += [f"the site {hop} has no neighbour entry" for hop in unresolved(path, vni)]
            return Found(service_id, "l3", vni, link.alias.detail, tuple(problems), local, _vteps(hops))
    return Found(service_id, "l3", 0, "", (*problems, "its tunnel is missing"))


def _vteps(hops: Iterable[str]) -> frozenset[str]:
    """VTEPs are IPv4; as next hops of IPv6 routes they are mapped."""
    mapped = ((ip_address(hop), getattr(ip_address(hop), "ipv4_mapped", None)) for hop in hops)
    return frozenset(str(v4 or hop) for hop, v4 in mapped)


# -- what a killed FRR leaves behind ---------------------------------------------------------------


def sweep(vni: int, macs: Collection[str], vteps: Collection[str]) -> None:
    """Delete the tunnel's entries of other sites that FRR does not know (any more)."""
    with IPRoute() as ip:
        link = links.find(ip, names.vxlan(vni))
        if link is None:
            return
        for entry in ip.fdb("dump", ifindex=link.ifindex):
            mac, far = entry.get_attr("NDA_LLADDR"), entry.get_attr("NDA_DST")
            known = far in vteps if mac == FLOOD_MAC else mac in macs
            if entry["ifindex"] == link.ifindex and entry["flags"] & links.NTF_EXT_LEARNED and not known:
                flags = links.NTF_SELF if far else links.NTF_MASTER
                extra = {"dst": far} if far else {}
                ip.fdb("del", ifindex=link.ifindex, lladdr=mac, flags=flags, **extra)
