"""Runs inside a test site's namespaces: one JSON call per line in, one JSON answer per line out."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import structlog

from diminet.errors import DiminetError
from diminet.model import Target
from diminet.south.linux import names
from diminet.south.linux.dataplane import DataPlane, NetworkInfo
from diminet.south.linux.frr import Frr
from diminet.south.linux.garp import Announcer
from diminet.south.linux.kernel import Kernel


class Agent:
    def __init__(self, settings: dict[str, Any]) -> None:
        self.number = settings["number"]
        self.kernel = Kernel(Path(settings["run_dir"]))
        self.plane = DataPlane(
            self.kernel,
            Frr(Path("/run/frr") / settings["pathspace"], 65000),
            site_number=self.number,
            vtep=settings["vtep"],
            vteps={int(number): vtep for number, vtep in settings["vteps"].items()},
        )

    async def network(self, network_id: str, gateways: list[list[Any]]) -> None:
        await self.kernel.make_bridge(network_id, 1450)
        if gateways:
            await self.kernel.set_gateway(
                network_id,
                [(ip, length) for ip, length in gateways],
                mac=names.gateway_mac(self.number, network_id),
                mtu=1450,
            )

    async def drop_network(self, network_id: str) -> None:
        await self.kernel.remove_gateway(network_id)
        await self.kernel.delete_bridge(network_id)

    async def boot(
        self, network_id: str, port_id: str, name: str, addresses: list[list[Any]], gateways: list[str]
    ) -> str:
        mac = names.port_mac(self.number, port_id)
        await self.kernel.plug(
            network_id,
            port_id,
            name,
            mac=mac,
            addresses=[(ip, length) for ip, length in addresses],
            gateways=gateways,
            mtu=1450,
        )
        return mac

    async def kill(self, port_id: str, name: str) -> None:
        await self.kernel.unplug(port_id, name)

    async def connect(self, target: dict[str, Any], networks: dict[str, list[str]]) -> None:
        infos = {key: NetworkInfo(key, 1450, tuple(cidrs)) for key, cidrs in networks.items()}
        await self.plane.connect(Target.model_validate(target), infos)

    async def disconnect(self, service_id: str) -> None:
        await self.plane.disconnect(service_id)

    async def realised(self) -> dict[str, list[str]]:
        return {key: list(health.problems) for key, health in (await self.plane.realised()).items()}

    async def silent(self) -> dict[str, list[str]]:
        """Of two looks in a row."""
        await self.plane.realised()
        return {key: list(health.silent) for key, health in (await self.plane.realised()).items()}

    async def problems(self) -> list[str]:
        return list(await self.plane.problems())

    async def used_vnis(self) -> list[int]:
        return sorted(await self.plane.used_vnis())

    async def start(self) -> None:
        await self.plane.start()
        self.announcer = Announcer(self.kernel)
        self.announcer.start()


async def main() -> None:
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))  # answers go to stdout
    agent = Agent(json.loads(sys.argv[1]))
    while line := await asyncio.to_thread(sys.stdin.readline):
        name, arguments = json.loads(line)
        try:
            answer = {"value": await getattr(agent, name)(*arguments)}
        except DiminetError as error:
            answer = {"error": error.as_dict()}
        print(json.dumps(answer), flush=True)
    await agent.announcer.close()
    agent.kernel.close()


asyncio.run(main())
