"""The linux site as a South: what DIMINET makes and changes, and that it is found and put back."""

import asyncio

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from diminet.errors import NetworkNotFound, SiteRefused
from diminet.model import AddressRange, SubnetShape, Target
from diminet.south.linux import names
from diminet.south.linux.linux import LinuxSouth
from diminet.south.linux.vim_errors import InUse
from diminet.south.linux.vim_requests import NetworkCreate, PortCreate, SubnetCreate, SubnetUpdate

SERVICE = "6a1f3c1e-0000-4000-8000-000000000001"
OTHER = "6a1f3c1e-0000-4000-8000-000000000002"
CIDR = "10.1.0.0/24"


def shape(first, last, gateway="10.1.0.1", cidr=CIDR):
    version = 6 if ":" in cidr else 4
    pools = (AddressRange(first, last),) if first else ()
    return SubnetShape(cidr=cidr, ip_version=version, gateway_ip=gateway, pools=pools)


def target(*networks, service=SERVICE, layer="l2", **fields):
    return Target(
        service_id=service,
        project_id="blue",
        layer=layer,
        vni=28673,
        export_target="64999:7340289",
        import_targets=("64999:7340290",),
        networks=networks,
        **fields,
    )


def with_south(site, work):
    async def run():
        async with site.vim() as vim:
            await work(vim, LinuxSouth(vim, site.dataplane))

    asyncio.run(asyncio.wait_for(run(), 60))


async def tenants_network(vim, site):
    network = await vim.create_network(site.tenant, NetworkCreate(name="web"))
    subnet = await vim.create_subnet(site.tenant, SubnetCreate(network_id=network.id, cidr=CIDR))
    return network, subnet


def test_facts(site):
    async def work(vim, south):
        network, subnet = await tenants_network(vim, site)
        port = await vim.create_port(site.tenant, PortCreate(network_id=network.id))
        facts = await south.network(network.id)
        assert (facts.name, facts.project_id, facts.mtu, facts.ours) == ("web", "blue", 1450, None)
        assert facts.subnets[0].subnet_id == subnet.id
        assert facts.subnets[0].pools == (AddressRange("10.1.0.2", "10.1.0.254"),)
        ports = {p.ip: p for p in await south.ports(network.id)}
        assert ports["10.1.0.1"].infrastructure
        assert ports["10.1.0.1"].mac == names.gateway_mac(site.number, network.id)
        assert ports["10.1.0.2"].mac == port.mac
        assert not ports["10.1.0.2"].infrastructure
        capabilities = await south.capabilities()
        assert (capabilities.kind, capabilities.shared_gateway, capabilities.mtu) == ("linux", True, 1450)
        with pytest.raises(NetworkNotFound):
            await south.network("nothing")
        with pytest.raises(NetworkNotFound):
            await south.ports("nothing")

    with_south(site, work)


def test_a_made_network_is_the_same_again_and_found_after_loss(site):
    async def work(vim, south):
        first = await south.make_network(SERVICE, "blue", "web", "here")
        assert await south.make_network(SERVICE, "blue", "web", "here") == first
        assert await south.make_network(OTHER, "blue", "web", "here") != first
        assert (await south.network(first)).ours == SERVICE
        assert [(r.service_id, r.key, r.made) for r in await south.remains() if r.network_id == first] == [
            (SERVICE, "here", True)
        ]
        assert (await vim.network(site.tenant, first)).project_id == "blue"
        for attempt in (
            vim.delete_network(site.tenant, first),
            vim.create_subnet(site.tenant, SubnetCreate(network_id=first, cidr="10.7.0.0/24")),
        ):
            with pytest.raises(InUse):
                await attempt
        assert await south.drop_network(first)
        assert await south.drop_network(first)
        assert first not in site.kernel.bridge_mtu
        assert {r.service_id for r in await south.remains()} == {OTHER}
        assert await south.make_network(SERVICE, "blue", "web", "here") != first

    with_south(site, work)


