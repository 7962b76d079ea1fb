"""One real cloud for the whole test session: Keystone, and Neutrons of the regions A, B and C.

It is started when the first test asks for it. Tests share it: each makes networks of its own and takes
away what it made, and a test that stops a server starts it again.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from diminet.lab.openstack import environment
from diminet.lab.openstack.cloud import Cloud, Region

REGIONS = (Region(name="A", number=1), Region(name="B", number=2), Region(name="C", number=3))


@pytest.fixture(scope="session")
def cloud() -> Iterator[Cloud]:
    with (
        tempfile.TemporaryDirectory(prefix="diminet-openstack-") as directory,
        Cloud(Path(directory), environment.find()) as running,
    ):
        running.start(REGIONS)
        yield running
