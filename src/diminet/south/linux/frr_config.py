"""What a site wants of FRR, as commands, and what FRR says it has, as values. Pure.

Source of the format: `show running-config` of FRR 8.4.4.
"""

import hashlib
import re
from typing import NamedTuple

UNSET = "-"
MEMBERS = "MEMBERS"  # the extcommunity list of the targets whose type-5 routes are taken in
SLOTS_AT_ONCE = 32  # import targets that a VRF is given ahead of their use
HIGHEST_SLOT = 250  # of a member (model.Member.slot)


class Vni(NamedTuple):
    """The section of an L2 VNI in bgpd. Targets and rd are `ASN:number`."""

    rd: str = UNSET
    exports: frozenset[str] = frozenset()
    imports: frozenset[str] = frozenset()

    def digest(self) -> str:
        """A short word that differs when anything of it does; kept in a device's alias."""
        return _digest(self)


class Vrf(NamedTuple):
    """A service's VRF: its L3 VNI in zebra, its BGP instance in bgpd. networks: advertised prefixes.

    imports: the targets that are let in, which the list MEMBERS decides. The VRF itself is given the
    targets of all slots that may come, once: FRR 8.4 takes all routes of a VRF out and in again when one
    of its import targets changes, and loses the neighbours of those that stay.
    """

    vni: int = 0
    router_id: str = UNSET
    rd: str = UNSET
    exports: frozenset[str] = frozenset()
    imports: frozenset[str] = frozenset()
    networks: frozenset[str] = frozenset()

    def digest(self) -> str:
        return _digest(self)


def _digest(value: tuple[object, ...]) -> str:
    parts = [" ".join(sorted(part)) if isinstance(part, frozenset) else str(part) for part in value]
    return hashlib.sha256("|".join(parts).encode()).hexdigest()[:16]


class Running(NamedTuple):
    """The services' part of the running configuration.

    given: per VRF, the import targets that it has. named: VRFs that zebra's or bgpd's part names, with a
    BGP instance or not. members: entries of the list MEMBERS. bgp: bgpd has its own part.
    """

    vnis: dict[int, Vni]
    vrfs: dict[str, Vrf]
    given: dict[str, frozenset[str]]
    named: frozenset[str]
    members: frozenset[str]
    bgp: bool

    def stray_members(self) -> frozenset[str]:
        """Entries that belong to no VRF."""
        vnis = {vrf.vni for vrf in self.vrfs.values()}
        return frozenset(target for target in self.members if _vni_of(target) not in vnis)


def parse_running(text: str) -> Running:
    """Read `show running-config`. Lines that are not of a service are passed over."""
    vnis: dict[int, Vni] = {}
    vrfs: dict[str, Vrf] = {}
    named: set[str] = set()
    members: set[str] = set()
    vrf: str | None = None
    vni: int | None = None
    bgp = False
    for line in text.splitlines():
        words = line.split()
        match words:
            case ["vrf", name] if not line.startswith(" "):
                vrf = name
                named.add(name)
            case ["vni", number] if vrf and line.startswith(" vni"):
                vrfs[vrf] = vrfs.get(vrf, Vrf())._replace(vni=int(number))
            case ["exit-vrf" | "exit"] if not line.startswith(" "):
                vrf = None
            case ["bgp", "extcommunity-list", "standard", name, *_, "rt", listed] if name == MEMBERS:
                members.add(listed)
            case ["router", "bgp", _]:
                vrf, bgp = None, True
            case ["router", "bgp", _, "vrf", name]:
                vrf = name
                named.add(name)
                vrfs.setdefault(name, Vrf())
            case ["vni", number] if line.startswith("  vni"):
                vni = int(number)
                vnis[vni] = Vni()
            case ["exit-vni"]:
                vni = None
            case _ if vni is not None:
                vnis[vni] = _vni_line(vnis[vni], words)
            case _ if vrf in vrfs:
                vrfs[vrf] = _vrf_line(vrfs[vrf], words)
    given = {name: each.imports for name, each in vrfs.items()}
    vrfs = {name: each._replace(imports=each.imports & members) for name, each in vrfs.items()}
    return Running(vnis, vrfs, given, frozenset(named), frozenset(members), bgp)


def _vni_of(target: str) -> int:
    """The service that a route target belongs to (model.Identifiers)."""
    return int(target.rsplit(":", maxsplit=1)[-1]) // 256


def _slot_of(target: str) -> int:
    return int(target.rsplit(":", maxsplit=1)[-1]) % 256


def _vni_line(section: Vni, words: list[str]) -> Vni:
    match words:
        case ["rd", rd]:
            return section._replace(rd=rd)
        case ["route-target", way, *targets]:
            exports, imports = _targets(way, targets)
            return section._replace(exports=section.exports | exports, imports=section.imports | imports)
    return section


def _vrf_line(section: Vrf, words: list[str]) -> Vrf:
    match words:
        case ["bgp", "router-id", address]:
            return section._replace(router_id=address)
        case ["network", cidr]:
            return section._replace(networks=section.networks | {cidr})
        case ["rd", rd]:
            return section._replace(rd=rd)
        case ["route-target", way, *targets]:
            exports, imports = _targets(way, targets)
            return section._replace(exports=section.exports | exports, imports=section.imports | imports)
    return section