def test_a_made_network_with_a_tenants_port_stays_with_the_tenant(site):
    async def work(vim, south):
        network = await south.make_network(SERVICE, "blue", "web", "here")
        await south.shape_subnet(network, shape("10.1.0.8", "10.1.0.15", gateway="10.1.0.8"))
        port = await vim.create_port(site.tenant, PortCreate(network_id=network))
        assert port.fixed_ips[0].ip == "10.1.0.9"  # the gateway is never given, though in a pool
        assert not await south.drop_network(network)
        assert await south.remains() == ()
        subnet = (await vim.subnets(site.tenant))[0]
        await vim.update_subnet(
            site.tenant,
            subnet.id,
            SubnetUpdate(allocation_pools=[{"start": "10.1.0.20", "end": "10.1.0.30"}]),
        )
        await vim.delete_port(site.tenant, port.id)
        await vim.delete_network(site.tenant, network)

    with_south(site, work)


def test_shaping_binds_the_tenant_until_what_was_there_is_back(site):
    async def work(vim, south):
        network, subnet = await tenants_network(vim, site)
        before = (await south.network(network.id)).subnets[0]
        await south.shape_subnet(network.id, shape("10.1.0.64", "10.1.0.127"))
        port = await vim.create_port(site.tenant, PortCreate(network_id=network.id))
        assert port.fixed_ips[0].ip == "10.1.0.64"
        outside = PortCreate(network_id=network.id, fixed_ips=[{"ip_address": "10.1.0.200"}])
        inside = PortCreate(network_id=network.id, fixed_ips=[{"ip_address": "10.1.0.100"}])
        with pytest.raises(InUse, match="shared with other sites"):
            await vim.create_port(site.tenant, outside)
        assert (await vim.create_port(site.tenant, inside)).fixed_ips[0].ip == "10.1.0.100"
        own_mac = PortCreate(network_id=network.id, mac_address="52:54:00:00:00:01")
        for attempt in (
            vim.create_port(site.tenant, own_mac),
            vim.update_subnet(site.tenant, subnet.id, SubnetUpdate(allocation_pools=[])),
            vim.update_subnet(site.tenant, subnet.id, SubnetUpdate(gateway_ip="10.1.0.3")),
            vim.create_subnet(site.tenant, SubnetCreate(network_id=network.id, cidr="10.7.0.0/24")),
        ):
            with pytest.raises(InUse):
                await attempt
        await south.connect(target(network.id))
        await south.shape_subnet(network.id, shape("10.1.0.64", "10.1.0.191"))
        # put back in either order of the two
        original = SubnetShape(cidr=CIDR, ip_version=4, gateway_ip=before.gateway_ip, pools=before.pools)
        await south.shape_subnet(network.id, original)
        with pytest.raises(InUse):
            await vim.create_port(site.tenant, own_mac)
        await south.disconnect(SERVICE)
        assert (await south.network(network.id)).subnets[0] == before
        assert (await vim.create_port(site.tenant, outside)).fixed_ips[0].ip == "10.1.0.200"
        await vim.create_port(site.tenant, own_mac)

    with_south(site, work)


def test_a_subnet_is_put_back_only_while_it_is_there(site):
    async def work(vim, south):
        network, subnet = await tenants_network(vim, site)
        await south.shape_subnet(network.id, shape("10.1.0.64", "10.1.0.127"), make=False)
        assert (await south.network(network.id)).subnets[0].pools == (("10.1.0.64", "10.1.0.127"),)
        await south.shape_subnet(network.id, shape("10.1.0.2", "10.1.0.254", gateway="10.1.0.1"))
        await vim.delete_subnet(site.tenant, subnet.id)
        await south.shape_subnet(network.id, shape("10.1.0.64", "10.1.0.127"), make=False)
        assert (await south.network(network.id)).subnets == ()

    with_south(site, work)


