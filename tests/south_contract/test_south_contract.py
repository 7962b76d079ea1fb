"""What every kind of site does for the engine (`engine.ports.South`), told in one place."""

import asyncio
import uuid

import pytest

from diminet.engine.ports import South
from diminet.errors import NetworkNotFound, SiteRefused
from diminet.model import AddressRange, SubnetShape, Target

CIDR = "10.1.0.0/24"
TARGET = "64999:7340289"


def new() -> str:
    return str(uuid.uuid4())


def shape(first, last, gateway="10.1.0.1", cidr=CIDR):
    pools = (AddressRange(first, last),) if first else ()
    return SubnetShape(cidr=cidr, ip_version=6 if ":" in cidr else 4, gateway_ip=gateway, pools=pools)


def target(here, service, *networks, layer="l2", imports=("64999:7340290",), **fields):
    return Target(
        service_id=service,
        project_id=here.project,
        layer=layer,
        vni=28673,
        export_target=TARGET,
        import_targets=imports,
        networks=networks,
        **fields,
    )


async def subnet_of(here, network):
    return (await here.south.network(network)).subnets[0]


def test_what_is_there(place):
    async def work(here):
        south: South = here.south
        network = await here.network(CIDR)
        port, ip, mac = await here.boot(network)
        facts = await south.network(network)
        assert (facts.network_id, facts.name, facts.project_id) == (network, "web", here.project)
        assert (facts.mtu, facts.ours) == (1450, None)
        subnet = facts.subnets[0]
        assert (subnet.cidr, subnet.ip_version, subnet.gateway_ip) == (CIDR, 4, "10.1.0.1")
        assert (subnet.pools, subnet.slaac) == ((AddressRange("10.1.0.2", "10.1.0.254"),), False)
        tenants = [port for port in await south.ports(network) if not port.infrastructure]
        assert [(one.ip, one.mac) for one in tenants] == [(ip, mac)]
        assert await south.owner(network) == here.project
        assert await south.settled(network)  # no port is in the making
        capabilities = await south.capabilities()
        assert (capabilities.kind, capabilities.mtu) == (south.kind, 1450)
        assert await south.problems() == ()
        for missing in (south.network, south.owner, south.ports):
            with pytest.raises(NetworkNotFound):
                await missing(new())
        await here.unplug(port)
        await here.drop(network)

    place(work)


def test_a_made_network_is_the_same_again_is_known_as_ours_and_goes(place):
    async def work(here):
        south, service, other = here.south, new(), new()
        before = await here.networks()
        again = await asyncio.gather(
            *(south.make_network(service, here.project, "web", "here") for _ in range(3))
        )
        first = again[0]
        assert set(again) == {first}
        second = await south.make_network(other, here.project, "web", "here", first=True)
        assert await south.make_network(other, here.project, "web", "here") == second
        facts = await south.network(first)
        assert (facts.ours, facts.project_id, facts.subnets) == (service, here.project, ())
        assert await here.networks() == before | {first, second}  # the tenant sees them
        known = {r.network_id: (r.service_id, r.made, r.key, r.joined) for r in await south.remains()}
        assert known[first] == (service, True, "here", False)
        for network in (first, second):
            assert await south.drop_network(network)
            assert await south.drop_network(network)
        assert await here.networks() == before
        assert not {first, second} & {r.network_id for r in await south.remains()}

    place(work)


def test_a_made_network_with_a_tenants_port_stays_with_the_tenant(place):
    async def work(here):
        south, service = here.south, new()
        network = await south.make_network(service, here.project, "web", "here")
        await south.shape_subnet(network, shape("10.1.0.9", "10.1.0.15", gateway="10.1.0.8"))
        port, ip, _ = await here.boot(network)
        assert ip in {f"10.1.0.{n}" for n in range(9, 16)}
        assert not await south.drop_network(network)
        assert not await south.drop_network(network)
        assert (await south.network(network)).ours is None
        assert network not in {r.network_id for r in await south.remains()}
        await here.unplug(port)
        await here.drop(network)

    place(work)


def test_a_subnet_is_put_back_only_while_it_is_there(place):
    async def work(here):
        network = await here.network(CIDR)
        before = (await here.south.network(network)).subnets
        gone = shape("10.9.0.2", "10.9.0.9", gateway="10.9.0.1", cidr="10.9.0.0/24")
        await here.south.shape_subnet(network, gone, make=False)
        assert (await here.south.network(network)).subnets == before

    place(work)


def test_pools_hold_from_when_shaping_returns_and_come_back(place):
    async def work(here):
        south = here.south
        network = await here.network(CIDR)
        before = await subnet_of(here, network)
        narrow = shape("10.1.0.64", "10.1.0.65")
        await south.shape_subnet(network, narrow)
        await south.shape_subnet(network, narrow)
        ports = [await here.boot(network), await here.boot(network)]
        assert {ip for _, ip, _ in ports} == {"10.1.0.64", "10.1.0.65"}
        with pytest.raises(LookupError):
            await here.boot(network)
        await south.shape_subnet(network, shape("10.1.0.64", "10.1.0.66"))
        ports.append(await here.boot(network))
        assert ports[-1][1] == "10.1.0.66"
        await south.shape_subnet(network, shape(None, None))
        assert (await subnet_of(here, network)).pools == ()
        changed = [r for r in await south.remains() if r.network_id == network]
        assert [(r.made, r.shapes[0].pools) for r in changed] == [(False, before.pools)]
        await south.shape_subnet(network, shape(*before.pools[0]))
        assert await subnet_of(here, network) == before
        assert network not in {r.network_id for r in await south.remains()}
        for port, _, _ in ports:
            await here.unplug(port)
        await here.drop(network)

    place(work)


