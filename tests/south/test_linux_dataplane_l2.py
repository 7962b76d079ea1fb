"""L2 services between real linux sites: kernel, FRR and packets."""

import contextlib
import os
import re
import signal
import sys
import uuid
from collections.abc import Iterator
from typing import Any

import linux_sites
import pytest
from linux_sites import Site, Vm, until

from diminet.south.linux import names

pytestmark = pytest.mark.lab
VNI = 4097


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Site]]:
    with linux_sites.sites(tmp_path_factory.mktemp("l2"), 3) as made:
        yield made


class Stretched:
    """One L2 service over the sites, an instance at each."""

    def __init__(self, sites: list[Site], *, shared: bool = False, vni: int = VNI) -> None:
        self.service_id = str(uuid.uuid4())
        self.vni = vni
        self.sites = sites
        self.shared = shared
        self.before = [site.snapshot() for site in sites]
        self.networks: list[str] = []
        self.vms: list[Vm] = []
        for site in sites:
            host = 1 if shared else site.number
            self.networks.append(site.network((f"10.7.0.{host}", 24), (f"fd07::{host}", 64)))
        self.clean = [site.snapshot() for site in sites]
        self.connect([site.number for site in sites])
        for site, network in zip(sites, self.networks, strict=True):
            self.vms.append(self.boot(site, network, 10 + site.number))

    def boot(self, site: Site, network: str, host: int) -> Vm:
        gateway = 1 if self.shared else site.number
        return site.boot(
            network,
            (f"10.7.0.{host}", 24),
            (f"fd07::{host}", 64),
            gateways=(f"10.7.0.{gateway}", f"fd07::{gateway}"),
        )

    def target(self, number: int, numbers: list[int]) -> dict[str, Any]:
        network = self.networks[[site.number for site in self.sites].index(number)]
        return linux_sites.target(
            "l2",
            self.service_id,
            self.vni,
            number,
            numbers,
            networks=[network],
            anycast_gateway=self.shared,
        )

    def connect(self, numbers: list[int]) -> None:
        for site in self.sites:
            if site.number in numbers:
                site.call("connect", self.target(site.number, numbers), {self.network(site): []})

    def network(self, site: Site) -> str:
        return self.networks[self.sites.index(site)]

    def all_reach(self) -> None:
        for one in self.vms:
            for two in self.vms:
                until(lambda one=one, two=two: one.reaches(two), f"{one.addresses} reaches {two.addresses}")

    def close(self) -> None:
        for vm in self.vms:
            vm.close()
        for site in self.sites:
            site.call("disconnect", self.service_id)
        linux_sites.same(self.clean, self.sites)
        for site in self.sites:
            site.call("drop_network", self.network(site))
        linux_sites.same(self.before, self.sites)


def test_stretched_over_three_sites(three: list[Site]) -> None:
    service = Stretched(three)
    service.all_reach()
    for site in three:
        assert site.call("realised") == {service.service_id: []}
        assert site.call("used_vnis") == [VNI]
    service.close()
    for site in three:
        assert site.call("realised") == {}


@pytest.fixture
def service(three: list[Site]) -> Iterator[Stretched]:
    made = Stretched(three)
    made.all_reach()
    yield made
    made.close()


def counted(vm: Vm, rule: str, family: str = "inet") -> "Counter":
    return Counter(vm, rule, family)


class Counter:
    """Counts the packets that arrive at an instance and fit a rule of nftables."""

    def __init__(self, vm: Vm, rule: str, family: str) -> None:
        self._vm, self._family = vm, family
        chain = f"chain input {{ type filter hook input priority 0; {rule} counter; }}"
        vm.sh(f"nft 'table {family} seen {{ {chain} ; }}'")

    def packets(self) -> int:
        found = re.search(r"counter packets (\d+)", self._vm.sh(f"nft list table {self._family} seen"))
        assert found
        return int(found[1])


def python(vm: Vm, source: str) -> None:
    vm.sh(f"{sys.executable} -c '{source}'")


def test_a_member_leaves_without_loss_for_the_others(service: Stretched) -> None:
    one, two, three_vm = service.vms
    with one.loses_nothing(two.addresses[0]), one.loses_nothing(two.addresses[1]):
        service.connect([1, 2])  # site 3 has not heard of it yet
        until(lambda: not three_vm.reaches(one), "the one that was removed is shut out")
    assert not one.reaches(three_vm)
    assert not two.reaches(three_vm)
    with one.loses_nothing(two.addresses[0]):
        service.connect([1, 2, 3])
        service.all_reach()


def test_what_is_known_is_answered_here(service: Stretched) -> None:
    one, two, _ = service.vms
    arp, nd = counted(two, "arp operation request", "arp"), counted(two, "icmpv6 type nd-neighbor-solicit")
    for _ in range(3):
        one.sh("ip neigh flush all")
        assert one.reaches(two)
    assert arp.packets() == 0
    assert nd.packets() == 0