def test_gateways_are_changed_removed_and_reach_the_instances(site):
    async def work(vim, south):
        network, _ = await tenants_network(vim, site)
        port = await vim.create_port(site.tenant, PortCreate(network_id=network.id))
        await south.shape_subnet(network.id, shape("10.1.0.64", "10.1.0.127", gateway="10.1.0.64"))
        assert site.kernel.gateway[network.id][0] == (("10.1.0.64", 24),)
        assert site.kernel.plugged[port.id]["gateways"] == ["10.1.0.64"]
        v6 = shape("fd00::10", "fd00::ffff:ffff", gateway="fd00::10", cidr="fd00::/64")
        await south.shape_subnet(network.id, v6)
        assert len(site.kernel.gateway[network.id][0]) == 2
        dual = await vim.create_port(site.tenant, PortCreate(network_id=network.id))
        assert [a.ip for a in dual.fixed_ips] == ["10.1.0.65", "fd00::11"]
        await south.shape_subnet(network.id, shape("10.1.0.64", "10.1.0.127", gateway=None))
        await south.shape_subnet(network.id, shape("fd00::10", "fd00::20", gateway=None, cidr="fd00::/64"))
        assert network.id not in site.kernel.gateway
        assert site.kernel.plugged[dual.id]["gateways"] == []
        for bad in (
            shape("10.1.0.64", "10.1.0.127", gateway=port.fixed_ips[0].ip),
            shape("10.1.0.64", "10.1.0.127", gateway="10.2.0.1"),
            shape("10.1.0.64", "10.1.1.127"),
            shape(None, None, cidr="10.1.0.0/25"),
        ):
            with pytest.raises(SiteRefused):
                await south.shape_subnet(network.id, bad)
        with pytest.raises(NetworkNotFound):
            await south.shape_subnet("nothing", shape("10.1.0.64", "10.1.0.127"))

    with_south(site, work)


def test_a_gateway_that_the_kernel_refused_comes_with_the_repetition(site):
    async def work(vim, south):
        network, _ = await tenants_network(vim, site)
        moved = shape("10.1.0.64", "10.1.0.127", gateway="10.1.0.64")
        site.kernel.refuse = {"set_gateway"}
        with pytest.raises(SiteRefused):
            await south.shape_subnet(network.id, moved)
        site.kernel.refuse = set()
        await south.shape_subnet(network.id, moved)
        assert site.kernel.gateway[network.id][0] == (("10.1.0.64", 24),)

    with_south(site, work)


def test_no_port_outside_the_pools_once_shaping_has_returned(site):
    async def work(vim, south):
        network, _ = await tenants_network(vim, site)
        request = PortCreate(network_id=network.id)

        async def narrowed():
            await south.shape_subnet(network.id, shape("10.1.0.128", "10.1.0.191"))
            return {p.ip for p in await south.ports(network.id)}

        results = await asyncio.gather(
            *[vim.create_port(site.tenant, request) for _ in range(10)],
            narrowed(),
            *[vim.create_port(site.tenant, request) for _ in range(30)],
        )
        seen = results[10]
        for port in results[:10] + results[11:]:
            ip = port.fixed_ips[0].ip
            assert ip in seen or 128 <= int(ip.rpartition(".")[2]) <= 191

    with_south(site, work)


def test_connecting_sets_the_mtu_of_our_networks_only(site):
    async def work(vim, south):
        mine, _ = await tenants_network(vim, site)
        ours = await south.make_network(SERVICE, "blue", "web", "here")
        await south.shape_subnet(ours, shape("10.1.0.8", "10.1.0.15"))
        await south.connect(target(ours, mtu=1400))
        assert site.kernel.bridge_mtu[ours] == (await south.network(ours)).mtu == 1400
        await south.connect(target(mine.id, service=OTHER, layer="l3", mtu=1400))
        assert site.kernel.bridge_mtu[mine.id] == 1450
        given_target, infos = site.dataplane.targets[SERVICE]
        assert given_target.networks == (ours,)
        assert (infos[ours].mtu, infos[ours].cidrs) == (1400, (CIDR,))
        with pytest.raises(InUse, match="inter-site service"):
            await vim.delete_network(site.tenant, mine.id)
        await south.disconnect(OTHER)
        await vim.delete_network(site.tenant, mine.id)

    with_south(site, work)


def test_the_shared_gateway_is_told_with_its_mac(site):
    async def work(vim, south):
        network, _ = await tenants_network(vim, site)
        await south.connect(target(network.id, anycast_gateway=True))
        assert (await south.ports(network.id))[0].mac == names.ANYCAST_MAC
        await south.disconnect(SERVICE)
        assert (await south.ports(network.id))[0].mac == names.gateway_mac(site.number, network.id)

    with_south(site, work)


def test_routing_needs_a_gateway(site):
    async def work(vim, south):
        network = await vim.create_network(site.tenant, NetworkCreate())
        with pytest.raises(SiteRefused, match="gateway"):
            await south.connect(target(network.id, layer="l3"))
        with pytest.raises(NetworkNotFound):
            await south.connect(target("nothing"))
        assert await south.realised() == {}

    with_south(site, work)


