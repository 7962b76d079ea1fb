"""A lab of kind neutron: real Keystone, Neutrons and instances, as scripts and a tenant use it."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from keystoneauth1.exceptions import http
from keystoneauth1.plugin import BaseAuthPlugin
from keystoneauth1.session import Session
from patient import PATIENCE, PATIENT, patiently

from diminet.client import ApiError, NorthClient
from diminet.lab.client import Lab
from diminet.lab.openstack import environment

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    made = Lab(tmp_path_factory.mktemp("lab") / "state")
    try:
        made.up(2, south="neutron", instance_command=PATIENT)
        yield made
    finally:
        made.down()


@pytest.fixture(scope="module")
def networks(lab: Lab) -> dict[str, str]:
    return {
        site: lab.network_create(site, "web", [f"10.{number}.0.0/24"])["network_id"]
        for number, site in enumerate("AB", start=1)
    }


def north(lab: Lab, site: str, token: str = "token") -> NorthClient:
    entry = lab.site(site)
    return NorthClient(entry["north"], entry[token])


def create(client: NorthClient, service: dict[str, Any]) -> dict[str, Any]:
    return patiently(lambda: client.create(service)).service


def bgpvpns(lab: Lab, site: str) -> list[dict[str, Any]]:
    found = lab.vim(site, token=lab.site(site)["admin_token"])._call("GET", "/v2.0/bgpvpn/bgpvpns")
    return [vpn for vpn in found["bgpvpns"] if vpn["name"].startswith("diminet-service-")]


def entries(networks: dict[str, str]) -> list[dict[str, str]]:
    return [{"site": site, "resource_id": network} for site, network in networks.items()]


def diminet(lab: Lab, *words: str) -> tuple[int, Any]:
    """Exit status and the one JSON document."""
    program = str(Path(sys.executable).with_name("diminet"))
    command = (program, *words, "--state", str(lab.state_dir), "--json")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, json.loads(done.stdout)


def test_boot_makes_a_port_and_ping_says_that_there_is_no_data_plane(
    lab: Lab, networks: dict[str, str]
) -> None:
    made = [lab.boot(site, networks[site]) for site in "AB"]
    assert [(one["name"], one["network_id"]) for one in made] == [("vm1", networks[site]) for site in "AB"]
    # Every region has MACs of its own, by its number.
    assert [one["mac"][:11] for one in made] == ["fa:16:00:01", "fa:16:00:02"]
    status, said = diminet(lab, "lab", "ping", "A/vm1", "B/vm1")
    assert status == 1
    assert "no data plane" in said["error"]["message"]
    assert lab.status()["sites"][0]["pids"].keys() == {"instance", "neutron"}


def test_a_tenant_joins_its_networks_with_one_request(lab: Lab, networks: dict[str, str]) -> None:
    service = create(north(lab, "A"), {"name": "web", "type": "l3", "resources": entries(networks)})
    assert any(warning.startswith("no-data-plane") for warning in service["warnings"])
    (a,), (b,) = bgpvpns(lab, "A"), bgpvpns(lab, "B")
    assert a["import_targets"] == b["export_targets"] != []
    assert b["import_targets"] == a["export_targets"] != []
    assert (a["networks"], b["networks"]) == ([networks["A"]], [networks["B"]])
    assert a["export_targets"][0] not in json.dumps(service)
    deadline = time.monotonic() + PATIENCE
    north(lab, "B").delete(service["id"])
    while bgpvpns(lab, "A") or bgpvpns(lab, "B"):
        assert time.monotonic() < deadline
        time.sleep(0.5)


def test_a_network_is_stretched_from_the_command_line(lab: Lab) -> None:
    """As an operator's README reads: make a network, stretch it, boot at both sites, look, delete."""

    def done(*words: str) -> Any:
        status, said = diminet(lab, *words)
        assert status == 0, said
        return said

    def shown(site: str) -> Any:
        return done("service", "show", service["id"], "--site", site)["service"]

    network = done("lab", "network", "create", "--site", "A", "--name", "wide", "--cidr", "10.7.0.0/24")
    words = ("service", "create", "--type", "l2", "--name", "wide", f"A:{network['network_id']}", "B")
    deadline = time.monotonic() + PATIENCE
    while (found := diminet(lab, *words, "--site", "A"))[0] and time.monotonic() < deadline:
        assert found[1]["error"]["code"] == "site-unreachable"  # not in time on a busy machine
    assert found[0] == 0, found
    service = found[1]["service"]
    there = {entry["site"]: entry["resource_id"] for entry in service["resources"]}
    ports = {site: done("lab", "boot", "--site", site, "--network", there[site]) for site in "AB"}
    assert len({port["ip"] for port in ports.values()}) == len({port["mac"] for port in ports.values()}) == 2
    while not any("security groups" in warning for warning in shown("A")["warnings"]):
        assert time.monotonic() < deadline
        time.sleep(0.5)
    warning = next(warning for warning in shown("A")["warnings"] if "security groups" in warning)
    assert "10.7.0.0/24 of site B" in warning
    for site, port in ports.items():
        vim = lab.vim(site)
        vim.delete("ports", vim.port(port["name"])["id"])
    while diminet(lab, "service", "delete", service["id"], "--site", "B")[1].get("error") is None:
        assert time.monotonic() < deadline + PATIENCE
        time.sleep(0.5)
    assert bgpvpns(lab, "A") == bgpvpns(lab, "B") == []
    assert not lab.vim("B").found("networks", id=there["B"])
    lab.vim("A").delete("networks", network["network_id"])


