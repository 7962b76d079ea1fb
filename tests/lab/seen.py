"""What the tests of "What must be seen" share: one lab, driven as a user drives it, and looked into.

    with lab_of(3, directory) as scene:
        a, b = scene.network("A", "10.1.0.0/24"), scene.network("B", "10.2.0.0/24")
        service = scene.create("l3", {"A": a, "B": b}).service

Users' ways only: lab.json, HTTP and `diminet.lab.client.Lab`. To look, a site's namespaces are entered.
"""

import http.client
import json
import os
import re
import secrets
import signal
import subprocess
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest

from diminet.client import Answer, ApiError, NorthClient
from diminet.errors import DiminetError, SiteRefused
from diminet.lab.client import Lab
from diminet.lab.plan import Kind
from diminet.lab.vim import Vim
from diminet.lab.world import Instance

UP = 5.0  # seconds from a create's answer to the first reply of every ping
BACK = 40.0  # seconds from healing, or from a restart, until all is as it should be
ANSWERED = 12.0  # seconds: request_timeout (10) and the way of the answer on a busy machine
CLEAN = 40.0  # seconds until what was deleted has left nothing
AT_ONCE = 24  # pings or boots running at the same time
SHARED_PROJECT, OTHER_PROJECT = "token", "other_token"  # keys of lab.json

Entries = Mapping[str, str | None] | Sequence[tuple[str, str | None]]
State = dict[str, frozenset[str]]

# One look at a site's machine: devices, addresses, routes, namespaces, nftables, FRR.
_LOOK = """
echo '== link';      ip -o link | sed -E 's/^[0-9]+: ([^:@]+).*/\\1/'
echo '== address';   ip -o addr show | awk '{print $2, $4}'
echo '== route';     ip -o route show table main; ip -6 -o route show table main
echo '== bridge';    bridge -o link show | sed -E 's/^[0-9]+: //'
echo '== namespace'; find /run/netns /run/diminet -mindepth 1 ! -type d
echo '== nft';       nft list ruleset
echo '== frr';       vtysh --vty_socket /run/frr/site-$SITE -c 'show running-config'
"""
COLLECTIONS: dict[Kind, tuple[str, ...]] = {
    "linux": ("networks", "subnets", "ports"),
    "neutron": ("networks", "subnets", "ports", "bgpvpn/bgpvpns"),
}
_VOLATILE = ("updated_at", "revision_number", "created_at")


@dataclass(frozen=True)
class Site:
    """Its entry of lab.json, and its namespaces, held open."""

    name: str
    entry: dict[str, Any]
    net: int
    mount: int


