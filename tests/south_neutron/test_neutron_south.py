"""What only a Neutron does: BGP VPNs, what tenants see, and what goes wrong with it."""

import asyncio
import uuid

import pytest
from keystoneauth1.exceptions import NotFound
from pydantic import SecretStr

from diminet.errors import NetworkNotFound, NotAuthenticated, SiteRefused, SiteUnreachable
from diminet.model import AddressRange, SubnetShape, Target
from fault_proxy import FaultProxy
from neutron_site import VOLATILE, NeutronSite, Tenant, connect, dump

CIDR = "10.4.0.0/24"


def new():
    return str(uuid.uuid4())


def target(here, service, *networks, layer="l3", n=1, imports=(2, 3)):
    return Target(
        service_id=service,
        project_id=here.project,
        layer=layer,
        vni=4097,
        export_target=f"64999:{1048832 + n}",
        import_targets=tuple(f"64999:{1048832 + i}" for i in imports),
        networks=networks,
    )


@pytest.fixture
def here(cloud):
    site = NeutronSite(cloud, "B")
    before = dump(site.admin)
    yield site
    site.close()
    assert dump(site.admin) == before


def run(work):
    asyncio.run(asyncio.wait_for(work, 120))


def vpns(here, service):
    return [v for v in here.admin.list("bgpvpn") if v["name"] == f"diminet-service-{service}"]


def test_one_bgp_vpn_for_a_service_with_its_targets_and_networks(here):
    service = new()
    one, two = here.tenant.network(CIDR), here.tenant.network("10.5.0.0/24")

    async def work():
        await here.south.connect(target(here, service, one, two))
        vpn = vpns(here, service)[0]
        assert (vpn["type"], vpn["project_id"], vpn["route_targets"]) == ("l3", here.project, [])
        assert vpn["export_targets"] == ["64999:1048833"]
        assert sorted(vpn["import_targets"]) == ["64999:1048834", "64999:1048835"]
        assert sorted(vpn["networks"]) == sorted([one, two])
        seen = [v for v in here.tenant.list("bgpvpn") if v["id"] == vpn["id"]]
        assert seen
        assert not [key for key in seen[0] if "target" in key]  # a tenant never sees a route target
        await here.south.connect(target(here, service, two, imports=(3,)))
        vpn = vpns(here, service)[0]
        assert (vpn["import_targets"], vpn["networks"]) == (["64999:1048835"], [two])
        await here.south.disconnect(service)
        assert vpns(here, service) == []

    run(work())
    here.tenant.clear(one)
    here.tenant.clear(two)


def test_there_is_no_data_plane_behind_the_dummy_provider(here):
    async def work():
        capabilities = await here.south.capabilities()
        assert not capabilities.data_plane
        assert not capabilities.shared_gateway
        assert not capabilities.movable_gateway

    run(work())


def test_what_somebody_changed_is_seen_and_made_right_again(here, cloud):
    service, network = new(), here.tenant.network(CIDR)
    wanted = target(here, service, network)

    async def problem():
        return (await here.south.realised())[service].problems

    async def repaired():
        await here.south.connect(wanted)
        assert await problem() == ()
        assert len(vpns(here, service)) == 1
        assert vpns(here, service)[0]["networks"] == [network]

    async def work():
        await repaired()
        vpn = vpns(here, service)[0]
        here.admin.call("PUT", f"/bgpvpn/bgpvpns/{vpn['id']}", {"bgpvpn": {"route_targets": ["64999:1"]}})
        assert "route targets" in (await problem())[0]
        await repaired()
        path = f"/bgpvpn/bgpvpns/{vpn['id']}/network_associations"
        rows = here.tenant.call("GET", path)["network_associations"]
        here.tenant.call("DELETE", f"{path}/{rows[0]['id']}")
        assert "networks" in (await problem())[0]
        await repaired()
        here.admin.make("bgpvpn", name=vpn["name"], type="l2", project_id=here.project)
        assert any("two BGP VPNs" in said for said in await problem())
        await repaired()
        other = NeutronSite(cloud, "B")  # as after a restart: nothing is known of what should be
        assert not (await other.south.realised())[service].compared
        await other.south.connect(wanted)
        found = (await other.south.realised())[service]
        assert (found.compared, found.problems) == (True, ())
        other.close()
        await here.south.disconnect(service)

    run(work())
    here.tenant.clear(network)


def test_route_targets_of_others_are_never_ours(here):
    service, network = new(), here.tenant.network(CIDR)
    theirs = here.admin.make("bgpvpn", name="wan", type="l3", import_targets=["64999:1048834"])

    async def work():
        with pytest.raises(SiteRefused, match=r"wan.*64999:1048834.*target_asn"):
            await here.south.connect(target(here, service, network))
        assert any("wan" in said for said in await here.south.problems())

    run(work())
    assert vpns(here, service) == []
    here.admin.drop("bgpvpn", theirs["id"])
    here.tenant.clear(network)


