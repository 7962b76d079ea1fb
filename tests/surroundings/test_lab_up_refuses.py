"""Bad surroundings of `diminet lab up`: one clear sentence, exit status 1, nothing left on the host."""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from one_site import DIMINET, Ended, assert_refused
from test_serve_refuses import NOBODY, programs

from diminet.lab import plan

pytestmark = pytest.mark.lab

ROOT = Path(DIMINET).parents[2]  # the checkout


@pytest.fixture
def state() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="surroundings-lab-") as directory:
        Path(directory).chmod(0o755)
        yield Path(directory) / "state"


def run(script: str, *, env: Mapping[str, str] | None = None, limit: float = 250.0) -> Ended:
    """A piece of shell in a mount namespace of its own."""
    done = subprocess.run(
        ("unshare", "--mount", "--", "sh", "-c", script),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=limit,
        env={**os.environ, **(env or {})},
    )
    return Ended(done.returncode, done.stdout)


def up(state: Path) -> str:
    return f"{DIMINET} lab up --sites 1 --detach --state {state}"


def assert_nothing_left(state: Path) -> None:
    assert not state.exists()
    assert not Path("/sys/class/net", plan.host_device(state)).exists()


def test_not_root(state: Path) -> None:
    nobody = f"setpriv --reuid={NOBODY} --regid={NOBODY} --clear-groups"
    if run(f"{nobody} {DIMINET} --version").status:
        pytest.skip("another user cannot even read the checkout")
    for command in (up(state), f"{DIMINET} lab down --state {state}"):
        assert_refused(run(f"{nobody} {command}"), "only root may", "use sudo")
    assert_nothing_left(state)


def test_root_without_its_rights(state: Path) -> None:
    ended = run(f"exec setpriv --bounding-set=-all --inh-caps=-all {up(state)}")
    assert_refused(ended, "does not let even root make namespaces", "--privileged")
    assert_nothing_left(state)


@pytest.mark.parametrize("limit", ["max_net_namespaces", "max_pid_namespaces", "max_mnt_namespaces"])
def test_namespaces_forbidden(state: Path, limit: str) -> None:
    inner = f"echo 0 > /proc/sys/user/{limit}; exec {up(state)}"
    ended = run(f"exec unshare --user --map-root-user sh -c '{inner}'")
    assert_refused(ended, "does not let even root make namespaces", "--privileged")
    assert_nothing_left(state)


def test_root_of_a_user_namespace(state: Path) -> None:
    """As in an unprivileged container: namespaces can be made, but not joined to the host's network."""
    ended = run(f"exec unshare --user --map-root-user {up(state)}")
    assert ended.status == 1, ended.said
    assert "Traceback" not in ended.said
    assert "diminet: " in ended.said
    assert_nothing_left(state)


@pytest.mark.parametrize(
    ("program", "package"), [("vtysh", "frr"), ("nft", "nftables"), ("ping", "iputils-ping")]
)
def test_programs_missing(state: Path, tmp_path: Path, program: str, package: str) -> None:
    ended = run(f"exec {up(state)}", env=programs(tmp_path / "bin", program))
    assert_refused(ended, "programs are missing", f"apt-get install {package}", "make setup")
    assert_nothing_left(state)


def test_no_frr_daemons(state: Path) -> None:
    ended = run(f"mount -t tmpfs none /usr/lib/frr; exec {up(state)}")
    assert_refused(ended, "programs are missing", "apt-get install frr")
    assert_nothing_left(state)


def test_the_state_directory_holds_other_files(state: Path) -> None:
    state.mkdir()
    (state / "precious").write_text("mine")
    assert_refused(run(f"exec {up(state)}"), str(state), "other files", "--state")
    assert [path.name for path in state.iterdir()] == ["precious"]


def test_the_state_directory_cannot_be_made(state: Path) -> None:
    assert_refused(run(f"exec {up(Path('/proc/lab'))}"), "/proc/lab", "--state")
    state.parent.joinpath("file").write_text("")
    assert_refused(run(f"exec {up(state.parent / 'file')}"), "not a directory", "--state")
    ended = run(
        f"mount --bind {state.parent} {state.parent}; mount -o remount,bind,ro {state.parent}; {up(state)}"
    )
    assert_refused(ended, "Read-only file system", "--state")
    assert_nothing_left(state)


@pytest.mark.parametrize("size", ["4k", "48k", "200k"])
def test_a_full_disk(state: Path, size: str) -> None:
    """Whichever file it is that does not fit any more."""
    state.mkdir()
    ended = run(f"mount -t tmpfs -o size={size} small {state}; {up(state)} >&2; echo $? $(ls {state})")
    said, _, left = ended.said.strip().rpartition("\n")
    assert left == "1", ended.said  # the exit status, and no file
    assert "Traceback" not in said
    assert re.search(rf"diminet: .*{state}.*(No space left|no room left).*free some", said, re.DOTALL), said
    assert not Path("/sys/class/net", plan.host_device(state)).exists()


CLOSED = """set -e
    mkdir {home}/kept; mount --bind {root} {home}/kept
    mount -t tmpfs -o mode=700 closed {top}
    mkdir -p {root}; mount --move {home}/kept {root}
    stat -c %a {top}
    cd {root}
    setpriv --reuid={nobody} --regid={nobody} --clear-groups test -e {root}/pyproject.toml && exit 9
    trap '{diminet} lab down --state {state} >&2' EXIT
    {diminet} lab up --sites 2 --detach --state {state} --json >/dev/null
    net() {{ {diminet} lab network create --state {state} --site $1 --name n --cidr $2 --json |
        {python} -c 'import json, sys; print(json.load(sys.stdin)["network_id"])'; }}
    a=$(net A 10.1.0.0/24); b=$(net B 10.2.0.0/24)
    {diminet} service create --state {state} --site A --type l3 --name s A:$a B:$b --json
"""


@pytest.mark.parametrize("where", ["beside", "inside"])
def test_a_checkout_and_a_state_that_daemons_cannot_read(state: Path, where: str) -> None:
    """FRR's daemons give root up; all that they read lies in /run/frr. The checkout (and the state) are
    below a directory of mode 0700."""
    top = Path("/", *ROOT.parts[1:2])
    if top == ROOT or state.is_relative_to(top) or Path(sys.base_prefix).is_relative_to(top):
        pytest.skip(f"{top} cannot be closed: the checkout or Python is right in it")
    lab = state if where == "beside" else top / "lab"
    script = CLOSED.format(
        home=state.parent,
        root=ROOT,
        top=top,
        state=lab,
        nobody=NOBODY,
        diminet=DIMINET,
        python=sys.executable,
    )
    ended = run(script)
    assert ended.status == 0, ended.said
    mode, _, document = ended.said.partition("\n")
    assert mode == "700"
    service = json.loads(document[document.index("{") : document.rindex("}") + 1])
    assert "ACTIVE" in json.dumps(service)
