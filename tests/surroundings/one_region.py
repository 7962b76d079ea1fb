"""One region's instance of kind neutron outside a lab: its files, and its process, on loopback."""

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

from diminet.east_west import pki
from diminet.lab.openstack.cloud import Cloud, Region
from diminet.lab.provision import toml

DIMINET = str(Path(sys.executable).with_name("diminet"))
PATIENCE = 120.0  # seconds


def free_ports() -> tuple[int, int]:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        return one.getsockname()[1], other.getsockname()[1]


class OneRegion:
    """region: of the cloud; its Keystone is the instance's. ca: directory of the sites' CA, made if it is
    not there."""

    def __init__(
        self,
        cloud: Cloud,
        home: Path,
        region: Region = Region(name="A", number=1),  # noqa: B008 - immutable
        *,
        ca: Path | None = None,
    ) -> None:
        self.cloud = cloud
        self.home = home
        self.region = region
        self.north, self.east_west = free_ports()
        self.log = home / "log"
        ca = ca or home / "ca"
        if not ca.exists():
            pki.init_ca(ca, days=30)
        pki.issue(ca, region.name, ("127.0.0.1",), home / "pki", days=30)
        entries = cloud.clouds_yaml("diminet", "diminet-peers", keystone=region.keystone)
        (home / "clouds.yaml").write_text(json.dumps(entries))
        self.configure()

    def configure(self, **changes: dict[str, Any]) -> None:
        keys = self.home / "pki"
        names = {"ca": "ca.pem", "cert": "site.pem", "key": "site.key", "crl": "crl.pem"}
        sections: dict[str, dict[str, Any]] = {
            "site": {
                "name": self.region.name,
                "number": self.region.number,
                "data_dir": str(self.home / "data"),
            },
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
            sections.setdefault(name, {}).update(settings)
        (self.home / "diminet.toml").write_text(toml(sections))

    def register(self, keystone: str | None = None) -> list[str]:
        """In the catalog of that Keystone, by default its own; its endpoints' ids."""
        name, keystone = self.region.name, keystone or self.region.keystone
        east_west = f"https://127.0.0.1:{self.east_west}/?number={self.region.number}"
        return [
            self.cloud.register("intersite", name, f"http://127.0.0.1:{self.north}", keystone=keystone),
            self.cloud.register("intersite-horizontal", name, east_west, keystone=keystone),
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