def test_neutron_decides_what_a_user_sees(here, cloud):
    network = here.tenant.network(CIDR)
    token = SecretStr(cloud.token("demo"))

    async def work():
        assert await here.south.owner(network, as_user=token) == here.project
        with pytest.raises(NetworkNotFound):
            await here.south.owner(network, as_user=SecretStr(cloud.token("other")))
        with pytest.raises(NotAuthenticated, match="ask for a new one"):
            await here.south.owner(network, as_user=SecretStr("gAAAA-nonsense"))

    run(work())
    here.tenant.clear(network)


def test_a_network_of_another_project_is_refused_by_neutron_itself(here, cloud):
    other = Tenant(cloud, "B", "other")
    network = other.network(CIDR)
    service = new()

    async def work():
        with pytest.raises(SiteRefused, match="B"):
            await here.south.connect(target(here, service, network))
        await here.south.disconnect(service)

    run(work())
    other.clear(network)


def test_a_gateway_that_a_router_has_cannot_be_moved_and_neutron_says_so(here):
    network = here.tenant.network(CIDR)
    subnet = here.tenant.list("subnet", f"network_id={network}")[0]["id"]
    router = here.tenant.make("router", name="r")["id"]
    here.tenant.call("PUT", f"/routers/{router}/add_router_interface", {"subnet_id": subnet})

    async def work():
        ports = await here.south.ports(network)
        assert [(port.ip, port.infrastructure) for port in ports] == [("10.4.0.1", True)]
        moved = SubnetShape(cidr=CIDR, ip_version=4, gateway_ip="10.4.0.9", pools=())
        with pytest.raises(SiteRefused, match=r"10\.4\.0\.1 "):
            await here.south.shape_subnet(network, moved)

    run(work())
    here.tenant.call("PUT", f"/routers/{router}/remove_router_interface", {"subnet_id": subnet})
    here.tenant.drop("router", router)
    here.tenant.clear(network)


def test_a_made_network_that_got_a_router_stays_with_the_tenant(here):
    async def made():
        network = await here.south.make_network(new(), here.project, "web", "B")
        pools = (AddressRange("10.4.0.8", "10.4.0.15"),)
        shape = SubnetShape(cidr=CIDR, ip_version=4, gateway_ip="10.4.0.1", pools=pools)
        await here.south.shape_subnet(network, shape)
        return network

    network = asyncio.run(made())
    subnet = here.tenant.list("subnet", f"network_id={network}")[0]
    assert "DIMINET" in subnet["description"]
    router = here.tenant.make("router", name="r")["id"]
    here.tenant.call("PUT", f"/routers/{router}/add_router_interface", {"subnet_id": subnet["id"]})

    async def work():
        assert not await here.south.drop_network(network)

    run(work())
    for row in (
        here.tenant.call("GET", f"/networks/{network}")["network"],
        here.tenant.call("GET", f"/subnets/{subnet['id']}")["subnet"],
    ):
        assert (row["tags"], row["description"]) == ([], "")
    here.tenant.call("PUT", f"/routers/{router}/remove_router_interface", {"subnet_id": subnet["id"]})
    here.tenant.drop("router", router)
    here.tenant.clear(network)


def test_security_groups_say_who_may_come_in(here):
    network = here.tenant.network(CIDR)
    group = here.tenant.make("security_group", name="web")["id"]
    rule = {"direction": "ingress", "ethertype": "IPv4", "security_group_id": group}
    here.tenant.make("security_group_rule", remote_ip_prefix="10.9.0.0/16", **rule)
    closed = here.tenant.boot(network)
    opened = here.tenant.boot(network, security_groups=[group])
    here.tenant.boot(network, port_security_enabled=False, security_groups=[])

    async def work():
        found = {one.ip: one.allowed for one in await here.south.ingress(network)}
        assert found == {
            closed["fixed_ips"][0]["ip_address"]: (),  # the default group: only its own members
            opened["fixed_ips"][0]["ip_address"]: ("10.9.0.0/16",),
        }

    run(work())
    here.tenant.clear(network)
    here.tenant.drop("security_group", group)


# -- what goes wrong ---------------------------------------------------------------------------------


def test_the_errors_name_site_what_was_asked_and_what_neutron_said(cloud):
    with FaultProxy(cloud.neutron_url("B")) as proxy:
        here = NeutronSite(cloud, "B", url=proxy.url, timeout=1.0)
        network = here.tenant.network(CIDR)
        expected = {
            "500": (SiteUnreachable, r"Neutron of site B failed with HTTP 500 .*list BGP VPNs: injected 500"),
            "503": (SiteUnreachable, r"HTTP 503"),
            "409": (SiteRefused, r"site B refused to list BGP VPNs: injected 409 \(HTTP 409\)"),
            "hang": (SiteUnreachable, r"within 1 s \(limits\.vim_timeout\) when asked to list BGP VPNs"),
        }

        async def work():
            await here.south.network(network)  # openstacksdk has looked for the endpoint
            for fault, (kind, told) in expected.items():
                proxy.arm(fault)
                with pytest.raises(kind, match=told) as error:
                    await here.south.disconnect(new())
                assert error.value.sites == ("B",)
            proxy.arm("expired")  # a new token is got and the call is made again
            await here.south.network(network)
            assert proxy.hit is not None
            proxy.arm("expired", once=False)
            with pytest.raises(SiteRefused, match="HTTP 401"):
                await here.south.network(network)

        run(work())
        here.close()
        here.tenant.clear(network)


