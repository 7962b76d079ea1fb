"""One service over many simulated sites: virtual time, so that only the WAN takes any."""

import asyncio
import time
from collections import Counter
from ipaddress import IPv4Network

from diminet.bench.scale_results import ServiceKind, Simulated
from diminet.bench.simulated import (
    PROJECT,
    TOKEN,
    LoopClock,
    Names,
    SimulatedSite,
    Trust,
    VirtualLoop,
    Wire,
)
from diminet.engine.instance import Limits
from diminet.messages import Context, CreateRequest
from diminet.model import Entry, Initiator
from diminet.store import SqlStore

KINDS: tuple[ServiceKind, ...] = ("l3", "l2")
ROUTED = IPv4Network("10.0.0.0/8")
STRETCHED = "172.16.0.0/16"
PATIENCE = 3600.0  # seconds: virtual time makes nothing wait that long


def measure(count: int, delay_ms: float) -> list[Simulated]:
    """One create of each kind over that many sites."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(_measure(count, delay_ms / 1000))


async def _measure(count: int, delay: float) -> list[Simulated]:
    wire, names = Wire(delay), Names([f"S{number:03d}" for number in range(1, count + 1)])
    limits = Limits(blocks_per_project=10**9, confirm_delay=PATIENCE)
    sites = [
        SimulatedSite(
            site.name,
            site.number,
            wire,
            names,
            SqlStore("sqlite://", threaded=False, storage_timeout_s=PATIENCE),
            clock=LoopClock(),
            limits=limits,
        )
        for site in await names.sites()
    ]
    try:
        return [await _create(kind, sites, wire) for kind in KINDS]
    finally:
        for site in sites:
            await site.close()


async def _create(kind: ServiceKind, sites: list[SimulatedSite], wire: Wire) -> Simulated:
    loop = asyncio.get_running_loop()
    request = CreateRequest(type=kind, name="wide", resources=_entries(kind, sites))
    master = sites[0]
    caller = await Trust().authenticate(TOKEN)
    ctx = Context(
        request_id=f"req-{kind}", initiator=Initiator(user_id="bench", project_id=PROJECT, site=master.name)
    )
    messages, sent = Counter(wire.messages), wire.bytes
    statements = [site.statements for site in sites]
    began, cpu = loop.time(), time.process_time()
    await master.engine.requests.create(caller, ctx, request, wait=True, idempotency=None)
    taken = [site.statements - before for site, before in zip(sites, statements, strict=True)]
    return Simulated(
        kind=kind,
        sites=len(sites),
        round_trips=(loop.time() - began) / (2 * wire.delay),
        messages=dict(wire.messages - messages),
        sent=wire.bytes - sent,
        master_statements=taken[0],
        member_statements=max(taken[1:]),
        cpu=time.process_time() - cpu,
    )


def _entries(kind: ServiceKind, sites: list[SimulatedSite]) -> tuple[Entry, ...]:
    if kind == "l2":
        first = Entry(site=sites[0].name, resource_id=sites[0].south.add_network(STRETCHED))
        return (first, *(Entry(site=site.name) for site in sites[1:]))
    cidrs = ROUTED.subnets(new_prefix=24)
    return tuple(
        Entry(site=site.name, resource_id=site.south.add_network(str(next(cidrs)))) for site in sites
    )
