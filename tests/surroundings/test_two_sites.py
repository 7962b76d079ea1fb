"""Two real sites, one of which is odd: another clock, protocol, number or certificate; or ends."""

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from one_site import TRACES

from diminet.client import ApiError, NorthClient
from diminet.directory import file as directory_file
from diminet.east_west import pki
from diminet.identity import file as identity_file
from diminet.lab.client import Lab
from diminet.model import Site

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]

ODD = Path(__file__).with_name("odd_instance.py")
ANSWERED = 13.0  # seconds: request_timeout (10) and the way of the answer on a busy machine
HEALED = 45.0  # seconds
CERTIFICATE_TAKEN_UP = 20.0  # seconds; certificate_check_interval is 10


class Sites:
    """The lab of this module, with a network of each site."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.serial = 0
        self.known = 0

    def north(self, site: str, token: str = "token") -> NorthClient:
        entry = self.lab.site(site)
        return NorthClient(entry["north"], entry[token], proxies=False)

    def traces(self) -> list[str]:
        """What the logs have of bugs, each once."""
        found = [line for line in self.logs().splitlines() if any(trace in line for trace in TRACES)]
        new = found[self.known :]
        self.known = len(found)
        return new

    def home(self, site: str) -> Path:
        return self.lab.state_dir / site

    def network(self, site: str) -> str:
        self.serial += 1
        cidr = f"10.{self.serial}.0.0/24"
        return str(self.lab.network_create(site, f"n{self.serial}", [cidr])["network_id"])

    def body(self, kind: str = "l3", a: str | None = None, b: str | None = None) -> dict[str, Any]:
        other = {"site": "B"} if kind == "l2" else {"site": "B", "resource_id": b or self.network("B")}
        entries = [{"site": "A", "resource_id": a or self.network("A")}, other]
        return {"name": "s", "type": kind, "resources": entries}

    def create(self, site: str = "A", **given: Any) -> dict[str, Any]:
        answer = self.north(site).create(self.body(**given))
        assert (answer.status, answer.service["provisioning_status"]) == (201, "ACTIVE"), answer
        return answer.service

    def delete(self, service: dict[str, Any], site: str = "A") -> None:
        assert self.north(site).delete(service["id"]).status == 204
        for other in "AB":
            with pytest.raises(ApiError, match=service["id"]):
                self.north(other).show(service["id"])

    def refused(self, site: str = "A", **given: Any) -> ApiError:
        began = time.monotonic()
        with pytest.raises(ApiError) as caught:
            self.north(site).create(self.body(**given))
        assert time.monotonic() - began < ANSWERED
        return caught.value

    def services(self) -> list[Any]:
        return [service for site in "AB" for service in self.north(site).services()]

    def restart(self, site: str, **oddity: Any) -> None:
        self.lab.crash(site)
        path = self.home(site) / "oddity.json"
        path.write_text(json.dumps(oddity))
        self.lab.restart(site)

    def until(self, what: Callable[[], bool], seconds: float = HEALED) -> None:
        deadline = time.monotonic() + seconds
        while not what():
            assert time.monotonic() < deadline
            time.sleep(0.3)

    def logs(self) -> str:
        """Of the instances, FRR and the lab."""
        return "".join(path.read_text() for path in self.lab.state_dir.rglob("*.log"))


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sites]:
    made = Lab(tmp_path_factory.mktemp("lab") / "state")
    command = (sys.executable, str(ODD), "serve", "--config", "{config}")
    try:
        made.up(2, instance_command=command)
        yield Sites(made)
    finally:
        made.down()


@pytest.fixture
def sites(lab: Sites) -> Iterator[Sites]:
    """Each test begins and ends with two sites as they should be, and without a service."""
    yield lab
    for service_id in {service["id"] for service in lab.services()}:
        lab.north("A").delete(service_id)
    assert lab.traces() == []


# -- clocks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("clock", [600, -600])
def test_a_clock_ten_minutes_off(sites: Sites, clock: int) -> None:
    sites.restart("B", clock=clock)
    try:
        for site in "AB":
            for kind in ("l3", "l2"):
                service = sites.create("A" if kind == "l2" else site, kind=kind)
                changed = sites.north("B").modify(service["id"], {"description": "seen"}).service
                assert changed["description"] == "seen"
                sites.delete(service, site)
        assert_conflicts_end(sites)
        assert_reservations_expire(sites)
        assert sites.lab.status()["sites"][1]["ready"]
    finally:
        sites.restart("B")


def assert_conflicts_end(sites: Sites) -> None:
    """Both at once want the same networks: one gets them, the other is told so in time."""
    a, b = sites.network("A"), sites.network("B")

    def one(site: str) -> str:
        began = time.monotonic()
        try:
            answer = sites.north(site).create(sites.body(kind="l3", a=a, b=b))
        except ApiError as error:
            return error.word
        finally:
            assert time.monotonic() - began < ANSWERED
        sites.north(site).delete(answer.service["id"])
        return "made"

    with ThreadPoolExecutor() as pool:
        outcomes = list(pool.map(one, "AB"))
    assert "made" in outcomes
    assert set(outcomes) <= {"made", "resource-busy"}
    assert sites.services() == []


def assert_reservations_expire(sites: Sites) -> None:
    """A refused create leaves no promise behind: the same networks are free at once."""
    a, b = sites.network("A"), sites.network("B")
    assert sites.refused(a=a, b="3f2504e0-4f89-41d3-9a0c-0305e82c3301").word == "network-not-found"
    sites.delete(sites.create(a=a, b=b))


def test_tokens_by_a_wrong_clock(sites: Sites) -> None:
    """A token that ends in five minutes has ended where it is ten minutes later, and the answer says so."""
    token = identity_file.new_token()
    for site in "AB":
        path = sites.home(site) / "identity.toml"
        content = identity_file.load(path)
        ends = datetime.now(UTC) + timedelta(minutes=5)
        entry = content.tokens[0].model_copy(
            update={"sha256": identity_file.hash_token(token), "expires_at": ends}
        )
        identity_file.write(path, [*content.tokens, entry], content.vouch)
    sites.restart("B", clock=600)
    try:
        time.sleep(1.5)  # identity files are looked at once a second
        assert NorthClient(sites.lab.site("A")["north"], token, proxies=False).services() == []
        with pytest.raises(ApiError, match="has expired") as caught:
            NorthClient(sites.lab.site("B")["north"], token, proxies=False).services()
        assert caught.value.status == 401
    finally:
        sites.restart("B")


# -- another protocol ------------------------------------------------------------------------------


def test_a_peer_of_another_major_version(sites: Sites) -> None:
    sites.restart("B", protocol_major=9)
    try:
        for site in "AB":
            error = sites.refused(site)
            assert (error.status, error.word) == (409, "incompatible-sites")
            assert "9.0" in error.message
            assert "same major version" in error.message
        assert sites.services() == []
    finally:
        sites.restart("B")
    sites.delete(sites.create())


def test_a_peer_that_speaks_something_else(sites: Sites) -> None:
    """A web server, and one that says nothing at all, in the place of B's instance."""
    a, b = sites.network("A"), sites.network("B")
    zebra = sites.lab.status()["sites"][1]["pids"]["zebra"]
    sites.lab.crash("B")
    try:
        for program in (("-m", "http.server", "9791"), ("-c", SILENT)):
            enter = ("nsenter", f"--target={zebra}", "--net", "--", sys.executable, *program)
            with subprocess.Popen(
                enter, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/"
            ) as odd:
                try:
                    time.sleep(1.0)
                    error = sites.refused(a=a, b=b)
                finally:
                    odd.kill()
            assert (error.status, error.word, error.document["sites"]) == (503, "site-unreachable", ["B"])
            assert re.search("does an instance of DIMINET listen|did not take the connection", error.message)
        assert sites.north("A").services() == []
    finally:
        sites.restart("B")
    sites.delete(sites.create(a=a, b=b))


