"""The small real cloud on MariaDB: Neutrons that serve several requests at once. `make test-openstack`."""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from diminet.lab.openstack import environment
from diminet.lab.openstack.cloud import Cloud, Region

pytestmark = pytest.mark.skipif(
    os.environ.get("DIMINET_OPENSTACK") != "long", reason="too long for `make test`: `make test-openstack`"
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
