"""A network's pools are narrowed before it is promised; whoever was just being given an address is seen."""

import asyncio

import pytest

from diminet.engine.instance import Limits
from simulated_cloud import Cloud, run_virtually

CIDR = "10.8.0.0/24"
INTERVAL = 5.0


async def made(*, settled):
    """How long a create takes whose VIMs say that, and whether any was asked."""
    cloud = Cloud("A", "B", limits=Limits(settle_interval=INTERVAL))
    asked = []

    async def answer(network_id):
        asked.append(network_id)
        return settled

    cloud.vims["A"].settled = answer
    own = cloud.vims["A"].add_network(CIDR)
    loop = asyncio.get_running_loop()
    began = loop.time()
    await cloud.create("A", "l2", f"A:{own}", "B")
    seconds = loop.time() - began
    await cloud.close()
    return seconds, asked == [own]


@pytest.mark.parametrize("settled", [True, False])
def test_time_is_waited_for_only_where_the_vim_cannot_tell(settled):
    seconds, asked = run_virtually(made(settled=settled))
    assert asked
    assert (seconds >= INTERVAL) is not settled
