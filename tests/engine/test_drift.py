"""Drift: what somebody changes behind our back, in the VIM or in our rows, is seen within one interval and
told once; what is ours is made again, what is the tenant's is not (docs/protocol.md, Drift)."""

import asyncio
import dataclasses

import pytest

from diminet.messages import Change
from diminet.model import Entry, OperatingStatus
from diminet.store import tables
from simulated_cloud import LIMITS, Cloud, until

CIDR = "10.0.0.0/24"
QUIET = dataclasses.replace(LIMITS, audit_interval=3600.0, reconcile_interval=3600.0, sync_interval=3600.0)


def run(work):
    async def main():
        cloud = Cloud("A", "B", limits=QUIET)
        try:
            await work(cloud)
        finally:
            await cloud.close()

    asyncio.run(asyncio.wait_for(main(), 120))


async def stretched(cloud):
    """An L2 service of A's own network; B's was made for it."""
    a = cloud.vims["A"].add_network(CIDR)
    view = await cloud.create("A", "l2", f"A:{a}", "B")
    return view.document.service_id, a, view.document.resources_of("B")[0].resource_id


async def interval(cloud, site):
    """What runs by itself once in each."""
    await cloud[site]._repair()
    await cloud[site].audit.round()


async def told(cloud, site, service, kind="drift"):
    """As the project's members read it."""
    found = await cloud[site].requests.events(cloud.caller(), service, 0, 100)
    return [said for e in found if e.kind == kind for said in e.detail.get("problems", [])]


async def shown(cloud, site, service):
    return await cloud[site].requests.show(cloud.caller(), service)


def part_of(view, site):
    return next(r for r in view.resources if r.resource.site == site)


async def change(cloud, at, service, **what):
    return await cloud[at].requests.change(cloud.caller(), cloud.ctx(at), service, Change(**what))


# -- the data plane ----------------------------------------------------------------------------------


def test_a_data_plane_that_somebody_took_down_is_told_once_and_made_again():
    async def work(cloud):
        service, *_ = await stretched(cloud)
        vim = cloud.vims["B"]
        made = vim.targets.pop(service)
        vim.refuse = {"connect"}
        for _ in range(2):
            await interval(cloud, "B")
        assert await told(cloud, "B", service) == ["its data plane is missing"]
        view = await shown(cloud, "B", service)
        assert part_of(view, "B").operating_status == OperatingStatus.DEGRADED
        assert any("data plane is missing" in warning for warning in view.warnings)
        vim.refuse = set()
        await interval(cloud, "B")
        assert vim.targets[service] == made
        view = await shown(cloud, "B", service)
        assert (part_of(view, "B").operating_status, view.warnings) == (OperatingStatus.ONLINE, ())
        del vim.targets[service]  # once more is news again
        await interval(cloud, "B")
        assert len(await told(cloud, "B", service)) == 2

    run(work)


# -- networks and subnets ----------------------------------------------------------------------------


@pytest.mark.parametrize("site", ["A", "B"])
def test_a_deleted_network_is_told_never_made_again_and_the_site_can_leave_and_join(site):
    """A's is its tenant's own; B's was made for the tenant, who may delete it all the same."""

    async def work(cloud):
        service, *networks = await stretched(cloud)
        network, vim = networks["AB".index(site)], cloud.vims[site]
        vim.delete_network(network)
        before = set(vim.networks)
        for _ in range(2):
            await interval(cloud, site)
        (said,) = await told(cloud, site, service)
        assert f"network {network} of site {site} was deleted" in said
        view = await shown(cloud, site, service)
        assert part_of(view, site).operating_status == OperatingStatus.DEGRADED
        assert any("was deleted" in warning for warning in view.warnings)
        assert set(vim.networks) == before
        if site == "B":
            _, waiting = await change(cloud, "A", service, operation="leave", entry=Entry(site="B"))
            assert waiting == ()
            await change(cloud, "A", service, operation="join", entry=Entry(site="B"))
            await interval(cloud, "B")
            view = await shown(cloud, "B", service)
            assert (part_of(view, "B").operating_status, view.warnings) == (OperatingStatus.ONLINE, ())

    run(work)


def without_subnets(vim, network):
    vim.networks[network] = vim.networks[network].model_copy(update={"subnets": ()})


