"""L3 services between real linux sites: kernel, FRR and packets."""

import os
import signal
import uuid
from collections.abc import Iterator, Sequence
from ipaddress import ip_network
from typing import Any

import linux_sites
import pytest
from linux_sites import Site, Vm, until

from diminet.errors import SiteRefused
from diminet.south.linux import names

pytestmark = pytest.mark.lab
VNI = 8193


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Site]]:
    with linux_sites.sites(tmp_path_factory.mktemp("l3"), 3) as made:
        yield made


class Net:
    """A network 10.N.0.0/24 and fdNN::/64 with a gateway and one instance."""

    def __init__(self, site: Site, number: int) -> None:
        self.site = site
        self.cidrs = [f"10.{number}.0.0/24", f"fd{number:02x}::/64"]
        gateways = [str(ip_network(cidr)[1]) for cidr in self.cidrs]
        lengths = [ip_network(cidr).prefixlen for cidr in self.cidrs]
        self.id = site.network(*zip(gateways, lengths, strict=True))
        hosts = [str(ip_network(cidr)[10]) for cidr in self.cidrs]
        self.vm = site.boot(self.id, *zip(hosts, lengths, strict=True), gateways=tuple(gateways))

    def close(self) -> None:
        self.vm.close()
        self.site.call("drop_network", self.id)


class Routed:
    """An L3 service over networks."""

    def __init__(self, nets: Sequence[Net], vni: int) -> None:
        self.service_id = str(uuid.uuid4())
        self.vni = vni
        self.nets = list(nets)

    def target(self, site: Site, nets: Sequence[Net]) -> dict[str, Any]:
        here = [net for net in nets if net.site is site]
        numbers = sorted({net.site.number for net in nets})
        return linux_sites.target(
            "l3",
            self.service_id,
            self.vni,
            site.number,
            numbers,
            networks=[net.id for net in here],
            local_cidrs=[cidr for net in here for cidr in net.cidrs],
            remote_cidrs=[cidr for net in nets if net.site is not site for cidr in net.cidrs],
        )

    def connect(self, nets: Sequence[Net] | None = None, *, only: Site | None = None) -> None:
        nets = self.nets if nets is None else nets
        for site in {net.site.number: net.site for net in nets}.values():
            if only in (None, site):
                known = {net.id: net.cidrs for net in nets if net.site is site}
                site.call("connect", self.target(site, nets), known)

    def whole(self) -> None:
        all_reach([net.vm for net in self.nets])

    def close(self) -> None:
        for site in {net.site.number: net.site for net in self.nets}.values():
            site.call("disconnect", self.service_id)


def all_reach(vms: list[Vm]) -> None:
    for one in vms:
        for two in vms:
            until(lambda one=one, two=two: one.reaches(two), f"{one.addresses} reaches {two.addresses}")


def apart(one: Vm, two: Vm) -> None:
    assert not any(one.pings(address) for address in two.addresses)
    assert not any(two.pings(address) for address in one.addresses)


@pytest.fixture
def nets(three: list[Site]) -> Iterator[list[Net]]:
    """Two networks at site 1, one at each of the others."""
    before = [site.snapshot() for site in three]
    made = [Net(three[0], 11), Net(three[0], 12), Net(three[1], 21), Net(three[2], 31)]
    clean = [site.snapshot() for site in three]
    yield made
    for site in three:
        for service_id in site.call("realised"):  # of a test that failed
            site.call("disconnect", service_id)
    linux_sites.same(clean, three)
    for net in made:
        net.close()
    linux_sites.same(before, three)


def test_every_network_reaches_every_other(nets: list[Net], three: list[Site]) -> None:
    service = Routed(nets, VNI)
    service.connect()
    service.whole()
    for site in three:
        assert site.call("realised") == {service.service_id: []}
        assert site.call("used_vnis") == [VNI]
        assert site.call("silent") == {service.service_id: []}
    assert nets[0].vm.pings(nets[2].vm.addresses[0], size=1422) == 1
    service.close()
    for site in three:
        assert site.call("realised") == {}
        assert site.call("used_vnis") == []


def test_partners_of_different_services_stay_apart(nets: list[Net]) -> None:
    """Network 11 of site 1 is in two services: with site 2, and with site 3."""
    shared, other, two, three_net = nets
    left, right = Routed([shared, two], VNI), Routed([shared, other, three_net], VNI + 1)
    for service in (left, right):
        service.connect()
    left.whole()
    right.whole()
    apart(two.vm, three_net.vm)
    apart(two.vm, other.vm)
    # not even if somebody forces a route through the shared network's gateway
    vrf = f"/run/netns/{names.vrf(left.service_id)}"
    port = names.network_port(shared.id)
    shared.site.space.sh(
        f"nsenter --net={vrf} ip route add {three_net.cidrs[0]} via 169.254.0.2 dev {port} onlink"
    )
    far = f"/run/netns/{names.vrf(left.service_id)}"
    two.site.space.sh(
        f"nsenter --net={two.site.run_dir}/ns/{names.gateway_namespace(two.id)} "
        f"ip route add {three_net.cidrs[0]} via 169.254.0.1 dev {names.service_port(left.service_id)} onlink"
    )
    two.site.space.sh(f"test -e {far}")
    apart(two.vm, three_net.vm)
    left.close()
    right.whole()
    right.close()