def test_health_names_what_is_missing(site):
    async def work(vim, south):
        network, _ = await tenants_network(vim, site)
        site.dataplane.refuse = True
        with pytest.raises(SiteRefused):
            await south.connect(target(network.id))
        health = await south.realised()
        assert health[SERVICE].problems == ("the service has no data plane at this site",)
        site.dataplane.refuse = False
        await south.connect(target(network.id))
        assert (await south.realised())[SERVICE].problems == ()
        site.kernel.reboot()
        assert "bridge" in (await south.realised())[SERVICE].problems[0]
        assert await south.problems() == ()
        await south.disconnect(SERVICE)
        await south.disconnect(SERVICE)
        assert await south.realised() == {}

    with_south(site, work)


@pytest.mark.parametrize("what", ["bridge", "gateway"])
def test_what_is_gone_of_a_network_is_named_and_made_again_with_the_service(site, what):
    async def work(vim, south):
        network, _ = await tenants_network(vim, site)
        port = await vim.create_port(site.tenant, PortCreate(network_id=network.id, name="vm"))
        await south.connect(target(network.id))
        before = (dict(site.kernel.bridge_mtu), dict(site.kernel.gateway))
        {"bridge": site.kernel.bridge_mtu, "gateway": site.kernel.gateway}[what].clear()
        site.kernel.plugged.clear()  # they were plugged into it
        assert (await south.realised())[SERVICE].problems == (f"the {what} of network {network.id} is gone",)
        await south.connect(target(network.id))
        assert (await south.realised())[SERVICE].problems == ()
        assert (site.kernel.bridge_mtu, site.kernel.gateway) == before
        assert port.id in site.kernel.plugged
        await south.disconnect(SERVICE)

    with_south(site, work)


def test_a_service_that_the_networking_database_has_lost_is_named_and_written_again(site):
    async def work(vim, south):
        network, _ = await tenants_network(vim, site)
        await south.connect(target(network.id))
        await vim.store.write(lambda tx: tx.set_links(SERVICE, []))
        (said,) = (await south.realised())[SERVICE].problems
        assert "has lost its record" in said
        await south.connect(target(network.id))
        assert (await south.realised())[SERVICE].problems == ()
        assert [link.network_id for link in await vim.store.read(lambda tx: tx.links())] == [network.id]

    with_south(site, work)


def test_marks_outlive_the_process(site):
    async def write(_vim, south):
        assert await south.mark("database") is None
        await south.set_mark("database", "one")
        await south.set_mark("database", "two")

    async def read(_vim, south):
        assert await south.mark("database") == "two"

    with_south(site, write)
    with_south(site, read)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["port", "shape", "fixed", "delete"]), st.integers(0, 255)), max_size=30
    )
)
def test_no_address_twice_and_none_outside_the_pools_of_its_time(site, steps, tmp_path_factory):
    async def work(vim, south):
        network, _ = await tenants_network(vim, site)
        await south.shape_subnet(network.id, shape("10.1.0.16", "10.1.0.31"))
        low, high, alive = 16, 31, {}
        for step, n in steps:
            if step == "shape":
                low, high = min(n, 250), min(n, 250) + 4
                await south.shape_subnet(network.id, shape(f"10.1.0.{low}", f"10.1.0.{high}"))
            elif step == "delete" and alive:
                await vim.delete_port(site.tenant, alive.pop(sorted(alive)[n % len(alive)]))
            elif step in ("port", "fixed"):
                fixed = [{"ip_address": f"10.1.0.{n}"}] if step == "fixed" and 0 < n < 255 else None
                request = PortCreate(network_id=network.id, fixed_ips=fixed)
                try:
                    port = await vim.create_port(site.tenant, request)
                except InUse:
                    continue
                ip = port.fixed_ips[0].ip
                assert ip not in alive
                assert low <= int(ip.rpartition(".")[2]) <= high
                alive[ip] = port.id
        for port_id in alive.values():
            await vim.delete_port(site.tenant, port_id)
        original = SubnetShape(
            cidr=CIDR,
            ip_version=4,
            gateway_ip="10.1.0.1",
            pools=(AddressRange("10.1.0.2", "10.1.0.254"),),
        )
        await south.shape_subnet(network.id, original)
        await vim.delete_network(site.tenant, network.id)
        assert await vim.networks(site.admin) == []

    with_south(site, work)
