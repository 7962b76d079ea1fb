"""At the rate that docs/openstack.md states real Neutrons refuse no port; with the limits that the default
settings give. The same in virtual time, to nearly the last address: tests/engine/test_stated_rate.py."""

import asyncio
import os
from dataclasses import replace

import pytest

from diminet.app import limits
from diminet.config import Settings
from neutron_regions import Regions

CIDR = "10.8.0.0/24"
EACH = {
    "A": 30,
    "B": 140,
    "C": 30,
}  # ports; each site's share is 84 addresses: B is given some of the others'
SETTINGS = Settings(site={"name": "A", "number": 1}, south={"kind": "neutron"})
RATE = SETTINGS.limits.block_rate_per_second  # ports per second of each site
PATIENT = {"request_timeout": 60.0, "reservation_lifetime": 90.0}  # of a machine that other tests use too


@pytest.mark.timeout(1200)
@pytest.mark.skipif(os.environ.get("DIMINET_TESTS") != "long", reason="minutes long: `make test-openstack`")
def test_at_the_stated_rate_no_port_of_three_regions_is_refused(cloud):
    async def all_of(regions, name, network):
        """Raises keystoneauth's Conflict if one is refused."""
        loop, addresses = asyncio.get_running_loop(), []
        began = loop.time()
        for count in range(EACH[name]):
            await asyncio.sleep(max(0.0, began + count / RATE - loop.time()))
            addresses.append(await regions.boot(name, network))
        return addresses

    async def work():
        regions = Regions(cloud, "A", "B", "C", limits=replace(limits(SETTINGS), **PATIENT))
        before = await asyncio.to_thread(regions.dumps)
        try:
            own = regions.tenants["A"].network(CIDR)
            view = await regions.create("A", "l2", f"A:{own}", "B", "C")
            networks = {r.site: r.resource_id for r in view.document.resources}
            await regions.run()
            found = await asyncio.gather(*(all_of(regions, *item) for item in networks.items()))
            addresses = [ip for some in found for ip in some]
            assert len(addresses) == len(set(addresses)) == sum(EACH.values())
            for name, network in networks.items():
                for port in regions.tenants[name].list("port", f"network_id={network}&fields=id"):
                    await asyncio.to_thread(regions.tenants[name].drop, "port", port["id"])
            await regions.delete("A", view.document.service_id)
            regions.tenants["A"].clear(own)
        finally:
            await regions.close()
        assert await asyncio.to_thread(regions.dumps) == before

    asyncio.run(asyncio.wait_for(work(), 1000))