def test_members_come_and_go_without_loss_for_the_others(nets: list[Net]) -> None:
    one, _, two, three_net = nets
    service = Routed([one, two, three_net], VNI)
    service.connect()
    service.whole()
    with one.vm.loses_nothing(two.vm.addresses[0]), two.vm.loses_nothing(one.vm.addresses[1]):
        service.connect([one, two])  # site 3 has not heard of it yet
        until(lambda: not three_net.vm.reaches(one.vm), "the removed one is shut out")
    apart(one.vm, three_net.vm)
    with one.vm.loses_nothing(two.vm.addresses[0]):
        service.connect()
        service.whole()
    service.close()


def test_a_network_of_a_member_comes_and_goes(nets: list[Net]) -> None:
    one, second, two, _ = nets
    service = Routed([one, second, two], VNI)
    service.connect([one, two])
    all_reach([one.vm, two.vm])
    apart(one.vm, second.vm)
    with one.vm.loses_nothing(two.vm.addresses[0]):
        service.connect()
        service.whole()
        service.connect([one, two])
        until(lambda: not two.vm.reaches(second.vm), "the network is out")
    apart(one.vm, second.vm)
    service.close()


def test_what_the_document_does_not_name_is_not_reached(nets: list[Net]) -> None:
    """Site 1 exports a second network that site 2's document does not have."""
    one, second, two, _ = nets
    service = Routed([one, second, two], VNI)
    service.connect([one, two], only=two.site)
    service.connect([one, second, two], only=one.site)
    all_reach([one.vm, two.vm])
    apart(two.vm, second.vm)
    # nor one way: what it sends does not arrive
    second.vm.sh(f"ping -n -c 2 -i 0.1 -W 1 {two.vm.addresses[0]}", check=False)
    chain = two.site.space.sh(
        f"nsenter --net=/run/netns/{names.vrf(service.service_id)} nft list table inet diminet"
    )
    assert second.cidrs[0] not in chain
    service.close()


def test_killed_agent_finds_everything_again(nets: list[Net]) -> None:
    service = Routed(nets, VNI)
    service.connect()
    service.whole()
    site = nets[0].site
    site.kill_agent()
    site.start_agent()
    with nets[0].vm.loses_nothing(nets[2].vm.addresses[0]):
        assert site.call("realised") == {service.service_id: []}
        service.connect(only=site)
    service.close()


@pytest.mark.parametrize("daemon", ["bgpd", "zebra"])
def test_killed_frr_is_seen_and_repaired(nets: list[Net], daemon: str) -> None:
    service = Routed(nets, VNI)
    service.connect()
    service.whole()
    site = nets[0].site
    os.kill(site.frr.pid(daemon), signal.SIGKILL)
    until(lambda: site.call("problems"), "the site says that FRR is away")
    until(lambda: not site.call("problems"), "FRR is back")
    service.connect(only=site)
    until(lambda: site.call("realised") == {service.service_id: []}, "the service is whole")
    service.whole()
    service.close()


def test_damage_is_reported_and_repaired(nets: list[Net]) -> None:
    one, _, two, _ = nets
    service = Routed([one, two], VNI)
    service.connect()
    service.whole()
    vrf = f"/run/netns/{names.vrf(service.service_id)}"
    one.site.space.sh(f"nsenter --net={vrf} ip link del {names.network_port(one.id)}")
    problems = one.site.call("realised")[service.service_id]
    assert [f"the local network {cidr} is cut off" for cidr in sorted(one.cidrs)] == problems
    service.connect(only=one.site)
    service.whole()
    one.site.space.sh(f"nsenter --net={vrf} ip link del {names.vxlan(VNI)}")
    assert "its tunnel is missing" in one.site.call("realised")[service.service_id]
    service.connect(only=one.site)
    service.whole()
    one.site.space.sh(f"umount -l {vrf} && rm {vrf}")
    assert "its namespace is gone" in one.site.call("realised")[service.service_id]
    service.connect(only=one.site)
    service.whole()
    service.close()


def test_a_network_without_gateway_is_refused(three: list[Site]) -> None:
    site = three[0]
    before = site.snapshot()
    network = site.network()
    service_id = str(uuid.uuid4())
    target = linux_sites.target(
        "l3", service_id, VNI, 1, [1, 2], networks=[network], local_cidrs=["10.9.0.0/24"]
    )
    with pytest.raises(SiteRefused, match="has no gateway"):
        site.call("connect", target, {network: ["10.9.0.0/24"]})
    site.call("disconnect", service_id)
    site.call("drop_network", network)
    linux_sites.same([before], [site])


def test_a_member_with_a_high_slot_joins(nets: list[Net]) -> None:
    """Slots come in pages; the service is whole again after the next page was taken."""
    one, _, two, three_net = nets
    service = Routed([one, two], VNI)
    service.connect()
    service.whole()
    high = linux_sites.route_target(VNI, 40)
    for net in (one, two):
        here = service.target(net.site, [one, two, three_net])
        here["import_targets"] = [target for target in here["import_targets"] if not target.endswith("3")]
        here["import_targets"].append(high)
        net.site.call("connect", here, {net.id: net.cidrs})
    there = service.target(three_net.site, [one, two, three_net])
    three_net.site.call("connect", {**there, "export_target": high}, {three_net.id: three_net.cidrs})
    all_reach([one.vm, two.vm, three_net.vm])
    service.close()
    three_net.site.call("disconnect", service.service_id)