def test_a_network_that_neutron_made_without_telling_is_found(cloud):
    with FaultProxy(cloud.neutron_url("B")) as proxy:
        here = NeutronSite(cloud, "B", url=proxy.url, timeout=1.0)
        service = new()

        async def work():
            for fault in ("drop", "late"):
                proxy.arm(fault, lambda call: call.method == "POST" and call.path.endswith("/networks"))
                with pytest.raises(SiteUnreachable):
                    await here.south.make_network(service, here.project, "web", "B")
                proxy.disarm()
                for _ in range(100):
                    found = [r for r in await here.south.remains() if r.service_id == service]
                    if found:
                        break
                    await asyncio.sleep(0.1)
                assert [(r.made, r.key) for r in found] == [(True, "B")]
                again = await here.south.make_network(service, here.project, "web", "B")
                assert again == found[0].network_id
                assert await here.south.drop_network(again)

        run(work())
        here.close()


def test_who_has_gone_leaves_nothing_half_done(cloud):
    """A user's request that times out: what was begun goes on to its end, and what undoes it comes after."""
    with FaultProxy(cloud.neutron_url("B")) as proxy:
        here = NeutronSite(cloud, "B", url=proxy.url, timeout=20.0)
        service = new()

        async def work():
            await here.south.problems()
            proxy.arm("hang", lambda call: call.method == "POST")
            making = asyncio.create_task(here.south.make_network(service, here.project, "web", "B"))
            while proxy.hit is None:
                await asyncio.sleep(0.05)
            making.cancel()
            with pytest.raises(asyncio.CancelledError):
                await making
            again = asyncio.create_task(here.south.make_network(service, here.project, "web", "B"))
            await asyncio.sleep(0.3)
            assert not again.done()  # it waits for what may still be written
            proxy.disarm()
            network = await again
            assert await here.south.drop_network(network)

        run(work())
        here.close()


def test_an_instance_starts_without_neutron_and_keystone_and_finds_them_later(cloud):
    network = Tenant(cloud, "C").network(CIDR)
    cloud.stop_neutron("C")
    away = NeutronSite(cloud, "C", timeout=5.0)

    async def down():
        with pytest.raises(SiteUnreachable, match="Neutron of site C"):
            await away.south.network(network)
        assert "Neutron of site C" in (await away.south.problems())[0]

    async def up():
        assert (await away.south.network(network)).network_id == network
        assert await away.south.problems() == ()

    try:
        run(down())
    finally:
        cloud.start_neutron("C")
    run(up())
    away.close()
    Tenant(cloud, "C").clear(network)


def test_wrong_credentials_are_told_to_the_operator(cloud):
    connection = connect(cloud, "B")
    connection.session.auth._password = "wrong"
    site = NeutronSite(cloud, "B")
    site.neutron._connection = connection

    async def work():
        with pytest.raises(SiteRefused, match=r"Keystone of site B .* credentials"):
            await site.south.realised()

    run(work())
    site.close()
    with pytest.raises(NotFound):
        Tenant(cloud, "B").call("GET", "/networks/nothing")


@pytest.mark.parametrize("number", range(4))
def test_marks_that_could_not_be_taken_off_are_found_again(cloud, number):
    """Whichever of the calls fails, the repetition leaves nothing of ours behind."""
    with FaultProxy(cloud.neutron_url("B")) as proxy:
        here = NeutronSite(cloud, "B", url=proxy.url)
        network = here.tenant.network(CIDR)
        subnet = here.tenant.list("subnet", f"network_id={network}")[0]
        pools = (AddressRange("10.4.0.2", "10.4.0.254"),)
        original = SubnetShape(cidr=CIDR, ip_version=4, gateway_ip="10.4.0.1", pools=pools)

        async def work():
            ours = await here.south.make_network(new(), here.project, "web", "B")
            here.tenant.boot(ours)
            await here.south.shape_subnet(network, original.model_copy(update={"pools": ()}))
            for undo in (
                lambda: here.south.shape_subnet(network, original),
                lambda: here.south.drop_network(ours),
            ):
                proxy.arm("500", _write(number))
                try:
                    await undo()
                except SiteUnreachable:
                    proxy.disarm()
                    await undo()
                proxy.disarm()
            kept = here.tenant.call("GET", f"/networks/{ours}")["network"]
            assert (kept["tags"], kept["description"]) == ([], "")
            here.tenant.clear(ours)

        run(work())
        here.close()
        after = here.tenant.list("subnet", f"network_id={network}")[0]
        assert {k: v for k, v in after.items() if k not in VOLATILE} == {
            k: v for k, v in subnet.items() if k not in VOLATILE
        }
        here.tenant.clear(network)


def _write(number):
    """Chooses the write of that number."""
    writes = []

    def pick(call):
        if call.method != "GET":
            writes.append(call)
        return call.method != "GET" and len(writes) == number + 1

    return pick
