"""docs/openstack.md is followed word by word on a cloud that has nothing of DIMINET: a real Keystone, and
real Neutrons of the regions paris and lyon.

Its commands are read from the page and run by a shell. What is replaced: paths below /opt, /etc and /var (a
directory of the test), the host's names and ports (both regions are on this one), the group `diminet`
(nogroup), and the prompt for a password. What is not run: `useradd`, and `systemctl`; in its place the unit's
own commands are, as another user without any privilege. pip installs from where pip is configured to.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from one_region import free_ports

from diminet.lab.openstack import environment
from diminet.lab.openstack.cloud import Cloud, Region
from neutron_site import Tenant

pytestmark = [
    pytest.mark.lab,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(os.environ.get("DIMINET_TESTS") != "long", reason="long: `make test-openstack`"),
]
CHECKOUT = Path(__file__).parents[2]
PAGE = (CHECKOUT / "docs" / "openstack.md").read_text()
NUMBERS = {"paris": 1, "lyon": 2}
SECRET = "a-password-of-the-guide"  # of a Keystone that lasts as long as the test
ACCOUNTS = ("diminet", "diminet-peers")
NOT_RUN = (
    "useradd --system --home-dir /var/lib/diminet --shell /usr/sbin/nologin diminet",
    "systemctl daemon-reload",
    "systemctl enable --now diminet-neutron.service",
)
UNPRIVILEGED = (
    *("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"),
    *("--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"),
)
PATIENCE = 180.0  # seconds


def commands(heading: str) -> list[list[str]]:
    """The shell's commands of each block of that section; a command that goes on is one."""
    section = re.search(rf"^## {heading}.*?(?=^## )", PAGE, re.MULTILINE | re.DOTALL)
    assert section, heading
    blocks = re.findall(r"^```sh\n(.*?)^```", section[0], re.MULTILINE | re.DOTALL)
    return [block.replace("\\\n", " ").splitlines() for block in blocks]


