"""Real sites of which one has a Keystone of its own, and that Keystone is away: what each of them does."""

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from one_region import OneRegion

from diminet.client import ApiError, NorthClient
from diminet.errors import SiteUnreachable
from diminet.lab.openstack.cloud import SHARED, Cloud, Region
from neutron_site import VOLATILE

pytestmark = pytest.mark.skipif(
    os.environ.get("DIMINET_TESTS") != "long", reason="too long for `make test`: `make test-openstack`"
)
PATIENCE = 120.0  # seconds
OWN = "keystone-of-D"


class Sites:
    """A and B ask the session's Keystone, D its own; each site vouches for the tenant's project."""

    def __init__(self, cloud: Cloud, home: Path) -> None:
        self.cloud = cloud
        project = cloud.project_id("demo")
        self.regions: dict[str, OneRegion] = {}
        for name, number, keystone in (("A", 1, SHARED), ("B", 2, SHARED), ("D", 4, OWN)):
            (home / name).mkdir()
            region = OneRegion(
                cloud, home / name, Region(name=name, number=number, keystone=keystone), ca=home / "ca"
            )
            rules = "".join(f'[[vouch]]\npeer = "{peer}"\nprojects = ["{project}"]\n' for peer in "ABD")
            (home / name / "vouch.toml").write_text(rules)
            region.configure(
                identity={"hand_on_tokens": False},
                limits={"request_timeout": 30.0, "reservation_lifetime": 60.0, "vim_timeout": 20.0},
            )
            self.regions[name] = region

    def north(self, site: str) -> NorthClient:
        region = self.regions[site]
        token = self.cloud.token("demo", keystone=region.region.keystone)
        return NorthClient(f"http://127.0.0.1:{region.north}", token, proxies=False)

    def call(self, site: str, method: str, path: str, body: Any = None, *, user: str = "demo") -> Any:
        """Of that region's Neutron."""
        session = self.cloud.session(user, keystone=self.regions[site].region.keystone)
        answer = session.request(f"{self.cloud.neutron_url(site)}/v2.0{path}", method, json=body)
        return answer.json() if answer.content else None

    def network(self, site: str, cidr: str) -> str:
        network = self.call(site, "POST", "/networks", {"network": {"name": "web"}})["network"]["id"]
        subnet = {"network_id": network, "cidr": cidr, "ip_version": 4}
        self.call(site, "POST", "/subnets", {"subnet": subnet})
        return str(network)

    def vpns(self, site: str) -> dict[str, dict[str, Any]]:
        """BGP VPNs of services, by the service's id."""
        found = self.call(site, "GET", "/bgpvpn/bgpvpns", user="admin")["bgpvpns"]
        rows = [{k: v for k, v in vpn.items() if k not in VOLATILE} for vpn in found]
        return {
            vpn["name"].removeprefix("diminet-service-"): vpn
            for vpn in rows
            if vpn["name"].startswith("diminet-service-")
        }


@pytest.fixture
def sites(cloud: Cloud, tmp_path: Path) -> Iterator[Sites]:
    with ExitStack() as stack:
        stack.callback(lambda: OWN in cloud.pids() and cloud.stop_keystone(OWN))
        stack.callback(lambda: "D" in cloud.pids() and cloud.stop_neutron("D"))
        cloud.start([Region(name="D", number=4, keystone=OWN)])
        made = Sites(cloud, tmp_path)
        for region in made.regions.values():
            for keystone in (SHARED, OWN):
                for endpoint in region.register(keystone):
                    if keystone == SHARED:
                        stack.callback(cloud.unregister, endpoint)
        yield made


def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.3)


def created(client: NorthClient, kind: str, *places: tuple[str, str], **fields: Any) -> dict[str, Any]:
    entries = [{"site": site, "resource_id": network} for site, network in places]
    return client.create({"name": kind, "type": kind, "resources": entries, **fields}).service


@pytest.mark.timeout(900)
def test_a_keystone_that_is_away_costs_only_its_own_site(cloud: Cloud, sites: Sites) -> None:
    a, b, d = (sites.network(site, f"10.{n}.0.0/24") for n, site in enumerate("ABD", start=1))
    with sites.regions["A"].serving(), sites.regions["B"].serving():
        at_a, at_b = sites.north("A"), sites.north("B")
        with sites.regions["D"].serving():
            at_d = sites.north("D")
            kept = created(at_a, "l3", ("A", a), ("D", d))
            assert kept["provisioning_status"] == "ACTIVE"
            assert [service["id"] for service in at_d.services()] == [kept["id"]]
            before = sites.vpns("D")[kept["id"]]
            cloud.stop_keystone(OWN)
            said = sites.regions["D"].until("/readyz", 503)
            assert "identity: the Keystone of site D does not answer" in said
            # Who was known goes on; who is new is told what fails.
            assert [service["id"] for service in at_d.services()] == [kept["id"]]
            status, text = sites.regions["D"].fetch("/intersite-vertical", "new")
            assert (status, json.loads(text)["error"]["code"]) == (503, "site-unreachable")

        with sites.regions["D"].serving():  # a new start, which has no token of its own yet
            said = sites.regions["D"].until("/readyz", 503)
            assert "identity: the Keystone of site D does not answer" in said
            assert "neutron: " in said
            with pytest.raises(ApiError) as refused:
                created(at_a, "l3", ("A", a), ("D", d))
            assert (refused.value.status, refused.value.word) == (503, "site-unreachable")
            assert refused.value.sites == ("D",)
            assert "site D" in refused.value.message
            whole = created(at_b, "l3", ("B", b), ("A", a))  # the others go on
            assert whole["provisioning_status"] == "ACTIVE"
            later = created(at_b, "l3", ("B", b), ("D", d), on_unreachable="defer")
            assert later["operating_status"] == "DEGRADED"
            at_a.delete(kept["id"])
            assert at_a.show(kept["id"]).service["provisioning_status"] == "PENDING_DELETE"

            cloud.start_keystone(OWN)
            sites.regions["D"].until("/readyz", 200)
            at_d = sites.north("D")
            until(lambda: {service["id"] for service in at_d.services()} == {later["id"]})
            until(lambda: at_b.show(later["id"]).service["operating_status"] == "ONLINE")
            until(lambda: is_gone(at_a, kept["id"]))
            assert set(sites.vpns("D")) == {later["id"]}
            assert sites.vpns("D")[later["id"]]["networks"] == [d] == before["networks"]
            for service in (whole, later):
                at_b.delete(service["id"])
            until(lambda: not any(sites.vpns(site) for site in "ABD"))
    for site, network in (("A", a), ("B", b), ("D", d)):
        sites.call(site, "DELETE", f"/networks/{network}")


def is_gone(client: NorthClient, service_id: str) -> bool:
    try:
        client.show(service_id)
    except ApiError as error:
        return error.status == 404
    except SiteUnreachable:
        pass
    return False
