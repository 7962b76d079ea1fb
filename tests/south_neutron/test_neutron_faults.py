"""Faults of the VIM: each operation ends complete or taken back, with nothing left behind, and a code and a
sentence that name the site and what its Neutron said.

Here every fault meets every operation once, at a call that a printed seed draws; `make faults`
(DIMINET_FAULTS=all, or some of them: late,drop) lets every fault meet every call of every operation.
"""

import asyncio
import os
import random
from collections import Counter
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial

import pytest

from diminet.errors import DiminetError
from diminet.messages import Change
from diminet.model import Entry
from fault_proxy import FAULTS, FaultProxy
from neutron_regions import LIMITS, Regions

CHOSEN = os.environ.get("DIMINET_FAULTS", "")
ALL = bool(CHOSEN)  # every call, not one
KINDS = FAULTS if CHOSEN in ("", "all") else tuple(CHOSEN.split(","))
SEED = int(os.environ.get("DIMINET_SEED") or random.randrange(10**6))
SHORT_S = (
    2.0  # time-out of the site whose Neutron does not answer; a machine that is slow meets it more often
)
CIDR = "10.8.0.0/26"
LONG = 5000  # seconds in which `make faults` must be done
FAST = replace(LIMITS, backoff_first=0.1, backoff_most=0.2)
SITES = ("A", "B")


class Scene:
    """Two sites behind proxies, the networks that they are to join, and how all was before."""

    def __init__(self, cloud, proxies):
        self.proxies = proxies
        urls = {name: proxy.url for name, proxy in proxies.items()}
        self.regions = Regions(cloud, *SITES, urls=urls, limits=FAST)
        tenants = self.regions.tenants
        self.a, self.more = tenants["A"].network("10.1.0.0/24"), tenants["A"].network("10.3.0.0/24")
        self.b, self.own = tenants["B"].network("10.2.0.0/24"), tenants["A"].network(CIDR)
        self.before = self.regions.dumps()

    async def l3(self):
        return (await self.regions.create("A", "l3", f"A:{self.a}", f"B:{self.b}")).document.service_id

    async def l2(self):
        return (await self.regions.create("A", "l2", f"A:{self.own}", "B")).document.service_id

    async def change(self, service, **fields):
        caller, ctx = self.regions.caller(), self.regions.ctx("A")
        return await self.regions["A"].requests.change(caller, ctx, service, Change(**fields))

    async def settled(self, condition):
        """One round of the background work at each site after another, until it is so."""
        for _ in range(100):
            for name, peer in (("A", "B"), ("B", "A")):
                engine = self.regions[name]
                for work in (
                    engine.reservations.release_expired,
                    engine.resuming.resume,
                    engine.outbox.deliver_due,
                    engine.reconciler.repair,
                    engine.reconciler.sweep_networks,
                    partial(engine.sync_.with_peer, peer),
                ):
                    with suppress(DiminetError):
                        await work()
            if await condition():
                return
            await asyncio.sleep(0.2)
        dumps = await asyncio.to_thread(self.regions.dumps)
        differ = [
            (site, key, self.before[site].get(key), dumps[site].get(key))
            for site in SITES
            for key in self.before[site].keys() | dumps[site].keys()
            if self.before[site].get(key) != dumps[site].get(key)
        ]
        raise AssertionError(f"it does not settle; before and now: {differ}")

    async def is_clean(self):
        """Both Neutrons are as before, and both sites know it."""
        for site, networks in (("A", (self.a, self.more, self.own)), ("B", (self.b,))):
            store = self.regions[site].here.store
            for network in networks:
                if await store.read(lambda tx, network=network: tx.being_put_back(network)):
                    return False
        return await asyncio.to_thread(self.regions.dumps) == self.before

    async def cleaned(self, *services):
        """All is as it was before, once nothing is wrong any more."""
        for service in services:
            row = await self.row(service)
            if row is not None and not row.document.tombstone:
                await self.change(service, operation="delete")
        if not await self.is_clean():
            await self.settled(self.is_clean)

    async def row(self, service, site="A"):
        return await self.regions[site].here.store.read(lambda tx: tx.service(service))

    def vpn(self, site, service):
        name = f"diminet-service-{service}"
        return [v for v in self.regions.admins[site].list("bgpvpn") if v["name"] == name]

    def close(self):
        for name, networks in (("A", (self.a, self.more, self.own)), ("B", (self.b,))):
            for network in networks:
                self.regions.tenants[name].clear(network)


# -- operations: prepare -> what it stands on; act -> meets the fault; check -> what must then hold ----


class CreateL3:
    async def prepare(self, scene):
        return None

    async def act(self, scene, _):
        return await scene.l3()

    async def check(self, scene, _, made):
        if made:
            for site, network in (("A", scene.a), ("B", scene.b)):
                assert [v["networks"] for v in scene.vpn(site, made)] == [[network]]
        await scene.cleaned(*([made] if made else []))


class CreateL2(CreateL3):
    async def act(self, scene, _):
        return await scene.l2()

    async def check(self, scene, _, made):
        if made:
            assert all(len(scene.vpn(site, made)) == 1 for site in SITES)
        await scene.cleaned(*([made] if made else []))


class Modify:
    async def prepare(self, scene):
        return await scene.l3()

    async def act(self, scene, service):
        entry = Entry(site="A", resource_id=scene.more)
        await scene.change(service, operation="join", entry=entry)
        return service

    async def check(self, scene, service, made):
        """What Neutron has is what the document says, at both sites, and the answer told which."""

        async def agrees():
            rows = [await scene.row(service, site) for site in SITES]
            if len({row.document.pair for row in rows}) > 1 or any(
                r.applied != r.document.pair for r in rows
            ):
                return False
            wanted = sorted(r.resource_id for r in rows[0].document.resources_of("A"))
            return [sorted(v["networks"]) for v in scene.vpn("A", service)] == [wanted]

        if not await agrees():
            await scene.settled(agrees)
        joined = {r.resource_id for r in (await scene.row(service)).document.resources_of("A")}
        assert (scene.more in joined) == bool(made)
        await scene.cleaned(service)


