"""Site A outside a lab: its files, and `diminet serve` in a network and a mount namespace of its own."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from diminet.directory import file as directory_file
from diminet.east_west import pki
from diminet.identity import file as identity_file
from diminet.identity.file import TokenEntry
from diminet.lab.provision import toml
from diminet.model import Site

DIMINET = str(Path(sys.executable).with_name("diminet"))
VTEP = "192.0.2.1"
NORTH, EAST_WEST, SOUTH = 9790, 9791, 9696
START = 90.0  # seconds
ENDS_WITHIN = 90.0  # seconds
TRACES = ("Traceback", '"bug', "a bug:")
BESIDE = "setpriv --pdeathsig=KILL"  # of a command that `prepare` leaves running: ends with the instance
HOLDER = "import socket, time; s = socket.create_server(('0.0.0.0', {})); time.sleep(300)"  # of a port
FETCH = """
import json, sys, urllib.error, urllib.request
method, url, token, body, seconds = json.load(sys.stdin)
request = urllib.request.Request(url, method=method, data=json.dumps(body).encode() if body else None)
request.add_header("Content-Type", "application/json")
if token: request.add_header("X-Auth-Token", token)
try:
    with urllib.request.urlopen(request, timeout=seconds) as answer:
        status, text = answer.status, answer.read()
except urllib.error.HTTPError as error: status, text = error.code, error.read()
print(json.dumps([status, text.decode()]))
"""


class Answer(NamedTuple):
    status: int
    text: str

    @property
    def body(self) -> Any:
        return json.loads(self.text)


class Ended(NamedTuple):
    """A command that has ended. said: its standard output and error."""

    status: int
    said: str


class OneSite:
    def __init__(self, home: Path) -> None:
        self.home = home
        self.data = home / "data"
        self.config = home / "diminet.toml"
        self.log = home / "log"
        self.token = identity_file.new_token()
        home.mkdir(exist_ok=True)
        home.chmod(0o755)
        pki.init_ca(home / "ca", days=30)
        pki.issue(home / "ca", "A", (VTEP,), home / "pki", days=30)
        entry = TokenEntry(
            sha256=identity_file.hash_token(self.token), user="u", project="p", role="admin", expires_at=None
        )
        identity_file.write(home / "identity.toml", [entry])
        directory_file.write(home / "sites.toml", [self.entry("A", 1), self.entry("B", 2)])
        self.data.mkdir()
        self.configure()

    @staticmethod
    def entry(name: str, number: int) -> Site:
        base = f"https://192.0.2.{number}"
        return Site(name=name, number=number, north_url=f"{base}:9790", east_west_url=f"{base}:9791")

    def configure(self, **changes: Mapping[str, Any]) -> None:
        """The configuration, with these sections' settings added or replaced."""
        keys = self.home / "pki"
        sections: dict[str, dict[str, Any]] = {
            "site": {"name": "A", "number": 1, "data_dir": str(self.data)},
            "east_west": {
                "cert": str(keys / "site.pem"),
                "key": str(keys / "site.key"),
                "ca": str(keys / "ca.pem"),
                "crl": str(keys / "crl.pem"),
                "certificate_check_interval": 0.2,
            },
            "identity": {"path": str(self.home / "identity.toml")},
            "directory": {"path": str(self.home / "sites.toml")},
            "south": {"vtep_ip": VTEP, "frr_pathspace": "surroundings"},
            "limits": {"storage_timeout": 1.0, "shutdown_timeout": 2.0, "rate_per_second": 1000.0},
        }
        for name, settings in changes.items():
            sections.setdefault(name, {}).update(settings)
        self.config.write_text(toml(sections))

    def issue(self, *, site: str = "A", days: int = 30, now: datetime | None = None) -> None:
        """Another certificate in the place of the present one."""
        for path in (self.home / "pki").iterdir():
            path.unlink()
        pki.issue(self.home / "ca", site, (VTEP,), self.home / "pki", days=days, now=now or datetime.now(UTC))

    # -- running -----------------------------------------------------------------------------------

    def command(
        self, prepare: str = "", wrapper: Sequence[str] = (), arguments: Sequence[str] = ()
    ) -> list[str]:
        """`diminet serve` (or another command) behind `prepare`, a piece of shell, in the namespaces."""
        words = " ".join([*wrapper, *(arguments or (DIMINET, "serve", "--config", str(self.config)))])
        script = f"""set -e
            mount -t tmpfs tmpfs /run
            ip link set lo up; ip addr add {VTEP}/32 dev lo
            {prepare}
            exec {words}"""
        return ["unshare", "--mount", "--net", "--", "sh", "-c", script]

    def run(
        self,
        prepare: str = "",
        *,
        wrapper: Sequence[str] = (),
        arguments: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
    ) -> Ended:
        """To its end, which must come by itself."""
        done = subprocess.run(
            self.command(prepare, wrapper, arguments),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=ENDS_WITHIN,
            text=True,
            check=False,
            env={**os.environ, **(env or {})},
        )
        return Ended(done.returncode, done.stdout)

    @contextlib.contextmanager
    def serving(
        self, prepare: str = "", *, env: Mapping[str, str] | None = None, log: Path | None = None
    ) -> Iterator["Serving"]:
        with (log or self.log).open("ab") as output:
            process = subprocess.Popen(
                self.command(prepare),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, **(env or {})},
            )
        serving = Serving(self, process)
        try:
            serving.wait_answering()
            yield serving
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()

    def assert_no_traces(self) -> None:
        text = self.log.read_text()
        assert not [trace for trace in TRACES if trace in text], text[-3000:]


