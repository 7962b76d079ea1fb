"""A lab's namespaces, WAN and end, with a trivial program in the place of each instance."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from diminet.errors import BadSurroundings, InvalidRequest, SiteUnknown
from diminet.lab import plan, state
from diminet.lab.client import Lab

pytestmark = pytest.mark.lab
SLEEP = ("sleep", "infinity")


def command(*words: str) -> str:
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


def host_state(lab: Lab) -> dict[str, Any]:
    """What that lab could leave on the host. Other labs and tests may run here at the same time."""
    device = plan.host_device(lab.state_dir)
    sysctls = {
        str(path): path.read_text()
        for where in ("ipv4", "ipv6", "core", "netfilter")
        for path in Path("/proc/sys/net", where).glob("*")
        if path.is_file() and path.stat().st_mode & 0o444
    }
    points = [line.split(" ")[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    links = re.findall(r"^\d+: ([^:@]+)", command("ip", "-o", "link"), re.MULTILINE)
    routes = command("ip", "route", "show", "table", "all").splitlines()
    return {
        "links": sorted(name for name in links if name == device or not name.startswith("dlab")),
        "routes": sorted(line for line in routes if device in line or "dlab" not in line),
        "rules": command("nft", "list", "ruleset"),
        "mounts": sorted(
            point
            for point in points
            if point.startswith(str(lab.state_dir)) or not point.startswith(("/tmp/", "/var/tmp/"))
        ),
        "run": {name: Path("/run", name).exists() for name in ("frr", "netns", "diminet", "mount")},
        "sysctls": {name: value for name, value in sysctls.items() if "random" not in name},
    }


def pid_namespaces() -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                found.setdefault(os.readlink(f"/proc/{name}/ns/pid"), []).append(int(name))
            except OSError:
                continue
    return found


def eventually(condition: Callable[[], bool], seconds: float = 15.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return condition()


def start(lab: Lab, sites: int = 3, **other: Any) -> dict[str, Any]:
    return lab.up(sites, instance_command=SLEEP, ready_path=None, **other)


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    made = Lab(tmp_path / "lab")
    yield made
    made.down()


def in_site(lab: Lab, site: str, *words: str) -> subprocess.CompletedProcess[str]:
    pid = next(one["pids"]["bgpd"] for one in lab.status()["sites"] if one["name"] == site)
    return subprocess.run(
        ("nsenter", "-t", str(pid), "-n", "-m", "--", *words), capture_output=True, text=True, check=False
    )


def reaches(lab: Lab, site: str, address: str) -> bool:
    return in_site(lab, site, "ping", "-n", "-c", "1", "-W", "1", address).returncode == 0


def test_cuts_and_healing_are_seen_on_the_wan(lab: Lab) -> None:
    start(lab)
    a, b, c, reflector = "100.64.0.1", "100.64.0.2", "100.64.0.3", "100.64.0.201"
    assert all(reaches(lab, "A", address) for address in (b, c, reflector))
    assert lab.cut("B", "A") == {"cuts": [["A", "B"]], "isolated": []}
    assert not reaches(lab, "A", b)
    assert not reaches(lab, "B", a)
    assert all(reaches(lab, site, address) for site, address in (("A", c), ("B", c), ("A", reflector)))
    lab.isolate("C")
    assert not any(reaches(lab, "C", address) for address in (a, b, reflector))
    assert lab.heal("A", "B") == {"cuts": [], "isolated": ["C"]}
    assert reaches(lab, "A", b)
    assert not reaches(lab, "A", c)
    assert lab.heal() == {"cuts": [], "isolated": []}
    assert reaches(lab, "A", c)


def test_management_reaches_every_site_even_isolated_but_joins_none(lab: Lab) -> None:
    content = start(lab)
    lab.isolate("B")
    for site in content["sites"]:
        address = re.sub(r"http://(.*):.*", r"\1", site["north"])
        assert subprocess.run(("ping", "-n", "-c", "1", "-W", "2", address), check=False).returncode == 0
        if site["name"] != "A":
            assert not reaches(lab, "A", address)


def test_sites_speak_bgp_to_their_reflectors(lab: Lab) -> None:
    start(lab, 4)

    def established() -> bool:
        said = in_site(
            lab, "D", "vtysh", "--vty_socket", "/run/frr/site-D", "-c", "show bgp l2vpn evpn summary"
        )
        return len(re.findall(r"^100\.64\.0\.20[12] .*\d\d:\d\d:\d\d +\d+ ", said.stdout, re.MULTILINE)) == 2

    assert eventually(established, 30)


def test_crash_lasts_until_restart(lab: Lab) -> None:
    start(lab, 1)
    assert lab.crash("A") == {"site": "A", "instance": "crashed"}
    site = lab.status()["sites"][0]
    assert (site["instance"], site["ready"]) == ("crashed", False)
    assert "instance" not in site["pids"]
    time.sleep(1)
    assert lab.status()["sites"][0]["instance"] == "crashed"
    assert lab.restart("A") == {"site": "A", "instance": "running"}
    first = lab.status()["sites"][0]["pids"]["instance"]
    lab.restart("A")
    assert lab.status()["sites"][0]["pids"]["instance"] != first


def test_an_instance_that_is_killed_by_others_comes_back(lab: Lab) -> None:
    start(lab, 1)
    first = lab.status()["sites"][0]["pids"]["instance"]
    os.kill(first, signal.SIGKILL)
    assert eventually(lambda: lab.status()["sites"][0]["pids"].get("instance", first) != first)


def test_killed_frr_comes_back(lab: Lab) -> None:
    start(lab, 1)
    first = lab.status()["sites"][0]["pids"]["bgpd"]
    os.kill(first, signal.SIGKILL)
    assert eventually(lambda: lab.status()["sites"][0]["pids"].get("bgpd", first) != first)


def test_delay_is_at_least_what_was_asked(lab: Lab) -> None:
    start(lab, 2, wan_delay_ms=20)
    said = in_site(lab, "A", "ping", "-n", "-q", "-c", "10", "-i", "0.05", "100.64.0.2").stdout
    shortest = float(re.search(r"= ([\d.]+)/", said)[1])  # type: ignore[index]
    assert 40 <= shortest < 40 + 20
    large = in_site(lab, "A", "ping", "-n", "-c", "2", "-s", "1472", "-M", "do", "100.64.0.2")
    assert large.returncode == 0
    lab.cut("A", "B")
    assert not reaches(lab, "A", "100.64.0.2")


def test_tcp_passes_the_relay(lab: Lab) -> None:
    """Checksums and segmentation that a veth leaves to hardware would be lost in the relay."""
    start(lab, 2, wan_delay_ms=5)
    receive = (
        "import socket;s=socket.create_server(('100.64.0.2',7000));s.settimeout(20);c=s.accept()[0];n=0\n"
        "while d:=c.recv(1<<20): n+=len(d)\n"
        "print(n)"
    )
    send = "import socket;c=socket.create_connection(('100.64.0.2',7000),10);c.sendall(bytes(3_000_000))"
    pids = {one["name"]: one["pids"]["bgpd"] for one in lab.status()["sites"]}

    def enter(site: str, script: str) -> tuple[str, ...]:
        return ("nsenter", "-t", str(pids[site]), "-n", "--", sys.executable, "-c", script)

    receiver = subprocess.Popen(enter("B", receive), stdout=subprocess.PIPE, text=True)
    try:
        assert eventually(lambda: subprocess.run(enter("A", send), check=False, stderr=-3).returncode == 0)
        assert receiver.communicate(timeout=30)[0].strip() == "3000000"
    finally:
        receiver.kill()
        receiver.wait()


@pytest.mark.parametrize("ending", ["down", "kill supervisor", "kill init", "kill outermost", "terminate"])
def test_nothing_is_left(tmp_path: Path, ending: str) -> None:
    lab = Lab(tmp_path / "lab")
    before = host_state(lab)
    start(lab, 2, wan_delay_ms=5)
    outermost = state.Process.model_validate_json((lab.state_dir / state.PROCESS).read_bytes()).pid
    init = int(command("ps", "-o", "pid=", "--ppid", str(outermost)))
    supervisor = int(command("ps", "-o", "pid=", "--ppid", str(init)).split()[0])
    namespace = os.readlink(f"/proc/{supervisor}/ns/pid")
    assert len(pid_namespaces()[namespace]) >= 9
    match ending:
        case "kill supervisor":
            os.kill(supervisor, signal.SIGKILL)
        case "kill init":
            os.kill(init, signal.SIGKILL)
        case "kill outermost":
            os.kill(outermost, signal.SIGKILL)
        case "terminate":
            os.kill(supervisor, signal.SIGTERM)
    if ending != "down":
        assert eventually(lambda: namespace not in pid_namespaces())
        assert eventually(lambda: not Path("/sys/class/net", plan.host_device(lab.state_dir)).exists())
    lab.down()
    assert namespace not in pid_namespaces()
    assert not lab.state_dir.exists()
    assert host_state(lab) == before


def test_up_after_a_crash_cleans_first(lab: Lab) -> None:
    start(lab, 1)
    outermost = state.Process.model_validate_json((lab.state_dir / state.PROCESS).read_bytes()).pid
    os.kill(outermost, signal.SIGKILL)
    assert eventually(lambda: not state.held(lab.state_dir))
    (lab.state_dir / "A" / "left-over").touch()
    start(lab, 1)
    assert not (lab.state_dir / "A" / "left-over").exists()


def test_a_running_lab_is_not_started_again(lab: Lab) -> None:
    start(lab, 1)
    with pytest.raises(BadSurroundings, match="lab down"):
        start(Lab(lab.state_dir), 1)
    assert lab.status()["sites"][0]["ready"]


def test_two_labs_do_not_meet(lab: Lab, tmp_path: Path) -> None:
    other = Lab(tmp_path / "other")
    try:
        failures: list[Exception] = []

        def begin(one: Lab) -> None:
            try:
                start(one, 2)
            except Exception as error:
                failures.append(error)

        starts = [threading.Thread(target=begin, args=(one,)) for one in (lab, other)]
        for thread in starts:
            thread.start()
        for thread in starts:
            thread.join()
        assert not failures
        urls = [{site["north"] for site in one.content()["sites"]} for one in (lab, other)]
        assert not urls[0] & urls[1]
        lab.isolate("B")
        assert not reaches(lab, "A", "100.64.0.2")
        assert reaches(other, "A", "100.64.0.2")
        other.down()
        assert lab.status()["isolated"] == ["B"]
    finally:
        other.down()


def test_a_failed_start_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    lab = Lab(tmp_path / "lab")
    before = host_state(lab)
    with pytest.raises(BadSurroundings) as failure:
        lab.up(2, instance_command=("sh", "-c", "echo the disk is full; exit 1"))
    assert "instance of site" in failure.value.message
    assert "the disk is full" in failure.value.message
    assert not lab.state_dir.exists()
    assert host_state(lab) == before


def test_a_directory_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    with pytest.raises(BadSurroundings, match="other files"):
        start(Lab(tmp_path), 1)
    assert Lab(tmp_path).down() is False
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]


def test_an_empty_directory_that_was_there_stays(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    start(lab, 1)
    assert lab.down() is True
    assert list(tmp_path.iterdir()) == []


def test_a_deep_state_directory_works(tmp_path: Path) -> None:
    """A unix socket's address has 108 bytes only."""
    lab = Lab(tmp_path / ("deep" * 20) / ("deeper" * 15))
    try:
        start(lab, 1)
        assert lab.status()["sites"][0]["ready"]
    finally:
        lab.down()


