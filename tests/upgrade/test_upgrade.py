"""Sites of an older DIMINET with live services are upgraded one after the other, without anything being lost.

The older version is real: `diminet-0001.tar.xz` is the package of commit ba0ce95, the last one with schema
0001 and the first whose lab makes sites beside real Neutrons (`git archive ba0ce95 src/diminet | xz -9e`),
kept here because a checkout need not have the history. Its lab makes the sites, their configuration,
networks and services; then each instance in turn is ended and started from this checkout. Between the steps
old and new instances serve together; what is new says that it speaks the next minor version of the protocol.
A way back is not shown: there is none but the backup.
"""

import contextlib
import os
import sqlite3
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from diminet.client import ApiError, NorthClient
from diminet.lab.client import Lab
from diminet.store.schema import HEAD

pytestmark = [pytest.mark.lab, pytest.mark.timeout(1800)]
HERE = Path(__file__).parent
OLD_SCHEMA = "0001"
PATIENCE = 120.0  # seconds
UP = "from pathlib import Path; import sys; from diminet.lab.client import Lab; " + (
    "Lab(Path(sys.argv[1])).up(3, south=sys.argv[2], instance_command=sys.argv[3:])"
)
LONG = pytest.mark.skipif(os.environ.get("DIMINET_TESTS") != "long", reason="long: `make test-openstack`")
PATIENT = (  # beside Neutrons that a busy machine runs
    "env",
    "DIMINET_LIMITS__REQUEST_TIMEOUT=60",
    "DIMINET_LIMITS__RESERVATION_LIFETIME=120",
    "DIMINET_LIMITS__VIM_TIMEOUT=60",
)
SOUTHS = ["linux", pytest.param("neutron", marks=LONG)]


class Sites:
    """The lab of the older version; networks and services by user's ways only."""

    def __init__(self, lab: Lab, south: str) -> None:
        self.lab, self.south = lab, south
        self._count = 0

    def north(self, site: str) -> NorthClient:
        entry = self.lab.site(site)
        return NorthClient(entry["north"], entry["token"], proxies=False)

    def network(self, site: str) -> str:
        self._count += 1
        made = self.lab.network_create(site, f"n{self._count}", [f"10.{self._count}.0.0/24"])
        return str(made["network_id"])

    def create(self, kind: str, *places: tuple[str, str | None], **fields: Any) -> dict[str, Any]:
        """At the first of these sites; networks by site, None: made by it."""
        entries = [{"site": s, "resource_id": n} if n else {"site": s} for s, n in places]
        body = {"name": kind, "type": kind, "resources": entries, **fields}
        return self.north(places[0][0]).create(body).service

    def show(self, site: str, service_id: str) -> dict[str, Any] | None:
        try:
            return self.north(site).show(service_id).service
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    def completed(self, site: str, service_id: str) -> bool:
        """Asks with a request that changes nothing, but brings the tenant's token to who waits for it."""
        with contextlib.suppress(ApiError):  # another change is under way
            self.north(site).modify(service_id, {"name": "l3"})
        return self.is_active(site, service_id)

    def is_active(self, site: str, service_id: str) -> bool:
        shown = self.show(site, service_id)
        return shown is not None and all(
            one["provisioning_status"] == "ACTIVE" for one in (shown, *shown["resources"])
        )

    def delete(self, site: str, service_id: str, *members: str) -> None:
        self.north(site).delete(service_id)
        until(
            lambda: not any(self.show(member, service_id) for member in members),
            lambda: self.told(service_id),
        )

    def told(self, service_id: str) -> str:
        """What the sites say of it, and in their logs."""
        said = [f"{site}: {self.show(site, service_id)}" for site in "ABC"]
        for log in sorted(self.lab.state_dir.glob("?/*.log")):
            said += [f"{log}: {line}" for line in log.read_text().splitlines() if service_id in line][-10:]
        return "\n".join(said)

    def joined(self, service_id: str, *members: str) -> bool:
        """Beside Neutron, where nothing carries packets: does each BGP VPN import what the others export?"""
        vpns = [vpn for site in members for vpn in self.bgpvpns(site) if service_id in vpn["name"]]
        exports = [sorted(vpn["export_targets"]) for vpn in vpns]
        imports = [sorted(vpn["import_targets"]) for vpn in vpns]
        return len(members) == len(vpns) == 2 and imports == exports[::-1] and exports[0] != exports[1]

    def bgpvpns(self, site: str) -> list[dict[str, Any]]:
        """All that DIMINET made there for services."""
        vim = self.lab.vim(site, token=self.lab.site(site)["admin_token"])
        return [vpn for vpn in vim.found("bgpvpn/bgpvpns") if vpn["name"].startswith("diminet-service-")]

    def ping(self, source: str, target: str) -> bool:
        return bool(self.lab.ping(source, target, count=1)["received"])

    def rows(self, site: str, query: str) -> list[Any]:
        path = self.lab.state_dir / site / "data" / "diminet.db"
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
            return db.execute(query).fetchall()

    def schema(self, site: str) -> str:
        return str(self.rows(site, "SELECT version_num FROM alembic_version")[0][0])

    def blocks(self, site: str, service_id: str) -> list[Any]:
        columns = "cidr, position, owner, version, pooled"
        query = f"SELECT {columns} FROM blocks WHERE service_id = '{service_id}' ORDER BY cidr, position"
        return self.rows(site, query)

    def upgrade(self, site: str) -> None:
        self.lab.crash(site)
        assert self.schema(site) == OLD_SCHEMA
        (self.lab.state_dir / site / "newer").touch()
        self.lab.restart(site)
        assert self.schema(site) == HEAD