SILENT = """
import socket, time
s = socket.create_server(("0.0.0.0", 9791)); time.sleep(60)
"""


# -- two sites with one number ---------------------------------------------------------------------


def test_directories_that_disagree_on_a_number(sites: Sites) -> None:
    """B believes that it is number 1, as A is; each directory is sound in itself."""
    home = sites.home("B")
    right = {name: (home / name).read_text() for name in ("sites.toml", "diminet.toml")}
    known = directory_file.load(home / "sites.toml", "B", 2)
    swapped = [Site(**{**site.model_dump(), "number": 3 - site.number}) for site in known.values()]
    directory_file.write(home / "sites.toml", swapped)
    (home / "diminet.toml").write_text(right["diminet.toml"].replace("number = 2", "number = 1"))
    sites.restart("B")
    try:
        for site in "AB":
            error = sites.refused(site)
            assert (error.status, error.word) == (409, "incompatible-sites"), error.message
            assert re.search("number is [12], the directory of site '[AB]' says [12]", error.message)
        assert sites.services() == []
    finally:
        for name, text in right.items():
            (home / name).write_text(text)
        sites.restart("B")
    sites.delete(sites.create())


# -- certificates ----------------------------------------------------------------------------------


def test_a_certificate_that_expires_while_serving(sites: Sites) -> None:
    """It is taken up, expires, is told by its own site and by the others, and is renewed: no restart."""
    a, b = sites.network("A"), sites.network("B")
    keys, home = sites.home("B") / "pki", sites.lab.state_dir / "ca"
    pid = sites.lab.status()["sites"][1]["pids"]["instance"]
    ends = time.time() + CERTIFICATE_TAKEN_UP
    pki.renew(home, keys, days=1, now=datetime.fromtimestamp(ends, UTC) - timedelta(days=1))
    sites.until(lambda: "certificate: it has expired" in readiness(sites, "B"))
    idle_connections_end(sites)
    error = sites.refused(a=a, b=b)
    assert (error.word, error.document["sites"]) == ("site-unreachable", ["B"])
    assert "its certificate has expired" in error.message
    assert "diminet pki renew" in error.message
    assert sites.services() == []
    pki.renew(home, keys)
    sites.until(lambda: "certificate" not in readiness(sites, "B"))
    assert sites.lab.status()["sites"][1]["pids"]["instance"] == pid
    sites.delete(sites.create(a=a, b=b))


