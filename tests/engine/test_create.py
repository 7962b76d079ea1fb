import asyncio

import pytest

from diminet.errors import CidrOverlap, NetworkNotFound, ResourceBusy, SiteUnreachable
from diminet.messages import Change
from diminet.model import Entry, PortFacts
from simulated_cloud import Cloud, until


def run(work):
    return asyncio.run(asyncio.wait_for(work, 60))


def test_l3_over_three_sites_costs_two_messages_per_site_and_targets_are_right():
    async def main():
        cloud = Cloud("A", "B", "C")
        ids = {s: cloud.vims[s].add_network(f"10.{i}.0.0/24") for i, s in enumerate("ABC")}
        ctx = cloud.ctx("A")
        view = await cloud.create("A", "l3", *(f"{s}:{ids[s]}" for s in "ABC"), ctx=ctx)
        assert view.provisioning_status == "ACTIVE"
        messages = {k: n for k, n in cloud.wire.seen.items() if k[1] == ctx.request_id}
        assert sum(messages.values()) == 4
        targets = {s: cloud.vims[s].targets[view.document.service_id] for s in "ABC"}
        exports = {s: t.export_target for s, t in targets.items()}
        assert len(set(exports.values())) == 3
        for site, target in targets.items():
            assert set(target.import_targets) == {e for s, e in exports.items() if s != site}
        await cloud.close()

    run(main())


def test_overlap_is_refused_with_names_and_nothing_stays():
    async def main():
        cloud = Cloud("A", "B")
        a, b = cloud.vims["A"].add_network("10.1.0.0/16"), cloud.vims["B"].add_network("10.1.2.0/24")
        before = cloud.pictures()
        with pytest.raises(CidrOverlap) as caught:
            await cloud.create("A", "l3", f"A:{a}", f"B:{b}")
        assert a in caught.value.message
        assert b in caught.value.message
        assert "10.1.2.0" in caught.value.message
        assert cloud.pictures() == before
        for s in "AB":
            assert await cloud.stores[s].read(lambda tx: tx.services_at_work()) == set()
            assert await cloud.stores[s].read(lambda tx: tx.expired_reservations(1e12)) == []
        await cloud.close()

    run(main())


def test_unknown_network_at_a_remote_site_is_404_and_nothing_stays():
    async def main():
        cloud = Cloud("A", "B")
        a = cloud.vims["A"].add_network("10.1.0.0/16")
        with pytest.raises(NetworkNotFound):
            await cloud.create("A", "l3", f"A:{a}", "B:nothing")
        assert await cloud.stores["A"].read(lambda tx: tx.intents()) == []
        await cloud.close()

    run(main())


def test_l2_deals_disjoint_pools_that_grow_and_delete_restores():
    async def main():
        cloud = Cloud("A", "B", "C")
        a = cloud.vims["A"].add_network("10.7.0.0/26")
        cloud.vims["A"].keeper = cloud["A"].pools
        first = await cloud.vims["A"].boot(a)
        before = cloud.pictures()
        view = await cloud.create("A", "l2", f"A:{a}", "B", "C")
        nets = {r.site: r.resource_id for r in view.document.resources}
        assert nets["A"] == a
        boots = [cloud.vims[s].boot(nets[s]) for _ in range(15) for s in "ABC"]
        ips = [first, *await asyncio.gather(*boots)]
        assert len(set(ips)) == 46
        gateways = {cloud.vims[s].networks[nets[s]].subnets[0].gateway_ip for s in "ABC"}
        assert len(gateways) == 3
        assert not gateways & set(ips)
        for s in "BC":
            cloud.vims[s].port_rows[nets[s]].clear()
        _, waiting = await cloud["A"].requests.change(
            cloud.caller(), cloud.ctx("A"), view.document.service_id, Change(operation="delete")
        )
        assert waiting == ()
        assert cloud.pictures() == before
        await cloud.close()

    run(main())


def test_a_gateway_whose_address_a_port_took_does_not_stand_against_a_delete():
    async def main():
        cloud = Cloud("A", "B")
        vim = cloud.vims["A"]
        a = vim.add_network("10.7.0.0/24")
        vim.keeper = cloud["A"].pools
        before = vim.networks[a].subnets[0]
        view = await cloud.create("A", "l2", f"A:{a}", "B", params={"gateway": "none"})
        vim.port_rows[a]["10.7.0.1"] = PortFacts(ip="10.7.0.1", mac="02:01:00:00:00:09", infrastructure=False)
        service_id = view.document.service_id
        answer = await cloud["A"].requests.change(
            cloud.caller(), cloud.ctx("A"), service_id, Change(operation="delete")
        )
        assert answer[1] == ()
        after = vim.networks[a].subnets[0]
        assert (after.gateway_ip, after.pools) == (None, before.pools)
        row = await cloud.stores["A"].read(lambda tx: tx.service(service_id))
        assert "10.7.0.1" in row.warnings[0]
        await cloud.close()

    run(main())