def until(condition: Callable[[], bool], told: Callable[[], Any] = lambda: None) -> None:
    """told: what to say if it does not become so."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, told()
        time.sleep(0.3)


@pytest.fixture(params=SOUTHS)
def sites(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Sites]:
    with tarfile.open(HERE / f"diminet-{OLD_SCHEMA}.tar.xz") as older:
        older.extractall(tmp_path, filter="data")
    lab = Lab(tmp_path / "state")
    patience = PATIENT if request.param == "neutron" else ()
    serve = (*patience, sys.executable, str(HERE / "either_version.py"), "serve", "--config", "{config}")
    try:
        subprocess.run(
            (sys.executable, "-c", UP, str(lab.state_dir), request.param, *serve),
            env={**os.environ, "PYTHONPATH": str(tmp_path / "src")},
            check=True,
        )
        yield Sites(lab, request.param)
    finally:
        lab.down()


def test_sites_are_upgraded_one_after_the_other_under_live_services(sites: Sites) -> None:
    web = {site: sites.network(site) for site in "ABC"}
    wide = sites.network("A")
    l3 = sites.create("l3", ("A", web["A"]), ("B", web["B"]))
    l2 = sites.create("l2", ("A", wide), ("B", None))
    there = next(str(entry["resource_id"]) for entry in l2["resources"] if entry["site"] == "B")
    for site, network in (("A", wide), ("B", there)):
        sites.lab.boot(site, network, "wide")
    for site in "AB":
        sites.lab.boot(site, web[site], "web")
    sites.lab.crash("C")  # one service waits for it, and so does the deletion of another
    gone = sites.create("l3", ("A", web["A"]), ("C", web["C"]), on_unreachable="defer")
    waits = sites.create("l3", ("B", web["B"]), ("C", web["C"]), on_unreachable="defer")
    sites.north("A").delete(gone["id"])
    before = {service["id"]: sites.show("A", service["id"]) for service in (l3, l2)}
    blocks = sites.blocks("A", l2["id"])

    sites.upgrade("A")
    assert sites.blocks("A", l2["id"]) == blocks
    for service_id, known in before.items():
        shown = sites.show("A", service_id)
        assert known is not None
        assert shown is not None
        for field in ("name", "type", "master", "epoch", "revision", "project_id", "created_at"):
            assert shown[field] == known[field]
        assert sites.is_active("A", service_id)
    check_traffic(sites, l3, l2)
    check_life(sites, "A", "B")  # new and old

    sites.lab.restart("C")  # still the older version: it hears the news of a new and of an old one
    if sites.south == "linux":  # where Keystone decides, C waits for a request of the tenant's
        until(lambda: sites.is_active("C", waits["id"]))
    until(lambda: sites.rows("A", "SELECT 1 FROM outbox") == [])
    assert sites.show("C", gone["id"]) is None
    check_life(sites, "C", "A")

    sites.upgrade("C")
    sites.upgrade("B")
    if sites.south == "neutron":
        until(lambda: sites.completed("B", waits["id"]))
    for site, service in (("A", l3), ("B", l3), ("A", l2), ("B", l2), ("B", waits), ("C", waits)):
        until(lambda site=site, service=service: sites.is_active(site, service["id"]))
    check_traffic(sites, l3, l2)
    check_life(sites, "B", "C")
    grown = sites.north("A").add(l3["id"], {"site": "C", "resource_id": web["C"]}).service
    assert {entry["site"] for entry in grown["resources"]} == set("ABC")
    for service, members in ((l3, "ABC"), (waits, "BC"), (l2, "AB")):
        sites.delete(members[0], service["id"], *members)
    for site in "ABC":
        assert sites.rows(site, "SELECT service_id FROM connections") == []
        assert sites.south != "neutron" or sites.bgpvpns(site) == []


def check_traffic(sites: Sites, *services: dict[str, Any]) -> None:
    """Of services of A and B, in which `web` and `wide` are."""
    if sites.south == "neutron":
        assert all(sites.joined(service["id"], *"AB") for service in services)
        return
    for name in ("web", "wide"):
        until(lambda name=name: sites.ping(f"A/{name}", f"B/{name}") and sites.ping(f"B/{name}", f"A/{name}"))


def check_life(sites: Sites, one: str, other: str) -> None:
    """Both types from the first to the last request, each asked of both sites in turn."""
    for site, peer in ((one, other), (other, one)):
        l3 = sites.create("l3", (site, sites.network(site)), (peer, sites.network(peer)))
        l2 = sites.create("l2", (site, sites.network(site)), (peer, None))
        networks = {str(entry["site"]): str(entry["resource_id"]) for entry in l2["resources"]}
        ports = [sites.lab.boot(at, network) for at, network in networks.items()]
        assert len({port["ip"] for port in ports}) == len({port["mac"] for port in ports}) == 2
        for at, port in zip(networks, ports, strict=True):
            vim = sites.lab.vim(at)
            vim.delete("ports", vim.port(port["name"])["id"])
        for service in (l3, l2):
            for at in (site, peer):
                sites.north(at).modify(service["id"], {"description": f"at {at}"})
            shown = sites.show(site, service["id"])
            assert shown is not None
            assert shown["description"] == f"at {peer}"
            sites.delete(peer, service["id"], site, peer)