class Delete:
    async def prepare(self, scene):
        return await scene.l2()

    async def act(self, scene, service):
        await scene.change(service, operation="delete")
        return service

    async def check(self, scene, service, made):
        await scene.cleaned()


class Gift:
    async def prepare(self, scene):
        return await scene.l2()

    async def act(self, scene, service):
        """B asks A for a block of its pool, as it does when it is short."""
        row = await scene.row(service, "B")
        held = await scene.regions["A"].here.store.read(lambda tx: tx.blocks(service))
        block = max((h.block for h in held if h.block.owner == "A" and h.pooled), key=lambda b: b.index)
        pools = scene.regions["B"].pools
        if not await pools.ask_for(row.document, block):
            raise GiftRefused
        await pools.shape(row.document, row.document.resources_of("B")[0])
        return service

    async def check(self, scene, service, made):
        async def agrees():
            held = [
                {
                    (h.block.index, h.block.owner)
                    for h in await scene.regions[s].here.store.read(lambda tx: tx.blocks(service))
                }
                for s in SITES
            ]
            return held[0] == held[1]

        if not await agrees():
            await scene.settled(agrees)
        document = (await scene.row(service)).document
        ranges = [
            (int(pool["start"].rpartition(".")[2]), int(pool["end"].rpartition(".")[2]))
            for site in SITES
            for resource in document.resources_of(site)
            for subnet in scene.regions.admins[site].list("subnet", f"network_id={resource.resource_id}")
            for pool in subnet["allocation_pools"]
        ]
        given = Counter(n for first, last in ranges for n in range(first, last + 1))
        assert max(given.values()) == 1  # no address in two pools
        await scene.cleaned(service)


class GiftRefused(Exception):
    """The owner did not give: asked again later, nothing to tell a user."""


OPERATIONS = {
    "create-l3": CreateL3(),
    "create-l2": CreateL2(),
    "modify": Modify(),
    "delete": Delete(),
    "gift": Gift(),
}


async def attempt(scene, operation, site, pick, fault):
    """One run; the call that met the fault, and how it ended."""
    proxy = scene.proxies[site]
    standing, neutron = await operation.prepare(scene), scene.regions.sites[site].neutron
    if fault in ("hang", "late"):
        neutron._timeout, usual = SHORT_S, neutron._timeout
    proxy.arm(fault, pick)
    made, told, said = None, "complete", None
    try:
        made = await operation.act(scene, standing)
    except DiminetError as error:
        said, told = error, f"{error.code}: {error.message}"
    except GiftRefused:
        told = "not given"
    hit = proxy.hit
    proxy.disarm()
    if fault in ("hang", "late"):
        neutron._timeout = usual
    if hit is not None and said is not None:
        assert site in said.sites, told
        assert f"site {site}" in said.message, told
    if fault == "expired":
        assert made, told  # a new token is got: nobody notices
    await operation.check(scene, standing, made)
    return hit, told


async def count(scene, operation):
    """Calls of each site's Neutron in one run without a fault."""
    standing = await operation.prepare(scene)
    for proxy in scene.proxies.values():
        proxy.arm()
    made = await operation.act(scene, standing)
    counted = {name: len(proxy.calls) for name, proxy in scene.proxies.items()}
    await operation.check(scene, standing, made)
    return counted


def plans(counted, draw):
    places = [(site, number) for site, calls in counted.items() for number in range(calls)]
    for fault in KINDS:
        for site, number in places if ALL else [draw.choice(places)]:
            yield fault, site, number


@pytest.mark.timeout(LONG if ALL else 300)
@pytest.mark.parametrize("name", OPERATIONS)
def test_every_fault_ends_complete_or_taken_back(cloud, name):
    print(f"DIMINET_SEED={SEED}")
    draw = random.Random(f"{SEED} {name}")

    async def work(scene):
        operation = OPERATIONS[name]
        for site in scene.regions.sites.values():
            await site.south.capabilities()  # asked once in a while only, so not a call of the operation
        counted = await count(scene, operation)
        for fault, site, number in plans(counted, draw):
            print(f"{name}: {fault} at call {number} of {counted[site]} at {site}", end=" ", flush=True)
            pick = partial(lambda number, call: call.number == number, number)
            hit, told = await attempt(scene, operation, site, pick, fault)
            print(f"({hit}) -> {told}", flush=True)

    play(cloud, work)


@pytest.mark.parametrize(("method", "where"), [("POST", "/tags"), ("PUT", "/subnets/")])
def test_what_a_neutron_does_to_a_subnet_after_all_is_found_and_put_back(cloud, method, where):
    """The change arrives when the site has taken it back already, and has no row of it any more."""

    async def work(scene):
        def pick(call):
            return call.method == method and where in call.path

        hit, told = await attempt(scene, OPERATIONS["create-l2"], "A", pick, "late")
        assert hit is not None, told

    play(cloud, work)


def play(cloud, work):
    async def main(proxies):
        scene = Scene(cloud, proxies)
        try:
            await asyncio.wait_for(work(scene), LONG)
        finally:
            await scene.regions.close()
            scene.close()

    with ExitStack() as stack:
        proxies = {site: stack.enter_context(FaultProxy(cloud.neutron_url(site))) for site in SITES}
        asyncio.run(main(proxies))
