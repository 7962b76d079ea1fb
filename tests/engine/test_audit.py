"""The audit: what a tenant fixes by hand where the VIM's pools are advisory is found, claimed or told."""

import asyncio
import dataclasses

import pytest

from diminet.messages import Change
from diminet.model import Ingress, OperatingStatus, PortFacts, SubnetShape
from simulated_cloud import LIMITS, Cloud, until

CIDR = "10.0.0.0/24"
QUIET = dataclasses.replace(LIMITS, audit_interval=3600.0, reconcile_interval=3600.0)


def fix(cloud, site, network, ip, mac="02:99:00:00:00:01"):
    """A port with that address, whatever the pools say: as Neutron allows a member."""
    cloud.vims[site].port_rows[network][ip] = PortFacts(ip=ip, mac=mac, infrastructure=False)


async def stretched(cloud, kind="l2"):
    a = cloud.vims["A"].add_network(CIDR)
    view = await cloud.create("A", kind, f"A:{a}", "B")
    service = view.document.service_id
    return service, a, view.document.resources_of("B")[0].resource_id


async def blocks_of(cloud, site, service):
    return await cloud[site].here.store.read(lambda tx: tx.blocks(service))


async def address(cloud, site, service, owner, *, pooled):
    """An address of the last such block: nobody uses it, and no gateway is in it."""
    for held in sorted(await blocks_of(cloud, site, service), key=lambda h: -h.block.index):
        if held.block.owner == owner and held.pooled is pooled:
            return f"10.0.0.{held.block.index * 4 + 2}", held.block.index
    raise LookupError(owner)


async def shown(cloud, site, service):
    return await cloud[site].requests.show(cloud.caller(), service)


async def events(cloud, site, service):
    found = await cloud[site].requests.events(cloud.caller(), service, 0, 100)
    return [f["message"] for e in found if e.kind == "audit" for f in e.detail["findings"]]


def run(work, limits=QUIET):
    async def main():
        cloud = Cloud("A", "B", limits=limits)
        try:
            await work(cloud)
        finally:
            await cloud.close()

    asyncio.run(asyncio.wait_for(main(), 120))


def test_all_is_well_where_nobody_meddled():
    async def work(cloud):
        service, a, b = await stretched(cloud)
        for site, network in (("A", a), ("B", b)):
            await cloud.vims[site].boot(network)
            await cloud[site].audit.round()
            view = await shown(cloud, site, service)
            assert (view.warnings, await events(cloud, site, service)) == ((), [])
            assert cloud[site].audit.findings == {}

    run(work)


def test_an_address_in_our_own_spare_is_pooled_before_it_can_be_given():
    async def work(cloud):
        service, a, _ = await stretched(cloud)
        ip, index = await address(cloud, "A", service, "A", pooled=False)
        fix(cloud, "A", a, ip)
        await cloud["A"].audit.round()
        held = {h.block.index: h for h in await blocks_of(cloud, "A", service)}
        assert held[index].pooled
        assert (await shown(cloud, "A", service)).warnings == ()

    run(work)


def test_an_address_in_a_free_block_of_another_site_claims_that_block():
    async def work(cloud):
        service, a, _ = await stretched(cloud)
        ip, index = await address(cloud, "B", service, "B", pooled=True)
        fix(cloud, "A", a, ip)
        await cloud["A"].audit.round()
        for site in "AB":
            held = {h.block.index: h for h in await blocks_of(cloud, site, service)}
            assert held[index].block.owner == "A"
        assert (await shown(cloud, "A", service)).warnings == ()
        pools = cloud.vims["B"].networks[
            (await shown(cloud, "B", service)).document.resources_of("B")[0].resource_id
        ]
        assert all(ip != first for subnet in pools.subnets for first, _ in subnet.pools)

    run(work)


def test_an_address_in_a_used_block_of_another_site_is_told_naming_both():
    async def work(cloud):
        service, a, b = await stretched(cloud)
        taken = await cloud.vims["B"].boot(b)
        mine = f"10.0.0.{int(taken.rpartition('.')[2]) | 3}"  # the same block
        fix(cloud, "A", a, mine)
        await cloud["A"].audit.round()
        view = await shown(cloud, "A", service)
        assert view.operating_status == OperatingStatus.DEGRADED
        assert any(mine in w and "site A" in w and "site B" in w for w in view.warnings)
        assert len(await events(cloud, "A", service)) == 1
        await cloud["A"].audit.round()
        assert len(await events(cloud, "A", service)) == 1  # told once
        del cloud.vims["A"].port_rows[a][mine]
        await cloud["A"].audit.round()
        assert (await shown(cloud, "A", service)).warnings == ()

    run(work)


