"""A year of virtual time: what is kept stays bounded, whatever comes and goes.

Less than one minute of work each month; between them the sites are down, and their clocks go on.
"""

from collections.abc import Iterator

from diminet.engine.instance import Limits
from diminet.messages import Change, CreateRequest
from diminet.model import Entry
from simulator.site import Site
from simulator.workload import Workload
from simulator.world import World

MONTH_S = 28 * 86400.0
MONTHS = 13
AWAY = range(2, 4)  # months in which the third site is cut off
SLOW = Limits(deliver_interval=5.0, reconcile_interval=15.0, audit_interval=30.0, lease_lifetime=30.0)


async def create(workload: Workload, kind: str, *sites: Site) -> str:
    cidrs = {"l2": ["192.168.0.0/28"] * 3, "l3": ["10.0.0.0/24", "10.1.0.0/24", "10.2.0.0/24"]}[kind]
    entries = tuple(
        Entry(site=site.name, resource_id=workload.add_network(site, cidr))
        for site, cidr in zip(sites, cidrs, strict=False)
    )
    request = CreateRequest(type=kind, name=kind, resources=entries, on_unreachable="defer")
    requests = sites[0].engine.requests
    idempotency = (workload.world.uuid(), "hash")
    ctx = workload.context(sites[0])
    workload.world.checks.named(ctx.request_id, [site.name for site in sites])
    view, _ = await requests.create(workload.caller(), ctx, request, wait=True, idempotency=idempotency)
    return view.document.service_id


async def change(workload: Workload, site: Site, service_id: str, change: Change) -> None:
    await site.engine.requests.change(workload.caller(), workload.context(site), service_id, change)


async def minute(world: World, workload: Workload, of_old: str | None) -> str:
    """Services come, change and go; the one made last time is deleted. Returns one that stays."""
    a, b, c = world.sites.values()
    clock = world.loop
    routed = await create(workload, "l3", a, b, c)
    stretched = await create(workload, "l2", b, a, c)
    for n in range(3):
        await change(workload, a, routed, Change(operation="modify", name=f"n{n}"))
    network = next(iter(a.vim.targets[stretched].networks))
    ports = [await a.vim.boot(network) for _ in range(4)]
    for ip in ports:
        a.vim.delete_port(network, ip)
    for gone in (routed, *([of_old] if of_old else [])):
        master = next(s for s in (a, b) if world.checks.rows[s.name][gone].document.master == s.name)
        await change(workload, master, gone, Change(operation="delete"))
    end = clock.time() + 40.0
    while clock.time() < end:
        await a.clock.sleep(10.0)
    return stretched


def sizes(world: World) -> Iterator[tuple[str, int]]:
    """(site and table, rows)."""
    for site in world.sites.values():
        raw = site.disk.raw()
        tables = raw.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        for (table,) in tables:
            yield f"{site.name} {table}", raw.execute(f"SELECT count(*) FROM {table}").fetchone()[0]


async def year(world: World, kept: list[dict[str, int]]) -> None:
    workload, last = Workload(world), None
    names = [site.name for site in world.sites.values()]
    for month in range(MONTHS):
        away = {(x, y) for x in names for y in names if (x == "C") != (y == "C")}
        world.network.cuts = away if month in AWAY else set()
        for site in world.sites.values():
            site.start()
        last = await minute(world, workload, last)
        kept.append(dict(sizes(world)))
        for site in world.sites.values():
            site.crash("until the next month")
            site.clock.offset += MONTH_S


def test_what_is_kept_stays_bounded_over_a_year() -> None:
    world, kept = World(1, ["A", "B", "C"], SLOW), list[dict[str, int]]()
    try:
        world.loop.run(year(world, kept))
    finally:
        world.close()
    assert world.violation is None
    assert len(kept) == MONTHS
    half = MONTHS // 2
    assert kept[half]["A events"] > 0
    for table in kept[0]:
        before, after = (max(some[table] for some in part) for part in (kept[:half], kept[half:]))
        assert after <= before, f"{table} grew from {before} to {after} rows"
    waiting = {table: rows for table, rows in kept[-1].items() if table.endswith(" outbox")}
    assert set(waiting.values()) == {0}, waiting
