"""What is written to FRR and read from it."""

from hypothesis import given
from hypothesis import strategies as st

from diminet.south.linux import frr_config
from diminet.south.linux.frr_config import Vni, Vrf, parse_running

RUNNING = """Building configuration...

Current configuration:
!
frr version 8.4.4
hostname lyon
!
vrf v94bd524c39f94f7aa7d06439088bc848
 vni 8193
 netns /run/netns/v94bd524c39f94f7aa7d06439088bc848
exit-vrf
!
vrf v00000000000000000000000000000001
exit-vrf
!
router bgp 65000
 bgp router-id 10.99.0.1
 neighbor 10.99.0.250 peer-group PEERS
 !
 address-family l2vpn evpn
  neighbor PEERS activate
  advertise-all-vni
  vni 4097
   rd 1:4097
   route-target import 64999:1048832
   route-target import 64999:1048834
   route-target export 64999:1048833
  exit-vni
  vni 4098
   rd 1:4098
   route-target both 64999:1049089
  exit-vni
 exit-address-family
exit
!
router bgp 65000 vrf v94bd524c39f94f7aa7d06439088bc848
 bgp router-id 10.99.0.1
 !
 address-family ipv4 unicast
  network 10.11.0.0/24
 exit-address-family
 !
 address-family ipv6 unicast
  network fd0b::/64
 exit-address-family
 !
 address-family l2vpn evpn
  advertise ipv4 unicast
  advertise ipv6 unicast
  rd 1:8193
  route-target import 64999:2097408
  route-target import 64999:2097410
  route-target export 64999:2097409
 exit-address-family
exit
!
bgp extcommunity-list standard MEMBERS seq 5 permit rt 64999:2097410
bgp extcommunity-list standard MEMBERS seq 10 permit rt 64999:9999999
bgp extcommunity-list expanded AUTOMATIC seq 5 permit RT:65000:
!
route-map TUNNEL-IN permit 30
 match evpn route-type prefix
 match extcommunity MEMBERS
exit
!
end
"""
NAME = "v94bd524c39f94f7aa7d06439088bc848"
ASN = 65000


def target(vni: int, slot: int) -> str:
    return f"64999:{vni * 256 + slot}"


def test_a_running_configuration_is_read() -> None:
    running = parse_running(RUNNING)
    assert running.bgp
    assert running.vnis[4097] == Vni(
        "1:4097", frozenset({"64999:1048833"}), frozenset({"64999:1048832", "64999:1048834"})
    )
    assert running.vnis[4098].exports == running.vnis[4098].imports == {"64999:1049089"}
    assert running.vrfs == {
        NAME: Vrf(
            8193,
            "10.99.0.1",
            "1:8193",
            frozenset({"64999:2097409"}),
            frozenset({"64999:2097410"}),
            frozenset({"10.11.0.0/24", "fd0b::/64"}),
        )
    }
    assert running.named == {NAME, "v00000000000000000000000000000001"}
    assert running.stray_members() == {"64999:9999999"}


def test_without_bgpd_nothing_is_taken_for_configured() -> None:
    assert not parse_running("Building configuration...\n!\nhostname x\nend\n").bgp


slots = st.frozensets(st.integers(1, 250), min_size=1, max_size=6)


def section(wanted: frozenset[int], rd: str) -> Vni:
    first, *others = sorted(wanted)
    imports = frozenset(target(4097, slot) for slot in others) | {target(4097, 0)}
    return Vni(rd, frozenset({target(4097, first)}), imports)


def rendered(vni: int, commands: list[str], before: Vni | None) -> Vni | None:
    """What FRR makes of the commands: its own format, read back."""
    rd = before.rd if before else ""
    have = (
        {"import": set(before.imports), "export": set(before.exports)}
        if before
        else {"import": set(), "export": set()}
    )
    for line in commands:
        match line.split():
            case ["rd", value]:
                rd = value
            case ["route-target", way, value]:
                have[way].add(value)
            case ["no", "route-target", way, value]:
                have[way].remove(value)
                assert have[way], "falls back to the automatic target"
    lines = ["router bgp 65000", " address-family l2vpn evpn", f"  vni {vni}", f"   rd {rd}"]
    lines += [f"   route-target {way} {value}" for way, values in have.items() for value in values]
    return parse_running("\n".join([*lines, "  exit-vni", " exit-address-family", "exit"])).vnis.get(vni)