def test_revoke_when_a_site_is_away_leaves_nothing_and_names_it():
    async def main():
        cloud = Cloud("A", "B", "C")
        await cloud.run()
        ids = {s: cloud.vims[s].add_network(f"10.{i}.0.0/24") for i, s in enumerate("ABC")}
        before = cloud.pictures()
        cloud.wire.isolate("C")
        with pytest.raises(SiteUnreachable) as caught:
            await cloud.create("A", "l3", *(f"{s}:{ids[s]}" for s in "ABC"))
        assert caught.value.sites == ("C",)
        assert cloud.pictures() == before
        cloud.wire.heal()
        await until(lambda: _empty_outbox(cloud))
        assert cloud.pictures() == before
        await cloud.close()

    run(main())


async def _empty_outbox(cloud):
    return not [r for s in cloud.stores.values() for r in await s.read(lambda tx: tx.outbox())]


def test_defer_completes_by_itself_after_healing():
    async def main():
        cloud = Cloud("A", "B", "C")
        await cloud.run()
        ids = {s: cloud.vims[s].add_network(f"10.{i}.0.0/24") for i, s in enumerate("ABC")}
        cloud.wire.isolate("C")
        view = await cloud.create("A", "l3", *(f"{s}:{ids[s]}" for s in "ABC"), on_unreachable="defer")
        assert view.provisioning_status == "ACTIVE"
        assert view.operating_status == "DEGRADED"
        missing = [r for r in view.resources if r.resource.site == "C"]
        assert [r.provisioning_status for r in missing] == ["PENDING_CREATE"]
        cloud.wire.heal()
        service_id = view.document.service_id
        await until(lambda: service_id in cloud.vims["C"].targets)

        async def online():
            shown = await cloud["A"].requests.show(cloud.caller(), service_id)
            return (
                shown.operating_status == "ONLINE"
                and len(cloud.vims["B"].targets[service_id].import_targets) == 2
            )

        await until(online)
        await cloud.close()

    run(main())


def test_delete_while_a_member_is_away_is_accepted_and_clean_after_healing():
    async def main():
        cloud = Cloud("A", "B")
        await cloud.run()
        ids = {s: cloud.vims[s].add_network(f"10.{i}.0.0/24") for i, s in enumerate("AB")}
        before = cloud.pictures()
        view = await cloud.create("A", "l3", *(f"{s}:{ids[s]}" for s in "AB"))
        cloud.wire.isolate("B")
        service_id = view.document.service_id
        view, waiting = await cloud["A"].requests.change(
            cloud.caller(), cloud.ctx("A"), service_id, Change(operation="delete")
        )
        assert waiting == ("B",)
        assert view.provisioning_status == "PENDING_DELETE"
        cloud.wire.heal()
        await until(lambda: cloud.pictures() == before)
        await until(lambda: _gone(cloud, service_id))
        await cloud.close()

    run(main())


async def _gone(cloud, service_id):
    try:
        await cloud["A"].requests.show(cloud.caller(), service_id)
    except Exception as error:
        return getattr(error, "code", "") == "service-not-found"
    return False


@pytest.mark.parametrize("sites", ["AB", "ABC"])
def test_conflicting_creates_from_all_sites_at_once_let_at_least_one_win(sites):
    async def main():
        cloud = Cloud(*sites)
        ids = {s: cloud.vims[s].add_network("10.9.0.0/24") for s in sites}
        # every pair is an l2 over the same networks: no two may both be made
        pairs = [(s, sites[(i + 1) % len(sites)]) for i, s in enumerate(sites)]
        results = await asyncio.gather(
            *(cloud.create(a, "l2", f"{a}:{ids[a]}", f"{b}:{ids[b]}") for a, b in pairs),
            return_exceptions=True,
        )
        won = [r for r in results if not isinstance(r, BaseException)]
        assert len(won) >= 1
        assert all(isinstance(r, ResourceBusy) for r in results if isinstance(r, BaseException)), results
        used = [r.resource_id for v in won for r in v.document.resources]
        assert len(used) == len(set(used))
        await cloud.close()

    run(main())