class Scene:
    """A lab, started by this. Errors: what the lab and the sites raise."""

    def __init__(self, lab: Lab, sites: int, south: Kind = "linux") -> None:
        self.lab = lab
        self.south = south
        self._size = sites
        self._count = 0
        self._open()

    def _open(self) -> None:
        lab = self.lab
        lab.up(self._size, south=self.south)
        pids = {one["name"]: one["pids"]["instance"] for one in lab.status()["sites"]}
        self._at = {
            entry["name"]: Site(entry["name"], entry, *_namespaces(pids[entry["name"]]))
            for entry in lab.content()["sites"]
        }
        self.sites = tuple(self._at)

    def close(self) -> None:
        """Bring the lab down."""
        for site in self._at.values():
            for handle in (site.net, site.mount):
                os.close(handle)
        self.lab.down()

    def renew(self) -> None:
        """Another lab in its place: what a failure has left shall not fail the tests that follow."""
        self.close()
        self._open()

    # -- HTTP ----------------------------------------------------------------------------------------

    def north(self, site: str, who: str = SHARED_PROJECT) -> NorthClient:
        """who: key of the token in lab.json."""
        entry = self._at[site].entry
        return NorthClient(entry["north"], entry[who], proxies=False)

    def token(self, site: str, who: str) -> str:
        return str(self._at[site].entry[who])

    def vim(self, site: str, who: str = "admin_token") -> Vim:
        entry = self._at[site].entry
        return Vim(site, entry["south"], entry[who])

    def raw(
        self,
        site: str,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, dict[str, Any]]:
        """Status and document of any request to the north API, with the tenant's token."""
        entry = self._at[site].entry
        url = urllib.parse.urlsplit(entry["north"])
        connection = http.client.HTTPConnection(str(url.hostname), url.port, timeout=60)
        sent = {"X-Auth-Token": entry["token"], "Content-Type": "application/json", **(headers or {})}
        try:
            connection.request(method, path, body, sent)
            answer = connection.getresponse()
            text = answer.read()
        finally:
            connection.close()
        return answer.status, json.loads(text) if text else {}

    def metrics(self, site: str) -> str:
        entry = self._at[site].entry
        url = urllib.parse.urlsplit(entry["north"])
        connection = http.client.HTTPConnection(str(url.hostname), url.port, timeout=60)
        try:
            connection.request("GET", "/metrics")
            return connection.getresponse().read().decode()
        finally:
            connection.close()

    def messages(self, site: str, request_id: str) -> dict[str, int]:
        """Messages from peers that the site has counted under that request id, by kind."""
        counted: dict[str, int] = {}
        for line in self.metrics(site).splitlines():
            if line.startswith("diminet_east_west_request_messages{") and f'"{request_id}"' in line:
                kind = re.search(r'kind="([^"]+)"', line)
                name = kind[1] if kind else "?"
                counted[name] = counted.get(name, 0) + int(float(line.rpartition(" ")[2]))
        return counted

    # -- services ------------------------------------------------------------------------------------

    def create(
        self,
        kind: str,
        entries: Entries,
        *,
        at: str | None = None,
        who: str = SHARED_PROJECT,
        request_id: str | None = None,
        **fields: Any,
    ) -> Answer:
        """entries: network by site; None: the site makes one. at: the site asked; else the first one."""
        pairs = list(entries.items()) if isinstance(entries, Mapping) else list(entries)
        body = {"type": kind, "name": "seen", "resources": [_entry(*pair) for pair in pairs], **fields}
        headers = {"X-OpenStack-Request-ID": request_id} if request_id else {}
        return self.north(at or pairs[0][0], who).request(
            "POST", "/intersite-vertical", {"service": body}, headers
        )

    def made(self, kind: str, entries: Entries, **other: Any) -> dict[str, Any]:
        """A service that was created and that every member knows to be active."""
        answer = self.create(kind, entries, **other)
        assert (answer.status, answer.service["provisioning_status"]) == (201, "ACTIVE")
        members = {entry["site"] for entry in answer.service["resources"]}
        assert eventually(lambda: all(self.active(site, answer.service["id"]) for site in members), BACK)
        return answer.service

    def active(self, site: str, service_id: str) -> bool:
        """Whether that site says so, of every entry."""
        service = self.show(site, service_id)
        if service is None or service["waiting"]:
            return False
        said = [service, *service["resources"]]
        return all(one["provisioning_status"] == "ACTIVE" for one in said)

    def refusal(self, kind: str, entries: Entries, **other: Any) -> ApiError:
        """The error of a create that must be refused."""
        try:
            answer = self.create(kind, entries, **other)
        except ApiError as error:
            return error
        raise AssertionError(f"it was made: {answer.status} {answer.body}")

    def delete(self, service_id: str, at: str, who: str = SHARED_PROJECT) -> int:
        return self.north(at, who).delete(service_id).status

    def show(self, site: str, service_id: str) -> dict[str, Any] | None:
        """As an operator sees it at that site; None if it is not known there."""
        try:
            return self.north(site, "admin_token").show(service_id).service
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    def services(self, site: str) -> list[dict[str, Any]]:
        return self.north(site, "admin_token").services()

    def networks_of(self, service: dict[str, Any]) -> dict[str, str]:
        """Network of each site in an L2 service."""
        return {entry["site"]: entry["resource_id"] for entry in service["resources"]}

    def pools(self, site: str, service_id: str) -> list[tuple[str, str]]:
        """The site's own allocation pools as the north API tells them there."""
        service = self.show(site, service_id)
        assert service is not None
        return [
            (pool["start"], pool["end"])
            for entry in service["resources"]
            if entry["site"] == site
            for subnet in entry["subnets"]
            for pool in subnet["allocation_pools"]
        ]

    # -- networks and instances ------------------------------------------------------------------------

    def network(self, site: str, *cidrs: str, who: str = SHARED_PROJECT) -> str:
        """A new network; its id."""
        made = self.lab.network_create(site, self.name("net"), cidrs, token=self._at[site].entry[who])
        return str(made["network_id"])

    def boot(self, site: str, network: str, who: str = SHARED_PROJECT) -> Instance:
        made = self.lab.boot(site, network, self.name("vm"), token=self._at[site].entry[who])
        return Instance(site, made["name"], made["ip"], made["mac"])

    def boot_each(self, networks: Mapping[str, str], count: int = 1) -> list[Instance]:
        """`count` instances at each site, all at once."""
        wanted = [(site, network) for site, network in networks.items() for _ in range(count)]
        with ThreadPoolExecutor(max_workers=max(1, len(wanted))) as pool:
            return list(pool.map(lambda want: self.boot(*want), wanted))

    def name(self, kind: str) -> str:
        """Another one every time. Short, for it becomes the name of a namespace."""
        self._count += 1
        return f"{kind}{self._count}-{secrets.token_hex(2)}"

    def inside(self, site: str) -> dict[str, tuple[str, tuple[str, ...]]]:
        """MAC and global addresses of the site's instances by port name, read inside each of them."""
        paths = {
            port["binding:vif_details"]["namespace"]: port["name"]
            for port in self.vim(site).found("ports")
            if port.get("binding:vif_details", {}).get("namespace")
        }
        script = "".join(f"nsenter --net={path} ip -j addr show scope global; echo\n" for path in paths)
        found = {}
        for name, line in zip(
            paths.values(), self.on_site(site, "sh", "-ec", script).split("\n\n"), strict=False
        ):
            links = [link for link in json.loads(line) if link.get("link_type") == "ether"]
            addresses = tuple(info["local"] for link in links for info in link["addr_info"] if info)
            found[name] = (links[0]["address"], addresses)
        return found

    # -- pings -------------------------------------------------------------------------------------------

    def ping(self, source: Instance, target: Instance, count: int = 1) -> int:
        """How many were answered."""
        return int(self.lab.ping(source.path, target.path, count=count)["received"])

    def silent(self, directed: Sequence[tuple[Instance, Instance]], within: float) -> list[str]:
        """Directions that nothing was answered in, within that time; asked again until then."""
        end, open_ = time.monotonic() + within, list(directed)
        while True:
            with ThreadPoolExecutor(max_workers=AT_ONCE) as pool:
                got = list(pool.map(lambda pair: self.ping(*pair), open_))
            open_ = [pair for pair, answered in zip(open_, got, strict=True) if not answered]
            if not open_ or time.monotonic() > end:
                return [f"{one.path} -> {other.path}" for one, other in open_]

    def heard(self, directed: Sequence[tuple[Instance, Instance]], within: float) -> list[str]:
        """Directions that are still answered when that time is over; asked again until then."""
        end, open_ = time.monotonic() + within, list(directed)
        while True:
            with ThreadPoolExecutor(max_workers=AT_ONCE) as pool:
                got = list(pool.map(lambda pair: self.ping(*pair, count=2), open_))
            open_ = [pair for pair, answered in zip(open_, got, strict=True) if answered]
            if not open_ or time.monotonic() > end:
                return [f"{one.path} -> {other.path}" for one, other in open_]

    def namespace(self, instance: Instance) -> str:
        """Path of its network namespace on its site's machine."""
        return str(self.vim(instance.site).port(instance.name)["binding:vif_details"]["namespace"])

    def reaches(self, source: Instance, address: str, within: float) -> bool:
        """Whether that address answers within that time."""
        inside = ("nsenter", f"--net={self.namespace(source)}", "--", "sh", "-c")
        ping = f"ping -n -q -c 1 -W 2 {address} >/dev/null && echo yes || echo no"
        return eventually(lambda: self.on_site(source.site, *inside, ping).strip() == "yes", within)

    @contextmanager
    def pinging(self, source: Instance, target: Instance, interval: float = 0.05) -> Iterator["Pinging"]:
        """Pings all the while; afterwards what was sent and lost."""
        words = ("ping", "-n", "-O", "-i", str(interval), "--", target.ip)
        process = self._start(source.site, "nsenter", f"--net={self.namespace(source)}", "--", *words)
        pinging = Pinging(source, target)
        try:
            yield pinging
        finally:
            time.sleep(interval)
            process.send_signal(signal.SIGINT)
            try:
                out, _ = process.communicate(timeout=30)
            finally:
                process.kill()
            pinging.text = out

    # -- a site's machine ----------------------------------------------------------------------------

    def _enter(self, site: str) -> tuple[tuple[str, ...], tuple[int, int]]:
        at = self._at[site]
        prefix = ("nsenter", f"--net=/proc/self/fd/{at.net}", f"--mount=/proc/self/fd/{at.mount}", "--")
        return prefix, (at.net, at.mount)

    def _start(self, site: str, *command: str) -> "subprocess.Popen[str]":
        prefix, handles = self._enter(site)
        return subprocess.Popen((*prefix, *command), stdout=subprocess.PIPE, text=True, pass_fds=handles)

    def on_site(self, site: str, *command: str) -> str:
        """Output of a command in the site's network and mount namespaces."""
        prefix, handles = self._enter(site)
        done = subprocess.run(
            (*prefix, *command), capture_output=True, text=True, pass_fds=handles, timeout=60, check=False
        )
        assert done.returncode == 0, f"{command} at {site}: {done.stderr or done.stdout}"
        return done.stdout

    # -- what is there at all ------------------------------------------------------------------------

    def state(self, sites: Sequence[str] | None = None) -> State:
        """All of each site: its VIM's objects, services, devices, namespaces, rules, FRR's configuration."""
        names = tuple(sites or self.sites)
        with ThreadPoolExecutor(max_workers=len(names)) as pool:
            return dict(zip(names, pool.map(self._state_of, names), strict=True))

    def _state_of(self, site: str) -> frozenset[str]:
        vim = self.vim(site)
        lines = {f"service {one['id']} {one['provisioning_status']}" for one in self.services(site)}
        for collection in COLLECTIONS[self.south]:
            for one in vim.found(collection):
                fields = {key: value for key, value in one.items() if key not in _VOLATILE}
                lines.add(f"{collection} {json.dumps(fields, sort_keys=True)}")
        if self.south == "neutron":
            return frozenset(lines)
        section = counted = ""
        for line in self.on_site(site, "sh", "-c", f"SITE={site}; {_LOOK}").splitlines():
            if line.startswith("== "):
                section = counted = line[3:]
                continue
            if line and not line.startswith((" ", "\t")):
                counted = line
            inner = f" / {counted}" if counted not in (line, section) else ""
            lines.add(f"{section}{inner}: {line.strip()}")
        return frozenset(lines)

    def differences(self, before: State, within: float = CLEAN) -> list[str]:
        """What differs from that state when the time is over; looked at again until nothing does."""
        end = time.monotonic() + within
        while True:
            now = self.state(tuple(before))
            found = [f"{site}: new: {line}" for site in before for line in sorted(now[site] - before[site])]
            found += [f"{site}: gone: {line}" for site in before for line in sorted(before[site] - now[site])]
            if not found or time.monotonic() > end:
                return found
            time.sleep(0.5)

    def wipe(self) -> None:
        """Delete every service, port and network, whoever has made it, and heal and restart what is away."""
        self.lab.heal()
        for one in self.lab.status()["sites"]:
            if one["instance"] != "running":
                self.lab.restart(one["name"])
        gone = eventually(lambda: not self._left_services(), CLEAN)
        assert gone, f"services that do not go: {[self.told(site) for site in self.sites]}"
        for site in self.sites:
            vim = self.vim(site)
            for collection in ("ports", "networks"):
                emptied = eventually(lambda v=vim, c=collection: not self._refused(v, c), CLEAN)
                assert emptied, f"{collection} of {site}: {self._refused(vim, collection)}"

    @staticmethod
    def _refused(vim: Vim, collection: str) -> list[str]:
        """Delete all; why some stay. A site that was away may still be about to leave a service."""
        refusals = []
        for one in vim.found(collection):
            try:
                vim.delete(collection, one["id"])
            except SiteRefused as error:
                refusals.append(error.message)
        return refusals

    def told(self, site: str) -> list[str]:
        """What the site says of each of its services, in short."""
        words = (
            "id",
            "name",
            "type",
            "provisioning_status",
            "master",
            "revision",
            "fault",
            "waiting",
            "warnings",
        )
        return [f"{site}: { {word: one[word] for word in words} }" for one in self.services(site)]

    def _left_services(self) -> list[str]:
        """After asking every site to delete what it has."""
        return [service for site in self.sites for service in self._delete_services(site)]

    def _delete_services(self, site: str) -> list[str]:
        """Those that are left."""
        for service in self.services(site):
            if service["provisioning_status"] != "PENDING_DELETE":
                try:
                    self.north(site, "admin_token").delete(service["id"])
                except DiminetError:
                    continue  # busy or just gone: looked at again
        return [service["id"] for service in self.services(site)]


