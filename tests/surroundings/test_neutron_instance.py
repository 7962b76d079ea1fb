"""`diminet serve` of kind neutron beside a real Keystone and Neutron: on loopback, as any user."""

import contextlib
import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from diminet.east_west import pki
from diminet.lab.openstack.cloud import Cloud
from diminet.lab.provision import toml

DIMINET = str(Path(sys.executable).with_name("diminet"))
PATIENCE = 120.0  # seconds


def free_ports() -> tuple[int, int]:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        return one.getsockname()[1], other.getsockname()[1]


class OneRegion:
    """Region A's instance: its files, and its process."""

    def __init__(self, cloud: Cloud, home: Path) -> None:
        self.cloud = cloud
        self.home = home
        self.north, self.east_west = free_ports()
        self.log = home / "log"
        pki.init_ca(home / "ca", days=30)
        pki.issue(home / "ca", "A", ("127.0.0.1",), home / "pki", days=30)
        (home / "clouds.yaml").write_text(json.dumps(cloud.clouds_yaml("diminet", "diminet-peers")))
        self.configure()

    def configure(self, **changes: dict[str, Any]) -> None:
        keys = self.home / "pki"
        names = {"ca": "ca.pem", "cert": "site.pem", "key": "site.key", "crl": "crl.pem"}
        sections: dict[str, dict[str, Any]] = {
            "site": {"name": "A", "number": 1, "data_dir": str(self.home / "data")},
            "north": {"port": self.north},
            "east_west": {
                "host": "127.0.0.1",
                "port": self.east_west,
                **{name: str(keys / file) for name, file in names.items()},
            },
            "identity": {"kind": "keystone", "path": str(self.home / "vouch.toml")},
            "directory": {"kind": "keystone"},
            "openstack": {
                "cloud": "diminet",
                "peers_cloud": "diminet-peers",
                "file": str(self.home / "clouds.yaml"),
            },
            "south": {"kind": "neutron"},
        }
        for name, settings in changes.items():
            sections[name] |= settings
        (self.home / "diminet.toml").write_text(toml(sections))

    def register(self) -> list[str]:
        """Its endpoints' ids."""
        east_west = f"https://127.0.0.1:{self.east_west}/?number=1"
        return [
            self.cloud.register("intersite", "A", f"http://127.0.0.1:{self.north}"),
            self.cloud.register("intersite-horizontal", "A", east_west),
        ]

    @property
    def command(self) -> list[str]:
        return [DIMINET, "serve", "--config", str(self.home / "diminet.toml")]

    def refusal(self) -> str:
        """What it says when it does not start."""
        done = subprocess.run(self.command, capture_output=True, text=True, timeout=PATIENCE, check=False)
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        return done.stderr

    @contextlib.contextmanager
    def serving(self) -> Iterator[None]:
        with self.log.open("ab") as output:
            process = subprocess.Popen(self.command, stdout=output, stderr=output)
        try:
            self.until("/healthcheck", 200)
            yield
        finally:
            process.terminate()
            process.wait(PATIENCE)
        assert process.returncode == 0
        for line in self.log.read_text().splitlines():
            assert "exception" not in json.loads(line)

    def fetch(self, path: str, token: str | None = None) -> tuple[int, str]:
        request = urllib.request.Request(f"http://127.0.0.1:{self.north}{path}")
        if token is not None:
            request.add_header("X-Auth-Token", token)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def until(self, path: str, status: int) -> str:
        deadline = time.monotonic() + PATIENCE
        while True:
            with contextlib.suppress(OSError):
                seen, text = self.fetch(path)
                if seen == status:
                    return text
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.2)


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