def test_a_deleted_subnet_of_a_network_that_we_made_is_made_again():
    async def work(cloud):
        service, _, network = await stretched(cloud)
        vim = cloud.vims["B"]
        before = vim.networks[network].subnets[0].shape()
        without_subnets(vim, network)
        await cloud["B"].audit.round()
        assert vim.networks[network].subnets[0].shape() == before
        events = await cloud["B"].requests.events(cloud.caller(), service, 0, 100)
        (finding,) = next(e.detail["findings"] for e in events if e.kind == "audit")
        assert "was deleted and is made again" in finding["message"]
        await cloud["B"].audit.round()
        assert (await shown(cloud, "B", service)).warnings == ()

    run(work)


async def _realise(cloud, service, network):
    await cloud.stores["A"].write(lambda tx: unapply(tx, service))
    await cloud["A"].reconciler.repair()


async def _more_room(cloud, service, network):
    assert await cloud["A"].pools.more_room(network, CIDR)


async def _audit(cloud, service, network):
    await cloud["A"].audit.round()


async def _give(cloud, service, network):
    other = (await shown(cloud, "B", service)).document.resources_of("B")[0].resource_id
    for _ in range(40):
        await cloud["B"].pools.more_room(other, CIDR)


def unapply(tx, service):
    row = tx.service(service)
    tx.save_service(row.model_copy(update={"applied": None}), expect=row.document.pair)


@pytest.mark.parametrize("work", [_realise, _more_room, _audit, _give])
def test_a_deleted_subnet_of_a_tenant_is_made_again_by_nothing(work):
    async def main(cloud):
        service, network, _ = await stretched(cloud)
        without_subnets(cloud.vims["A"], network)
        await work(cloud, service, network)
        assert cloud.vims["A"].networks[network].subnets == ()
        await interval(cloud, "A")
        view = await shown(cloud, "A", service)
        assert any("was deleted: take the network out" in warning for warning in view.warnings)
        assert part_of(view, "A").operating_status == OperatingStatus.DEGRADED

    run(main)


def test_a_subnet_that_a_tenant_adds_is_told_left_alone_and_forgotten_when_it_goes():
    async def work(cloud):
        service, network, _ = await stretched(cloud)
        vim = cloud.vims["A"]
        before = vim.networks[network]
        vim.add_subnet(network, "10.9.0.0/24")
        for _ in range(2):
            await interval(cloud, "A")
        (said,) = await told(cloud, "A", service)
        assert "10.9.0.0/24" in said
        assert len(vim.networks[network].subnets) == 2
        assert part_of(await shown(cloud, "A", service), "A").operating_status == OperatingStatus.DEGRADED
        vim.networks[network] = before
        await interval(cloud, "A")
        view = await shown(cloud, "A", service)
        assert (part_of(view, "A").operating_status, view.warnings) == (OperatingStatus.ONLINE, ())

    run(work)


# -- our own rows ------------------------------------------------------------------------------------


async def lose(cloud, site, table, service, **where):
    def decide(tx):
        key = "id" if table is tables.services else "service_id"
        conditions = [table.c[key] == service, *(table.c[c] == value for c, value in where.items())]
        assert tx._db.execute(table.delete().where(*conditions)).rowcount > 0

    await cloud.stores[site].write(decide)


@pytest.mark.parametrize("site", ["A", "B"])
def test_a_lost_connection_comes_back_and_its_network_stays_until_the_service_ends(site):
    """Also how the network was before, and whether it is ours to delete, as the VIM remembers it."""

    async def work(cloud):
        before = cloud.pictures()
        service, a, b = await stretched(cloud)
        network, store = {"A": a, "B": b}[site], cloud.stores[site]
        (connection,) = await store.read(lambda tx: tx.connections(service))
        await lose(cloud, site, tables.connections, service)
        await cloud[site].reconciler.sweep_networks()
        assert cloud.vims[site].networks[network].ours == (service if site == "B" else None)
        for _ in range(2):
            await interval(cloud, site)
        (again,) = await store.read(lambda tx: tx.connections(service))
        assert (again.resource_id, again.made, again.state) == (network, site == "B", "ACTIVE")
        assert await told(cloud, site, service) == ["its connection was gone from this site's database"]
        if site == "B":
            assert again == connection
            await change(cloud, "A", service, operation="delete")
            assert cloud.pictures()["B"] == before["B"]

    run(work)


