"""`diminet serve` of kind neutron beside a real Keystone and Neutron: on loopback, as any user."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from one_region import OneRegion

from diminet.lab.openstack.cloud import Cloud


@pytest.fixture
def region(cloud: Cloud, tmp_path: Path) -> OneRegion:
    return OneRegion(cloud, tmp_path)


def test_it_starts_while_keystone_is_away_and_says_what_fails(cloud: Cloud, region: OneRegion) -> None:
    endpoints = region.register()
    token = cloud.token("demo")
    try:
        cloud.stop_keystone()
        try:
            with region.serving():
                assert "identity: the Keystone of site A does not answer" in region.until("/readyz", 503)
                status, text = region.fetch("/intersite-vertical", token)
                assert (status, json.loads(text)["error"]["code"]) == (503, "site-unreachable")
                cloud.start_keystone()
                region.until("/readyz", 200)
                assert region.fetch("/intersite-vertical", token)[0] == 200
                assert region.fetch("/intersite-vertical", "nobody")[0] == 401
                cloud.stop_neutron("A")
                assert "neutron" in region.until("/readyz", 503)
                assert region.fetch("/intersite-vertical", token)[0] == 200
                cloud.start_neutron("A")
                region.until("/readyz", 200)
        finally:
            if "keystone" not in cloud.pids():
                cloud.start_keystone()
            if "A" not in cloud.pids():
                cloud.start_neutron("A")
    finally:
        for endpoint in endpoints:
            cloud.unregister(endpoint)


def test_what_is_missing_is_said_before_anything_is_served(cloud: Cloud, region: OneRegion) -> None:
    assert "openstack endpoint create --region A intersite public" in region.refusal()
    region.configure(openstack={"cloud": "nobody"})
    assert "entry 'nobody'" in region.refusal()
    region.configure(openstack={"file": str(region.home / "none.yaml")})
    assert "none.yaml is not there; make it" in region.refusal()


def test_without_the_extra_it_says_how_to_install_it() -> None:
    program = "import sys; sys.modules['openstack'] = None; import diminet.cloud"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "pip install diminet[openstack]" in done.stderr
