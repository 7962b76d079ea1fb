"""VIMs of a simulated cloud that are as slow as a Neutron on sqlite and, like it, do not ask for room."""

import asyncio
import random
from typing import Any

from simulated_cloud import Cloud
from simulator.vim import SimulatedVim

SLOWEST_S = 0.1  # of one call of a VIM, which does one after another


class SlowVim:
    """One of the cloud's VIMs."""

    def __init__(self, vim: SimulatedVim, draw: random.Random) -> None:
        self.vim, self.draw, self.turn = vim, draw, asyncio.Lock()
        vim.asks_for_room = False
        for name in ("ports", "shape_subnet", "network", "ingress"):
            setattr(vim, name, self._slowly(getattr(vim, name)))

    def _slowly(self, method: Any) -> Any:
        async def call(*arguments: Any, **more: Any) -> Any:
            async with self.turn:
                await asyncio.sleep(self.draw.uniform(0.02, SLOWEST_S))
                return await method(*arguments, **more)

        return call

    async def port(self, network: str) -> str | None:
        """A new port's address; None if it is refused one."""
        async with self.turn:
            await asyncio.sleep(self.draw.uniform(0.02, SLOWEST_S))
            return self.vim.add_port(network)


async def stretched(cloud: Cloud, cidr: str, seed: int) -> tuple[dict[str, SlowVim], dict[str, str]]:
    """A new network of A of that CIDR is stretched over all sites, whose loops run then. By site: its VIM,
    its network."""
    draw = random.Random(seed)
    vims = {name: SlowVim(vim, draw) for name, vim in cloud.vims.items()}
    own = cloud.vims["A"].add_network(cidr)
    view = await cloud.create("A", "l2", f"A:{own}", *(name for name in vims if name != "A"))
    await cloud.run()
    return vims, {r.site: r.resource_id for r in view.document.resources}