def test_join_at_the_joining_site_and_leave():
    async def main():
        cloud = Cloud("A", "B", "C")
        await cloud.run()
        ids = {s: cloud.vims[s].add_network(f"10.{i}.0.0/24") for i, s in enumerate("ABC")}
        before = cloud.pictures()
        view = await cloud.create("A", "l3", f"A:{ids['A']}", f"B:{ids['B']}")
        service_id = view.document.service_id
        join = Change(operation="join", entry=Entry(site="C", resource_id=ids["C"]), via="B")
        joined, _ = await cloud["C"].requests.change(cloud.caller(), cloud.ctx("C"), service_id, join)
        assert {r.resource.site for r in joined.resources} == {"A", "B", "C"}
        assert len(cloud.vims["A"].targets[service_id].import_targets) == 2
        leave = Change(operation="leave", entry=Entry(site="C"))
        await cloud["B"].requests.change(cloud.caller(), cloud.ctx("B"), service_id, leave)
        assert service_id not in cloud.vims["C"].targets
        assert len(cloud.vims["A"].targets[service_id].import_targets) == 1
        await cloud["B"].requests.change(
            cloud.caller(), cloud.ctx("B"), service_id, Change(operation="delete")
        )
        await until(lambda: cloud.pictures() == before)
        await cloud.close()

    run(main())


def test_a_member_learns_soon_that_all_are_active():
    async def main():
        cloud = Cloud("A", "B")
        ids = {s: cloud.vims[s].add_network(f"10.{i}.0.0/24") for i, s in enumerate("AB")}
        view = await cloud.create("A", "l3", *(f"{s}:{ids[s]}" for s in "AB"))

        async def active():
            shown = await cloud["B"].requests.show(cloud.caller(), view.document.service_id)
            return shown.provisioning_status == "ACTIVE"

        await until(active)
        await cloud.close()

    run(main())


def test_a_refusal_by_a_vim_after_the_commit_revokes_everywhere():
    async def main():
        cloud = Cloud("A", "B")
        ids = {s: cloud.vims[s].add_network(f"10.{i}.0.0/24") for i, s in enumerate("AB")}
        before = cloud.pictures()
        cloud.vims["B"].refuse.add("connect")
        with pytest.raises(Exception, match="refuses connect"):
            await cloud.create("A", "l3", *(f"{s}:{ids[s]}" for s in "AB"))
        assert cloud.pictures() == before
        await cloud.close()

    run(main())


def test_l2_join_gets_a_share_and_leave_gives_it_back():
    async def main():
        cloud = Cloud("A", "B", "C")
        await cloud.run()
        a = cloud.vims["A"].add_network("10.7.0.0/24")
        view = await cloud.create("A", "l2", f"A:{a}", "B")
        service_id = view.document.service_id
        join = Change(operation="join", entry=Entry(site="C"))
        joined, _ = await cloud["A"].requests.change(cloud.caller(), cloud.ctx("A"), service_id, join)
        net = next(r.resource.resource_id for r in joined.resources if r.resource.site == "C")
        ips = [await cloud.vims["C"].boot(net) for _ in range(10)]
        assert len(set(ips)) == 10
        cloud.vims["C"].port_rows[net].clear()
        leave = Change(operation="leave", entry=Entry(site="C"))
        await cloud["A"].requests.change(cloud.caller(), cloud.ctx("A"), service_id, leave)
        held = await cloud.stores["A"].read(lambda tx: tx.blocks(service_id))
        assert {h.block.owner for h in held} == {"A", "B"}
        assert net not in cloud.vims["C"].networks
        await cloud.close()

    run(main())


def test_a_vim_that_hangs_does_not_hold_the_user_beyond_the_time_and_is_undone():
    async def main():
        cloud = Cloud("A", "B")
        await cloud.run()
        ids = {s: cloud.vims[s].add_network(f"10.{i}.0.0/24") for i, s in enumerate("AB")}
        before = cloud.pictures()
        release = asyncio.Event()
        connect = cloud.vims["A"].connect

        async def hang(target):
            await release.wait()
            await connect(target)

        cloud.vims["A"].connect = hang
        started = asyncio.get_running_loop().time()
        with pytest.raises(SiteUnreachable):
            await cloud.create("A", "l3", *(f"{s}:{ids[s]}" for s in "AB"))
        assert asyncio.get_running_loop().time() - started < 2 * cloud.limits.request_timeout
        release.set()
        await until(lambda: cloud.pictures() == before)
        await cloud.close()

    run(main())
