"""The small real cloud on MariaDB: Neutrons that serve several requests at once. `make test-openstack`."""

import asyncio
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from diminet.lab.openstack import environment
from diminet.lab.openstack.cloud import Cloud, Region
from diminet.messages import Change
from diminet.model import OperatingStatus
from neutron_regions import Regions

pytestmark = pytest.mark.skipif(
    os.environ.get("DIMINET_TESTS") != "long", reason="too long for `make test`: `make test-openstack`"
)
AT_ONCE = 8


@pytest.mark.timeout(900)
def test_requests_at_once_are_all_granted_from_the_first_on(tmp_path: Path) -> None:
    with Cloud(tmp_path / "cloud", environment.find(), database="mariadb") as cloud:
        cloud.start([Region(name="A", number=1), Region(name="B", number=2)])
        sessions = {user: cloud.session(user) for user in ("demo", "other")}

        def make(number: int) -> int:
            session = sessions["demo" if number % 2 else "other"]
            url = f"{cloud.neutron_url('AB'[number // 2 % 2])}/v2.0/networks"
            body = {"network": {"name": f"n{number}"}}
            return int(session.post(url, json=body, raise_exc=False).status_code)

        began = time.monotonic()
        with ThreadPoolExecutor(AT_ONCE) as pool:
            assert set(pool.map(make, range(4 * AT_ONCE))) == {201}
        print(f"{4 * AT_ONCE} networks in {time.monotonic() - began:.1f} s")
        asyncio.run(services_at_once(cloud))


async def services_at_once(cloud: Cloud) -> None:
    """Creates of both types at both sites: all are granted, and all go again."""
    regions = Regions(cloud, "A", "B")

    def network(site: str, number: int) -> str:
        return f"{site}:{regions.tenants[site].network(f'10.{number}.{ord(site)}.0/24')}"

    async def one(number: int) -> str:
        site, other = "AB"[number % 2], "BA"[number % 2]
        if number < AT_ONCE // 2:
            view = await regions.create(site, "l3", network(site, number), network(other, number))
        else:
            view = await regions.create(site, "l2", network(site, number), other)
        assert view.operating_status == OperatingStatus.ONLINE
        return str(view.document.service_id)

    async def gone(service: str) -> None:
        change = Change(operation="delete")
        _, waiting = await regions["A"].requests.change(regions.caller(), regions.ctx("A"), service, change)
        assert waiting == ()

    try:
        began = time.monotonic()
        services = await asyncio.gather(*(one(number) for number in range(AT_ONCE)))
        await asyncio.gather(*(gone(service) for service in services))
        print(f"{AT_ONCE} services made and deleted in {time.monotonic() - began:.1f} s")
        left = [v["name"] for admin in regions.admins.values() for v in admin.list("bgpvpn")]
        assert not [name for name in left if name.startswith("diminet-service-")]
    finally:
        await regions.close()