def readiness(sites: Sites, site: str) -> str:
    try:
        with urllib.request.urlopen(sites.lab.site(site)["north"] + "/readyz", timeout=10) as answer:
            return str(answer.read().decode())
    except urllib.error.HTTPError as error:
        return str(error.read().decode())


def idle_connections_end(sites: Sites) -> None:
    """A connection that was made while the certificate was good serves on; make A dial anew."""
    sites.restart("A")


# -- ends and begins -------------------------------------------------------------------------------


def test_sigterm_leaves_the_data_plane_and_a_start_needs_no_peer(sites: Sites) -> None:
    a, b = sites.network("A"), sites.network("B")
    here, there = (sites.lab.boot(site, network)["name"] for site, network in (("A", a), ("B", b)))

    def received(count: int = 1) -> int:
        return int(sites.lab.ping(f"A/{here}", f"B/{there}", count=count)["received"])

    service = sites.create(a=a, b=b)
    sites.until(lambda: received() == 1)
    pid = sites.lab.status()["sites"][0]["pids"]["instance"]
    began = time.monotonic()
    os.kill(pid, signal.SIGTERM)
    sites.until(lambda: "instance" not in sites.lab.status()["sites"][0]["pids"], 10.0)
    assert time.monotonic() - began < 8  # shutdown_timeout is 5
    for _ in range(3):
        # An instance's address is asked of its site, which is down: B's is not.
        assert ping_inside(sites, "B", there, here) == 0
        time.sleep(1)
    sites.lab.isolate("A")
    try:
        restart_isolated(sites, "A")
        assert sites.north("A").show(service["id"]).service["provisioning_status"] == "ACTIVE"
    finally:
        sites.lab.heal()
    sites.until(lambda: received() == 1)
    sites.until(lambda: sites.lab.status()["sites"][0]["ready"])
    sites.lab.crash("A")
    sites.lab.restart("A")
    assert received(3) == 3
    sites.delete(service)