def test_a_port_with_the_address_of_a_gateway_is_told():
    async def work(cloud):
        service, a, b = await stretched(cloud)
        gateways = [cloud.vims[s].networks[n].subnets[0].gateway_ip for s, n in (("A", a), ("B", b))]
        for ip in gateways:
            fix(cloud, "A", a, ip)
        await cloud["A"].audit.round()
        told = cloud["A"].audit.problems(service)
        assert any(f"{gateways[0]} is in use" in text and "gateway of site A" in text for text in told)
        assert any(f"{gateways[1]} is in use" in text and "gateway of site B" in text for text in told)

    run(work)


@pytest.mark.parametrize("same", ["mac", "address"])
def test_what_is_at_both_sites_is_told_at_both(same):
    async def work(cloud):
        service, a, b = await stretched(cloud)
        ours, theirs = await cloud.vims["A"].boot(a), await cloud.vims["B"].boot(b)
        port = cloud.vims["B"].port_rows[b][theirs]
        if same == "mac":
            fix(cloud, "A", a, ours, port.mac.upper())
        else:
            fix(cloud, "A", a, theirs)
        for _ in range(2):
            for site, peer in (("A", "B"), ("B", "A")):
                await cloud[site].audit.round()
                assert await cloud[site].sync_.with_peer(peer) is None
        for site in "AB":
            await cloud[site].audit.round()
            found = cloud[site].audit.problems(service)
            told = port.mac if same == "mac" else theirs
            assert any(f"{told} is" in text and "both" in text for text in found)
            assert (await shown(cloud, site, service)).operating_status == OperatingStatus.DEGRADED

    run(work)


def test_pools_that_somebody_changed_are_put_back_and_a_deleted_subnet_is_told():
    async def work(cloud):
        service, a, _ = await stretched(cloud)
        vim = cloud.vims["A"]
        before = vim.networks[a].subnets[0]
        wide = SubnetShape(
            cidr=CIDR, ip_version=4, gateway_ip="10.0.0.254", pools=(("10.0.0.1", "10.0.0.253"),)
        )
        vim._set(a, wide)
        await cloud["A"].audit.round()
        assert vim.networks[a].subnets[0] == before
        assert any("put back" in text for text in await events(cloud, "A", service))
        vim.networks[a] = vim.networks[a].model_copy(update={"subnets": ()})
        await cloud["A"].audit.round()
        assert any("was deleted" in text for text in (await shown(cloud, "A", service)).warnings)
        assert vim.networks[a].subnets == ()  # what its tenant deleted is not made anew

    run(work)


def test_a_filter_that_shuts_another_site_out_is_a_warning_and_no_more():
    async def work(cloud):
        a = cloud.vims["A"].add_network("10.1.0.0/24")
        b = cloud.vims["B"].add_network("10.2.0.0/24")
        view = await cloud.create("A", "l3", f"A:{a}", f"B:{b}")
        service = view.document.service_id
        await cloud["A"].drift.look()
        cloud.vims["A"].filters[a] = (
            Ingress(ip="10.1.0.5", allowed=("10.1.0.0/16",)),
            Ingress(ip="10.1.0.6", allowed=("10.0.0.0/8",)),
        )
        await cloud["A"].audit.round()
        view = await shown(cloud, "A", service)
        warning = next(w for w in view.warnings if "security group" in w)
        assert "10.1.0.5" in warning
        assert "10.2.0.0/24 of site B" in warning
        assert view.resources[0].operating_status == OperatingStatus.ONLINE

    run(work)


def test_it_runs_by_itself_and_ends_with_the_service():
    async def work(cloud):
        service, a, b = await stretched(cloud)
        await cloud.run()
        taken = await cloud.vims["B"].boot(b)
        fix(cloud, "A", a, taken)
        await until(lambda: cloud["A"].audit.problems(service), 20)
        await until(lambda: cloud["B"].audit.problems(service), 20)
        await cloud["A"].requests.change(cloud.caller(), cloud.ctx("A"), service, Change(operation="delete"))
        await until(lambda: not cloud["A"].audit.findings and not cloud["A"].audit.theirs, 20)

    run(work, dataclasses.replace(LIMITS, audit_interval=0.2))