class Serving:
    """The running instance; process is itself (every step before it was an exec)."""

    def __init__(self, site: OneSite, process: "subprocess.Popen[bytes]") -> None:
        self.site = site
        self.process = process

    def inside(self, *command: str, text: str = "") -> str:
        """Run a command in the instance's namespaces; its output."""
        return subprocess.run(
            ("nsenter", f"--target={self.process.pid}", "--net", "--mount", "--", *command),
            input=text,
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout

    def fetch(
        self, path: str, *, method: str = "GET", port: int = NORTH, body: Any = None, seconds: float = 30.0
    ) -> Answer:
        url = f"http://127.0.0.1:{port}{path}"
        said = self.inside(
            sys.executable, "-c", FETCH, text=json.dumps([method, url, self.site.token, body, seconds])
        )
        return Answer(*json.loads(said))

    def make_network(self, name: str) -> Answer:
        return self.fetch("/v2.0/networks", method="POST", port=SOUTH, body={"network": {"name": name}})

    def networks(self) -> set[str]:
        found = self.fetch("/v2.0/networks", port=SOUTH).body["networks"]
        return {network["name"] for network in found}

    def create(self) -> Answer:
        """A service with B, which does not exist."""
        entries = [{"site": "A", "resource_id": "n"}, {"site": "B", "resource_id": "n"}]
        service = {"name": "s", "type": "l3", "resources": entries}
        return self.fetch("/intersite-vertical", method="POST", body={"service": service})

    def wait_answering(self) -> None:
        deadline = time.monotonic() + START
        while time.monotonic() < deadline and self.process.poll() is None:
            with contextlib.suppress(subprocess.CalledProcessError):
                if self.fetch("/healthcheck").status == 200:
                    return
            time.sleep(0.1)
        raise AssertionError(f"not serving: {self.site.log.read_text()[-3000:]}")

    def until_ready_says(self, word: str, seconds: float = 15.0) -> str:
        """The readiness sentence with that word."""
        deadline = time.monotonic() + seconds
        said: list[str] = []
        while time.monotonic() < deadline:
            said = self.fetch("/readyz").body["failing"]
            found = [sentence for sentence in said if word in sentence]
            if found:
                return found[0]
            time.sleep(0.2)
        raise AssertionError(f"no {word!r} in {said}")

    def end(self, number: int, seconds: float = 10.0) -> tuple[int, float]:
        """Send that signal. Exit status, and how long it took."""
        began = time.monotonic()
        self.process.send_signal(number)
        status = self.process.wait(seconds)
        return status, time.monotonic() - began


def assert_refused(ended: Ended, *words: str) -> None:
    """It ended with status 1 and one sentence with all these words, and no traceback."""
    assert ended.status == 1, ended.said
    assert not [trace for trace in TRACES if trace in ended.said], ended.said
    sentence = ended.said.strip().splitlines()[-1]
    assert sentence.startswith("diminet: "), ended.said
    assert not [word for word in words if word not in sentence], sentence
