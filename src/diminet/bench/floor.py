"""The floor: the VIM calls of a create or delete, bare, in one site.

`python -m diminet.bench.floor --config FILE` runs where the site's instance runs (its namespaces, FRR and
disk) while that instance is paused, and calls the same `LinuxSouth`, over a database of its own beside the
instance's. Each call that the result needs is made once: no HTTP, no peers, no DIMINET database, no
decision. Requests are lines of JSON on stdin, each answered by one line on stdout. It ends with its stdin.

    create  l3, and l2 where the network is   network, ports, [shape_subnet], connect
            l2 elsewhere                      make_network, shape_subnet, connect
    delete                                    disconnect, [drop_network | shape_subnet]
"""

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from diminet import config
from diminet.bench.orders import Done, Order
from diminet.config import Settings
from diminet.errors import DiminetError
from diminet.south.linux.dataplane import DataPlane
from diminet.south.linux.frr import Frr
from diminet.south.linux.frr_daemons import RUN as FRR_RUN
from diminet.south.linux.kernel import Kernel
from diminet.south.linux.linux import LinuxSouth
from diminet.south.linux.vim import LinuxVim
from diminet.south.linux.vim_access import Actor
from diminet.south.linux.vim_requests import NetworkCreate, SubnetCreate
from diminet.south.linux.vim_store import VimStore

PROJECT = "floor"
DATABASE = "floor.db"  # in the site's data directory: the same disk as the networking service's


class Floor:
    """vim is opened but not repaired: what the instance made is not its own, and stays."""

    def __init__(self, vim: LinuxVim, south: LinuxSouth) -> None:
        self._vim = vim
        self._south = south

    async def do(self, order: Order) -> Done:
        if order.op == "network":
            return Done(network_id=await self._network(order.cidr))
        if order.op == "remove":
            await self._vim.delete_network(Actor(PROJECT), order.network_id or "")
            return Done()
        began = time.perf_counter()
        network_id = await (self._create(order) if order.op == "create" else self._delete(order))
        return Done(seconds=time.perf_counter() - began, network_id=network_id)

    async def _network(self, cidr: str) -> str:
        actor = Actor(PROJECT)
        row = await self._vim.create_network(actor, NetworkCreate(name="floor"))
        await self._vim.create_subnet(actor, SubnetCreate(network_id=row.id, cidr=cidr))
        return row.id

    async def _create(self, order: Order) -> str:
        assert order.target is not None
        south, target = self._south, order.target
        if order.network_id is None:
            network_id = await south.make_network(target.service_id, PROJECT, "floor", "floor")
        else:
            network_id = order.network_id
            await south.network(network_id)
            await south.ports(network_id)
        if order.shape is not None:
            await south.shape_subnet(network_id, order.shape)
        await south.connect(target.model_copy(update={"networks": (network_id,)}))
        return network_id

    async def _delete(self, order: Order) -> str:
        assert order.target is not None
        assert order.network_id is not None
        await self._south.disconnect(order.target.service_id)
        if order.made:
            await self._south.drop_network(order.network_id)
        elif order.shape is not None:
            await self._south.shape_subnet(order.network_id, order.shape)
        return order.network_id


async def open_floor(settings: Settings, stack: AsyncExitStack) -> Floor:
    """As `diminet.app` opens a linux site, but for repairing and for what serves others."""
    south = settings.south
    kernel = Kernel(south.run_dir)
    stack.callback(kernel.close)
    vteps: dict[int, str] = {}
    dataplane = DataPlane(
        kernel,
        Frr(FRR_RUN / (south.frr_pathspace or ""), south.bgp_asn, timeout=settings.limits.vim_timeout),
        site_number=settings.site.number,
        vtep=south.vtep,
        vteps=vteps,
        mtu=south.mtu,
    )
    vim = LinuxVim(VimStore(settings.site.data_dir / DATABASE), kernel, settings.site.number, mtu=south.mtu)
    await vim.store.open()
    stack.push_async_callback(vim.close)
    return Floor(vim, LinuxSouth(vim, dataplane, mtu=south.mtu, vtep=south.vtep, vteps=vteps))


async def serve(settings: Settings) -> None:
    """Until stdin ends. What a call refuses is its answer."""
    loop = asyncio.get_running_loop()
    async with AsyncExitStack() as stack:
        floor = await open_floor(settings, stack)
        print(json.dumps({"ready": True}), flush=True)
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            try:
                done = await floor.do(Order.model_validate_json(line))
            except DiminetError as error:
                done = Done(error=error.message)
            print(done.model_dump_json(), flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="floor", description="Bare VIM calls (started by `diminet bench`).")
    parser.add_argument("--config", type=Path, required=True, help="the instance's configuration")
    given: dict[str, Any] = vars(parser.parse_args(arguments))
    asyncio.run(serve(config.load(given["config"])))
    return 0


if __name__ == "__main__":
    sys.exit(main())
