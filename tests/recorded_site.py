"""A networking service on a real database, with a kernel that records instead of acting."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from diminet.errors import SiteRefused
from diminet.model import Health, Target
from diminet.south.linux.vim import LinuxVim
from diminet.south.linux.vim_access import Actor
from diminet.south.linux.vim_store import VimStore

SITE_NUMBER = 7


class RecordingKernel:
    """A double of `kernel.Kernel`: remembers what it was told. It survives the service, as a kernel does.

    refuse: names of methods that fail.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.bridge_mtu: dict[str, int] = {}
        self.plugged: dict[str, dict[str, Any]] = {}
        self.gateway: dict[str, tuple[tuple[tuple[str, int], ...], str]] = {}
        self.refuse: set[str] = set()

    def _act(self, name: str) -> None:
        if name in self.refuse:
            raise SiteRefused(f"the recording kernel was told to refuse {name}")

    def reboot(self) -> None:
        self.bridge_mtu.clear()
        self.plugged.clear()
        self.gateway.clear()

    def instance_path(self, ns_name: str) -> Path:
        return self.directory / ns_name

    async def make_bridge(self, network_id: str, mtu: int) -> None:
        self._act("make_bridge")
        self.bridge_mtu[network_id] = mtu

    async def delete_bridge(self, network_id: str) -> None:
        self._act("delete_bridge")
        self.bridge_mtu.pop(network_id, None)

    async def bridges(self) -> dict[str, int]:
        return dict(self.bridge_mtu)

    async def plug(self, network_id: str, port_id: str, ns_name: str, **shape: Any) -> None:
        self._act("plug")
        await asyncio.sleep(0)
        assert network_id in self.bridge_mtu
        shape = {name: list(v) if name in ("addresses", "gateways") else v for name, v in shape.items()}
        self.plugged[port_id] = {"network_id": network_id, "instance": ns_name, **shape}

    async def unplug(self, port_id: str, ns_name: str) -> None:
        self._act("unplug")
        self.plugged.pop(port_id, None)

    async def ports(self) -> set[str]:
        return set(self.plugged)

    async def set_gateway(
        self, network_id: str, addresses: Iterable[tuple[str, int]], *, mac: str, mtu: int
    ) -> None:
        self._act("set_gateway")
        self.gateway[network_id] = (tuple(addresses), mac)

    async def remove_gateway(self, network_id: str) -> None:
        self._act("remove_gateway")
        self.gateway.pop(network_id, None)

    async def gateways(self) -> set[str]:
        return set(self.gateway)


class RecordingDataPlane:
    """A double of `dataplane.DataPlane`: remembers the targets."""

    def __init__(self) -> None:
        self.targets: dict[str, tuple[Target, dict[str, Any]]] = {}
        self.refuse = False

    async def connect(self, target: Target, networks: Any) -> None:
        if self.refuse:
            raise SiteRefused("the recording data plane was told to refuse")
        self.targets[target.service_id] = (target, dict(networks))

    async def disconnect(self, service_id: str) -> None:
        self.targets.pop(service_id, None)

    async def realised(self) -> dict[str, Health]:
        return {service_id: Health(service_id=service_id) for service_id in self.targets}

    async def problems(self) -> tuple[str, ...]:
        return ()


@asynccontextmanager
async def open_vim(path: Path, kernel: RecordingKernel, **options: Any) -> AsyncIterator[LinuxVim]:
    vim = LinuxVim(VimStore(path), kernel, SITE_NUMBER, **options)
    await vim.start()
    try:
        yield vim
    finally:
        await vim.close()


def recorded_site(directory: Path) -> SimpleNamespace:
    """`site.vim()` opens the service, again and again on one database and one kernel."""
    kernel = RecordingKernel(directory / "ns")

    def vim(**options: Any) -> Any:
        return open_vim(directory / "vim.db", kernel, **options)

    start: Callable[..., Any] = vim
    return SimpleNamespace(
        kernel=kernel,
        vim=start,
        tenant=Actor("blue"),
        other=Actor("red"),
        admin=Actor("ops", admin=True),
        reader=Actor("blue", writer=False),
        dataplane=RecordingDataPlane(),
        number=SITE_NUMBER,
    )
