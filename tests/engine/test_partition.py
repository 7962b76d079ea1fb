"""Both halves of a partition go on assigning addresses and growing, with and without the master, and nothing
collides when they meet (the paper's section on CRDTs and hot spots; DESIGN section 5, invariants 1 and 7)."""

import asyncio
import random
from itertools import product

import pytest

from diminet.engine.instance import Limits
from simulated_cloud import Cloud, run_virtually, until

CIDR, HOSTS = "10.8.0.0/26", 61  # 62 usable addresses less a shared gateway
HALVES = ("AB", "CD")  # A is the master


class Tenant:
    """Boots at one site after another until none of them has an address left."""

    def __init__(self, cloud, networks, draw):
        self.cloud, self.networks, self.draw = cloud, networks, draw
        self.ips = []

    async def boot_until_full(self, sites):
        tried = set(sites)
        while tried:
            site = self.draw.choice(sorted(tried))
            if not await self.boot(site):
                tried.discard(site)

    async def boot(self, site):
        """Ours asks for room where the pool is empty; False if nobody has any."""
        vim, network = self.cloud.vims[site], self.networks[site]
        ip = vim.add_port(network)
        while ip is None and await self.cloud[site].pools.more_room(network, CIDR):
            ip = vim.add_port(network)
        if ip is not None:
            self.ips.append(ip)
        return ip is not None


async def known(cloud, service, site):
    """The blocks as that site knows them: (index, version, owner)."""
    held = await cloud.stores[site].read(lambda tx: tx.blocks(service))
    return {(h.block.index, h.block.version, h.block.owner) for h in held}


async def live_through(seed):
    cloud = Cloud(*"ABCD", limits=Limits(settle_interval=0.0, request_timeout=3.0, sync_interval=2.0))
    service_networks = {}
    own = cloud.vims["A"].add_network(CIDR)
    view = await cloud.create("A", "l2", f"A:{own}", "B", "C", "D", params={"gateway": "shared"})
    service = view.document.service_id
    service_networks |= {r.site: r.resource_id for r in view.document.resources}
    tenant = Tenant(cloud, service_networks, random.Random(seed))
    try:
        for one, other in product(*HALVES):
            cloud.wire.cut(one, other)
        held = {half: await known(cloud, service, half[0]) for half in HALVES}
        await asyncio.gather(*(tenant.boot_until_full(half) for half in HALVES))
        apart = len(tenant.ips)
        for half in HALVES:  # every block that the half's sites had is in use, whoever of them got it
            owned = {index for index, _, owner in held[half] if owner in half}
            now = {i for i, _, owner in await known(cloud, service, half[0]) if owner in half}
            assert owned == now
        cloud.wire.heal()
        await cloud.run()
        await tenant.boot_until_full("ABCD")

        async def agreed():
            return len({frozenset(await known(cloud, service, site)) for site in "ABCD"}) == 1

        await until(agreed)
    finally:
        await cloud.close()
    return apart, tenant.ips


@pytest.mark.parametrize("seed", range(4))
def test_both_halves_hand_out_every_address_that_they_have_and_none_twice(seed):
    apart, ips = run_virtually(live_through(seed))
    assert apart == len(ips) == len(set(ips)) == HOSTS
