"""A stretched subnet of which nearly every address is used, over VIMs that do not ask for room, as Neutron:
what is refused succeeds when it is repeated for 20 s while any site has an address free."""

import asyncio

import pytest

from diminet.engine.instance import Limits
from simulated_cloud import Cloud, run_virtually
from slow_vims import stretched

CIDR, ROOM = "10.8.0.0/27", 27  # 30 usable addresses less a gateway for each of three sites
WAIT_S = 20.0
AT_ONCE = 4  # ports that a tenant asks of one site at once


async def boot(vim, network):
    loop = asyncio.get_running_loop()
    began = loop.time()
    while loop.time() < began + WAIT_S:
        ip = await vim.port(network)
        if ip is not None:
            return ip
        await asyncio.sleep(0.2)
    raise AssertionError(f"no address for {WAIT_S:g} s")


async def fill(each, seed):
    """each: ports by site, made at all sites at once. All their addresses."""
    cloud = Cloud("A", "B", "C", limits=Limits(settle_interval=1.0))
    vims, networks = await stretched(cloud, CIDR, seed)

    async def all_of(name):
        turns = asyncio.Semaphore(AT_ONCE)

        async def one():
            async with turns:
                return await boot(vims[name], networks[name])

        return await asyncio.gather(*(one() for _ in range(each[name])))

    try:
        found = await asyncio.gather(*(all_of(name) for name in each))
    finally:
        await cloud.close()
    return [ip for some in found for ip in some]


@pytest.mark.parametrize(
    "each", [{"A": ROOM}, {"C": ROOM}, {"A": 5, "B": 11, "C": 11}, {"A": 9, "B": 9, "C": 9}], ids=str
)
def test_the_last_address_gets_to_where_it_is_wanted(each):
    found = run_virtually(fill(each, seed=1))
    assert len(found) == len(set(found)) == sum(each.values()) == ROOM


def test_what_is_being_given_is_not_pooled_again_meanwhile():
    """The giver is short itself, and its own round of growing comes between taking out and giving."""

    async def work():
        cloud = Cloud("A", "B", limits=Limits(settle_interval=1.0))
        for vim in cloud.vims.values():
            vim.asks_for_room = False
        own = cloud.vims["A"].add_network("10.8.0.0/29")
        view = await cloud.create("A", "l2", f"A:{own}", "B")
        service = view.document.service_id
        networks = {r.site: r.resource_id for r in view.document.resources}
        try:
            for name, vim in cloud.vims.items():
                while await cloud[name].pools.more_room(networks[name], "10.8.0.0/29"):
                    pass
                ips = []
                while (ip := vim.add_port(networks[name])) is not None:
                    ips.append(ip)
            cloud.vims["A"].delete_port(own, sorted(cloud.vims["A"].port_rows[own])[-1])
            asked = asyncio.create_task(cloud["B"].pools.more_room(networks["B"], "10.8.0.0/29"))
            await asyncio.sleep(0.5)
            row = await cloud.stores["A"].read(lambda tx: tx.service(service))
            await cloud["A"].pools.keep_ahead(row)
            assert await asked
            assert cloud.vims["B"].add_port(networks["B"]) is not None
        finally:
            await cloud.close()

    run_virtually(work())