@given(st.none() | slots, slots)
def test_a_vni_section_is_changed_into_the_wanted_one(
    old: frozenset[int] | None, new: frozenset[int]
) -> None:
    have = section(old, "1:4097") if old else None
    want = section(new, "1:4097")
    commands = frr_config.vni_commands(ASN, 4097, have, want)
    assert rendered(4097, commands, have) == want
    assert frr_config.vni_commands(ASN, 4097, want, want) == []


def vrf(members: frozenset[int], networks: frozenset[str]) -> Vrf:
    own, *others = sorted(members)
    imports = frozenset(target(8193, slot) for slot in others)
    return Vrf(8193, "10.99.0.1", "1:8193", frozenset({target(8193, own)}), imports, networks)


cidrs = st.frozensets(st.sampled_from(["10.1.0.0/24", "10.2.0.0/24", "fd01::/64", "fd02::/64"]))


@given(slots, slots, cidrs, cidrs)
def test_members_of_a_vrf_change_without_touching_its_import_targets(
    old: frozenset[int], new: frozenset[int], networks: frozenset[str], later: frozenset[str]
) -> None:
    have, want = vrf(old, networks), vrf(new, later)
    want = want._replace(exports=have.exports, imports=want.imports - have.exports)
    everything = frozenset(target(8193, slot) for slot in range(251))
    commands = frr_config.vrf_commands(ASN, NAME, have, everything, want)
    assert not [line for line in commands if "route-target" in line or "vni" in line.split()]


@given(slots, cidrs)
def test_a_new_vrf_is_given_room_for_all_its_members(
    members: frozenset[int], networks: frozenset[str]
) -> None:
    want = vrf(members, networks)
    commands = frr_config.vrf_commands(ASN, NAME, None, frozenset(), want)
    taken = {line.split()[-1] for line in commands if line.startswith("route-target import")}
    assert want.imports <= taken
    assert not want.exports & taken
    assert commands[-2] == f"vni {want.vni}", "the L3 VNI comes last"
    assert not [line for line in frr_config.vrf_commands(ASN, NAME, want, frozenset(taken), want) if line]


@given(slots, slots)
def test_the_list_of_members_is_changed_by_its_difference(old: frozenset[int], new: frozenset[int]) -> None:
    have = {target(8193, slot) for slot in old}
    want = frozenset(target(8193, slot) for slot in new)
    for line in frr_config.member_commands(frozenset(have), want):
        (have.remove if line.startswith("no ") else have.add)(line.split()[-1])
    assert have == want


def test_a_vrf_is_removed_with_its_members() -> None:
    have = vrf(frozenset({1, 2}), frozenset())
    assert frr_config.drop_router_commands(NAME, have) == [f"vrf {NAME}", "no vni 8193", "exit-vrf"]
    assert frr_config.drop_vrf_commands(ASN, NAME, have) == [
        f"no router bgp {ASN} vrf {NAME}",
        f"no bgp extcommunity-list standard MEMBERS permit rt {target(8193, 2)}",
    ]
    assert frr_config.drop_vrf_commands(ASN, NAME, None) == []


def test_vrfs_are_read() -> None:
    text = "netns-based vrfs\nvrf a id 5 netns /run/netns/a (configured)\nvrf b inactive (configured)\n"
    assert frr_config.parse_vrfs(text) == {"a": True, "b": False}


def test_digests_differ_with_every_part() -> None:
    one = section(frozenset({1, 2, 3}), "1:4097")
    others = [
        one._replace(rd="2:4097"),
        one._replace(imports=frozenset()),
        section(frozenset({2, 3}), one.rd),
    ]
    assert len({section.digest() for section in (one, *others)}) == 4