def test_bad_names_are_refused(lab: Lab) -> None:
    start(lab, 2)
    with pytest.raises(SiteUnknown, match="it has A, B"):
        lab.cut("A", "Z")
    with pytest.raises(InvalidRequest, match="two different sites"):
        lab.cut("A", "A")
    with pytest.raises(SiteUnknown):
        lab.crash("../A")
    with pytest.raises(InvalidRequest, match="SITE/INSTANCE"):
        lab.ping("A", "B/vm1")


def test_without_a_lab(tmp_path: Path) -> None:
    lab = Lab(tmp_path / "none")
    for call in (lab.status, lab.content, lab.heal):
        with pytest.raises(BadSurroundings, match="diminet lab up"):
            call()
    assert lab.down() is False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_lab_in_the_foreground_ends_with_its_command(tmp_path: Path, number: signal.Signals) -> None:
    lab = Lab(tmp_path / "lab")
    before = host_state(lab)
    script = (
        "import sys; from pathlib import Path; from diminet.lab.client import Lab\n"
        "from diminet.cli import lab\n"
        "one = Lab(Path(sys.argv[1])); one.up(1, instance_command=('sleep','infinity'), ready_path=None)\n"
        "import signal; signal.signal(signal.SIGTERM, lab._interrupt); lab._hold(one, as_json=False)"
    )
    # Tests in the background of a shell ignore Ctrl-C, and what they start would, too.
    heeding = ("env", "--default-signal=INT", sys.executable, "-c", script, str(lab.state_dir))
    process = subprocess.Popen(heeding, stderr=subprocess.DEVNULL)
    try:
        assert eventually((lab.state_dir / "lab.json").exists, 60)
        time.sleep(0.5)
        process.send_signal(number)
        status = process.wait(30)
    finally:
        process.kill()
    if number == signal.SIGKILL:
        assert eventually(lambda: not state.held(lab.state_dir))
        lab.down()
    else:
        assert status == 0
    assert not lab.state_dir.exists()
    assert host_state(lab) == before
