"""Neutron's own tests of its bgpvpn API (neutron-tempest-plugin) against a region that DIMINET serves, and
what DIMINET serves there meanwhile. `make tempest`."""

import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from patient import BUSY, PATIENCE, PATIENT, patiently

from diminet.client import ApiError, NorthClient
from diminet.lab.client import Lab
from diminet.lab.openstack.configuration import ini

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(
        os.environ.get("DIMINET_TESTS") != "tempest", reason="has its own environment: `make tempest`"
    ),
]
TEMPEST = Path(__file__).resolve().parents[2] / ".venv-tempest" / "bin" / "tempest"
TESTS = r"^neutron_tempest_plugin\.bgpvpn\.api\."
LONG = 1800.0  # seconds for all of tempest
VOLATILE = {"revision_number", "updated_at", "created_at"}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    made = Lab(tmp_path_factory.mktemp("lab") / "state")
    try:
        made.up(2, south="neutron", database="mariadb", instance_command=PATIENT)
        yield made
    finally:
        made.down()


def workspace(lab: Lab, home: Path, region: str) -> Path:
    """tempest's, with that region as the cloud to test."""
    init = (str(TEMPEST), "init", "--workspace-path", str(home / "workspaces.yaml"), str(home / "tempest"))
    subprocess.run(init, capture_output=True, check=True)
    openstack = lab.content()["openstack"]
    admin = json.loads(Path(openstack["clouds_yaml"]).read_text())["clouds"]["admin"]["auth"]
    configuration = ini(
        {
            "DEFAULT": {"log_file": "tempest.log"},
            "oslo_concurrency": {"lock_path": home / "tempest" / "tempest_lock"},
            "auth": {
                "use_dynamic_credentials": True,
                "create_isolated_networks": False,
                "admin_username": admin["username"],
                "admin_password": admin["password"],
                "admin_project_name": admin["project_name"],
                "admin_domain_name": "Default",
            },
            "identity": {
                "auth_version": "v3",
                "uri_v3": admin["auth_url"],
                "region": region,
                "v3_endpoint_type": "public",
            },
            "service_available": {
                name: name == "neutron" for name in ("cinder", "glance", "neutron", "nova", "swift")
            },
            "network": {"region": region, "endpoint_type": "public"},
            "network-feature-enabled": {"api_extensions": "bgpvpn,router", "ipv6": True},
        }
    )
    (home / "tempest" / "etc" / "tempest.conf").write_text(configuration)
    return home / "tempest"


def dump(lab: Lab, site: str) -> dict[str, Any]:
    """The tenant's and DIMINET's in that Neutron, less what may differ and DIMINET's mark; tempest leaves
    networks of its own projects behind."""
    tenant = {network["project_id"] for network in lab.vim(site).found("networks")}
    vim = lab.vim(site, token=lab.site(site)["admin_token"])
    rows = {}
    for path in ("networks", "subnets", "ports", "routers", "bgpvpn/bgpvpns"):
        for row in vim._call("GET", f"/v2.0/{path}")[path.rpartition("/")[2]]:
            if row["project_id"] in tenant and not row["name"].startswith("diminet-mark-"):
                rows[f"{path} {row['id']}"] = {k: v for k, v in row.items() if k not in VOLATILE}
    return rows


def until_gone(client: NorthClient, service_id: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            client.delete(service_id)
        except ApiError as error:
            if error.status == 404:
                return
            raise
        assert time.monotonic() < deadline
        time.sleep(0.5)


def assert_becomes(lab: Lab, expected: dict[str, Any]) -> None:
    """What could not be finished in time is being undone."""
    deadline = time.monotonic() + PATIENCE
    while (found := {site: dump(lab, site) for site in expected}) != expected:
        assert time.monotonic() < deadline, found
        time.sleep(0.5)


@pytest.mark.timeout(LONG)
def test_neutrons_own_tests_pass_beside_live_services(lab: Lab, tmp_path: Path) -> None:
    client = NorthClient(lab.site("A")["north"], lab.site("A")["token"])
    web, more, wide = (lab.network_create("A", f"n{n}", [f"10.{n}.0.0/24"])["network_id"] for n in (1, 3, 5))
    far = lab.network_create("B", "n2", ["10.2.0.0/24"])["network_id"]
    empty = {site: dump(lab, site) for site in "AB"}

    def create(kind: str, here: str, **there: str) -> Any:
        entries = [{"site": "A", "resource_id": here}, {"site": "B", **there}]
        return patiently(lambda: client.create({"name": kind, "type": kind, "resources": entries})).service

    l3, l2 = create("l3", web, resource_id=far), create("l2", wide)
    before = {site: dump(lab, site) for site in "AB"}

    home = workspace(lab, tmp_path, "A")
    command = (str(TEMPEST), "run", "--concurrency", "1", "--regex", TESTS)
    made = in_vain = 0
    log = home / "said"
    with (
        log.open("wb") as output,
        subprocess.Popen(command, cwd=home, stdout=output, stderr=subprocess.STDOUT) as tests,
    ):
        try:
            while tests.poll() is None:  # DIMINET goes on beside it
                try:
                    until_gone(client, create("l3", more, resource_id=far)["id"])
                    made += 1
                except ApiError as error:
                    if error.word not in BUSY:
                        raise
                    in_vain += 1
        finally:
            tests.kill()
    said = log.read_text()
    print(said[said.rfind("======\nTotals") :])
    print(f"services beside it: {made} made and deleted, {in_vain} not in time")
    assert tests.returncode == 0, said
    assert " - Failed: 0" in said
    assert " - Passed: 0" not in said

    assert_becomes(lab, before)
    for service in (l3, l2):
        for site in "AB":
            shown = NorthClient(lab.site(site)["north"], lab.site(site)["token"]).show(service["id"]).service
            assert (shown["provisioning_status"], shown["operating_status"]) == ("ACTIVE", "ONLINE")
            assert shown["revision"] == service["revision"]
    patiently(lambda: client.modify(l3["id"], {"description": "after"}))
    there = next(entry["resource_id"] for entry in l2["resources"] if entry["site"] == "B")
    ports = [lab.boot("A", wide), lab.boot("B", there)]
    assert ports[0]["ip"] != ports[1]["ip"]
    for site, port in zip("AB", ports, strict=True):
        vim = lab.vim(site)
        vim.delete("ports", vim.port(port["name"])["id"])
    for service in (l3, l2):
        until_gone(client, service["id"])
    assert_becomes(lab, empty)