@dataclass
class Pinging:
    source: Instance
    target: Instance
    text: str = ""

    @property
    def sent(self) -> int:
        found = re.search(r"(\d+) packets transmitted", self.text)
        return int(found[1]) if found else 0

    @property
    def lost(self) -> list[int]:
        """Sequence numbers without an answer; the last one may still have been under way."""
        answered = {int(seq) for seq in re.findall(r"bytes from .*icmp_seq=(\d+)", self.text)}
        return sorted(set(range(1, self.sent)) - answered)


def _entry(site: str, network: str | None) -> dict[str, str]:
    return {"site": site} | ({"resource_id": network} if network else {})


def _namespaces(pid: int) -> tuple[int, int]:
    """Of that process, network and mount, held open; they outlive it as long as the lab."""
    network, mount = (os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY) for kind in ("net", "mnt"))
    return network, mount


def every_direction(instances: Sequence[Instance]) -> list[tuple[Instance, Instance]]:
    return list(permutations(instances, 2))


def eventually(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether it holds within that time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.3)
    return True


@contextmanager
def lab_of(sites: int, directory: Path, south: Kind = "linux") -> Iterator[Scene]:
    """A new lab with so many sites, brought down at the end whatever happens."""
    scene = Scene(Lab(directory), sites, south)
    try:
        yield scene
    finally:
        scene.close()


@contextmanager
def nothing_left(scene: Scene) -> Iterator[None]:
    """Once all services, instances and networks that were made inside are deleted, all is as before."""
    before = scene.state()
    yield
    try:
        scene.wipe()
        left = scene.differences(before)
        assert not left, "\n".join(left)
    except BaseException:
        scene.renew()
        raise


def fixtures(sites: int = 3) -> tuple[Any, Any]:
    """A module's lab, and the check around each of its tests that nothing is left of it."""

    @pytest.fixture(scope="module")
    def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
        with lab_of(sites, tmp_path_factory.mktemp("seen") / "lab") as made:
            yield made

    @pytest.fixture(autouse=True)
    def clean(scene: Scene) -> Iterator[None]:
        with nothing_left(scene):
            yield

    return scene, clean