def restart_isolated(sites: Sites, site: str) -> None:
    """`lab restart` waits for readiness, which a site without reflectors lacks: wait for answers only."""
    with ThreadPoolExecutor() as pool:
        restarting = pool.submit(sites.lab.restart, site)
        sites.until(lambda: "BGP" in readiness_or_nothing(sites, site))
        sites.lab.heal()
        restarting.result()
        sites.lab.isolate(site)


def readiness_or_nothing(sites: Sites, site: str) -> str:
    try:
        return readiness(sites, site)
    except OSError:
        return ""


def ping_inside(sites: Sites, site: str, name: str, far: str) -> int:
    """Exit status of a ping from that instance to A's instance `far`, by the kernel alone."""
    with closing(sqlite3.connect(f"file:{sites.home('A')}/data/vim.db?mode=ro", uri=True)) as db:
        query = "SELECT ip FROM addresses JOIN ports ON ports.id = port_id WHERE name = ?"
        (address,) = db.execute(query, (far,)).fetchone()
    port = sites.lab.vim(site, token=sites.lab.site(site)["admin_token"]).port(name)
    pid = sites.lab.status()["sites"][1]["pids"]["zebra"]
    namespace = port["binding:vif_details"]["namespace"]
    command = ("nsenter", f"--target={pid}", "--net", "--mount", "--", "nsenter", f"--net={namespace}", "--")
    done = subprocess.run(
        (*command, "ping", "-c2", "-i0.3", "-W2", address), capture_output=True, check=False
    )
    return done.returncode


# -- secrets ---------------------------------------------------------------------------------------


def test_nothing_secret_is_told(sites: Sites) -> None:
    """Tokens where they belong and where they do not, in every answer, log, event, metric and file."""
    entry = sites.lab.site("A")
    wrong = "wr0ng-" + identity_file.new_token()
    service = sites.create()
    get = urllib.request.Request(f"{entry['north']}/intersite-vertical?token={wrong}")
    get.add_header("X-Auth-Token", entry["token"])
    answers = [fetched(get)]
    for header in ("X-Auth-Token", "Authorization", "Cookie", "X-Service-Token"):
        again = urllib.request.Request(f"{entry['north']}/intersite-vertical/{service['id']}")
        again.add_header(header, wrong)
        answers.append(fetched(again))
    with pytest.raises(ApiError):
        sites.north("A").modify(service["id"], {"token": wrong})
    with pytest.raises(ApiError):
        NorthClient(entry["north"], wrong, proxies=False).create(sites.body())
    for site in "AB":
        base = sites.lab.site(site)
        answers += [
            fetched(urllib.request.Request(f"{base['north']}{path}")) for path in ("/metrics", "/readyz")
        ]
        answers.append(json.dumps(sites.north(site, "admin_token").request("GET", "/events").body))
    sites.delete(service)
    secret = [wrong, *(entry[name] for name in ("token", "other_token", "admin_token"))]
    keys = [path.read_text().splitlines()[1] for path in sites.lab.state_dir.rglob("*.key")]
    told = {"answers": "".join(answers), "logs": sites.logs()}
    for path in sites.lab.state_dir.rglob("*"):
        if path.is_file() and path.suffix not in (".key", ".log") and path.name != "lab.json":
            told[str(path)] = path.read_bytes().decode("latin-1")
    for pid in sites.lab.status()["sites"][0]["pids"].values():
        told[f"command line {pid}"] = Path(f"/proc/{pid}/cmdline").read_bytes().decode()
    found = [(where, word[:12]) for where, text in told.items() for word in (*secret, *keys) if word in text]
    assert found == []
    private = [*sites.lab.state_dir.rglob("*.key"), sites.lab.state_dir / "lab.json"]
    assert [path for path in private if path.stat().st_mode & 0o077] == []


def fetched(request: urllib.request.Request) -> str:
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return str(answer.headers) + str(answer.read().decode())
    except urllib.error.HTTPError as error:
        return str(error.headers) + str(error.read().decode())
