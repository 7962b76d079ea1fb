"""Counts and times every call that the engine makes to a South."""

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager
from typing import TypeVar

from pydantic import SecretStr

from diminet.engine.ports import South
from diminet.model import (
    Capabilities,
    Health,
    Ingress,
    NetworkFacts,
    PortFacts,
    Remains,
    SubnetShape,
    Target,
)

T = TypeVar("T")


class MeteredSouth:
    """A South in front of another. meter: makes the context in which a named call runs."""

    def __init__(self, inner: South, meter: Callable[[str], AbstractContextManager[None]]) -> None:
        self._inner = inner
        self._meter = meter
        self.kind = inner.kind
        self.asks_for_room = inner.asks_for_room

    async def _call(self, name: str, work: Awaitable[T]) -> T:
        with self._meter(name):
            return await work

    async def capabilities(self) -> Capabilities:
        return await self._inner.capabilities()

    async def network(self, network_id: str) -> NetworkFacts:
        return await self._call("network", self._inner.network(network_id))

    async def ports(self, network_id: str) -> tuple[PortFacts, ...]:
        return await self._call("ports", self._inner.ports(network_id))

    async def owner(self, network_id: str, *, as_user: SecretStr | None = None) -> str:
        return await self._call("owner", self._inner.owner(network_id, as_user=as_user))

    async def make_network(
        self, service_id: str, project_id: str, name: str, key: str, *, first: bool = False
    ) -> str:
        work = self._inner.make_network(service_id, project_id, name, key, first=first)
        return await self._call("make_network", work)

    async def shape_subnet(self, network_id: str, shape: SubnetShape, *, make: bool = True) -> None:
        await self._call("shape_subnet", self._inner.shape_subnet(network_id, shape, make=make))

    async def settled(self, network_id: str) -> bool:
        return await self._call("settled", self._inner.settled(network_id))

    async def drop_network(self, network_id: str) -> bool:
        return await self._call("drop_network", self._inner.drop_network(network_id))

    async def connect(self, target: Target) -> None:
        await self._call("connect", self._inner.connect(target))

    async def disconnect(self, service_id: str) -> None:
        await self._call("disconnect", self._inner.disconnect(service_id))

    async def realised(self) -> Mapping[str, Health]:
        return await self._call("realised", self._inner.realised())

    async def problems(self) -> tuple[str, ...]:
        return await self._inner.problems()

    async def ingress(self, network_id: str) -> tuple[Ingress, ...]:
        return await self._call("ingress", self._inner.ingress(network_id))

    async def remains(self) -> tuple[Remains, ...]:
        return await self._call("remains", self._inner.remains())

    async def mark(self, name: str) -> str | None:
        return await self._call("mark", self._inner.mark(name))

    async def set_mark(self, name: str, value: str) -> None:
        await self._call("set_mark", self._inner.set_mark(name, value))