class Host:
    """A region's host. root: of its files. program: directory of the installed program."""

    def __init__(self, root: Path, program: Path, site: str, cloud: Cloud) -> None:
        self.root, self.program, self.site, self.cloud = root, program, site, cloud
        self.north, self.east_west = free_ports()
        self.process: subprocess.Popen[bytes] | None = None
        for name in ("etc", "systemd", "var"):
            (root / name).mkdir(parents=True)
        shutil.chown(root / "var", "nobody", "nogroup")
        clouds = {"OS_CLIENT_CONFIG_FILE": str(root / "operator.yaml")}
        (root / "operator.yaml").write_text(json.dumps(cloud.clouds_yaml("admin", "demo")))
        self.variables = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("OS_", "DIMINET_"))},
            **clouds,
            "PATH": f"{environment.find().root}/bin:{Path(sys.prefix)}/bin:{os.environ['PATH']}",
        }

    def here(self, text: str) -> str:
        """The page's text with this host's names, paths and ports."""
        text = text.replace("python3 -m venv", "/usr/bin/python3 -m venv")  # one that the user may read
        text = text.replace("number=1", f"number={NUMBERS[self.site]}")
        text = text.replace("number = 1", f"number = {NUMBERS[self.site]}")
        for port, own in ((9790, self.north), (9791, self.east_west)):
            text = text.replace(f"paris.example:{port}", f"localhost:{own}")
        text = text.replace("paris.example", "localhost").replace("paris", self.site)
        text = text.replace("/opt/diminet", str(self.program)).replace("/etc/diminet", str(self.root / "etc"))
        text = text.replace("/etc/systemd/system", str(self.root / "systemd"))
        text = text.replace("https://keystone.example:5000/v3", self.cloud.keystone_url())
        text = text.replace("--password-prompt", f"--password {SECRET}").replace("replace-it", SECRET)
        return text.replace("-g diminet", "-g nogroup").replace("root:diminet", "root:nogroup")

    def run(self, lines: list[str], *, user: str = "admin", place: Path | None = None) -> str:
        """The commands in one shell; what they print."""
        text = "\n".join(self.here(line) for line in lines if line not in NOT_RUN)
        done = subprocess.run(
            ("sh", "-euc", text),
            env={**self.variables, "OS_CLOUD": user, "OS_REGION_NAME": self.site},
            cwd=place or self.root.parent,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{text}\n{done.stdout}{done.stderr}{self.said()}"
        return done.stdout

    def adapt(self) -> None:
        """The two files that the page has an operator look through."""
        for name in ("diminet.toml", "clouds.yaml"):
            path = self.root / "etc" / name
            path.write_text(self.here(path.read_text()))

    def start(self) -> None:
        """The unit's commands, as systemd would run them."""
        path = self.root / "systemd" / "diminet-neutron.service"
        path.write_text(self.here(path.read_text()))
        if shutil.which("systemd-analyze"):
            verify = ("systemd-analyze", "verify", "--man=no", path)
            done = subprocess.run(verify, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
        unit = dict(line.split("=", 1) for line in path.read_text().splitlines() if "=" in line)
        assert (unit["User"], unit["StateDirectory"]) == ("diminet", "diminet")
        pki = {name.upper(): file for name, file in (("ca", "ca.pem"), ("cert", "site.pem"))}
        pki |= {"KEY": "site.key", "CRL": "crl.pem"}
        given = {
            "DIMINET_SITE__DATA_DIR": str(self.root / "var"),
            "DIMINET_NORTH__PORT": str(self.north),
            "DIMINET_EAST_WEST__PORT": str(self.east_west),
            "DIMINET_LIMITS__REQUEST_TIMEOUT": "45",  # of a busy machine
            "DIMINET_LIMITS__RESERVATION_LIFETIME": "90",
            "PATH": os.environ["PATH"],
            **{f"DIMINET_EAST_WEST__{k}": str(self.root / "etc" / "pki" / v) for k, v in pki.items()},
        }
        mask = int(unit["UMask"], 8)
        before = (*UNPRIVILEGED, *shlex.split(unit["ExecStartPre"]))
        with (self.root / "log").open("wb") as log:
            subprocess.run(before, env=given, umask=mask, cwd="/", check=True, stdout=log, stderr=log)
            serve = (*UNPRIVILEGED, *shlex.split(unit["ExecStart"]))
            self.process = subprocess.Popen(serve, env=given, umask=mask, cwd="/", stdout=log, stderr=log)

    def ready(self, curl: str) -> None:
        """By the page's own command."""
        deadline = time.monotonic() + PATIENCE
        while "it is" not in self.run([curl.replace("curl -s", "curl -sf") + " && echo it is || true"]):
            assert time.monotonic() < deadline, self.run([f"{curl} || true"]) + self.said()
            time.sleep(1)

    def said(self) -> str:
        log = self.root / "log"
        return "\n".join(log.read_text().splitlines()[-20:]) if log.exists() else ""

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(60)


@pytest.fixture
def hosts() -> Iterator[dict[str, Host]]:
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="diminet-guide-")))
        home.chmod(0o755)  # the unprivileged user goes through it
        cloud = stack.enter_context(Cloud(home / "cloud", environment.find()))
        cloud.start([Region(name=name, number=number) for name, number in NUMBERS.items()])
        admin, base = cloud.session("admin"), cloud.keystone_url()
        for account in admin.get(f"{base}/users").json()["users"]:
            if account["name"] in ACCOUNTS:
                admin.delete(f"{base}/users/{account['id']}")
        made = {name: Host(home / name, home / "program", name, cloud) for name in NUMBERS}
        for host in made.values():
            stack.callback(host.stop)
        yield made


def test_the_guide_makes_two_regions_work(hosts: dict[str, Host]) -> None:
    (keystone,) = commands("Keystone: two users")
    build, program, authority, certificate, users, start = commands("Install")
    (tenant,) = commands("The second region")
    assert {line for line in (*program, *start) if line in NOT_RUN} == set(NOT_RUN)

    paris, lyon = hosts["paris"], hosts["lyon"]
    paris.run(keystone)
    lyon.run([line for line in keystone if line.startswith("openstack endpoint create")])
    dist = paris.root.parent / "dist"
    paris.run([line.replace("--out-dir dist", f"--out-dir {dist}") for line in build], place=CHECKOUT)
    shutil.copytree(CHECKOUT / "packaging", paris.root.parent / "packaging")
    paris.run(program)
    lyon.run([line for line in program if line.startswith("install")])  # it shares what pip installed
    paris.run(authority)
    for host in hosts.values():
        host.run(certificate)
        host.run(users)
        host.adapt()
        host.start()
    for host in hosts.values():
        host.ready(start[-1])

    networks = {
        name: Tenant(host.cloud, name).network(f"10.{NUMBERS[name]}.0.0/24") for name, host in hosts.items()
    }
    places = " ".join(f"{name}:{network}" for name, network in networks.items())
    told = paris.run(
        [line.replace("paris:NETWORK_ID lyon:NETWORK_ID", places) for line in tenant], user="demo"
    )
    assert all(name in told for name in NUMBERS)
    vpns = [
        vpn
        for name, host in hosts.items()
        for vpn in Tenant(host.cloud, name, "admin").list("bgpvpn")
        if networks[name] in vpn["networks"]
    ]
    assert len(vpns) == len(NUMBERS)
    assert vpns[0]["import_targets"] == vpns[1]["export_targets"] != vpns[0]["export_targets"]
    assert vpns[1]["import_targets"] == vpns[0]["export_targets"]
