"""One create and delete of a service as its user sees them: what is drawn, counted and waited for."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from diminet.bench import machines
from diminet.bench.machines import Figures, Machine
from diminet.bench.samples import Operation, Sample, ServiceKind
from diminet.client import ApiError, NorthClient
from diminet.errors import BadSurroundings

KINDS: tuple[ServiceKind, ...] = ("l2", "l3")
# By kind of service; {} is the site's number. The networks that are there before a create.
TENANTS: Mapping[ServiceKind, str] = {"l3": "10.1.{}.0/24", "l2": "10.2.{}.0/24"}
DELETE_TIMEOUT = 60.0  # seconds for a delete that was answered before all members were clean
DELETE_POLL = 0.05  # seconds
BACKGROUND = frozenset({"realised"})  # VIM calls that no request makes


class Draw(NamedTuple):
    """One round's service. sites: the receiving one first."""

    kind: ServiceKind
    sites: tuple[str, ...]


def draw(chance: random.Random, kind: ServiceKind, sites: Sequence[str], count: int) -> Draw:
    return Draw(kind, tuple(chance.sample(list(sites), count)))


def body(drawn: Draw, networks: Mapping[str, str]) -> dict[str, Any]:
    """Of the create. networks: by site; of an L2 service only the receiving site's is used."""
    resources: list[dict[str, str]] = [{"site": site} for site in drawn.sites]
    for entry in resources if drawn.kind == "l3" else resources[:1]:
        entry["resource_id"] = networks[entry["site"]]
    return {"name": "bench", "type": drawn.kind, "resources": resources}


async def figures_of(these: Mapping[str, Machine], sites: Sequence[str]) -> dict[str, Figures]:
    found = await asyncio.gather(*(asyncio.to_thread(machines.figures, these[site]) for site in sites))
    return dict(zip(sites, found, strict=True))


def sample(
    drawn: Draw,
    operation: Operation,
    seconds: float,
    before: Mapping[str, Figures],
    after: Mapping[str, Figures],
    *,
    delay_ms: float,
    data_plane: bool = False,
    first_ping: float | None = None,
) -> Sample:
    """before, after: of the sites concerned."""
    gained = {site: after[site].since(before[site]) for site in drawn.sites}
    calls: Counter[str] = Counter()
    for figures in gained.values():
        calls.update({name: round(n) for name, n in figures.calls.items() if name not in BACKGROUND})
    vim = [
        sum(value for name, value in figures.vim.items() if name not in BACKGROUND)
        for figures in gained.values()
    ]
    return Sample(
        kind=drawn.kind,
        operation=operation,
        sites=len(drawn.sites),
        delay_ms=delay_ms,
        data_plane=data_plane,
        receiver=drawn.sites[0],
        seconds=seconds,
        first_ping=first_ping,
        steps=dict(gained[drawn.sites[0]].steps) if operation == "create" else {},
        vim=max(vim),
        vim_calls=dict(calls),
    )


def delete(north: NorthClient, service_id: str, *, seconds: float = DELETE_TIMEOUT) -> None:
    """Until all members are clean, also where a busy machine made the instance answer before that (202).
    Blocking. Raises BadSurroundings after so many seconds."""
    if north.delete(service_id).status == 204:
        return
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        time.sleep(DELETE_POLL)
        try:
            north.show(service_id)
        except ApiError as error:
            if error.status == 404:
                return
            raise
    raise BadSurroundings(f"a delete of the benchmark was not done in {seconds:.0f} s")
