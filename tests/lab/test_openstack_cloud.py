"""The small real cloud that other tests and `lab up --south neutron` stand on."""

import pytest
from keystoneauth1 import exceptions

from diminet.errors import BadSurroundings
from diminet.lab.openstack import environment
from diminet.lab.openstack.cloud import Cloud


def test_it_is_the_real_neutron_with_bgp_vpns(cloud: Cloud) -> None:
    session = cloud.session("diminet")
    for region in "ABC":
        url = cloud.neutron_url(region)
        extensions = session.get(f"{url}/v2.0/extensions").json()["extensions"]
        assert {"bgpvpn", "standard-attr-tag", "router"} <= {one["alias"] for one in extensions}
        found = session.get(f"{url}/v2.0/bgpvpn/bgpvpns").json()
        assert "bgpvpns" in found


def test_the_catalog_leads_to_each_region(cloud: Cloud) -> None:
    session = cloud.session("demo")
    for region in "ABC":
        where = session.get_endpoint(service_type="network", region_name=region, interface="public")
        assert where == cloud.neutron_url(region)


def test_a_tenant_cannot_see_anothers_network_nor_make_a_bgp_vpn(cloud: Cloud) -> None:
    url = cloud.neutron_url("A")
    demo, other = cloud.session("demo"), cloud.session("other")
    network = demo.post(f"{url}/v2.0/networks", json={"network": {"name": "mine"}}).json()["network"]
    try:
        assert network["project_id"] == cloud.project_id("demo")
        with pytest.raises(exceptions.NotFound):
            other.get(f"{url}/v2.0/networks/{network['id']}")
        with pytest.raises(exceptions.Forbidden):
            demo.post(f"{url}/v2.0/bgpvpn/bgpvpns", json={"bgpvpn": {"type": "l3"}})
    finally:
        demo.delete(f"{url}/v2.0/networks/{network['id']}")


def test_a_server_that_was_stopped_comes_back_with_what_it_had(cloud: Cloud) -> None:
    url = cloud.neutron_url("C")
    session = cloud.session("demo")
    network = session.post(f"{url}/v2.0/networks", json={"network": {"name": "kept"}}).json()["network"]
    cloud.stop_neutron("C")
    try:
        assert "C" not in cloud.pids()
        with pytest.raises(exceptions.ConnectFailure):
            session.get(f"{url}/v2.0/networks", connect_retries=0)
    finally:
        cloud.start_neutron("C")
    assert session.get(f"{url}/v2.0/networks/{network['id']}").json()["network"]["name"] == "kept"
    session.delete(f"{url}/v2.0/networks/{network['id']}")


def test_tokens_of_one_keystone_are_nothing_at_another(cloud: Cloud) -> None:
    cloud.start_keystone("elsewhere")
    token = cloud.token("demo", keystone="elsewhere")
    service = cloud.session("diminet")
    with pytest.raises(exceptions.NotFound):
        service.get(f"{cloud.keystone_url()}/auth/tokens", headers={"X-Subject-Token": token})
    cloud.stop_keystone("elsewhere")


def test_without_the_environment_it_says_what_to_do(tmp_path) -> None:
    with pytest.raises(BadSurroundings, match="make setup"):
        environment.find(tmp_path)