def test_what_was_not_applied_is_applied_again():
    async def work(cloud):
        service, *_ = await stretched(cloud)
        await cloud.stores["B"].write(lambda tx: unapply(tx, service))
        await interval(cloud, "B")
        row = await cloud.stores["B"].read(lambda tx: tx.service(service))
        assert row.applied == row.document.pair

    run(work)


async def blocks(cloud, site, service):
    return await cloud.stores[site].read(lambda tx: {h.block for h in tx.blocks(service)})


@pytest.mark.parametrize("owner", ["A", "B"])
def test_blocks_that_a_member_loses_come_back_and_are_told(owner):
    async def work(cloud):
        service, _, network = await stretched(cloud)
        before = await blocks(cloud, "B", service)
        ip = await cloud.vims["B"].boot(network)
        await lose(cloud, "B", tables.blocks, service, owner=owner)
        assert await cloud["B"].sync_.with_peer("A") is None
        assert await blocks(cloud, "B", service) == before
        (said,) = await told(cloud, "B", service)
        assert "were gone from this site's database; site A has told them" in said
        for _ in range(2):
            await cloud["B"].audit.round()
        assert ip in cloud.vims["B"].port_rows[network]
        pools = [p for s in cloud.vims["B"].networks[network].subnets for p in s.pools]
        assert pools  # that block is pooled again, since an address in it is in use
        assert (await shown(cloud, "B", service)).warnings == ()

    run(work)


def test_blocks_that_the_master_loses_are_nobodys_to_tell_and_stay_told():
    async def work(cloud):
        service, *_ = await stretched(cloud)
        await lose(cloud, "A", tables.blocks, service, owner="A")
        assert await cloud["A"].sync_.with_peer("B") is None
        assert {block.owner for block in await blocks(cloud, "A", service)} == {"B"}
        await cloud["A"].audit.round()
        view = await shown(cloud, "A", service)
        assert any("restore" in warning and "address blocks" in warning for warning in view.warnings)
        assert part_of(view, "A").operating_status == OperatingStatus.DEGRADED

    run(work)


def test_a_block_that_somebody_gave_another_owner_is_told_at_both_sites():
    async def work(cloud):
        service, *_ = await stretched(cloud)
        (block, *_) = sorted(await blocks(cloud, "B", service), key=lambda b: (b.owner, b.index))
        assert block.owner == "A"

        def change_it(tx):
            where = (tables.blocks.c.service_id == service, tables.blocks.c.position == block.index)
            tx._db.execute(tables.blocks.update().where(*where).values(owner="B"))

        await cloud.stores["B"].write(change_it)
        for site, peer in (("A", "B"), ("B", "A")):
            assert await cloud[site].sync_.with_peer(peer) is None
        for site in "AB":
            await cloud[site].audit.round()
            view = await shown(cloud, site, service)
            said = f"different owners, or givers, of 1 address blocks of {CIDR}"
            assert any(said in warning for warning in view.warnings)
            assert part_of(view, site).operating_status == OperatingStatus.DEGRADED

    run(work)


def test_a_service_that_a_member_loses_is_told_to_it_again_by_the_master():
    async def work(cloud):
        service, _, network = await stretched(cloud)
        ip = await cloud.vims["B"].boot(network)
        before = await blocks(cloud, "B", service)
        await cloud.stores["B"].write(lambda tx: tx.delete_service(service))
        assert await cloud["A"].sync_.with_peer("B") is None
        await cloud["A"].outbox.deliver_due()
        await until(lambda: applied(cloud, service))
        for _ in range(2):
            await interval(cloud, "B")
        assert await blocks(cloud, "B", service) == before
        assert service in cloud.vims["B"].targets
        assert ip in cloud.vims["B"].port_rows[network]
        (connection,) = await cloud.stores["B"].read(lambda tx: tx.connections(service))
        assert (connection.resource_id, connection.made) == (network, True)

    async def applied(cloud, service):
        row = await cloud.stores["B"].read(lambda tx: tx.service(service))
        return row is not None and row.applied == row.document.pair

    run(work)