def _targets(way: str, targets: list[str]) -> tuple[frozenset[str], frozenset[str]]:
    named, none = frozenset(targets), frozenset[str]()
    return (named if way in ("export", "both") else none, named if way in ("import", "both") else none)


def _target_changes(way: str, old: frozenset[str], new: frozenset[str]) -> list[str]:
    """New targets before old ones go: a section that lacks one falls back to the automatic target."""
    lines = [f"route-target {way} {target}" for target in sorted(new - old)]
    return lines + [f"no route-target {way} {target}" for target in sorted(old - new)]


def vni_commands(asn: int, vni: int, have: Vni | None, want: Vni) -> list[str]:
    """From `configure terminal` on; empty if nothing differs."""
    before = have or Vni()
    lines = [f"rd {want.rd}"] if before.rd != want.rd else []
    lines += _target_changes("import", before.imports, want.imports)
    lines += _target_changes("export", before.exports, want.exports)
    if have is not None and not lines:
        return []
    head = [f"router bgp {asn}", "address-family l2vpn evpn", f"vni {vni}"]
    return [*head, *lines, "exit-vni", "exit-address-family", "exit"]


def drop_vni_commands(asn: int, vni: int) -> list[str]:
    return [f"router bgp {asn}", "address-family l2vpn evpn", f"no vni {vni}", "exit-address-family", "exit"]


def _family(cidr: str) -> str:
    return "ipv6" if ":" in cidr else "ipv4"


def vrf_commands(asn: int, name: str, have: Vrf | None, given: frozenset[str], want: Vrf) -> list[str]:
    """The BGP instance first, then the L3 VNI (the other order leaves the VNI without its targets).

    given: import targets that the VRF has. It may get more only while its router is down.
    """
    before = have or Vrf()
    new = _slots(want) - given if not want.imports <= given else frozenset[str]()
    evpn = [f"rd {want.rd}"] if before.rd != want.rd else []
    evpn += _target_changes("import", frozenset(), new) + _target_changes(
        "export", before.exports, want.exports
    )
    if before.router_id == UNSET:
        evpn += ["advertise ipv4 unicast", "advertise ipv6 unicast"]
    lines = [f"bgp router-id {want.router_id}"] if before.router_id != want.router_id else []
    for family in ("ipv4", "ipv6"):
        changes = [f"network {cidr}" for cidr in sorted(want.networks - before.networks)]
        changes += [f"no network {cidr}" for cidr in sorted(before.networks - want.networks)]
        changes = [line for line in changes if _family(line.split()[-1]) == family]
        if changes:
            lines += [f"address-family {family} unicast", *changes, "exit-address-family"]
    if evpn:
        lines += ["address-family l2vpn evpn", *evpn, "exit-address-family"]
    commands = [f"router bgp {asn} vrf {name}", *lines, "exit"] if lines else []
    if before.vni != want.vni:
        commands += [f"vrf {name}", f"vni {want.vni}", "exit-vrf"]
    return commands


def _slots(want: Vrf) -> frozenset[str]:
    """The targets of slot 0, which nobody exports, to the end of the last page that is needed."""
    asn = next(iter(want.exports)).split(":")[0]
    last = max(map(_slot_of, want.imports | want.exports))
    end = min((last // SLOTS_AT_ONCE + 1) * SLOTS_AT_ONCE, HIGHEST_SLOT + 1)
    return frozenset(f"{asn}:{want.vni * 256 + slot}" for slot in range(end)) - want.exports


def member_commands(have: frozenset[str], want: frozenset[str]) -> list[str]:
    """Change the list MEMBERS; it takes effect with REFRESH."""
    head = f"bgp extcommunity-list standard {MEMBERS} permit rt"
    return [f"{head} {target}" for target in sorted(want - have)] + [
        f"no {head} {target}" for target in sorted(have - want)
    ]


REFRESH = "clear bgp l2vpn evpn * soft in"


def drop_router_commands(name: str, have: Vrf | None) -> list[str]:
    """Take the L3 VNI off, which must be done before `drop_vrf_commands`."""
    return [f"vrf {name}", f"no vni {have.vni}", "exit-vrf"] if have and have.vni else []


def drop_vrf_commands(asn: int, name: str, have: Vrf | None) -> list[str]:
    """Remove the BGP instance and the members; refused (BUSY) until bgpd has seen that the VNI is off."""
    if have is None:
        return []
    commands = [f"no router bgp {asn} vrf {name}"] if have._replace(vni=0) != Vrf() else []
    return commands + member_commands(have.imports, frozenset())


BUSY = "Please unconfigure l3vni"


def parse_vrfs(text: str) -> dict[str, bool]:
    """Read `show vrf`: name -> whether it is active (its namespace is known)."""
    found = re.findall(r"^vrf (\S+) (.*)$", text, flags=re.MULTILINE)
    return {name: not rest.startswith("inactive") for name, rest in found}