def test_several_pools_and_ipv6(place):
    async def work(here):
        south, service = here.south, new()
        network = await south.make_network(service, here.project, "web", "here")
        pools = (AddressRange("10.1.0.9", "10.1.0.9"), AddressRange("10.1.0.200", "10.1.0.207"))
        await south.shape_subnet(network, shape("10.1.0.9", "10.1.0.9").model_copy(update={"pools": pools}))
        six = shape("fd00::10", "fd00::1f", gateway="fd00::8", cidr="fd00::/64")
        await south.shape_subnet(network, six)
        found = {s.cidr: s for s in (await south.network(network)).subnets}
        assert found[CIDR].pools == pools
        assert (found["fd00::/64"].pools, found["fd00::/64"].gateway_ip) == (six.pools, "fd00::8")
        assert not found["fd00::/64"].slaac
        port = await here.boot(network)
        addresses = {p.ip for p in await south.ports(network) if not p.infrastructure}
        assert len(addresses) == 2
        assert addresses & {f"fd00::{n:x}" for n in range(0x10, 0x20)}
        await here.unplug(port[0])
        assert await south.drop_network(network)

    place(work)


def test_the_gateway_is_the_one_that_was_asked_for(place):
    async def work(here):
        south = here.south
        network = await here.network(CIDR)
        before = await subnet_of(here, network)
        for gateway in ("10.1.0.8", None, "10.1.0.1"):
            await south.shape_subnet(network, shape("10.1.0.16", "10.1.0.31", gateway=gateway))
            assert (await subnet_of(here, network)).gateway_ip == gateway
        made = await south.make_network(new(), here.project, "web", "here")
        await south.shape_subnet(made, shape("10.1.0.16", "10.1.0.31", gateway=None))
        assert (await subnet_of(here, made)).gateway_ip is None  # not the VIM's own choice
        await south.shape_subnet(network, shape(*before.pools[0]))
        assert await subnet_of(here, network) == before
        assert await south.drop_network(made)
        await here.drop(network)

    place(work)


def test_what_no_site_can_do_is_refused_with_a_reason(place):
    async def work(here):
        south = here.south
        network = await here.network(CIDR)
        before = await south.network(network)
        for bad in (
            shape("10.1.0.64", "10.1.1.127"),  # a pool outside the CIDR
            shape("10.1.0.64", "10.1.0.127", cidr="10.1.0.0/25"),  # overlaps the subnet that is there
        ):
            with pytest.raises(SiteRefused) as refusal:
                await south.shape_subnet(network, bad)
            assert len(refusal.value.message) > 30
        with pytest.raises(NetworkNotFound):
            await south.shape_subnet(new(), shape("10.1.0.64", "10.1.0.127"))
        assert await south.network(network) == before
        await here.drop(network)

    place(work)


def test_of_many_shapes_at_once_the_last_one_stands(place):
    async def work(here):
        south = here.south
        network = await here.network(CIDR)
        before = await subnet_of(here, network)
        steps = [shape(f"10.1.0.{n}", f"10.1.0.{n + 5}") for n in range(16, 240, 28)]
        await asyncio.gather(*(south.shape_subnet(network, step) for step in steps))
        assert (await subnet_of(here, network)).pools == steps[-1].pools
        await south.shape_subnet(network, shape(*before.pools[0]))
        await here.drop(network)

    place(work)


def test_a_service_is_connected_changed_and_taken_off_again(place):
    async def work(here):
        south, service, routed = here.south, new(), new()
        network = await here.network(CIDR)
        ours = await south.make_network(service, here.project, "web", "here")
        await south.shape_subnet(ours, shape("10.1.0.8", "10.1.0.15"))
        assert service not in await south.realised()
        for imports in (("64999:7340290",), ("64999:7340290",), ("64999:7340290", "64999:7340291")):
            await south.connect(target(here, service, ours, imports=imports, mtu=1400))
            assert (await south.realised())[service].problems == ()
        assert (await south.network(ours)).mtu == 1400
        assert [r.joined for r in await south.remains() if r.network_id == ours] == [True]
        await south.connect(target(here, routed, network, layer="l3", mtu=1400))
        assert (await south.network(network)).mtu == 1450  # a tenant's own
        for gone in (service, routed, routed):
            await south.disconnect(gone)
        assert not {service, routed} & set(await south.realised())
        missing = new()
        with pytest.raises(NetworkNotFound):
            await south.connect(target(here, missing, new()))
        await south.disconnect(missing)
        assert await south.drop_network(ours)
        await here.drop(network)

    place(work)


def test_marks_are_kept(place):
    async def work(here):
        south, name = here.south, "test-of-marks"
        for value in ("one", "two"):
            await south.set_mark(name, value)
            assert await south.mark(name) == value
        assert await south.mark("of-another-name") is None

    place(work)


def test_a_network_without_ports_filters_nothing(place):
    async def work(here):
        network = await here.network(CIDR)
        assert await here.south.ingress(network) == ()
        await here.drop(network)

    place(work)