def test_hosts_hear_that_an_address_has_moved(service: Stretched) -> None:
    """Without a word they would send to the old MAC until their caches give it up."""
    one, two, _ = service.vms
    moving = service.boot(two.site, two.network_id, 50)
    until(lambda: one.reaches(moving), "the instance answers")
    for site in (service.sites[2], service.sites[0]):
        moving.close()
        moving = service.boot(site, service.network(site), 50)
        for address in moving.addresses:
            until(
                lambda address=address, mac=moving.mac: mac in one.sh(f"ip neigh show {address}"),
                f"{address} is known to be at site {site.number} now",
            )
    moving.close()


@contextlib.contextmanager
def dropped(site: Site, rule: str) -> Iterator[None]:
    """Frames that fit the rule of nftables do not get through the WAN."""
    chain = f"chain forward {{ type filter hook forward priority 0; {rule} drop; }}"
    site.wan.space.sh(f"nft 'table bridge cut {{ {chain} ; }}'")
    try:
        yield
    finally:
        site.wan.space.sh("nft delete table bridge cut")


def silent(service: Stretched, site: Site) -> list[str]:
    said: list[str] = site.call("silent")[service.service_id]
    return said


def test_a_cut_of_the_tunnels_alone_is_seen(service: Stretched) -> None:
    """BGP goes on all the while."""
    one, two, three = service.sites
    for site in service.sites:
        until(lambda site=site: silent(service, site) == [], f"site {site.number} hears all others")
    with dropped(one, f"ip saddr {one.vtep} ip daddr {two.vtep} udp dport 4789"):
        for site, other in ((one, two), (two, one)):
            (said,) = silent(service, site)
            assert said.startswith(f"site number {other.number} ({other.vtep}) does not answer")
        assert silent(service, three) == []
        assert one.call("realised") == {service.service_id: []}
    assert silent(service, one) == []


def test_a_site_of_which_bgp_is_silent_is_named(service: Stretched) -> None:
    one, two, _ = service.sites
    os.kill(two.frr.pid("bgpd"), signal.SIGSTOP)
    try:
        until(lambda: bool(silent(service, one)), "its routes are gone", 60)
        (said,) = silent(service, one)
        assert said.startswith(f"site number 2 ({two.vtep}) is not announced by BGP")
    finally:
        os.kill(two.frr.pid("bgpd"), signal.SIGCONT)
    until(lambda: silent(service, one) == [], "it is announced again", 60)
    service.all_reach()


def test_chatter_stays_off_the_tunnel(service: Stretched) -> None:
    one, two, _ = service.vms
    ra = counted(two, "icmpv6 type nd-router-advert")
    python(
        one,
        "import socket as s;k=s.socket(s.AF_INET6,s.SOCK_RAW,58);"
        f'k.setsockopt(s.SOL_SOCKET,25,b"{names.port_inside(one.port_id)}");'
        "k.setsockopt(41,18,255);"
        '[k.sendto(bytes([134]+[0]*15),("ff02::1",0)) for _ in range(3)]',
    )
    assert ra.packets() == 0
    two.sh("nft delete table inet seen")
    dhcp = counted(two, "udp dport { 67, 5000 }")
    for port, expected in ((67, 0), (5000, 3)):  # what is not chatter does cross
        python(
            one,
            "import socket as s;k=s.socket(s.AF_INET,s.SOCK_DGRAM);"
            "k.setsockopt(s.SOL_SOCKET,s.SO_BROADCAST,1);"
            f'[k.sendto(b"x",("10.7.0.255",{port})) for _ in range(3)]',
        )
        until(lambda expected=expected: dhcp.packets() == expected, f"{expected} broadcasts arrive")


def test_mtu_is_right_end_to_end(service: Stretched) -> None:
    one, two, _ = service.vms
    assert one.pings(two.addresses[0], size=1422) == 1
    assert one.pings(two.addresses[0], size=1423) == 0
    assert one.pings(two.addresses[1], size=1402) == 1


def test_a_forged_sender_is_not_let_in(service: Stretched) -> None:
    """VXLAN from a VTEP that is not a member, with the right VNI."""
    one = service.vms[0]
    service.connect([1, 2])
    seen = counted(one, "arp saddr ip 10.7.0.99", "arp")
    source = (
        "import socket as s,sys;"
        'eth=bytes.fromhex("ffffffffffff02000000009908060001080006040001020000000099"'
        '"0a070063" "000000000000" "0a07000b");'
        f'packet=bytes.fromhex("0800000000{VNI:04x}00")+eth;'
        "k=s.socket(s.AF_INET,s.SOCK_DGRAM);"
        '[k.sendto(packet,("10.99.0.1",4789)) for _ in range(3)]'
    )
    for site, expected in ((service.sites[2], 0), (service.sites[1], 3)):
        site.space.sh(f"{sys.executable} -c '{source}'")
        until(lambda expected=expected: seen.packets() == expected, f"{expected} forged packets")
    service.connect([1, 2, 3])