def test_another_projects_network_is_not_there_at_either_site(lab: Lab, networks: dict[str, str]) -> None:
    client = north(lab, "A", "other_token")
    own = lab.network_create("A", "own", ["10.9.0.0/24"], token=lab.site("A")["other_token"])["network_id"]
    for mixed in ({"A": own, "B": networks["B"]}, {"A": networks["A"], "B": networks["B"]}):
        with pytest.raises(ApiError) as refused:
            create(client, {"name": "theft", "type": "l3", "resources": entries(mixed)})
        assert (refused.value.status, refused.value.word) == (404, "network-not-found")
    assert bgpvpns(lab, "B") == []


def test_openstack_clients_print_why_something_was_refused(lab: Lab, networks: dict[str, str]) -> None:
    """keystoneauth, on which they all stand, finds the sentence in the body of the refusal."""
    session = Session(Token(lab.site("A")["token"]))
    over = lab.network_create("A", "over", ["10.1.0.0/25"])["network_id"]
    unknown = "11111111-1111-4111-8111-111111111111"
    refused: list[tuple[type[http.HttpError], list[dict[str, str]], str]] = [
        (http.BadRequest, entries({"A": networks["A"]}), "at least 2 entries"),
        (http.NotFound, entries({"A": networks["A"], "B": unknown}), f"site B has no network {unknown}"),
        (http.Conflict, [*entries(networks), *entries({"A": over})], "10.1.0.0/25"),
    ]
    for kind, resources, said in refused:
        body = {"service": {"name": "web", "type": "l3", "resources": resources}}
        with pytest.raises(kind) as error:
            session.post(f"{lab.site('A')['north']}/intersite-vertical", json=body)
        assert said in str(error.value)
    assert bgpvpns(lab, "A") == []


class Token(BaseAuthPlugin):
    def __init__(self, token: str) -> None:
        super().__init__()
        self.token = token

    def get_token(self, session: Any, **more: Any) -> str:
        return self.token


def test_the_sites_are_those_of_the_catalog(lab: Lab) -> None:
    assert {site["name"] for site in north(lab, "A").sites()} == {"A", "B"}


def test_who_keystone_does_not_know_is_told_so(lab: Lab) -> None:
    with pytest.raises(ApiError, match="Keystone of site 'A' does not know this token"):
        NorthClient(lab.site("A")["north"], "nobody").sites()


def test_the_openstack_client_works_against_it(lab: Lab, networks: dict[str, str]) -> None:
    file = lab.content()["openstack"]["clouds_yaml"]
    command = ("--os-cloud", "demo", "--os-region-name", "B", "network", "list", "-f", "json")
    done = subprocess.run(
        (str(environment.find().openstack), *command),
        env={**os.environ, "OS_CLIENT_CONFIG_FILE": file},
        capture_output=True,
        text=True,
        check=True,
    )
    assert [network["ID"] for network in json.loads(done.stdout)] == [networks["B"]]
