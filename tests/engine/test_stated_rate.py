"""The rate of docs/openstack.md ("How fast addresses may be taken"), with the limits that the default
settings of a site beside Neutron give, over VIMs that do not ask for room, in virtual time."""

import asyncio
import math

import pytest

from diminet.app import limits
from diminet.config import Settings
from simulated_cloud import Cloud, run_virtually
from slow_vims import stretched

SETTINGS = Settings(site={"name": "A", "number": 1}, south={"kind": "neutron"})
RATE = SETTINGS.limits.block_rate_per_second  # ports per second of each site
GIFT_S = 3.0 + SETTINGS.settle_interval()  # until what is given by another site can be used
WAIT_S = 20.0
SITES = ("A", "B", "C")
GATEWAYS = len(SITES)
AT_ONCE = 8  # ports that a tenant asks of one site at once


def reserve(block):
    """The addresses, the last ones of the service, for which nothing is stated. block: addresses."""
    return len(SITES) * (math.ceil(GIFT_S * RATE) + block)


async def paced(cidr, at, *, rate, down_to, patience):
    """Ports at these sites, each at `rate` per second, until so many addresses are left. What was made, and
    the (seconds, site, addresses left) of the refused; those are repeated for `patience` seconds."""
    cloud = Cloud(*SITES, limits=limits(SETTINGS))
    vims, networks = await stretched(cloud, cidr, seed=1)
    usable = 2 ** (32 - int(cidr.split("/")[1])) - 2 - GATEWAYS
    made, refused, loop = [], [], asyncio.get_running_loop()
    began = loop.time()

    async def one(site):
        async with turns[site]:
            await repeated(site)

    async def repeated(site):
        asked = loop.time()
        while (ip := await vims[site].port(networks[site])) is None:
            refused.append((round(loop.time() - began, 1), site, usable - len(made)))
            if loop.time() >= asked + patience:
                return
            await asyncio.sleep(0.5)
        made.append(ip)

    async def all_of(site):
        tasks = []
        while usable - len(made) - sum(not task.done() for task in under_way) > down_to:
            tasks.append(asyncio.create_task(one(site)))
            under_way.append(tasks[-1])
            await asyncio.sleep(max(0.0, began + len(tasks) / rate - loop.time()))
        await asyncio.gather(*tasks)

    under_way, turns = [], {site: asyncio.Semaphore(AT_ONCE) for site in at}
    try:
        await asyncio.gather(*(all_of(site) for site in at))
    finally:
        await cloud.close()
    assert len(made) == len(set(made))
    return made, refused, usable


@pytest.mark.parametrize(
    ("cidr", "block", "at"),
    [("10.8.0.0/24", 4, "ABC"), ("10.8.0.0/25", 2, "AC"), ("10.8.0.0/25", 2, "B"), ("10.8.0.0/26", 1, "B")],
)
def test_at_the_stated_rate_none_is_refused(cidr, block, at):
    made, refused, usable = run_virtually(paced(cidr, at, rate=RATE, down_to=reserve(block), patience=0.0))
    assert refused == []
    assert usable - len(made) <= reserve(block)


@pytest.mark.parametrize("at", ["BC", "B"])
def test_above_the_stated_rate_what_is_refused_succeeds_when_it_is_repeated(at):
    left = len(SITES) * (4 - 1)  # of blocks with an address in use, which cannot be given
    made, refused, usable = run_virtually(
        paced("10.8.0.0/24", at, rate=5 * RATE, down_to=left, patience=WAIT_S)
    )
    assert refused
    assert usable - len(made) == left


def test_small_pools_that_nobody_uses_ask_the_others_once():
    """Each site has less than the watermark, and so have the others."""

    async def asked():
        cloud = Cloud(*SITES, limits=limits(SETTINGS))
        await stretched(cloud, "10.8.0.0/26", seed=1)
        try:
            await asyncio.sleep(120)
        finally:
            await cloud.close()
        return sum(count for (_, _, kind), count in cloud.wire.seen.items() if kind == "give")

    assert run_virtually(asked()) <= len(SITES) * (len(SITES) - 1)