def test_killed_agent_finds_everything_again(service: Stretched) -> None:
    site = service.sites[0]
    site.kill_agent()
    site.start_agent()
    with service.vms[0].loses_nothing(service.vms[1].addresses[0]):
        assert site.call("realised") == {service.service_id: []}
        site.call("connect", service.target(1, [1, 2, 3]), {service.networks[0]: []})


def test_what_a_removal_left_that_was_killed_half_way_is_swept(service: Stretched) -> None:
    site = service.sites[0]
    site.kill_agent()
    site.space.sh(f"ip link del {names.vxlan(VNI)}")
    assert f"vni{VNI}" in site.space.sh("nft list table inet diminet")
    site.start_agent()
    assert f"vni{VNI}" not in site.space.sh("nft list table inet diminet")
    service.connect([1, 2, 3])
    service.all_reach()


def test_a_tunnel_at_whose_making_we_were_killed_is_removed(service: Stretched) -> None:
    site = service.sites[0]
    site.kill_agent()
    site.space.sh("ip link add vx77 type vxlan id 77 local 192.0.2.1 dstport 4789 nolearning")
    site.start_agent()
    assert "vx77" not in site.space.sh("ip -o link")
    assert names.vxlan(VNI) in site.space.sh("ip -o link")
    service.all_reach()


@pytest.mark.parametrize("daemon", ["bgpd", "zebra"])
def test_killed_frr_is_seen_and_repaired(service: Stretched, daemon: str) -> None:
    site = service.sites[0]
    os.kill(site.frr.pid(daemon), signal.SIGKILL)
    until(lambda: site.call("problems"), "the site says that FRR is away")
    until(lambda: not site.call("problems"), "FRR is back")
    site.call("connect", service.target(1, [1, 2, 3]), {service.networks[0]: []})
    until(lambda: site.call("realised") == {service.service_id: []}, "the service is whole")
    service.all_reach()


def configure_frr(site: Site, *commands: str) -> None:
    directory = f"/run/frr/{site.frr.pathspace}"
    said = ("conf t", "router bgp 65000", "address-family l2vpn evpn", *commands)
    words = " ".join(f'-c "{command}"' for command in said)
    site.space.sh(f"vtysh --vty_socket {directory} --config_dir {directory} {words}")


TUNNEL = names.vxlan(VNI)
DAMAGE = {
    f"ip link del {TUNNEL}": None,  # then the service is not there at all, which the engine tells
    f"ip link set {TUNNEL} down": f"the tunnel {TUNNEL} is down",
    f"ip link set {TUNNEL} nomaster": f"the tunnel {TUNNEL} is not in a network's bridge",
    "ip link set {bridge} down": "the bridge {bridge} is down",
    f"nft flush chain inet diminet vni{VNI}": "somebody has changed who may send into its tunnel",
    "nft flush ruleset": "somebody has changed who may send into its tunnel",  # of a firewall loaded anew
}


def test_damage_is_reported_and_repaired(service: Stretched) -> None:
    site, target = service.sites[0], service.target(1, [1, 2, 3])
    bridge, filters = names.bridge(service.networks[0]), site.space.sh("nft list ruleset")
    for command, problem in DAMAGE.items():
        site.space.sh(command.format(bridge=bridge))
        said = site.call("realised")
        if problem is None:
            assert service.service_id not in said
        else:
            assert any(one.startswith(problem.format(bridge=bridge)) for one in said[service.service_id])
        site.call("connect", target, {service.networks[0]: []})
        assert site.call("realised") == {service.service_id: []}, command
        assert site.space.sh("nft list ruleset") == filters
    for section, problem in (
        ((f"vni {VNI}", "route-target import 1:1"), "FRR's configuration of it was changed"),
        ((f"no vni {VNI}",), f"FRR has lost its configuration (VNI {VNI})"),
    ):
        configure_frr(site, *section)
        assert site.call("realised") == {service.service_id: [problem]}
        site.call("connect", target, {service.networks[0]: []})
        assert site.call("realised") == {service.service_id: []}
    service.all_reach()


def test_shared_gateway_stays_at_each_site(three: list[Site]) -> None:
    service = Stretched(three, shared=True, vni=VNI + 1)
    service.all_reach()
    for vm, site in zip(service.vms, three, strict=True):
        assert vm.pings("10.7.0.1", count=3) == 3
        assert vm.pings("fd07::1", count=3) == 3
        assert linux_sites.anycast(vm, "10.7.0.1")
        entries = site.space.sh(f"bridge fdb show | grep {names.ANYCAST_MAC}")
        assert "vx" not in entries
    service.close()


def test_same_addresses_of_two_services_do_not_meet(service: Stretched, three: list[Site]) -> None:
    other = Stretched(three[:2], vni=VNI + 2)
    other.all_reach()
    twin = other.boot(three[1], other.networks[1], 13)  # the address that site 3 has in the first service
    assert service.vms[0].reaches(service.vms[2])
    until(lambda: other.vms[0].reaches(twin), "the other service has its own 10.7.0.13")
    twin.close()
    other.close()
